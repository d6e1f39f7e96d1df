"""What every sandbox offers: run a command, with everything it starts, and end all of it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

MAX_FILE_BYTES = 64 * 1024**3
"""The largest file that a command may write: far beyond any output limit, short of most disks."""


class Ended(StrEnum):
    """Why a command ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be run, where, with what, and how far it may go.

    Attributes:
        argv: program and arguments; the program is an absolute path.
        directory: where it starts.
        environment: all of its environment variables.
        timeout_ms: SIGTERM after so long, by the monotonic clock.
        memory_mib: SIGKILL when it and everything it started hold more together.
        grace_ms: SIGKILL so long after a SIGTERM.
        max_file_bytes: no file grows beyond it (SIGXFSZ, or EFBIG where that is ignored).
    """

    argv: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    timeout_ms: int
    memory_mib: int
    grace_ms: int = 5_000
    max_file_bytes: int = MAX_FILE_BYTES


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    Attributes:
        ended: why.
        code: its exit code, or the number of the signal that ended it.
        was_signaled: whether a signal ended it, whoever sent that.
        duration_ms: from its start to its own end, by the monotonic clock.
        cpu_ms: user and system time of it and of what it started.
        peak_memory_mib: the most that all of it held at once, as sampled.
    """

    ended: Ended
    code: int
    was_signaled: bool
    duration_ms: int
    cpu_ms: int
    peak_memory_mib: int


class SandboxFailure(Exception):
    """The sandbox itself failed; the command is not to blame."""


class Running(Protocol):
    """A command that runs."""

    async def wait(self) -> Exit:
        """Wait until it and everything it started has ended.

        Raises:
            SandboxFailure: it could not be run, or the sandbox was lost.
        """

    def cancel(self) -> None:
        """Ask it to end: SIGTERM, then SIGKILL after its grace. One that has ended does not mind."""

    def kill(self) -> None:
        """End it now."""


class Sandbox(Protocol):
    """Runs commands, several at a time. When the process that holds it ends, so does all that it runs."""

    name: str

    async def prepare(self, commands: int) -> None:
        """Be ready to start so many commands without delay."""

    async def start(self, command: Command, stdout_fd: int, stderr_fd: int) -> Running:
        """Start a command on two descriptors, which stay the caller's to close.

        Raises:
            SandboxFailure: it could not be started.
        """

    async def close(self) -> None:
        """End everything that runs."""
