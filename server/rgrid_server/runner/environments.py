"""Environments: an interpreter with resolved packages, built once by uv, keyed by what determines it.

What a script asks for (its requirements file and its PEP 723 block) is resolved to exact versions, and these
with the interpreter are the key. A resolution is trusted for an hour, so that what is not pinned does
update; an environment is never changed after it is built.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from uv import find_uv_bin

from rgrid_server.domain.attempts import Specification
from rgrid_server.runner.interpreters import Interpreter, choose, installation
from rgrid_server.runner.pipconfig import index_settings
from rgrid_server.runner.warmth import find_packages

log = logging.getLogger(__name__)

T = TypeVar("T")

RESOLUTION_LIFETIME_SECONDS = 3600.0
MAX_MESSAGE_CHARS = 4000
MAX_ENVIRONMENTS_BYTES = 20 * 1024**3
UV_SECONDS = 1800.0
READY_FILE = "rgrid-ready.json"
REQUIREMENTS_FILE = "requirements.txt"
RESOLVING_PREFIX = "resolving-"
REMOVED_PREFIX = "removed-"

# from PEP 723 itself, "Reference Implementation"
_SCRIPT_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")

# pip's options that read another file; paths of the runner's machine are none of a script's business
_OTHER_FILE = re.compile(r"(?m)^[ \t]*(?:-[rce]|--(?:requirement|constraint|editable)(?![a-z-])).*$")

_INVALID = ("couldn't parse", "failed to parse", "expected ", "unsupported requirement", "invalid ")
_OFFLINE = (
    "error sending request",
    "failed to fetch",
    "could not connect",
    "connection refused",
    "timed out",
    "dns error",
    "network",
    "no space left",
)


class Rejected(Exception):
    """What was asked for cannot be had; trying again does not help."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message[:MAX_MESSAGE_CHARS])
        self.code = code


class EnvironmentFault(Exception):
    """The grid could not build it just now."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A ready environment.

    Attributes:
        key: what determines it.
        python: its interpreter.
        version: of the interpreter.
        installation: the directories that its interpreter itself consists of.
        packages: the top-level modules that are installed in it.
        image: the container image that it is; empty for one of this machine.
        variables: what an image sets.
    """

    key: str
    python: Path
    version: str
    installation: tuple[Path, ...]
    packages: frozenset[str]
    was_built: bool = field(default=False, compare=False)
    """Whether it was made just now, rather than found."""
    image: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where it stands."""
        return self.python.parent.parent


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a specification asks for, before it is resolved."""

    interpreter: Interpreter
    requirements: str

    @property
    def text_key(self) -> str:
        """Equal for equal texts."""
        return _digest([self.interpreter.path, self.interpreter.version, self.requirements])


class Environments:
    """Finds or builds environments under a directory, which is this process's own."""

    def __init__(
        self,
        directory: Path,
        interpreters: Mapping[str, Interpreter],
        *,
        max_bytes: int = MAX_ENVIRONMENTS_BYTES,
    ) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        for leftover in (*directory.glob(f"{REMOVED_PREFIX}*"), *directory.glob(f"{RESOLVING_PREFIX}*")):
            shutil.rmtree(leftover, ignore_errors=True)
        self._interpreters = dict(interpreters)
        self._max_bytes = max_bytes
        self._resolutions: dict[str, tuple[str, float]] = {}
        self._in_use: Counter[str] = Counter()
        self._pending: dict[str, asyncio.Task[Any]] = {}
        self._built: dict[str, Environment] = {}

    @asynccontextmanager
    async def use(self, specification: Specification) -> AsyncIterator[Environment]:
        """An environment for a specification, kept for the length of the ``with`` block.

        Raises:
            Rejected: its runtime or its requirements cannot be had.
            EnvironmentFault: it could not be built just now.
        """
        wanted = find_wanted(specification, self._interpreters)
        pins = ""
        if wanted.requirements.strip():
            pins = await self._once(f"resolve {wanted.text_key}", lambda: self._resolve(wanted))
        key = _digest([wanted.interpreter.path, wanted.interpreter.version, pins])
        self._in_use[key] += 1
        try:
            yield await self._once(f"build {key}", lambda: self._build(key, wanted.interpreter, pins))
        finally:
            self._in_use[key] -= 1

    async def close(self) -> None:
        """End what is being resolved or built."""
        pending = list(self._pending.values())
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _once(self, what: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """One piece of work for all who ask at the same time; one of them going away does not end it."""
        task = self._pending.get(what)
        if task is None:
            task = asyncio.create_task(work())
            self._pending[what] = task
            task.add_done_callback(lambda done: self._settle(what, done))
        result: T = await asyncio.shield(task)
        return result

    def _settle(self, what: str, done: asyncio.Task[Any]) -> None:
        del self._pending[what]
        if not done.cancelled():
            # who asked may be gone; then nobody else looks at the error
            done.exception()

    async def _resolve(self, wanted: Wanted) -> str:
        known = self._resolutions.get(wanted.text_key)
        if known is not None and time.monotonic() - known[1] < RESOLUTION_LIFETIME_SECONDS:
            return known[0]
        directory = self._directory / f"{RESOLVING_PREFIX}{wanted.text_key}"
        await asyncio.to_thread(directory.mkdir, exist_ok=True)
        try:
            await asyncio.to_thread((directory / REQUIREMENTS_FILE).write_text, wanted.requirements)
            pins = await _uv(
                *["pip", "compile", "--quiet", "--no-header", "--no-annotate"],
                *["--python", wanted.interpreter.path, REQUIREMENTS_FILE],
                directory=directory,
            )
        except EnvironmentFault as fault:
            if known is None:
                raise
            log.warning("an older resolution is used: %s", fault)
            return known[0]
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        self._resolutions[wanted.text_key] = (pins, time.monotonic())
        return pins

    async def _build(self, key: str, interpreter: Interpreter, pins: str) -> Environment:
        target = self._directory / key
        known = self._built.get(key)
        ready = target / READY_FILE
        # the interpreter may have been removed from the machine since, and stand there again
        if ready.exists() and (target / "bin" / "python").exists():
            ready.touch()
            if known is None:
                known = self._built[key] = await asyncio.to_thread(_describe, key, target, interpreter)
            return known
        started = time.monotonic()
        # scripts and compiled files name their place, so it is built where it stays; the mark comes last,
        # and a build that was cut short, which has none, is made anew
        await _uv(
            *["venv", "--quiet", "--clear", "--python", interpreter.path, str(target)],
            directory=self._directory,
        )
        if pins:
            await asyncio.to_thread((target / REQUIREMENTS_FILE).write_text, pins)
            await _uv(
                *["pip", "install", "--quiet", "--compile-bytecode", "--no-deps"],
                *["--python", str(target / "bin" / "python"), "-r", REQUIREMENTS_FILE],
                directory=target,
            )
        size_bytes = await asyncio.to_thread(_size_bytes, target)
        unmarked = target / f"{READY_FILE}.new"
        unmarked.write_text(json.dumps({"pins": pins, "size_bytes": size_bytes}))
        unmarked.replace(ready)
        log.info("environment %s built in %.2f s, %d bytes", key[:12], time.monotonic() - started, size_bytes)
        await self._make_room(key)
        built = self._built[key] = await asyncio.to_thread(_describe, key, target, interpreter)
        return replace(built, was_built=True)

    async def _make_room(self, newest: str) -> None:
        """Remove those that were not used for longest, as far as all together are too large."""
        sizes = await asyncio.to_thread(_sizes_by_age, self._directory)
        total_bytes = sum(size_bytes for _, size_bytes in sizes)
        for key, size_bytes in sizes:
            if total_bytes <= self._max_bytes:
                return
            # asked and moved away in one step of the event loop: nobody can begin to use it in between
            if key != newest and not self._in_use[key]:
                removed = self._directory / f"{REMOVED_PREFIX}{key}"
                with contextlib.suppress(OSError):
                    (self._directory / key).rename(removed)
                    total_bytes -= size_bytes
                await asyncio.to_thread(shutil.rmtree, removed, ignore_errors=True)


def _describe(key: str, target: Path, interpreter: Interpreter) -> Environment:
    python = target / "bin" / "python"
    return Environment(
        key, python, interpreter.version, installation(interpreter.path), find_packages(target)
    )


def find_wanted(specification: Specification, interpreters: Mapping[str, Interpreter]) -> Wanted:
    """What a specification asks for, from its requirements and its PEP 723 block.

    Raises:
        Rejected: the runtime is not here, or the block cannot be read.
    """
    interpreter = choose(specification.runtime, dict(interpreters))
    if interpreter is None:
        raise Rejected(
            "runtime_unavailable",
            f"the runtime {specification.runtime!r} is not on this machine; "
            f"there is {', '.join(sorted(interpreters))}",
        )
    block = script_metadata(specification.script_content)
    requires_python = block.get("requires-python")
    if requires_python is not None:
        _check_python(str(requires_python), interpreter)
    dependencies = block.get("dependencies", [])
    if not isinstance(dependencies, list) or not all(isinstance(item, str) for item in dependencies):
        raise Rejected("requirements_invalid", "the script's PEP 723 block: dependencies is no list of texts")
    parts = [*dependencies, specification.requirements_content or ""]
    requirements = "\n".join(part for part in parts if part.strip())
    if (line := _OTHER_FILE.search(requirements)) is not None:
        raise Rejected(
            "requirements_invalid",
            f"the requirements name another file ({line.group(0).strip()!r}), which does not travel with "
            "them; write out what it says",
        )
    return Wanted(interpreter, requirements)


def script_metadata(script: str) -> dict[str, object]:
    """The TOML of a script's PEP 723 block; empty where it has none.

    Raises:
        Rejected: there are several, or it is not TOML.
    """
    normal = script.replace("\r\n", "\n")
    blocks = [match for match in _SCRIPT_BLOCK.finditer(normal) if match.group("type") == "script"]
    if len(blocks) > 1:
        raise Rejected("requirements_invalid", "the script has several PEP 723 blocks; keep one")
    if not blocks:
        return {}
    content = "".join(
        line[2:] if line.startswith("# ") else line[1:]
        for line in blocks[0].group("content").splitlines(keepends=True)
    )
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise Rejected("requirements_invalid", f"the script's PEP 723 block is not TOML: {error}") from None


def _check_python(requires_python: str, interpreter: Interpreter) -> None:
    try:
        allowed = SpecifierSet(requires_python)
    except InvalidSpecifier:
        raise Rejected(
            "requirements_invalid", f"requires-python {requires_python!r} is not a version specifier"
        ) from None
    if interpreter.version not in allowed:
        raise Rejected(
            "runtime_unavailable",
            f"the script requires Python {requires_python}, and {interpreter.runtime} is "
            f"{interpreter.version}; ask for another runtime",
        )


async def _uv(*arguments: str, directory: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        find_uv_bin(),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=uv_environment(os.environ),
        cwd=directory,
    )
    try:
        printed, complained = await asyncio.wait_for(process.communicate(), UV_SECONDS)
    except TimeoutError:
        raise EnvironmentFault(f"uv {' '.join(arguments[:2])} took longer than {UV_SECONDS} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return printed.decode()
    raise classify(complained.decode(errors="replace").strip())


def classify(message: str) -> Rejected | EnvironmentFault:
    """Whether uv's complaint is about what was asked for, or about the grid."""
    lowered = message.lower()
    said = f"the requirements cannot be met: {message}"
    if "no solution found" in lowered:
        return Rejected("requirements_unresolvable", said)
    if any(word in lowered for word in _OFFLINE):
        return EnvironmentFault(f"the packages could not be fetched: {message[:MAX_MESSAGE_CHARS]}")
    is_invalid = any(word in lowered for word in _INVALID)
    return Rejected("requirements_invalid" if is_invalid else "requirements_unresolvable", said)


def uv_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What uv is run with: the machine's own package index, as pip knows it, and no prompts."""
    passed_on = {
        name: value
        for name, value in environment.items()
        if not name.startswith("RGRID_") and name != "VIRTUAL_ENV"
    }
    own = {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    return passed_on | index_settings(environment) | own


def _sizes_by_age(directory: Path) -> list[tuple[str, int]]:
    """Keys and sizes of the environments that are ready, the longest unused first."""
    found: list[tuple[float, str, int]] = []
    for mark in directory.glob(f"[0-9a-f]*/{READY_FILE}"):
        try:
            size_bytes = int(json.loads(mark.read_text())["size_bytes"])
            found.append((mark.stat().st_mtime, mark.parent.name, size_bytes))
        except (OSError, ValueError, KeyError):
            continue
    return [(key, size_bytes) for _, key, size_bytes in sorted(found)]


def _size_bytes(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*"))


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
