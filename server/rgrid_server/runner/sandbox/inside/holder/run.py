"""One script from its start until nothing of it is left: its time, its memory, and all that it starts."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import resource
import select
import time

from . import processes
from .child import SPAWN_FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .channel import Channel
    from .child import Child

PAGE_KIB = resource.getpagesize() // 1024
SAMPLE_SECONDS = 0.05
FIRST_SAMPLE_SECONDS = 0.01
KILL_AGAIN_SECONDS = 0.005


class Run:
    """One script.

    Args:
        channel: where the runner may cancel it.
        child: what its process becomes.
        command: what the runner asked for.
        streams: descriptors of its standard output and standard error.

    Attributes:
        is_script: whether this process is the script's itself.
    """

    def __init__(self, channel: Channel, child: Child, command: dict[str, Any], streams: list[int]) -> None:
        self.is_script = False
        self._channel = channel
        self._child = child
        self._command = command
        self._streams = streams
        self._is_first_in_namespace = processes.is_first_in_namespace()
        self._pid = 0
        self._pidfd = -1
        self._cpu_seconds = 0.0
        self._peak_kib = 0
        self._status: int | None = None
        self._ended: str | None = None
        self._kill_at: float | None = None

    def carry(self) -> str | None:
        """Start it, watch it, and end what it leaves; None when the runner went away, or in the script."""
        started = time.monotonic()
        errors = self._start()
        if self.is_script:
            return None
        for descriptor in self._streams:
            os.close(descriptor)
        runner_is_there = self._watch(started + self._command["timeout_ms"] / 1000)
        duration = time.monotonic() - started
        self._end_all()
        failed = os.read(errors, 500)
        os.close(errors)
        if not runner_is_there:
            return None
        if failed:
            return "failed " + failed.decode()
        status = self._status or 0
        was_signaled = os.WIFSIGNALED(status)
        code = os.WTERMSIG(status) if was_signaled else os.WEXITSTATUS(status)
        ended = self._ended or ("signaled" if was_signaled else "exited")
        peak_mib = -(-self._peak_kib // 1024)
        duration_ms, cpu_ms = round(duration * 1000), round(self._cpu_seconds * 1000)
        return f"{ended} {code} {int(was_signaled)} {duration_ms} {cpu_ms} {peak_mib}"

    def _start(self) -> int:
        """Fork; returns where an error of the child's can be read once it has ended."""
        errors_read, errors_write = os.pipe()
        holder = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._child.become(self._command, self._streams, holder)
                os.closerange(3, max(errors_write, *self._streams) + 1)
                self.is_script = True
            except BaseException as error:
                what = getattr(error, "strerror", None) or repr(error)
                os.write(errors_write, f"{self._command['argv'][0]}: {what}".encode()[:500])
                os._exit(SPAWN_FAILED)
            return -1
        os.close(errors_write)
        self._pid = pid
        self._pidfd = processes.open_pidfd(pid)
        return errors_read

    def _watch(self, deadline: float) -> bool:
        """Until the script itself has ended; returns whether the runner is still there."""
        channel = self._channel.fileno()
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        if self._pidfd >= 0:
            poll.register(self._pidfd, select.POLLIN)
        sample = FIRST_SAMPLE_SECONDS
        try:
            while True:
                due = (deadline if self._kill_at is None else self._kill_at) - time.monotonic()
                # once killed it ends soon; it is killed again until it has
                wait = min(sample, max(KILL_AGAIN_SECONDS if self._kill_at is not None else 0.0, due))
                readable = [descriptor for descriptor, _ in poll.poll(max(0, wait * 1000))]
                sample = min(SAMPLE_SECONDS, sample * 2)
                self._reap()
                if self._status is not None:
                    return True
                if channel in readable:
                    received = self._channel.receive()
                    if received is None:
                        return False
                    if received[0].get("cancel"):
                        self._stop("canceled", self._command["grace_ms"])
                    elif received[0].get("kill"):
                        self._stop("canceled", 0)
                now = time.monotonic()
                if self._kill_at is None and now >= deadline:
                    self._stop("timed_out", self._command["grace_ms"])
                if self._look_at_memory() > self._command["memory_mib"] * 1024:
                    self._stop("out_of_memory", 0)
                if self._kill_at is not None and now >= self._kill_at:
                    self._signal_all(_signal.SIGKILL)
        finally:
            if self._pidfd >= 0:
                os.close(self._pidfd)

    def _stop(self, why: str, grace_ms: int) -> None:
        """End it for a reason; the first reason stands, the nearest end does."""
        kill_at = time.monotonic() + grace_ms / 1000
        if self._ended is None and grace_ms:
            self._signal_all(_signal.SIGTERM)
        self._ended = self._ended or why
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        if not grace_ms:
            self._signal_all(_signal.SIGKILL)

    def _look_at_memory(self) -> int:
        """What all of it holds now, in KiB."""
        used_kib = 0
        for pid in self._members():
            try:
                with open(f"/proc/{pid}/statm", "rb") as file:
                    fields = file.read().split()
            except OSError:
                continue
            # without what is shared, so that a pool of workers is not counted many times over
            used_kib += (int(fields[1]) - int(fields[2])) * PAGE_KIB
        self._peak_kib = max(self._peak_kib, used_kib)
        return used_kib

    def _members(self) -> list[int]:
        if self._is_first_in_namespace:
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        return processes.descendants()

    def _reap(self) -> bool:
        """Take in what has ended; returns whether there is any process left."""
        while True:
            try:
                reaped, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if reaped == 0:
                return True
            self._cpu_seconds += usage.ru_utime + usage.ru_stime
            if reaped == self._pid:
                self._status = status
                self._peak_kib = max(self._peak_kib, usage.ru_maxrss)

    def _end_all(self) -> None:
        """Kill whatever is left, until nothing is: what loses its parent becomes a child of this process."""
        while self._reap():
            self._signal_all(_signal.SIGKILL)
            time.sleep(0.001)

    def _signal_all(self, number: int) -> None:
        if self._is_first_in_namespace:
            # everything in the namespace but this process, in one step that no fork escapes
            processes.kill(-1, number)
            return
        if self._status is None:
            # its number is its own until it has been reaped
            processes.kill(self._pid, number)
        for pid in processes.descendants():
            if pid != self._pid:
                processes.kill(pid, number)
