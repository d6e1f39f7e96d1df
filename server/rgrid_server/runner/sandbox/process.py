"""The process sandbox: own session, limits, environment and workspace; a supervisor holds the whole tree.

Supervisors are started once and take one script after another. They are not a wall against hostile code,
which runs as the runner's user.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rgrid_server.runner.sandbox import supervisor
from rgrid_server.runner.sandbox.base import Command, Ended, Exit, Running, SandboxFailure


class ProcessSandbox:
    """Runs commands under a pool of supervisors."""

    name = "process"

    def __init__(self) -> None:
        self._idle: deque[_Supervisor] = deque()
        self._all: set[_Supervisor] = set()

    async def start(self, command: Command, stdout_fd: int, stderr_fd: int) -> Running:
        """Give a command to a supervisor that is free, or to a new one."""
        while self._idle:
            free = self._idle.popleft()
            if free.is_alive():
                break
            self._forget(free)
        else:
            free = await asyncio.to_thread(_Supervisor)
            self._all.add(free)
        try:
            await free.send({"run": _wire(command)}, [stdout_fd, stderr_fd])
        except OSError as error:
            self._forget(free)
            raise SandboxFailure(f"the supervisor does not listen: {error}") from error
        return _RunningProcess(self, free)

    async def close(self) -> None:
        """End every supervisor, and with it what it holds."""
        for one in self._all:
            one.close()
        for one in self._all:
            await asyncio.to_thread(one.wait)
        self._all.clear()
        self._idle.clear()

    def give_back(self, free: _Supervisor) -> None:
        """A supervisor has answered and can take another command."""
        self._idle.append(free)

    def _forget(self, lost: _Supervisor) -> None:
        self._all.discard(lost)
        lost.close()
        lost.wait()
        _kill_orphans({one.pid for one in self._all})

    def lose(self, lost: _Supervisor) -> None:
        """A supervisor ended by itself: what it held is ours now, and ends."""
        self._forget(lost)


class _RunningProcess:
    """A command under a supervisor."""

    def __init__(self, sandbox: ProcessSandbox, held_by: _Supervisor) -> None:
        self._sandbox = sandbox
        self._supervisor = held_by
        self._answered = False

    async def wait(self) -> Exit:
        """Wait for the supervisor's answer."""
        answer = await self._supervisor.receive()
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
            duration_ms=answer["duration_ms"],
            cpu_ms=answer["cpu_ms"],
            peak_memory_mib=answer["peak_memory_mib"],
        )

    def cancel(self) -> None:
        """Pass the wish on; a command that has ended does not mind."""
        if not self._answered:
            self._supervisor.post({"cancel": True})


class _Supervisor:
    """A supervisor process and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        script = Path(supervisor.__file__)
        # its own session: a terminal's Ctrl-C reaches the runner alone, which then decides
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

    @property
    def pid(self) -> int:
        return self._process.pid

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

    def wait(self) -> None:
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _wire(command: Command) -> dict[str, Any]:
    return {
        "argv": list(command.argv),
        "directory": str(command.directory),
        "environment": dict(command.environment),
        "timeout_ms": command.timeout_ms,
        "memory_mib": command.memory_mib,
        "grace_ms": command.grace_ms,
    }


def _kill_orphans(supervisors: set[int]) -> None:
    """End what a lost supervisor held: as a subreaper the runner has become its parent."""
    for pid in supervisor.children_of(os.getpid()):
        if pid not in supervisors and _leads_a_session(pid) and not _is_supervisor(pid):
            supervisor.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _leads_a_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def _is_supervisor(pid: int) -> bool:
    try:
        return supervisor.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
