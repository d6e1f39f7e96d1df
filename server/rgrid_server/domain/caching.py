"""When a result may stand for another run's: what of a run determines it, and why one is not found.

A run that asks for it (``cache``) is answered with the result of an earlier one of the same tenant whose
parts were all the same: the script and its name, the arguments, the runtime, the requirements, the inputs by
name and content, the environment variables and which outputs are kept. What a script reads elsewhere, such as
the network or the time, is the submitter's to know; so nothing is cached that was not asked to be.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum

UNPINNED_MS = 3_600_000
"""Requirements that leave versions open are resolved again after an hour, so a result counts no longer."""
_PINNED = re.compile(r"^[A-Za-z0-9][\w.-]*(\[[^\]]*\])?\s*(===?\s*[^*\s;,]+|@\s*\S+)\s*(;.*)?$")


class Caching(StrEnum):
    """What a submission allows."""

    OFF = "off"
    READ = "read"
    READ_WRITE = "read_write"


Parts = Mapping[str, str]
"""What determines a result, each by a name that people know, as a text or its hash."""


def parts_of(
    *,
    script_content: str,
    script_name: str,
    args: list[str],
    runtime: str,
    requirements_content: str | None,
    inputs: Mapping[str, str | None],
    env_vars: Mapping[str, str],
    outputs: list[str] | None,
) -> dict[str, str]:
    """The parts of a run."""
    return {
        "script": _hash(script_content),
        "script name": script_name,
        "arguments": _hash(args),
        "runtime": runtime,
        "requirements": _hash(requirements_content or ""),
        "outputs": _hash(outputs),
        **{f"input {name}": str(sha256) for name, sha256 in sorted(inputs.items())},
        **{f"variable {name}": _hash(value) for name, value in sorted(env_vars.items())},
    }


def key_of(parts: Parts) -> str:
    """The name of a result: equal where all parts are."""
    return _hash(sorted(parts.items()))


def changes(earlier: Parts, now: Parts) -> list[str]:
    """Which parts differ from an earlier run's: ``arguments``, ``input data.csv`` (added) and so on.

    >>> changes({"script": "1", "input a": "2"}, {"script": "3", "input b": "2"})
    ['input a (gone)', 'input b (new)', 'script']
    """
    named = []
    for name in sorted({*earlier, *now}):
        if name not in now:
            named.append(f"{name} (gone)")
        elif name not in earlier:
            named.append(f"{name} (new)")
        elif earlier[name] != now[name]:
            named.append(name)
    return named


def is_pinned(script_content: str, requirements_content: str | None) -> bool:
    """Whether the environment can only ever be the same one."""
    if "# /// script" in script_content:
        # its dependencies stand in there; they are seldom pinned, and an hour is no loss
        return False
    lines = (line.split("#")[0].strip() for line in (requirements_content or "").splitlines())
    return all(_PINNED.match(line) for line in lines if line and not line.startswith("--hash"))


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()[:32]
