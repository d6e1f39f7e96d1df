"""Where the server is and which key opens it: arguments, RGRID_* variables, project, home directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rgrid.exceptions import ConfigurationError

URL_VARIABLE = "RGRID_API_URL"
KEY_VARIABLE = "RGRID_API_KEY"
PROJECT_FILE = Path(".rgrid") / "config"
HOME_FILE = Path(".rgrid") / "credentials"


class Config:
    """An address and a key, and where they were found."""

    __slots__ = ("api_key", "api_url", "source")

    def __init__(self, api_url: str | None, api_key: str | None, source: str) -> None:
        self.api_url = api_url
        self.api_key = api_key
        self.source = source


def resolve(api_url: str | None = None, api_key: str | None = None, cwd: Path | None = None) -> Config:
    """Find address and key, each in the first place that has it; ``api_url`` is None when none has.

    Raises:
        rgrid.exceptions.ConfigurationError: a file cannot be read.
    """
    url, key, source = api_url, api_key, "arguments" if api_url else ""
    if url is None and os.environ.get(URL_VARIABLE):
        url, source = os.environ[URL_VARIABLE], URL_VARIABLE
    key = key or os.environ.get(KEY_VARIABLE) or None
    for file in files(cwd or Path.cwd()):
        if url and key:
            break
        if not file.is_file():
            continue
        found = read_file(file)
        if url is None and found.get("api_url"):
            url, source = found["api_url"], str(file)
            key = key or found.get("api_key")
        elif key is None and found.get("api_url") in {None, url}:
            # a key is not sent to another server than the one it stands beside
            key = found.get("api_key")
    return Config(url, key, source)


def files(cwd: Path) -> Iterator[Path]:
    """Where configuration may stand, the nearest first."""
    for directory in (cwd, *cwd.parents):
        yield directory / PROJECT_FILE
    yield Path.home() / HOME_FILE


def read_file(path: Path) -> dict[str, str]:
    """``name = value`` lines; ``#`` begins a comment, and ``[sections]`` mean nothing.

    Raises:
        rgrid.exceptions.ConfigurationError: it cannot be read, or a line is neither.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith(("#", "[")):
            continue
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"{path}, line {number}: expected name = value, not {text[:60]!r}")
        found[name.strip().lower()] = value.strip().strip("\"'")
    return found


def write_file(path: Path, values: dict[str, str]) -> None:
    """Write ``name = value`` lines that only the owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_text("".join(f"{name} = {value}\n" for name, value in values.items()), encoding="utf-8")
    temporary.replace(path)


def no_server() -> ConfigurationError:
    """The error of a client that was told no address."""
    return ConfigurationError(
        f"no server is named: set {URL_VARIABLE} (and {KEY_VARIABLE}), or run `rgrid init --api-url URL`"
    )
