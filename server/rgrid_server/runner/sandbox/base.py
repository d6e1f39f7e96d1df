"""What every sandbox offers: run a command, with everything it starts, and end all of it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Ended(StrEnum):
    """Why a command ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be run, where, with what, and how far it may go."""

    argv: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    timeout_ms: int
    memory_mib: int
    grace_ms: int = 5_000


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended; ``code`` is its exit code, or the number of the signal that ended it."""

    ended: Ended
    code: int
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
        """Ask it to end: SIGTERM, then SIGKILL after its grace."""


class Sandbox(Protocol):
    """Runs commands, several at a time."""

    name: str

    async def start(self, command: Command, stdout_fd: int, stderr_fd: int) -> Running:
        """Start a command on two descriptors, which stay the caller's to close.

        Raises:
            SandboxFailure: it could not be started.
        """

    async def close(self) -> None:
        """End everything that runs."""
