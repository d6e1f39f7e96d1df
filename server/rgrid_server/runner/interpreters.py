"""Which Pythons this machine has."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from dataclasses import dataclass
from typing import Any

from uv import find_uv_bin

_RUNTIME = re.compile(r"^python:(\d+\.\d+)(\.\d+)?$")
OLDEST = (3, 8)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python on this machine."""

    version: str
    path: str

    @property
    def runtime(self) -> str:
        """What users call it."""
        major, minor, *_ = self.version.split(".")
        return f"python:{major}.{minor}"


async def find_interpreters() -> dict[str, Interpreter]:
    """The newest interpreter of each minor version, by runtime name; this one's own is always there."""
    own = Interpreter(".".join(str(part) for part in sys.version_info[:3]), _base_executable())
    found = {own.runtime: own}
    process = await asyncio.create_subprocess_exec(
        find_uv_bin(),
        *["python", "list", "--only-installed", "--offline", "--output-format", "json"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    listed, _ = await process.communicate()
    for item in _read(listed):
        parts = item["version_parts"]
        if item["implementation"] != "cpython" or item.get("variant", "default") != "default":
            continue
        if (parts["major"], parts["minor"]) < OLDEST or not re.fullmatch(r"[\d.]+", item["version"]):
            continue
        one = Interpreter(item["version"], item["path"])
        known = found.get(one.runtime)
        if known is None or (known is not own and _parts(known.version) < _parts(one.version)):
            found[one.runtime] = one
    return found


def choose(runtime: str, interpreters: dict[str, Interpreter]) -> Interpreter | None:
    """The interpreter of a runtime, such as ``python:3.11`` or, to the letter, ``python:3.11.7``."""
    match = _RUNTIME.match(runtime)
    if match is None:
        return None
    one = interpreters.get(f"python:{match.group(1)}")
    if one is None or (match.group(2) and runtime != f"python:{one.version}"):
        return None
    return one


def _base_executable() -> str:
    # the server's own environment is none of a script's business
    base: str = getattr(sys, "_base_executable", sys.executable)
    return base


def _read(listed: bytes) -> list[dict[str, Any]]:
    try:
        found = json.loads(listed)
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
