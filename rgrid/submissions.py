"""What the client puts into a submission, as the wire has it."""

from __future__ import annotations

import math
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rgrid.exceptions import ConfigurationError

REQUIREMENTS_FILE = "requirements.txt"
IMAGE_PREFIX = "docker:"
REGISTRY_AUTH = "RGRID_REGISTRY_AUTH"
"""The secret that an image's registry is shown, ``USER:PASSWORD``; scripts do not get it."""


def execution_body(
    script: str,
    *,
    args: Sequence[str] = (),
    inputs: Mapping[str, str] | None = None,
    env_vars: Mapping[str, str] | None = None,
    requirements: str | None = None,
    runtime: str | None = None,
    timeout_seconds: int | None = None,
    cpus: float | None = None,
    memory_mib: int | None = None,
    priority: int | None = None,
    outputs: Sequence[str] | None = None,
    user_metadata: Mapping[str, Any] | None = None,
    run_key: str | None = None,
    script_name: str | None = None,
    retry_policy: Mapping[str, Any] | None = None,
    secrets: Mapping[str, str | None] | None = None,
    cache: str | None = None,
) -> dict[str, Any]:
    """The body of a submission; what is not given is left to the server.

    Args:
        retry_policy: when a script that has failed is run again, such as
            ``{"max_retries": 3, "on": ["exit_code"], "exit_codes": [75], "backoff_seconds": 10}``; never
            without one (docs/reference/api.md).
        secrets: environment variables that are sealed, never read back, and masked in the log; None stands
            for one that is kept on the server under that name.
        cache: ``read`` or ``read_write``: whether the result of an earlier run of just the same work may
            stand for it.

    Raises:
        rgrid.exceptions.ConfigurationError: ``cpus`` is no finite number.
    """
    if cpus is not None and not math.isfinite(cpus):
        raise ConfigurationError(f"cpus is {cpus}; give a number of vCPUs, such as 0.5 or 2")
    optional = {
        "requirements_content": requirements,
        "runtime": runtime,
        "timeout_seconds": timeout_seconds,
        "cpus": cpus,
        "memory_mib": memory_mib,
        "priority": priority,
        "outputs": list(outputs) if outputs is not None else None,
        "run_key": run_key,
        "script_name": script_name,
        "retry_policy": dict(retry_policy) if retry_policy is not None else None,
        "secrets": dict(secrets) if secrets else None,
        "cache": cache,
    }
    return {
        "script_content": script,
        "args": list(args),
        "inputs": dict(inputs or {}),
        "env_vars": dict(env_vars or {}),
        "user_metadata": dict(user_metadata or {}),
        **{name: value for name, value in optional.items() if value is not None},
    }


def read_script(path: Path) -> str:
    """A script's text, by its coding line (PEP 263).

    Raises:
        rgrid.exceptions.ConfigurationError: it is not there, or it is not Python source.
    """
    if not path.exists():
        raise ConfigurationError(f"there is no script {path}")
    if path.is_dir():
        raise ConfigurationError(f"{path} is a directory; name the script in it")
    try:
        with tokenize.open(str(path)) as file:
            source = file.read()
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise ConfigurationError(
            f"{path} cannot be read as Python source: {error}; write it in UTF-8, or say its encoding in a "
            "coding line"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if not source.strip():
        raise ConfigurationError(f"the script {path} is empty")
    if "\0" in source:
        raise ConfigurationError(
            f"{path} has a NUL byte at character {source.index(chr(0))}; it is no script"
        )
    return source


def requirements_beside(script: Path, runtime: str | None = None) -> str | None:
    """The text of a requirements.txt that stands beside a script; an image has its packages in it already."""
    if runtime is not None and runtime.startswith(IMAGE_PREFIX):
        return None
    beside = script.parent / REQUIREMENTS_FILE
    return read_requirements(beside) if beside.is_file() else None


def read_requirements(path: Path) -> str:
    """The text of a requirements file.

    Raises:
        rgrid.exceptions.ConfigurationError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the requirements file {path} cannot be read: {error}") from error
