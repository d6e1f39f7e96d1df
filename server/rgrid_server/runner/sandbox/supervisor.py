"""The process that holds one script at a time, with everything that the script starts.

It is a child subreaper (prctl(2)): what a script leaves behind, daemons of their own session included,
becomes its child and is killed with the script. When the runner goes away, so do it and all that it holds.
It imports little, so that forking it is cheap.

It reads from the socket on descriptor 0: ``{"run": …}`` with two descriptors beside it, or
``{"cancel": true}``, or ``{"kill": true}``; and answers each run with one message. Messages are a 4-byte
length and JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
PAGE_KIB = resource.getpagesize() // 1024
SAMPLE_SECONDS = 0.05
FIRST_SAMPLE_SECONDS = 0.01
KILL_AGAIN_SECONDS = 0.005
EXEC_FAILED = 127
OUTER_MEMORY_BYTES = 4 * 1024**3
CHANGED_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGCHLD,
    # Python ignores these two at its start, and what is ignored stays so through exec
    signal.SIGPIPE,
    signal.SIGXFSZ,
)

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def main() -> None:
    """Serve runs until the socket ends."""
    become_subreaper()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # these are the runner's to act on; it ends us by closing the socket
        signal.signal(number, signal.SIG_IGN)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    channel = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    while True:
        received = receive(channel)
        if received is None:
            return
        message, descriptors = received
        if "run" in message:
            answer = Run(message["run"], descriptors, channel, wake_read).carry()
            if answer is None:
                return
            send(channel, answer)


class Run:
    """One script from its start until nothing of it is left."""

    def __init__(
        self, command: dict[str, Any], descriptors: list[int], channel: socket.socket, wake_read: int
    ) -> None:
        self.command = command
        self.descriptors = descriptors
        self.channel = channel
        self.wake_read = wake_read
        self.pid = 0
        self.cpu_seconds = 0.0
        self.peak_kib = 0
        self.status: int | None = None
        self.ended: str | None = None
        self.kill_at: float | None = None

    def carry(self) -> dict[str, Any] | None:
        """Start it, watch it, and end what it leaves; None when the runner went away."""
        started = time.monotonic()
        try:
            self._start()
        except OSError as error:
            return {"failed": f"{self.command['argv'][0]}: {error.strerror}"}
        finally:
            for descriptor in self.descriptors:
                os.close(descriptor)
        runner_is_there = self._watch(started + self.command["timeout_ms"] / 1000)
        duration = time.monotonic() - started
        self._end_all()
        if not runner_is_there:
            return None
        code = os.waitstatus_to_exitcode(self.status or 0)
        return {
            "ended": self.ended or ("exited" if code >= 0 else "signaled"),
            "code": abs(code),
            "was_signaled": code < 0,
            "duration_ms": round(duration * 1000),
            "cpu_ms": round(self.cpu_seconds * 1000),
            "peak_memory_mib": -(-self.peak_kib // 1024),
        }

    def _start(self) -> None:
        # the child's exec closes its end; an error comes through it instead
        errors_read, errors_write = os.pipe2(os.O_CLOEXEC)
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            number = errno.EINVAL
            try:
                self._become(supervisor)
            except OSError as error:
                number = error.errno or errno.EIO
            finally:
                # reached only when exec was not
                os.write(errors_write, str(number).encode())
                os._exit(EXEC_FAILED)
        os.close(errors_write)
        reported = os.read(errors_read, 16)
        os.close(errors_read)
        if reported:
            os.waitpid(pid, 0)
            raise OSError(int(reported), os.strerror(int(reported)))
        self.pid = pid

    def _become(self, supervisor: int) -> None:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(EXEC_FAILED)
        signal.set_wakeup_fd(-1)
        for number in CHANGED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        memory_bytes = self.command["memory_mib"] * 1024 * 1024
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_FSIZE, self.command["max_file_bytes"])
        # far outside of what is watched: it stops what would grow faster than the watch can look
        _limit(resource.RLIMIT_DATA, 4 * memory_bytes + OUTER_MEMORY_BYTES)
        os.umask(0o022)
        os.chdir(self.command["directory"])
        os.dup2(self.descriptors[0], 1)
        os.dup2(self.descriptors[1], 2)
        os.execve(self.command["argv"][0], self.command["argv"], self.command["environment"])  # noqa: S606

    def _watch(self, deadline: float) -> bool:
        """Until the script itself has ended; returns whether the runner is still there."""
        sample = FIRST_SAMPLE_SECONDS
        while True:
            due = (deadline if self.kill_at is None else self.kill_at) - time.monotonic()
            # once killed it ends soon; it is killed again until it has
            wait = min(sample, max(KILL_AGAIN_SECONDS if self.kill_at is not None else 0.0, due))
            readable = select.select([self.channel.fileno(), self.wake_read], [], [], wait)[0]
            sample = min(SAMPLE_SECONDS, sample * 2)
            if self.wake_read in readable:
                os.read(self.wake_read, 4096)
            self._reap()
            if self.status is not None:
                return True
            if self.channel.fileno() in readable:
                received = receive(self.channel)
                if received is None:
                    return False
                if received[0].get("cancel"):
                    self._stop("canceled", self.command["grace_ms"])
                elif received[0].get("kill"):
                    self._stop("canceled", 0)
            now = time.monotonic()
            if self.kill_at is None and now >= deadline:
                self._stop("timed_out", self.command["grace_ms"])
            if self._look_at_memory() > self.command["memory_mib"] * 1024:
                self._stop("out_of_memory", 0)
            if self.kill_at is not None and now >= self.kill_at:
                self._signal_all(signal.SIGKILL)

    def _stop(self, why: str, grace_ms: int) -> None:
        """End it for a reason; the first reason stands, the nearest end does."""
        kill_at = time.monotonic() + grace_ms / 1000
        if self.ended is None and grace_ms:
            self._signal_all(signal.SIGTERM)
        self.ended = self.ended or why
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)
        if not grace_ms:
            self._signal_all(signal.SIGKILL)

    def _look_at_memory(self) -> int:
        """What all of it holds now, in KiB."""
        used_kib = 0
        for pid in descendants():
            try:
                with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
                    fields = file.read().split()
            except OSError:
                continue
            # without what is shared, so that a pool of workers is not counted many times over
            used_kib += (int(fields[1]) - int(fields[2])) * PAGE_KIB
        self.peak_kib = max(self.peak_kib, used_kib)
        return used_kib

    def _reap(self) -> bool:
        """Take in what has ended; returns whether there is any process left."""
        while True:
            try:
                reaped, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if reaped == 0:
                return True
            self.cpu_seconds += usage.ru_utime + usage.ru_stime
            if reaped == self.pid:
                self.status = status
                self.peak_kib = max(self.peak_kib, usage.ru_maxrss)

    def _end_all(self) -> None:
        """Kill whatever is left, until nothing is: what loses its parent becomes a child of this process."""
        while self._reap():
            self._signal_all(signal.SIGKILL)
            time.sleep(0.001)

    def _signal_all(self, number: int) -> None:
        if self.status is None:
            # its number is its own until it has been reaped
            kill(self.pid, number)
        for pid in descendants():
            if pid != self.pid:
                kill(pid, number)


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, most))


def become_subreaper() -> None:
    """From now on what loses its parent below this process becomes its child."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_subreaper() -> bool:
    """Whether this process is one."""
    answer = ctypes.c_int(0)
    _prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def descendants() -> list[int]:
    """Everything below this process, parents first."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        children = children_of(waiting.pop())
        found.extend(children)
        waiting.extend(children)
    return found


def children_of(pid: int) -> list[int]:
    """The direct children of a process, of all its threads."""
    children: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:
        return children
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                children.extend(int(child) for child in file.read().split())
        except OSError:
            continue
    return children


def kill(pid: int, number: int) -> None:
    """Signal a process that may be gone, or that may have become another user's."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message with the descriptors beside it; None at the end of the socket."""
    try:
        head, descriptors, _, _ = socket.recv_fds(channel, 4, 2)
        while len(head) < 4:
            more = channel.recv(4 - len(head))
            if not head or not more:
                return None
            head += more
        left = int.from_bytes(head, "big")
        parts: list[bytes] = []
        while left:
            part = channel.recv(left)
            if not part:
                return None
            parts.append(part)
            left -= len(part)
    except ConnectionError:
        return None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return json.loads(b"".join(parts)), list(descriptors)


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Send one message; a runner that is gone does not hear it."""
    body = json.dumps(message).encode()
    try:
        channel.sendall(len(body).to_bytes(4, "big") + body)
    except ConnectionError:
        return


if __name__ == "__main__":
    main()
    sys.exit(0)
