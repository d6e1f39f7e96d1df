"""A holder (inside/holder/) as its runner sees it: a process, the socket to it, and the box it works in."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rgrid_server.runner.sandbox.base import ImportStatement, SandboxFailure
from rgrid_server.runner.sandbox.inside.holder.channel import CHANNEL_VARIABLE

INSIDE = Path(__file__).parent / "inside"
RUN = "run"
MAX_ANSWER_BYTES = 1024 * 1024
BEGIN_SECONDS = 120.0
END_SECONDS = 10.0

BASE_PYTHON: str = getattr(sys, "_base_executable", sys.executable)
"""What holds commands that start cold: an interpreter without any environment's packages."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What all runs of a holder have in common: whoever differs in one of these needs another holder.

    Attributes:
        python: the interpreter; one of the image where there is an image.
        script: the name of the scripts that it starts warm; empty where it starts all cold.
        tenant: whose runs it holds.
        read_only: directories of the machine that they may read.
        variables: the environment variables that the interpreter was started with.
        image: the container image that they run in; empty for what this machine itself has.
    """

    python: str
    script: str
    tenant: str
    read_only: tuple[Path, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    image: str = ""


class Unfit(Exception):
    """An import cannot be made before the script."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class Confinement(Protocol):
    """How a holder is shut in.

    Attributes:
        call_filter: what a holder has refused to itself (seccomp.py); empty where that is done already.
    """

    name: str
    call_filter: bytes

    def seen(self, box: Path) -> Path:
        """Where a command sees a box."""

    def spawn(self, kind: Kind, box: Path, environment: Mapping[str, str]) -> Spawned:
        """Start ``kind.python kind.script`` as a holder, with these variables and where its channel is."""

    def take_in(self, workspace: Path) -> None:
        """Let those who run in it write into a workspace, before it is moved into a box."""

    def give_out(self, workspace: Path) -> None:
        """Take that back, after it was moved out again; what a script has left there is not followed."""


class Limits(Protocol):
    """What limits a holder from outside, such as a control group."""

    async def limit(self, memory_mib: int, cpus_milli: int) -> None:
        """Limit what the coming run may use."""

    def was_out_of_memory(self) -> bool:
        """Whether the kernel ended something in it for want of memory since this was asked last."""

    def remove(self) -> None:
        """Its processes have ended."""


class Spawned(Protocol):
    """A holder that was started, whatever it is to this machine.

    Attributes:
        channel: our end of the socket to it.
        limits: what limits it.
        pid: of its process on this machine.
    """

    channel: socket.socket
    limits: Limits | None
    pid: int

    def is_running(self) -> bool:
        """Whether it has not ended."""

    def complaints(self) -> str:
        """What it wrote before it was ready."""

    def wait(self, seconds: float) -> int:
        """Wait until it has ended; returns its exit code, 0 when it has ended all that it held.

        One that takes longer than so many seconds is killed.
        """

    def release(self) -> None:
        """It has ended: let go of the rest."""


class SpawnedProcess:
    """A holder's process, what it complained of, and what limits it.

    Args:
        descriptors: what it gets beside the three, and beside its end of the channel.
        environment: its variables, beside the one that names the channel.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
        limits: Limits | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.limits = limits
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # a pipe, as a script's streams are: the interpreter looks at what it writes to when it starts
        self._complaints, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.set_blocking(write, True)
            # its own session: a terminal's Ctrl-C reaches the runner alone, which then decides
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                pass_fds=[theirs.fileno(), *descriptors],
                start_new_session=True,
                env={**environment, CHANNEL_VARIABLE: str(theirs.fileno())},
                cwd=cwd,
            )
        except BaseException:
            self.channel.close()
            os.close(self._complaints)
            if limits is not None:
                limits.remove()
            raise
        finally:
            os.close(write)
            theirs.close()
        self.pid = self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def complaints(self) -> str:
        """What it wrote before it was ready."""
        try:
            return os.read(self._complaints, 4096).decode(errors="replace").strip()
        except OSError:
            return ""

    def wait(self, seconds: float) -> int:
        """Wait until it has ended, or kill it after so many seconds; returns its exit code."""
        try:
            return self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def release(self) -> None:
        """It has ended: let go of the rest."""
        os.close(self._complaints)
        if self.limits is not None:
            self.limits.remove()


class Holder:
    """One holder. Made by :func:`launch`."""

    def __init__(self, kind: Kind, imports: tuple[ImportStatement, ...], spawned: Spawned, box: Path) -> None:
        self.kind = kind
        self.imports = imports
        self.spawned = spawned
        self.box = box
        self.loaded: frozenset[str] = frozenset()
        self.asked: frozenset[str] = frozenset()
        self.runs = 0
        self.idle_since = time.monotonic()
        self._channel: socket.socket | None = spawned.channel
        spawned.channel.setblocking(False)

    @property
    def pid(self) -> int:
        return self.spawned.pid

    def is_alive(self) -> bool:
        return self._channel is not None and self.spawned.is_running()

    def take_in(self, workspace: Path) -> None:
        """Move a workspace into the box."""
        workspace.rename(self.box / RUN)

    def give_out(self, workspace: Path) -> None:
        """Move it back, and leave the box as it was; no link that a script has left is followed."""
        if workspace.exists():
            return
        inside = self.box / RUN
        if inside.is_symlink() or not inside.is_dir():
            workspace.mkdir(mode=0o700)
        else:
            inside.rename(workspace)
        workspace.chmod(0o700)
        self.box.chmod(0o700)
        for entry in os.scandir(self.box):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink()

    async def send(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Send a request.

        Raises:
            OSError: it does not listen.
        """
        head, body = _framed(message)
        if self._channel is None:
            raise BrokenPipeError
        loop = asyncio.get_running_loop()
        if descriptors:
            socket.send_fds(self._channel, [head], descriptors)
            await loop.sock_sendall(self._channel, body)
        else:
            await loop.sock_sendall(self._channel, head + body)

    def post(self, message: dict[str, Any]) -> None:
        """Send a small request now; one that is gone does not hear it."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.send(b"".join(_framed(message)))

    async def receive(self) -> str | None:
        """The next answer; None when the holder is gone."""
        try:
            size = int.from_bytes(await self._exactly(4), "big")
            if size > MAX_ANSWER_BYTES:
                return None
            return (await self._exactly(size)).decode(errors="replace")
        except (ConnectionError, EOFError):
            return None

    async def _exactly(self, size: int) -> bytes:
        if self._channel is None:
            raise EOFError
        loop = asyncio.get_running_loop()
        data = b""
        while len(data) < size:
            part = await loop.sock_recv(self._channel, size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def close(self) -> None:
        """It ends itself, with all that it holds, when it finds the socket closed."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def wait(self) -> int:
        """Wait until it has ended; returns its exit code, 0 when it has ended all that it held."""
        code = self.spawned.wait(END_SECONDS)
        self.spawned.release()
        return code

    def remove_box(self) -> None:
        shutil.rmtree(self.box, ignore_errors=True)


async def launch(
    confinement: Confinement, boxes: Path, kind: Kind, imports: Iterable[ImportStatement]
) -> Holder:
    """Start a holder and wait until it has made these imports.

    Raises:
        Unfit: one of the imports is not to be made before a script.
        SandboxFailure: it does not start.
    """
    statements = tuple(imports)
    box = boxes / secrets.token_hex(4)
    holder: Holder | None = None
    try:
        holder = await asyncio.to_thread(_spawn, confinement, kind, statements, box)
        await asyncio.wait_for(_begin(holder, statements, confinement.call_filter), BEGIN_SECONDS)
    except BaseException as error:
        if holder is not None:
            holder.close()
            await asyncio.shield(asyncio.to_thread(_end, holder))
        if isinstance(error, OSError | TimeoutError):
            why = str(error) or "it takes too long"
            raise SandboxFailure(f"{kind.python} does not start in the sandbox: {why}") from error
        raise
    return holder


def _spawn(
    confinement: Confinement, kind: Kind, statements: tuple[ImportStatement, ...], box: Path
) -> Holder:
    # the interpreter notes where it is started
    (box / RUN / "work").mkdir(parents=True, mode=0o700)
    box.chmod(0o700)
    seen = confinement.seen(box) / RUN
    environment = {"HOME": str(seen / "home"), "TMPDIR": str(seen / "tmp"), **dict(kind.variables)}
    return Holder(kind, statements, confinement.spawn(kind, box, environment), box)


async def _begin(holder: Holder, statements: tuple[ImportStatement, ...], call_filter: bytes) -> None:
    imports = [(item.module, item.names) for item in statements]
    await holder.send({"imports": imports, "call_filter": call_filter}, [])
    while True:
        answer = await holder.receive()
        if answer is None:
            raise OSError(holder.spawned.complaints() or "it ended at once")
        word, _, rest = answer.partition(" ")
        if word == "unfit":
            index, _, reason = rest.partition(" ")
            raise Unfit(int(index), reason)
        if word == "asked":
            holder.asked = frozenset(rest.split())
        elif word == "ready":
            holder.loaded = frozenset(rest.split())
            await asyncio.to_thread(shutil.rmtree, holder.box / RUN)
            return


def _framed(message: dict[str, Any]) -> tuple[bytes, bytes]:
    """A request as the channel carries it: how long it is, and the request itself."""
    body = marshal.dumps(message, 2)
    return len(body).to_bytes(4, "big"), body


def _end(holder: Holder) -> None:
    holder.wait()
    holder.remove_box()
