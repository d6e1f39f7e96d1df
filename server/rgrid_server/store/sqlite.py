"""SQLite: many readers and one writer that commits the operations which wait together.

A durable commit is an fsync, about a millisecond whatever it carries. So one thread owns the writing
connection, takes all operations that wait, runs each in a savepoint of its own and commits them at once:
each is still alone in failing, and none is answered before its commit is on the disk.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from rgrid_server.store.database import StorageFull

T = TypeVar("T")

MAX_OPERATIONS_A_COMMIT = 512
MAX_SCANS_AT_ONCE = 4


@dataclass(slots=True)
class _Waiting:
    operation: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


def sqlite_engine(path: Path) -> Engine:
    """An engine for a database file, set up as RGrid uses SQLite."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"check_same_thread": False, "timeout": 30, "cached_statements": 512},
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=30000",
            "cache_size=-65536",
            "temp_store=MEMORY",
            "journal_size_limit=67108864",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


class SqliteDatabase:
    """The store protocol on one SQLite file; it belongs to the event loop that first uses it."""

    def __init__(self, path: Path) -> None:
        self._engine = sqlite_engine(path)
        self._reader = self._engine.connect()
        self._scans = asyncio.Semaphore(MAX_SCANS_AT_ONCE)
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_in_groups, name="sqlite-writer", daemon=True)
        self._writer.start()
        self._closed = False

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a short query here and now: handing it to a thread would take longer than it does."""
        return query(self._reader)

    async def scan(self, query: Callable[[Connection], T]) -> T:
        """Run a longer query on a connection and in a thread of its own."""
        async with self._scans:
            return await asyncio.to_thread(self._scan, query)

    async def write(self, operation: Callable[[Connection], T]) -> T:
        """Hand an operation to the writer and wait until it is durable."""
        if self._closed:
            raise RuntimeError("the database is closed")
        waiting = _Waiting(operation, asyncio.get_running_loop().create_future())
        self._waiting.put(waiting)
        result: T = await waiting.future
        return result

    async def close(self) -> None:
        """Let the writer finish, then close."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put(None)
        await asyncio.to_thread(self._writer.join)
        self._reader.close()
        self._engine.dispose()

    def _scan(self, query: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                return query(connection)
            finally:
                connection.exec_driver_sql("ROLLBACK")

    def _write_in_groups(self) -> None:
        with self._engine.connect() as connection:
            open_for_more = True
            while open_for_more:
                group, open_for_more = self._next_group()
                if group:
                    _commit_together(connection, group)
                    _answer(group)

    def _next_group(self) -> tuple[list[_Waiting], bool]:
        group: list[_Waiting] = []
        waiting = self._waiting.get()
        while waiting is not None:
            group.append(waiting)
            if len(group) >= MAX_OPERATIONS_A_COMMIT:
                return group, True
            try:
                waiting = self._waiting.get_nowait()
            except queue.Empty:
                return group, True
        return group, False


def _commit_together(connection: Connection, group: list[_Waiting]) -> None:
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        for waiting in group:
            try:
                with _savepoint(connection):
                    waiting.result = waiting.operation(connection)
            except Exception as error:
                waiting.error = _translated(error)
                if not _in_transaction(connection):
                    raise
        connection.exec_driver_sql("COMMIT")
    except Exception as error:
        if _in_transaction(connection):
            connection.exec_driver_sql("ROLLBACK")
        for waiting in group:
            waiting.error = waiting.error or _translated(error)


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    connection.exec_driver_sql("SAVEPOINT operation")
    try:
        yield
    except BaseException:
        if _in_transaction(connection):
            connection.exec_driver_sql("ROLLBACK TO operation")
            connection.exec_driver_sql("RELEASE operation")
        raise
    connection.exec_driver_sql("RELEASE operation")


def _in_transaction(connection: Connection) -> bool:
    driver = connection.connection.driver_connection
    return isinstance(driver, sqlite3.Connection) and driver.in_transaction


def _answer(group: list[_Waiting]) -> None:
    loop = group[0].future.get_loop()

    def settle() -> None:
        for waiting in group:
            if waiting.future.done():
                continue
            if waiting.error is not None:
                waiting.future.set_exception(waiting.error)
            else:
                waiting.future.set_result(waiting.result)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        # the loop has ended: nobody waits any more, and what was committed stays committed
        return


def _translated(error: Exception) -> Exception:
    if isinstance(error, OperationalError) and isinstance(error.orig, sqlite3.OperationalError):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            full = StorageFull(f"the database cannot be written ({error.orig}); make room on its disk")
            full.__cause__ = error
            return full
    return error
