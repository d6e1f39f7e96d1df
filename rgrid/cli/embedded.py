"""A server of one's own on this machine: started when it is needed, gone when it has been idle."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rgrid.cli.display import say
from rgrid.exceptions import ConfigurationError, ServerUnreachable

IDLE_SECONDS = 600
START_SECONDS = 60.0


def data_dir() -> Path:
    """Where its data stand."""
    return Path.home() / ".rgrid" / "local"


def has_data() -> bool:
    """Whether it ever ran."""
    return (data_dir() / "admin.key").exists()


def ensure() -> tuple[str, str]:
    """Its address and key; it is started where it does not run.

    Raises:
        rgrid.exceptions.ConfigurationError: the server is not installed, or its directory cannot be used.
        rgrid.exceptions.ServerUnreachable: it does not start; the message has the end of its log.
    """
    directory = data_dir()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(directory / "start.lock"):
            url = _address(directory)
            if url is None or not _is_well(directory, url):
                url = _start(directory)
        return url, (directory / "admin.key").read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"no server is configured, and one of your own cannot stand in {directory} ({error.strerror}): "
            "make it writable, set HOME to a directory that is, or set RGRID_API_URL"
        ) from error


def _start(directory: Path) -> str:
    if importlib.util.find_spec("rgrid_server") is None:
        raise ConfigurationError(
            "no server is configured, and none is installed here: set RGRID_API_URL, "
            "or pip install 'rgrid[server]'"
        )
    say(f"starting a server of your own in {directory}")
    command = [sys.executable, "-m", "rgrid_server", "--host", "127.0.0.1", "--port", "0"]
    command += ["--data-dir", str(directory), "--idle-exit-seconds", str(IDLE_SECONDS)]
    log = directory / "server.log"
    (directory / "address").unlink(missing_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={name: value for name, value in os.environ.items() if not name.startswith("RGRID_")},
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        url = _address(directory)
        if url is not None and _is_well(directory, url):
            return url
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    told = log.read_text(errors="replace")[-2000:].strip()
    raise ServerUnreachable(f"the server in {directory} does not start:\n{told}", was_sent=False)


def _address(directory: Path) -> str | None:
    try:
        return (directory / "address").read_text().strip() or None
    except OSError:
        return None


def _is_well(directory: Path, url: str) -> bool:
    """Whether the directory's own server answers there, and not whoever got its port after it."""
    if not _is_held(directory / "server.lock"):
        return False
    # a proxy has no business between this machine and itself
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=5) as answer:
            return str(json.load(answer)["status"]).startswith("ok")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
