"""The holder's end of the socket to its runner.

Requests come in, each a 4-byte length and a marshalled dict: ``run`` with two descriptors beside it,
``cancel``, ``kill``. Each run gets one answer: a 4-byte length and a line of text, which is all that a runner
ever reads of what a script may have got hold of.
"""

from __future__ import annotations

import marshal
import os
import sys

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHANNEL_VARIABLE = "RGRID_HOLDER_CHANNEL"
"""The environment variable that says where it is."""


class Channel:
    """The socket.

    Args:
        place: a descriptor that was passed on, or a path where the runner listens.
    """

    def __init__(self, place: str) -> None:
        if place.startswith("/"):
            self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            self._socket.connect(place)
        else:
            self._socket = _socket.socket(fileno=int(place))
        os.set_inheritable(self.fileno(), False)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """One request with the descriptors beside it; None at the end of the socket."""
        descriptors: list[int] = []
        try:
            head, beside, _, _ = self._socket.recvmsg(4, _socket.CMSG_SPACE(8))
            for level, kind, data in beside:
                if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                    width = len(data) // 4
                    descriptors = [
                        int.from_bytes(data[4 * i : 4 * i + 4], sys.byteorder) for i in range(width)
                    ]
            head += self._exactly(4 - len(head))
            body = self._exactly(int.from_bytes(head, "big"))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return None
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return marshal.loads(body), descriptors  # noqa: S302 - it is the runner who speaks

    def send(self, message: str) -> None:
        """Send one answer; a runner that is gone does not hear it."""
        body = message.encode("utf-8", "replace")
        try:
            self._socket.sendall(len(body).to_bytes(4, "big") + body)
        except (BrokenPipeError, ConnectionResetError):
            return

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._socket.recv(size)
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
