"""Where the server is and which key opens it: arguments, RGRID_* variables, project, home directory.

Every command reads this, so it does without pathlib, which takes 4 ms to load.
"""

from __future__ import annotations

import os

from rgrid._typing import TYPE_CHECKING
from rgrid.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

URL_VARIABLE = "RGRID_API_URL"
KEY_VARIABLE = "RGRID_API_KEY"
PROJECT_FILE = os.path.join(".rgrid", "config")
HOME_FILE = os.path.join(".rgrid", "credentials")


class Config:
    """An address and a key, and where they were found."""

    __slots__ = ("api_key", "api_url", "source")

    def __init__(self, api_url: str | None, api_key: str | None, source: str) -> None:
        self.api_url = api_url
        self.api_key = api_key
        self.source = source


def resolve(api_url: str | None = None, api_key: str | None = None, cwd: str | None = None) -> Config:
    """Find address and key, each in the first place that has it; ``api_url`` is None when none has.

    Raises:
        rgrid.exceptions.ConfigurationError: a file cannot be read.
    """
    url, key, source = api_url, api_key, "arguments" if api_url else ""
    if url is None and os.environ.get(URL_VARIABLE):
        url, source = os.environ[URL_VARIABLE], URL_VARIABLE
    key = key or os.environ.get(KEY_VARIABLE) or None
    for file in files(cwd or os.getcwd()):
        if url and key:
            break
        if not os.path.isfile(file):
            continue
        found = read_file(file)
        if url is None and found.get("api_url"):
            url, source = found["api_url"], file
            key = key or found.get("api_key")
        elif key is None and found.get("api_url") in {None, url}:
            # a key is not sent to another server than the one it stands beside
            key = found.get("api_key")
    return Config(url, key, source)


def files(cwd: str) -> Iterator[str]:
    """Where configuration may stand, the nearest first."""
    directory = os.path.abspath(cwd)
    while True:
        yield os.path.join(directory, PROJECT_FILE)
        parent = os.path.dirname(directory)
        if parent == directory:
            break
        directory = parent
    yield os.path.join(os.path.expanduser("~"), HOME_FILE)


def read_file(path: str) -> dict[str, str]:
    """``name = value`` lines; ``#`` begins a comment, and ``[sections]`` mean nothing.

    Raises:
        rgrid.exceptions.ConfigurationError: it cannot be read, or a line is neither.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
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


def write_file(path: str, values: dict[str, str]) -> None:
    """Write ``name = value`` lines that only the owner can read."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name} = {value}\n" for name, value in values.items())
    os.replace(temporary, path)


def no_server() -> ConfigurationError:
    """The error of a client that was told no address."""
    return ConfigurationError(
        f"no server is named: set {URL_VARIABLE} (and {KEY_VARIABLE}), or run `rgrid init --api-url URL`"
    )
