"""Environments: an interpreter with resolved packages, built once by uv, keyed by what determines it.

What a script asks for (its requirements file and its PEP 723 block) is resolved to exact versions, and these
with the interpreter are the key. A resolution is trusted for an hour, so that what is not pinned does
update; an environment is never changed after it is built. However many attempts of however many runners of a
host ask at once, one of them resolves and builds, and the others wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from rgrid_server.domain.attempts import Specification
from rgrid_server.domain.runtimes import Kind
from rgrid_server.runner.buildlog import BuildLogs, Say, unheard
from rgrid_server.runner.envstore import EnvironmentStore, Resolution
from rgrid_server.runner.filelock import FileLock
from rgrid_server.runner.interpreters import Interpreter, installation
from rgrid_server.runner.once import Once
from rgrid_server.runner.requirements import Wanted, digest, find_wanted
from rgrid_server.runner.uv import EnvironmentFault, run_uv
from rgrid_server.runner.warmth import find_packages

log = logging.getLogger(__name__)


RESOLUTION_LIFETIME_SECONDS = 3600.0
MAX_ENVIRONMENTS_BYTES = 20 * 1024**3
BUILD_WAIT_SECONDS = 2 * 3600.0
"""So long another runner may resolve or build what is waited for; uv itself gives up sooner."""
REQUIREMENTS_FILE = "requirements.txt"
BUILD_LOG_FILE = "build.log"
"""What was said while it was built, for runners that waited for the one that did."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A ready environment.

    Attributes:
        key: what determines it.
        python: its interpreter.
        version: of the interpreter.
        installation: what its interpreter itself consists of: directories, or one file.
        packages: the top-level modules that are installed in it.
        kind: what its interpreter runs.
        image: the container image that it is; empty for one of this machine.
        variables: what an image sets.
    """

    key: str
    python: Path
    version: str
    installation: tuple[Path, ...]
    packages: frozenset[str]
    kind: Kind = Kind.PYTHON
    was_built: bool = field(default=False, compare=False)
    """Whether it was made just now, rather than found."""
    warning: str | None = field(default=None, compare=False)
    """What its user should know of how it was come by."""
    image: str = ""
    variables: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def directory(self) -> Path:
        """Where it stands."""
        return self.python.parent.parent

    @property
    def readable(self) -> tuple[Path, ...]:
        """What of the machine its scripts have to see."""
        if self.image:
            return ()
        return self.installation if self.kind is Kind.NODE else (self.directory, *self.installation)


class Environments:
    """Finds or builds environments under a directory, which runners of a host may share."""

    def __init__(
        self,
        directory: Path,
        interpreters: Mapping[str, Interpreter],
        *,
        max_bytes: int = MAX_ENVIRONMENTS_BYTES,
    ) -> None:
        self._store = EnvironmentStore(directory, max_bytes)
        self._interpreters = dict(interpreters)
        self._resolutions: dict[str, Resolution] = {}
        self._users: Counter[str] = Counter()
        self._held: dict[str, tuple[Environment, FileLock]] = {}
        self._once = Once()
        self._logs = BuildLogs()
        self._described: dict[Path, Environment] = {}

    @asynccontextmanager
    async def use(self, specification: Specification, say: Say = unheard) -> AsyncIterator[Environment]:
        """An environment for a specification, kept for the length of the ``with`` block.

        Args:
            specification: what it is for.
            say: is told what uv says, where it is made just now, also for others.

        Raises:
            Rejected: its runtime or its requirements cannot be had.
            EnvironmentFault: it could not be built just now.
        """
        wanted = find_wanted(specification, self._interpreters)
        if wanted.interpreter.kind is Kind.NODE:
            yield _as_it_is(wanted.interpreter)
            return
        pins, warning = "", None
        if wanted.requirements.strip():
            what = f"resolve {wanted.text_key}"
            with self._logs.heard(what, say) as said:
                pins, warning = await self._once.do(what, lambda: self._resolve(wanted, said.say))
        key = digest([wanted.interpreter.path, wanted.interpreter.version, pins])
        self._users[key] += 1
        try:
            what = f"build {key}"
            with self._logs.heard(what, say) as said:
                found = await self._once.do(what, lambda: self._hold(key, wanted.interpreter, pins, said.say))
            yield found if warning is None else replace(found, warning=warning)
        finally:
            self._leave(key)

    async def close(self) -> None:
        """End what is being resolved or built."""
        await self._once.close()

    async def _resolve(self, wanted: Wanted, say: Say) -> tuple[str, str | None]:
        """Exact versions, and a warning where they are older than they should be."""
        text_key = wanted.text_key
        known = self._known_resolution(text_key)
        if known is not None and known.is_fresh(RESOLUTION_LIFETIME_SECONDS):
            return known.pins, None
        with await self._lock(text_key) as lock:
            # another runner may have done it meanwhile
            known = self._store.resolution(text_key) or known
            if known is None or not known.is_fresh(RESOLUTION_LIFETIME_SECONDS):
                try:
                    known = Resolution(await self._resolve_anew(wanted, lock, say), time.time())
                except EnvironmentFault as fault:
                    if known is None:
                        raise
                    age_seconds = round(time.time() - known.resolved_at)
                    warning = f"the versions are those of {age_seconds} s ago, for {fault}"
                    log.warning("%s", warning)
                    return known.pins, warning
                self._store.keep_resolution(text_key, known)
        self._resolutions[text_key] = known
        return known.pins, None

    def _known_resolution(self, text_key: str) -> Resolution | None:
        known = self._resolutions.get(text_key)
        if known is None or not known.is_fresh(RESOLUTION_LIFETIME_SECONDS):
            known = self._store.resolution(text_key) or known
        return known

    async def _resolve_anew(self, wanted: Wanted, lock: FileLock, say: Say) -> str:
        directory = await asyncio.to_thread(self._store.resolving, wanted.text_key)
        try:
            await asyncio.to_thread((directory / REQUIREMENTS_FILE).write_text, wanted.requirements)
            return await run_uv(
                *["pip", "compile", "--no-header", "--no-annotate"],
                *["--python", wanted.interpreter.path, REQUIREMENTS_FILE],
                directory=directory,
                lock=lock,
                say=say,
            )
        finally:
            await asyncio.to_thread(self._store.abandon, directory)

    async def _hold(self, key: str, interpreter: Interpreter, pins: str, say: Say) -> Environment:
        """Find an environment or build it; it is in use until the last of its users has left."""
        known = self._held.get(key)
        # the interpreter may have been removed from the machine since, and stand there again
        if known is not None and known[0].python.exists():
            return known[0]
        taken = self._store.take(key)
        was_built = False
        if taken is None:
            with await self._lock(key) as lock:
                taken = self._store.take(key)
                if taken is None:
                    taken = await self._build(key, interpreter, pins, lock, say)
                    was_built = True
                else:
                    # another runner has built it meanwhile
                    _repeat(taken[0] / BUILD_LOG_FILE, say)
        directory, in_use = taken
        environment = self._described.get(directory)
        if environment is None:
            environment = await asyncio.to_thread(_describe, key, directory, interpreter)
            self._described[directory] = environment
        if known is not None:
            known[1].release()
        self._held[key] = (environment, in_use)
        if not self._users[key]:
            # all of them have gone while it was built
            self._let_go(key)
        if was_built:
            await self._store.make_room()
        return replace(environment, was_built=was_built)

    async def _build(
        self, key: str, interpreter: Interpreter, pins: str, lock: FileLock, say: Say
    ) -> tuple[Path, FileLock]:
        started = time.monotonic()
        # scripts and compiled files name their place, so it is built where it stays; the mark comes last
        target = await asyncio.to_thread(self._store.begin, key)
        lines: list[str] = []

        def note(line: str) -> None:
            lines.append(f"{line}\n")
            say(line)

        try:
            await run_uv(
                *["venv", "--quiet", "--python", interpreter.path, str(target)],
                directory=target.parent,
                lock=lock,
            )
            if pins:
                await asyncio.to_thread((target / REQUIREMENTS_FILE).write_text, pins)
                await run_uv(
                    *["pip", "install", "--compile-bytecode", "--no-deps"],
                    *["--python", str(target / "bin" / "python"), "-r", REQUIREMENTS_FILE],
                    directory=target,
                    lock=lock,
                    say=note,
                )
                await asyncio.to_thread((target / BUILD_LOG_FILE).write_text, "".join(lines))
            in_use = await asyncio.to_thread(self._store.publish, target, pins)
        except BaseException:
            await asyncio.to_thread(self._store.abandon, target)
            raise
        log.info("environment %s built in %.2f s", key[:12], time.monotonic() - started)
        return target, in_use

    async def _lock(self, key: str) -> FileLock:
        try:
            return await self._store.lock(key, BUILD_WAIT_SECONDS)
        except TimeoutError:
            raise EnvironmentFault(
                f"another runner of this host is at the same environment for {BUILD_WAIT_SECONDS:g} s; "
                "see what its uv waits for"
            ) from None

    def _leave(self, key: str) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            self._let_go(key)

    def _let_go(self, key: str) -> None:
        del self._users[key]
        held = self._held.pop(key, None)
        if held is not None:
            held[1].release()


def _repeat(build_log: Path, say: Say) -> None:
    with suppress(FileNotFoundError):
        for line in build_log.read_text().splitlines():
            say(line)


def _as_it_is(interpreter: Interpreter) -> Environment:
    """An interpreter of the machine that is used as it stands there: one file, and nothing beside it."""
    key = digest([interpreter.path, interpreter.version])
    parts = (Path(interpreter.path),)
    return Environment(key, Path(interpreter.path), interpreter.version, parts, frozenset(), interpreter.kind)


def _describe(key: str, target: Path, interpreter: Interpreter) -> Environment:
    python = target / "bin" / "python"
    return Environment(
        key, python, interpreter.version, installation(interpreter.path), find_packages(target)
    )
