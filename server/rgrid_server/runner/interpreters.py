"""Which interpreters this machine has, and which of them a runtime means."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from rgrid_server.domain.runtimes import Kind, Offer, meets, parse_runtime, version_parts

_NAME = re.compile(r"^python3\.\d+$")
_NODE_VERSION = re.compile(r"v(\d+\.\d+\.\d+)")
OLDEST = (3, 8)
INSPECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python or a Node.js on this machine."""

    version: str
    path: str
    kind: Kind = Kind.PYTHON

    @property
    def runtime(self) -> str:
        """What users call it."""
        major, minor, *_ = self.version.split(".")
        return f"node:{major}" if self.kind is Kind.NODE else f"python:{major}.{minor}"

    @property
    def offer(self) -> Offer:
        """What the server is told of it."""
        return Offer(self.runtime, self.version)


async def find_interpreters() -> dict[str, Interpreter]:
    """The newest interpreter of each runtime, by its name; the Python of this process is always there."""
    own = Interpreter(".".join(str(part) for part in sys.version_info[:3]), _base_executable())
    found = {own.runtime: own}
    pythons = sorted({*_on_path(), *_in_pyenv(), *await _known_to_uv()})
    asked = [*map(_inspect, pythons), *map(_inspect_node, sorted(_nodes()))]
    for one in await asyncio.gather(*asked):
        if one is None or (one.kind is Kind.PYTHON and version_parts(one.version)[:2] < OLDEST):
            continue
        known = found.get(one.runtime)
        if known is None or (known is not own and version_parts(known.version) < version_parts(one.version)):
            found[one.runtime] = one
    return dict(sorted(found.items(), key=lambda item: version_parts(item[1].version)))


def choose(runtime: str, interpreters: dict[str, Interpreter]) -> Interpreter | None:
    """The interpreter of a runtime, such as ``python:3.11`` or, to the letter, ``python:3.11.7``."""
    asked = parse_runtime(runtime)
    if asked is None:
        return None
    return next((one for one in interpreters.values() if meets(one.offer, asked)), None)


def installation(path: str) -> tuple[Path, ...]:
    """The directories that an interpreter and its standard library consist of, and no more."""
    base = Path(path).resolve().parent.parent
    return tuple(
        base / part for part in ("bin", "include", "lib", "lib64", "share") if (base / part).is_dir()
    )


def _base_executable() -> str:
    # the server's own environment is none of a script's business
    base: str = getattr(sys, "_base_executable", sys.executable)
    return base


def _directories() -> list[str]:
    """Those of the path that hold programs; a shim answers for whatever its user chose last, and slowly."""
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [directory for directory in directories if directory and "/shims" not in directory]


def _on_path() -> list[str]:
    return [
        str(path)
        for directory in _directories()
        for path in Path(directory).glob("python3.*")
        if _NAME.match(path.name) and os.access(path, os.X_OK)
    ]


def _in_pyenv() -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return [str(path) for path in root.glob("versions/*/bin/python3.*") if _NAME.match(path.name)]


def _nodes() -> set[str]:
    """Every node on the path and of nvm; each once, whatever it is called."""
    on_path = [Path(directory) / "node" for directory in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    nvm = Path(os.environ.get("NVM_DIR") or Path.home() / ".nvm")
    candidates = [*on_path, *nvm.glob("versions/node/*/bin/node")]
    return {str(path.resolve()) for path in candidates if path.is_file() and os.access(path, os.X_OK)}


async def _known_to_uv() -> list[str]:
    process = await asyncio.create_subprocess_exec(
        find_uv_bin(),
        *["python", "list", "--only-installed", "--offline", "--output-format", "json"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        # it would start each of pyenv's shims, which takes a second
        env={**os.environ, "PATH": os.pathsep.join(_directories())},
    )
    listed, _ = await process.communicate()
    try:
        return [item["path"] for item in json.loads(listed)]
    except (ValueError, KeyError, TypeError):
        return []


async def _inspect(path: str) -> Interpreter | None:
    """What an interpreter says of itself; None where it does not run, or is no released CPython."""
    asked = "import sys; print(sys.implementation.name, sys.version_info.releaselevel, *sys.version_info[:3])"
    words = await _said(path, "-I", "-S", "-c", asked)
    return Interpreter(".".join(words[2:5]), path) if words[:2] == ["cpython", "final"] else None


async def _inspect_node(path: str) -> Interpreter | None:
    words = await _said(path, "--version")
    match = _NODE_VERSION.fullmatch(words[0]) if words else None
    return Interpreter(match.group(1), path, Kind.NODE) if match is not None else None


async def _said(*command: str) -> list[str]:
    """The words that a program prints; none where it does not run to a good end."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        answer, _ = await asyncio.wait_for(process.communicate(), INSPECT_SECONDS)
    except (OSError, TimeoutError):
        return []
    return answer.decode(errors="replace").split() if process.returncode == 0 else []
