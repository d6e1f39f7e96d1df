"""What every sandbox offers: run a command, with everything it starts, and end all of it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
class ImportStatement:
    """An import as a script's first lines make it: ``import a.b`` (no names), or ``from a import b, c``."""

    module: str
    names: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The top-level name."""
        return self.module.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Warmth:
    """How a Python command may start warm: in an interpreter that stands before its script already.

    Attributes:
        imports: what the script imports first, in its order; none of it is the user's own.
        variables: the environment variables that every run of this environment has.
        names: the top-level names beside the script, which it finds before modules of these names.
        cold_reason: why it has to start cold all the same; None where it need not.
        watches: whether it looks at how its interpreter collects garbage or calls functions, and so is to
            find there what a fresh one has.
    """

    imports: tuple[ImportStatement, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    cold_reason: str | None = None
    watches: bool = False


NOT_PYTHON = Warmth(cold_reason="it is no Python script")


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be run, where, with what, and how far it may go.

    Attributes:
        argv: program and arguments; the program is an absolute path.
        workspace: the command's own directory, with ``work``, where it starts, and ``home`` and ``tmp``. It
            is moved into the sandbox for as long as the command runs (``Running.place``), and back.
        environment: its environment variables; HOME and TMPDIR are the workspace's where it names none.
        timeout_ms: SIGTERM after so long, by the monotonic clock.
        memory_mib: SIGKILL when it and everything it started hold more together.
        cpus_milli: thousandths of a CPU, where the sandbox can limit them.
        grace_ms: SIGKILL so long after a SIGTERM.
        max_file_bytes: no file grows beyond it (SIGXFSZ, or EFBIG where that is ignored).
        tenant: whose it is; nothing that a sandbox keeps is shared between tenants.
        read_only: directories of the machine that it may read.
        warmth: for ``python script.py``: how it may start warm.
        image: the container image whose programs are all that it sees; empty for this machine's.
    """

    argv: Sequence[str]
    workspace: Path
    environment: Mapping[str, str]
    timeout_ms: int
    memory_mib: int
    cpus_milli: int = 1_000
    grace_ms: int = 5_000
    max_file_bytes: int = MAX_FILE_BYTES
    tenant: str = ""
    read_only: tuple[Path, ...] = ()
    warmth: Warmth = NOT_PYTHON
    image: str = ""


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
        cold_reason: why it did not start warm; None where it did.
    """

    ended: Ended
    code: int
    was_signaled: bool
    duration_ms: int
    cpu_ms: int
    peak_memory_mib: int
    cold_reason: str | None = None


class SandboxFailure(Exception):
    """The sandbox itself failed; the command is not to blame."""


class Running(Protocol):
    """A command that runs.

    Attributes:
        place: where its workspace stands on this machine while it runs.
    """

    place: Path

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

    async def prepare(self, command: Command, copies: int) -> None:
        """Be ready to start so many commands like this one without delay."""

    async def start(self, command: Command, stdout_fd: int, stderr_fd: int) -> Running:
        """Start a command on two descriptors, which stay the caller's to close.

        Raises:
            SandboxFailure: it could not be started.
        """

    async def close(self) -> None:
        """End everything that runs."""
