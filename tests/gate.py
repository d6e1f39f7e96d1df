"""A gate at which scripts wait until a test opens it, whichever sandbox they run in."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

MANY = 256


class Gate:
    """Scripts connect to it and wait for a byte, which each of them gets once it is open.

    A file would do for scripts that see the machine's; those that are shut in reach its network only.
    """

    WAIT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[-1]))).recv(1)"
    """What a script says to wait, with :attr:`argument` as its last one."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=MANY)
        self._serving: threading.Thread | None = None

    @property
    def argument(self) -> str:
        """What a script is told so that it finds the gate."""
        return str(self._listening.getsockname()[1])

    def open(self) -> None:
        """Let through who waits, and whoever comes later."""
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    def _serve(self) -> None:
        # closing the socket from another thread would leave this one waiting; shutting it down does not
        with contextlib.suppress(OSError):
            while True:
                waiting, _ = self._listening.accept()
                with waiting, contextlib.suppress(OSError):
                    waiting.send(b".")

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        if self._serving is not None:
            self._serving.join()
        self._listening.close()
