"""Running uv, and what its complaints mean."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path

from uv import find_uv_bin

from rgrid_server.runner.buildlog import Say, unheard
from rgrid_server.runner.filelock import FileLock
from rgrid_server.runner.pipconfig import index_settings

MAX_MESSAGE_CHARS = 4000
READ_BYTES = 64 * 1024
UV_SECONDS = 1800.0

_COMPLAINS = ("error", "×")
"""How the part of what uv says begins that tells what went wrong."""
_USERINFO = re.compile(r"://[^\s/@]+@")
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


async def run_uv(*arguments: str, directory: Path, lock: FileLock, say: Say = unheard) -> str:
    """Run uv in a directory and return what it prints.

    Args:
        arguments: uv's own.
        directory: where it runs.
        say: is told each line that it writes beside that, as it comes.
        lock: what keeps others from the same work. uv and all that it starts hold it too, so that nobody else
            begins while a uv still writes whose runner was killed.

    Raises:
        Rejected: what was asked for cannot be had.
        EnvironmentFault: it can perhaps be had later.
    """
    process = await asyncio.create_subprocess_exec(
        find_uv_bin(),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=uv_environment(os.environ),
        cwd=directory,
        pass_fds=(lock.descriptor,),
    )
    told: list[str] = []
    try:
        async with asyncio.timeout(UV_SECONDS):
            printed, _ = await asyncio.gather(_all_of(process.stdout), _tell(process.stderr, told, say))
            await process.wait()
    except TimeoutError:
        raise EnvironmentFault(f"uv {' '.join(arguments[:2])} took longer than {UV_SECONDS} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return printed.decode()
    begin = next((number for number, line in enumerate(told) if line.lstrip().startswith(_COMPLAINS)), 0)
    raise classify("\n".join(told[begin:]).strip())


async def _all_of(stream: asyncio.StreamReader | None) -> bytes:
    return await stream.read() if stream is not None else b""


async def _tell(stream: asyncio.StreamReader | None, told: list[str], say: Say) -> None:
    """Tell a stream's lines as they come, however long they are."""
    held = b""
    while stream is not None:
        data = await stream.read(READ_BYTES)
        *lines, held = (held + data).split(b"\n")
        if not data and held:
            lines = [held]
        for line in lines:
            # an index may be named with its password
            text = _USERINFO.sub("://***@", line.decode(errors="replace").rstrip())
            told.append(text)
            if text:
                say(text)
        if not data:
            return


def classify(message: str) -> Rejected | EnvironmentFault:
    """Whether uv's complaint is about what was asked for, or about the grid."""
    lowered = message.lower()
    said = f"the requirements cannot be met: {_end_of(message)}"
    if "no solution found" in lowered:
        return Rejected("requirements_unresolvable", said)
    if any(word in lowered for word in _OFFLINE):
        return EnvironmentFault(f"the packages could not be fetched: {_end_of(message)}")
    is_invalid = any(word in lowered for word in _INVALID)
    return Rejected("requirements_invalid" if is_invalid else "requirements_unresolvable", said)


def _end_of(message: str) -> str:
    """As much of a long complaint as an error holds: its end says what went wrong."""
    room = MAX_MESSAGE_CHARS - 100
    return message if len(message) <= room else f"… {message[-room:]}"


def uv_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What uv is run with: the machine's own package index, as pip knows it, and no prompts."""
    passed_on = {
        name: value
        for name, value in environment.items()
        if not name.startswith("RGRID_") and name != "VIRTUAL_ENV"
    }
    own = {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    return passed_on | index_settings(environment) | own
