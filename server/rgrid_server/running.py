"""What a running server leaves in its data directory, and whoever looks for it there.

Nothing here loads what only serving needs, since asking whether a server runs is not to take as long as
starting one.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

ADDRESS_FILE = "address"
METRICS_ADDRESS_FILE = "metrics-address"
PID_FILE = "server.pid"
LOCK_FILE = "server.lock"
ANSWER_SECONDS = 5.0
STOP_SECONDS = 30.0
LOOK_SECONDS = 0.05


class CannotStart(Exception):
    """The server cannot start; the message says why and what to do."""


class NotRunning(Exception):
    """No server runs, or it does not do what it was asked; the message says which."""


def is_running(data_dir: Path) -> bool:
    """Whether a server says that it uses a data directory."""
    return (data_dir / PID_FILE).exists()


def address_of(data_dir: Path) -> str:
    """The URL of the server of a data directory.

    Raises:
        NotRunning: there is none.
    """
    try:
        return (data_dir / ADDRESS_FILE).read_text().strip()
    except OSError:
        raise NotRunning(f"no server runs on {data_dir}") from None


def status_of(data_dir: Path) -> str:
    """A line about the server of a data directory.

    Raises:
        NotRunning: there is none, or it does not answer.
    """
    url = address_of(data_dir)
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - our own file says http
            health = json.load(answer)
    except (OSError, ValueError):
        raise NotRunning(f"the server of {data_dir} does not answer at {url}") from None
    return f"{url} {health['status']}, version {health['version']}"


def stop(data_dir: Path) -> None:
    """End the server of a data directory, and wait until it is gone.

    Raises:
        NotRunning: there is none, or it does not end in time.
    """
    address_of(data_dir)
    try:
        pid = int((data_dir / PID_FILE).read_text())
    except (OSError, ValueError):
        raise NotRunning(f"no server runs on {data_dir}") from None
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + STOP_SECONDS
    while is_running(data_dir):
        if time.monotonic() > until:
            raise NotRunning(f"the server {pid} has not stopped within {STOP_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)
