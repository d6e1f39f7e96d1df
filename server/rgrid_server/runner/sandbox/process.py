"""The process sandbox: own session, limits, environment and workspace; a supervisor holds the whole tree.

Supervisors are started once and take one script after another. They are not a wall against hostile code,
which runs as the runner's user.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rgrid_server.runner.sandbox import supervisor
from rgrid_server.runner.sandbox.base import Command, Ended, Exit, Running, SandboxFailure

log = logging.getLogger(__name__)

END_SECONDS = 10.0

_starting = threading.Lock()
"""Between its fork and its exec a supervisor looks like an orphan."""


class ProcessSandbox:
    """Runs commands under a pool of supervisors."""

    name = "process"

    def __init__(self) -> None:
        self._idle: deque[_Supervisor] = deque()
        self._all: set[_Supervisor] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def prepare(self, commands: int) -> None:
        """Start supervisors for so many commands."""
        missing = max(0, commands - len(self._idle))
        fresh = await asyncio.gather(*(asyncio.to_thread(_Supervisor) for _ in range(missing)))
        self._all.update(fresh)
        self._idle.extend(fresh)

    async def start(self, command: Command, stdout_fd: int, stderr_fd: int) -> Running:
        """Give a command to a supervisor that is free, or to a new one."""
        while self._idle:
            free = self._idle.popleft()
            if free.is_alive():
                break
            self.lose(free)
        else:
            free = await asyncio.to_thread(_Supervisor)
            self._all.add(free)
        try:
            await free.send({"run": _wire(command)}, [stdout_fd, stderr_fd])
        except BaseException as error:
            self.lose(free)
            if isinstance(error, OSError):
                raise SandboxFailure(f"the supervisor does not listen: {error}") from error
            raise
        return _RunningProcess(self, free)

    async def close(self) -> None:
        """End every supervisor, and with it what it holds."""
        for one in list(self._all):
            self.lose(one)
        self._idle.clear()
        await asyncio.gather(*self._ending)

    def give_back(self, free: _Supervisor) -> None:
        """A supervisor has answered and can take another command."""
        self._idle.append(free)

    def lose(self, lost: _Supervisor) -> None:
        """Let go of a supervisor: it ends with what it held, or what it left ends here."""
        self._all.discard(lost)
        lost.close()
        ending = asyncio.create_task(self._end(lost))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _end(self, lost: _Supervisor) -> None:
        if await asyncio.to_thread(lost.wait) != 0:
            await asyncio.to_thread(_kill_orphans)


class _RunningProcess:
    """A command under a supervisor."""

    def __init__(self, sandbox: ProcessSandbox, held_by: _Supervisor) -> None:
        self._sandbox = sandbox
        self._supervisor = held_by
        self._answered = False

    async def wait(self) -> Exit:
        """Wait for the supervisor's answer."""
        try:
            answer = await self._supervisor.receive()
        except BaseException:
            # nobody waits for the answer any more, so this supervisor cannot be given another command
            self._answered = True
            self._sandbox.lose(self._supervisor)
            raise
        self._answered = True
        if answer is None:
            self._sandbox.lose(self._supervisor)
            raise SandboxFailure("the supervisor of the script was lost")
        self._sandbox.give_back(self._supervisor)
        if "failed" in answer:
            raise SandboxFailure(str(answer["failed"]))
        return Exit(
            ended=Ended(answer["ended"]),
            code=answer["code"],
            was_signaled=answer["was_signaled"],
            duration_ms=answer["duration_ms"],
            cpu_ms=answer["cpu_ms"],
            peak_memory_mib=answer["peak_memory_mib"],
        )

    def cancel(self) -> None:
        """Pass the wish on."""
        if not self._answered:
            self._supervisor.post({"cancel": True})

    def kill(self) -> None:
        """Pass the order on."""
        if not self._answered:
            self._supervisor.post({"kill": True})


class _Supervisor:
    """A supervisor process and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        script = Path(supervisor.__file__)
        # its own session: a terminal's Ctrl-C reaches the runner alone, which then decides
        with _starting:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-S", "-E", "-s", str(script)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=None,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                close_fds=True,
                start_new_session=True,
            )
        theirs.close()
        self._socket = ours

    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def send(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        body = json.dumps(message).encode()
        loop = asyncio.get_running_loop()
        socket.send_fds(self._socket, [len(body).to_bytes(4, "big")], descriptors)
        await loop.sock_sendall(self._socket, body)

    def post(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message).encode()
        with contextlib.suppress(OSError):
            self._socket.send(len(body).to_bytes(4, "big") + body)

    async def receive(self) -> dict[str, Any] | None:
        loop = asyncio.get_running_loop()
        try:
            head = await self._exactly(loop, 4)
            body = await self._exactly(loop, int.from_bytes(head, "big"))
        except (ConnectionError, EOFError):
            return None
        answer: dict[str, Any] = json.loads(body)
        return answer

    async def _exactly(self, loop: asyncio.AbstractEventLoop, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = await loop.sock_recv(self._socket, size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def close(self) -> None:
        self._socket.close()

    def wait(self) -> int:
        """Its exit code: 0 when it has ended all that it held."""
        try:
            return self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _wire(command: Command) -> dict[str, Any]:
    return {
        "argv": list(command.argv),
        "directory": str(command.directory),
        "environment": dict(command.environment),
        "timeout_ms": command.timeout_ms,
        "memory_mib": command.memory_mib,
        "grace_ms": command.grace_ms,
        "max_file_bytes": command.max_file_bytes,
    }


def _kill_orphans() -> None:
    """End what a lost supervisor held, which a runner, as a subreaper, is the parent of now.

    Every script has a session of its own, and so has what it started. The runner's other children are in the
    runner's session, or are supervisors, which lead theirs.
    """
    if not supervisor.is_subreaper():
        return
    deadline = time.monotonic() + END_SECONDS
    with _starting:
        while orphans := [pid for pid in supervisor.children_of(os.getpid()) if _is_orphan(pid)]:
            if time.monotonic() > deadline:
                log.error("these processes of a lost supervisor cannot be ended: %s", orphans)
                return
            for pid in orphans:
                supervisor.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.005)


def _is_orphan(pid: int) -> bool:
    try:
        return os.getsid(pid) != os.getsid(0) and not _is_supervisor(pid)
    except ProcessLookupError:
        return False


def _is_supervisor(pid: int) -> bool:
    try:
        return supervisor.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
