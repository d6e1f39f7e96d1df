"""A server of one's own on this machine: started when it is needed, gone when it has been idle."""

from __future__ import annotations

import fcntl
import http.client
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
MAX_HEALTH_BYTES = 64 * 1024
HEALTHY = "ok"


def data_dir() -> Path:
    """Where its data stand.

    Raises:
        rgrid.exceptions.ConfigurationError: this user has no home directory.
    """
    try:
        return Path.home() / ".rgrid" / "local"
    except RuntimeError as error:
        raise ConfigurationError(
            f"a server of your own keeps its data in your home directory, and there is none ({error}): "
            "set HOME, or RGRID_API_URL to use another server"
        ) from error


def has_data() -> bool:
    """Whether it ever ran."""
    directory = data_dir()
    with _usable(directory):
        return (directory / "admin.key").exists()


def ensure() -> tuple[str, str]:
    """Its address and key; it is started where it does not run.

    Raises:
        rgrid.exceptions.ConfigurationError: the server is not installed, or its directory cannot be used.
        rgrid.exceptions.ServerUnreachable: it does not start; the message has the end of its log.
    """
    directory = data_dir()
    with _usable(directory):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(directory / "start.lock"):
            url = _running(directory) or _start(directory)
        return url, (directory / "admin.key").read_text().strip()


@contextmanager
def _usable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"a server of your own keeps its data in {directory}, which cannot be used: "
            f"{error.filename or directory}: {error.strerror}; set HOME to a directory that can be "
            "written, or RGRID_API_URL to use another server"
        ) from error


def _running(directory: Path) -> str | None:
    """The address of the server that holds the data directory, waited for while it starts or stops.

    An address file alone says nothing: another program may have the port of a server that was killed.
    """
    deadline = time.monotonic() + START_SECONDS
    while _is_held(directory / "server.lock"):
        url = _address(directory)
        if url is not None and _is_well(url):
            return url
        if time.monotonic() > deadline:
            raise ServerUnreachable(
                f"a server uses {directory} and does not answer at {url or 'any address'}; "
                f"end it with `rgrid server stop --data-dir {directory}`",
                was_sent=False,
            )
        time.sleep(0.05)
    return None


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


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
        if url is not None and _is_well(url):
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


def _is_well(url: str) -> bool:
    """Whether RGrid answers there: the key goes nowhere else."""
    # a proxy has no business between this machine and itself
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=5) as answer:
            health = json.loads(answer.read(MAX_HEALTH_BYTES))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return isinstance(health, dict) and str(health.get("status")).startswith(HEALTHY) and "version" in health


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
