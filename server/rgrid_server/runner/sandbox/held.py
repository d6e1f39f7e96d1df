"""A sandbox of holders: each run goes to one that fits and is free, or to a new one.

A holder belongs to one tenant and one environment. It starts its scripts warm where a script's own first
imports include all that the holder has imported: then the script finds nothing that it would not have loaded
itself. The holder that has imported most is taken; where a script imports more, a holder with all of it is
started for the next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from rgrid_server.runner.sandbox.base import (
    Command,
    Ended,
    Exit,
    ImportStatement,
    Running,
    SandboxFailure,
)
from rgrid_server.runner.sandbox.holders import BASE_PYTHON, RUN, Confinement, Holder, Kind, Unfit, launch

log = logging.getLogger(__name__)

IDLE_SECONDS = 300.0
LOOK_SECONDS = 15.0
LOW_MEMORY_PARTS = 10
"""Idle holders leave when less than a tenth of the machine's memory is left."""
RUNS_OF_A_HOLDER = 1000
"""Its scripts share the seed of their hashes; after so many another holder brings another one."""

_INTERPRETERS_OWN = ("PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_")
_INTERPRETERS_OWN_NAMES = frozenset({"LANG", "LANGUAGE", "TZ"})
_LIBRARIES_OWN = (
    *(
        "OMP_",
        "GOMP_",
        "KMP_",
        "MKL_",
        "OPENBLAS_",
        "GOTO_",
        "BLIS_",
        "VECLIB_",
        "NUMEXPR_",
        "NPY_",
        "NUMPY_",
    ),
    *("CUDA_", "NVIDIA_", "TF_", "TORCH_", "PYTORCH_", "JAX_", "XLA_", "ARROW_", "OPENSSL_", "SSL_"),
)
"""What compiled libraries ask for when they are loaded, unseen by Python."""


class HeldSandbox:
    """Runs commands under holders; ``confinement`` says how these are shut in."""

    def __init__(self, confinement: Confinement, boxes: Path, *, max_holders: int | None = None) -> None:
        self.name = confinement.name
        self._confinement = confinement
        self._boxes = boxes
        self._max_holders = max_holders or 4 * (os.cpu_count() or 1) + 4
        self._idle: dict[Kind, list[Holder]] = defaultdict(list)
        self._all: set[Holder] = set()
        self._launching: set[tuple[Kind, tuple[ImportStatement, ...]]] = set()
        self._unfit: dict[tuple[str, str], dict[ImportStatement, str]] = defaultdict(dict)
        self._background: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    async def prepare(self, command: Command, copies: int) -> None:
        """Launch holders for so many commands like this one."""
        kind, _ = self._kind(command)
        imports = self._imports(command)
        missing = max(0, copies - len(self._idle[kind]))
        for holder in await asyncio.gather(*(self._launch(kind, imports) for _ in range(missing))):
            self._idle[holder.kind].append(holder)

    async def start(self, command: Command, stdout_fd: int, stderr_fd: int) -> Running:
        """Give a command to a holder that fits and is free, or to a new one."""
        kind, cold_reason = self._kind(command)
        holder = self._take(kind, command)
        if holder is None:
            holder = await self._launch(kind, self._imports(command))
            if _misfit(holder, command):
                self.give_back(holder)
                holder = await self._launch(kind, ())
        self._look_after()
        try:
            running = _HeldRun(self, holder, command, cold_reason)
            await running.begin(stdout_fd, stderr_fd)
        except BaseException as error:
            await self.lose(holder, command.workspace)
            if isinstance(error, OSError):
                raise SandboxFailure(f"{error.filename or 'the holder'}: {error.strerror}") from error
            raise
        return running

    async def close(self) -> None:
        """End every holder, and with it what it holds."""
        if self._looking is not None:
            self._looking.cancel()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._idle.clear()
        await asyncio.gather(*(self.lose(holder) for holder in list(self._all)))

    def give_back(self, holder: Holder) -> None:
        """A holder can take another command."""
        holder.idle_since = time.monotonic()
        self._idle[holder.kind].append(holder)

    async def lose(self, lost: Holder, workspace: Path | None = None) -> None:
        """Let go of a holder and wait until all that it held has ended; its workspace is given back."""
        self._all.discard(lost)
        with contextlib.suppress(ValueError):
            self._idle[lost.kind].remove(lost)
        lost.close()
        await asyncio.shield(asyncio.to_thread(self._end, lost, workspace))

    def _end(self, lost: Holder, workspace: Path | None) -> None:
        if lost.wait() != 0:
            self.end_orphans()
        if workspace is not None:
            self.take_out(lost, workspace)
        lost.remove_box()

    def take_out(self, holder: Holder, workspace: Path) -> None:
        """Move a workspace out of a box, and have it be the runner's again."""
        holder.give_out(workspace)
        self._confinement.give_out(workspace)

    def end_orphans(self) -> None:
        """End what a lost holder may have left; nothing where the kernel ends it with the holder."""

    def _kind(self, command: Command) -> tuple[Kind, str | None]:
        """What kind of holder is wanted, and why none for a warm start."""
        warmth = command.warmth
        if warmth.cold_reason is not None:
            return self._cold_kind(command), warmth.cold_reason
        differing = [name for name in _differing(command) if _is_interpreters_own(name)]
        if differing:
            return self._cold_kind(command), f"the interpreter itself reads {', '.join(sorted(differing))}"
        return (
            Kind(
                str(command.argv[0]),
                str(command.argv[1]),
                command.tenant,
                command.read_only,
                tuple(sorted(warmth.variables.items())),
                command.image,
            ),
            None,
        )

    @staticmethod
    def _cold_kind(command: Command) -> Kind:
        # an image has no interpreter but its own
        python = str(command.argv[0]) if command.image else BASE_PYTHON
        return Kind(python, "", command.tenant, command.read_only, image=command.image)

    def _imports(self, command: Command) -> tuple[ImportStatement, ...]:
        """What a new holder for a command imports: all of its first imports but those known as unfit."""
        kind, _ = self._kind(command)
        unfit = self._unfit[kind.image, kind.python]
        if not kind.script or any(name.startswith(_LIBRARIES_OWN) for name in _differing(command)):
            return ()
        return tuple(item for item in command.warmth.imports if item not in unfit)

    def _take(self, kind: Kind, command: Command) -> Holder | None:
        """The idle holder that has done most of what the command needs."""
        best: Holder | None = None
        for holder in list(self._idle.get(kind, ())):
            if not holder.is_alive():
                self._lose_soon(holder)
            elif (best is None or len(holder.imports) > len(best.imports)) and not _misfit(holder, command):
                best = holder
        if best is None:
            return None
        self._idle[kind].remove(best)
        wanted = self._imports(command)
        if len(best.imports) < len(wanted):
            self._launch_soon(kind, wanted)
        return best

    async def _launch(self, kind: Kind, imports: tuple[ImportStatement, ...]) -> Holder:
        self._make_room()
        self._boxes.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                holder = await launch(self._confinement, self._boxes, kind, imports)
            except Unfit as unfit:
                self._unfit[kind.image, kind.python][imports[unfit.index]] = str(unfit)
                log.info("%s is imported by scripts themselves: %s", imports[unfit.index], unfit)
                imports = imports[: unfit.index] + imports[unfit.index + 1 :]
                continue
            self._all.add(holder)
            return holder

    def _launch_soon(self, kind: Kind, imports: tuple[ImportStatement, ...]) -> None:
        """Start one for later, where all that run now could not have one each."""
        of_kind = [one for one in self._all if one.kind == kind]
        busy = len(of_kind) - len(self._idle[kind])
        fitting = sum(one.imports == imports for one in of_kind)
        if (kind, imports) in self._launching or fitting >= busy or len(self._all) >= self._max_holders:
            return
        self._launching.add((kind, imports))

        async def launch_one() -> None:
            try:
                self.give_back(await self._launch(kind, imports))
            except SandboxFailure as error:
                log.warning("no holder for later: %s", error)
            finally:
                self._launching.discard((kind, imports))

        self._keep(launch_one())

    def _make_room(self) -> None:
        idle = sorted((one for group in self._idle.values() for one in group), key=lambda one: one.idle_since)
        for holder in idle[: max(0, len(self._all) + 1 - self._max_holders)]:
            self._lose_soon(holder)

    def _lose_soon(self, holder: Holder) -> None:
        with contextlib.suppress(ValueError):
            self._idle[holder.kind].remove(holder)
        self._keep(self.lose(holder))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _look_after(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._send_idle_away())

    async def _send_idle_away(self) -> None:
        while self._all:
            await asyncio.sleep(LOOK_SECONDS)
            is_short = is_memory_short(await asyncio.to_thread(Path("/proc/meminfo").read_text))
            now = time.monotonic()
            for group in list(self._idle.values()):
                for holder in list(group):
                    if is_short or now - holder.idle_since > IDLE_SECONDS:
                        self._lose_soon(holder)


class _HeldRun:
    """A command under a holder."""

    def __init__(
        self, sandbox: HeldSandbox, holder: Holder, command: Command, cold_reason: str | None
    ) -> None:
        self._sandbox = sandbox
        self._holder = holder
        self._command = command
        self._cold_reason = cold_reason
        self._answered = False
        self.place = holder.box / RUN

    async def begin(self, stdout_fd: int, stderr_fd: int) -> None:
        """Move the workspace in and send the command."""
        holder, command = self._holder, self._command
        self._sandbox._confinement.take_in(command.workspace)
        holder.take_in(command.workspace)
        holder.runs += 1
        seen = self._sandbox._confinement.seen(holder.box) / RUN
        if holder.spawned.limits is not None:
            await holder.spawned.limits.limit(command.memory_mib, command.cpus_milli)
        run = {
            "argv": [str(part) for part in command.argv],
            "warm": bool(holder.kind.script),
            "directory": f"{seen}/work",
            "environment": {"HOME": str(seen / "home"), "TMPDIR": str(seen / "tmp"), **command.environment},
            "timeout_ms": command.timeout_ms,
            "memory_mib": command.memory_mib,
            "grace_ms": command.grace_ms,
            "max_file_bytes": command.max_file_bytes,
            "max_processes": 0,
            "watches": command.warmth.watches,
        }
        await holder.send({"run": run}, [stdout_fd, stderr_fd])

    async def wait(self) -> Exit:
        """Wait for the holder's answer."""
        try:
            answer = await self._holder.receive()
        except BaseException:
            # nobody waits for the answer any more, so this holder cannot be given another command
            await self._lose()
            raise
        if answer is None:
            await self._lose()
            raise SandboxFailure("the holder of the script was lost")
        self._answered = True
        said, _, problem = answer.partition("\n")
        self._sandbox.take_out(self._holder, self._command.workspace)
        if problem or self._holder.runs >= RUNS_OF_A_HOLDER:
            self._sandbox._lose_soon(self._holder)
        else:
            self._sandbox.give_back(self._holder)
        word, _, rest = said.partition(" ")
        if word == "failed":
            raise SandboxFailure(rest)
        code, was_signaled, duration_ms, cpu_ms, peak_mib = (int(part) for part in rest.split())
        ended = Ended(word)
        limits = self._holder.spawned.limits
        is_cut_short = ended in {Ended.SIGNALED, Ended.TIMED_OUT}
        if is_cut_short and limits is not None and limits.was_out_of_memory():
            ended, peak_mib = Ended.OUT_OF_MEMORY, max(peak_mib, self._command.memory_mib)
        return Exit(ended, code, bool(was_signaled), duration_ms, cpu_ms, peak_mib, self._cold_reason)

    def cancel(self) -> None:
        """Pass the wish on."""
        if not self._answered:
            self._holder.post({"cancel": True})

    def kill(self) -> None:
        """Pass the order on."""
        if not self._answered:
            self._holder.post({"kill": True})

    async def _lose(self) -> None:
        self._answered = True
        await self._sandbox.lose(self._holder, self._command.workspace)


def _misfit(holder: Holder, command: Command) -> bool:
    """Whether a holder has imported what the command would not, or would find otherwise.

    A file beside the script stands before a module of its name; and an import may do other things where an
    environment variable is set that it asks for.
    """
    if not holder.imports:
        return False
    if holder.loaded & command.warmth.names or not set(holder.imports) <= set(command.warmth.imports):
        return True
    differing = set(_differing(command))
    return bool(differing & holder.asked or ("*" in holder.asked and differing)) or any(
        name.startswith(_LIBRARIES_OWN) for name in differing
    )


def _differing(command: Command) -> list[str]:
    """The environment variables in which a command differs from its environment's others."""
    base, own = command.warmth.variables, command.environment
    return [name for name in {*base, *own} if base.get(name) != own.get(name)]


def _is_interpreters_own(name: str) -> bool:
    return name.startswith(_INTERPRETERS_OWN) or name in _INTERPRETERS_OWN_NAMES


def is_memory_short(meminfo: str) -> bool:
    """Whether the machine has little memory left, by its /proc/meminfo."""
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in meminfo.splitlines() if ":" in line}
    return sizes.get("MemAvailable", 1) * LOW_MEMORY_PARTS < sizes.get("MemTotal", 1)
