"""Where the machine's packages come from: what pip is told, said to uv, which does not read pip's files."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path


def index_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The UV_… variables that follow from pip's variables and files; those that are set already stand.

    Args:
        environment: the environment variables of this process.
    """
    wanted = {
        "UV_DEFAULT_INDEX": environment.get("PIP_INDEX_URL") or _configured("index-url", environment),
        "UV_INDEX": environment.get("PIP_EXTRA_INDEX_URL"),
        "SSL_CERT_FILE": environment.get("PIP_CERT") or _configured("cert", environment),
    }
    return {name: value for name, value in wanted.items() if value and name not in environment}


def _configured(option: str, environment: Mapping[str, str]) -> str | None:
    """An option of pip's ``[global]`` section; the nearest file that has it wins, as in pip."""
    found: str | None = None
    for file in _files(environment):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue
        found = parser.get("global", option, fallback=found)
    return found


def _files(environment: Mapping[str, str]) -> list[Path]:
    own = environment.get("PIP_CONFIG_FILE")
    home = Path(environment.get("HOME", "/nonexistent"))
    files = [
        Path(part) / "pip/pip.conf" for part in environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
    ]
    files.append(Path("/etc/pip.conf"))
    files.append(home / ".pip/pip.conf")
    files.append(Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf")
    if own == "/dev/null":
        # pip's own way to say that no file counts
        return []
    return [*files, Path(own)] if own else files
