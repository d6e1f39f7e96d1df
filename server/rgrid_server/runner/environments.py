"""Environments: an interpreter with resolved packages, built once by uv, keyed by what determines it.

What a script asks for (its requirements file and its PEP 723 block) is resolved to exact versions, and these
with the interpreter are the key. A resolution is trusted for an hour, so that what is not pinned does
update; an environment is never changed after it is built.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import shutil
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from uv import find_uv_bin

from rgrid_server.domain.attempts import Specification
from rgrid_server.runner.interpreters import Interpreter, choose

log = logging.getLogger(__name__)

RESOLUTION_LIFETIME_SECONDS = 3600.0
MAX_MESSAGE_CHARS = 4000
MAX_ENVIRONMENTS_BYTES = 20 * 1024**3
READY_FILE = "rgrid-ready.json"

# from PEP 723 itself, "Reference Implementation"
_SCRIPT_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")

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
    """A ready environment."""

    key: str
    python: Path
    version: str


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
    """Finds or builds environments under a directory."""

    def __init__(self, directory: Path, interpreters: Mapping[str, Interpreter]) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        self._interpreters = dict(interpreters)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._resolutions: dict[str, tuple[str, float]] = {}
        self._in_use: Counter[str] = Counter()

    @asynccontextmanager
    async def use(self, specification: Specification) -> AsyncIterator[Environment]:
        """An environment for a specification, kept for the length of the ``with`` block.

        Raises:
            Rejected: its runtime or its requirements cannot be had.
            EnvironmentFault: it could not be built just now.
        """
        wanted = find_wanted(specification, self._interpreters)
        pins = await self._resolve(wanted)
        key = _digest([wanted.interpreter.path, wanted.interpreter.version, pins])
        self._in_use[key] += 1
        try:
            async with self._locks[key]:
                environment = await self._build(key, wanted.interpreter, pins)
            yield environment
        finally:
            self._in_use[key] -= 1

    async def _resolve(self, wanted: Wanted) -> str:
        if not wanted.requirements.strip():
            return ""
        async with self._locks[wanted.text_key]:
            known = self._resolutions.get(wanted.text_key)
            if known is not None and time.monotonic() - known[1] < RESOLUTION_LIFETIME_SECONDS:
                return known[0]
            source = self._directory / f"{wanted.text_key}.in"
            await asyncio.to_thread(source.write_text, wanted.requirements)
            try:
                pins = await _uv(
                    "pip",
                    "compile",
                    "--quiet",
                    "--no-header",
                    "--no-annotate",
                    *["--python", wanted.interpreter.path],
                    str(source),
                )
            finally:
                source.unlink(missing_ok=True)
            self._resolutions[wanted.text_key] = (pins, time.monotonic())
            return pins

    async def _build(self, key: str, interpreter: Interpreter, pins: str) -> Environment:
        target = self._directory / key
        environment = Environment(key, target / "bin" / "python", interpreter.version)
        ready = target / READY_FILE
        if ready.exists():
            ready.touch()
            return environment
        started = time.monotonic()
        # a build that was cut short has no mark; it is made anew
        await _uv("venv", "--quiet", "--clear", "--python", interpreter.path, str(target))
        if pins:
            pinned = target / "pins.txt"
            await asyncio.to_thread(pinned.write_text, pins)
            await _uv(
                "pip",
                "install",
                "--quiet",
                "--compile-bytecode",
                "--no-deps",
                *["--python", str(environment.python), "-r", str(pinned)],
            )
        size_bytes = await asyncio.to_thread(_size_bytes, target)
        ready.write_text(json.dumps({"pins": pins, "size_bytes": size_bytes}))
        log.info("environment %s built in %.2f s, %d bytes", key[:12], time.monotonic() - started, size_bytes)
        await asyncio.to_thread(self._make_room, key)
        return environment

    def _make_room(self, newest: str) -> None:
        """Remove those that were not used for longest, as far as all together are too large."""
        marks = [(path.stat().st_mtime, path) for path in self._directory.glob(f"*/{READY_FILE}")]
        total = 0
        for _, mark in sorted(marks, reverse=True):
            try:
                total += int(json.loads(mark.read_text())["size_bytes"])
            except (OSError, ValueError, KeyError):
                continue
            key = mark.parent.name
            if total > MAX_ENVIRONMENTS_BYTES and key != newest and not self._in_use[key]:
                # the mark first: without it nobody takes what is left for an environment
                mark.unlink(missing_ok=True)
                shutil.rmtree(mark.parent, ignore_errors=True)


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
    return Wanted(interpreter, "\n".join(part for part in parts if part.strip()))


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


async def _uv(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        find_uv_bin(),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=uv_environment(os.environ),
    )
    try:
        printed, complained = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
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
    chosen = {name: value for name, value in environment.items() if not name.startswith("RGRID_")}
    for pip_name, uv_name in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_EXTRA_INDEX_URL", "UV_INDEX")):
        if pip_name in chosen:
            chosen.setdefault(uv_name, chosen[pip_name])
    if "PIP_CERT" in chosen:
        chosen.setdefault("SSL_CERT_FILE", chosen["PIP_CERT"])
    chosen.pop("VIRTUAL_ENV", None)
    return chosen | {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}


def _size_bytes(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*"))


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
