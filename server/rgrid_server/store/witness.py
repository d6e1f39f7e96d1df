"""A session that does nothing but be there: whether PostgreSQL has crashed since a transaction began.

PostgreSQL hands a transaction's id out again after a crash, where nothing of the transaction had reached the
disk. So what it says of an id, "committed" above all, may be of another transaction than the one that is
meant. A crash ends every session. One that was there before the transaction began and is still there proves
that there was none in between, without special rights.
"""

from __future__ import annotations

import select
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

import psycopg

Session = psycopg.Connection[Any]


class Witness:
    """Keeps one session open; safe for many threads."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = dict(arguments)
        self._session: Session | None = None
        self._lock = Lock()

    def session(self) -> Session:
        """The session that is there now, a new one where the last has ended.

        Raises:
            psycopg.OperationalError: the database does not answer.
        """
        with self._lock:
            if self._session is None or self._session.closed or is_readable(self._session.fileno()):
                self._end()
                self._session = psycopg.connect(**self._arguments, autocommit=True)
            return self._session

    def vouches_since(self, session: Session) -> bool:
        """Whether a session that was there then is there still."""
        with self._lock:
            if session is not self._session:
                return False
            try:
                session.execute("SELECT 1")
            except psycopg.Error:
                self._end()
                return False
            return True

    def close(self) -> None:
        """Let go of the session."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._session is not None:
            with suppress(psycopg.Error):
                self._session.close()
            self._session = None


def is_readable(descriptor: int) -> bool:
    """Whether a connection that nobody uses has something to say, which it has only when it has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))
