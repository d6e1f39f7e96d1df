"""SQLite: many readers and one writer that commits the operations which wait together.

A durable commit is an fsync, about a millisecond whatever it carries. So all operations that wait are run on
one connection, each in a savepoint of its own, and committed at once: each is still alone in failing, and
none is answered before its commit is on the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from rgrid_server.store.database import CommitListener, StorageDamaged, StorageFull
from rgrid_server.store.reserve import Reserve
from rgrid_server.store.together import WritesTogether, carried_by, settle

T = TypeVar("T")

MAX_OPERATIONS_A_COMMIT = 512
MAX_GROUPS_A_COMMIT = 16
MAX_SCANS_AT_ONCE = 4
SNAPSHOT_SECONDS = 0.05
YIELD_AFTER_SECONDS = 0.002
"""So long a group's operations may hold up the event loop at a time."""

# without one the driver looks in vain for an adapter of each None, which takes longer than to bind a text
_SAME: Callable[[None], Any] = dict[None, None]().get
sqlite3.register_adapter(type(None), _SAME)


@dataclass(slots=True)
class _Waiting:
    operation: Callable[[Connection], Any]
    is_long: bool
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None

    def run(self, connection: Connection, driver: sqlite3.Connection) -> None:
        """Run the operation in the open transaction; if it fails, nothing of it stays."""
        driver.execute("SAVEPOINT operation")
        try:
            self.result = self.operation(connection)
        except Exception as error:
            self.error = _translated(error)
            if driver.in_transaction:
                driver.execute("ROLLBACK TO operation")
        if driver.in_transaction:
            driver.execute("RELEASE operation")

    def check_still_open(self, driver: sqlite3.Connection) -> None:
        """Make sure that the operation left the transaction open.

        Raises:
            Exception: SQLite itself has rolled all of it back, as it does when the disk is full.
        """
        if not driver.in_transaction:
            raise self.error or RuntimeError("the transaction was lost")

    def settle(self) -> None:
        """Tell the one who waits."""
        settle(self.future, self.result, self.error)


def sqlite_engine(path: Path) -> Engine:
    """An engine for a database file, set up as RGrid uses SQLite.

    Its connections raise :class:`StorageFull` when they are made and there is no room for that, and
    :class:`StorageDamaged` where the file is no database.
    """
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=NullPool,
        # what is bound may be a script or a secret, and errors are logged
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
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
            "wal_autocheckpoint=8192",
        ):
            try:
                connection.execute(f"PRAGMA {pragma}")
            except sqlite3.DatabaseError as error:
                if is_damage(error):
                    raise damaged(path, error) from error
                # even to be opened the database needs a little room
                raise _translated(error) from error

    return engine


class SqliteDatabase(WritesTogether):
    """The store protocol on one SQLite file; it belongs to the event loop that first uses it.

    All writes go through one connection. Those that wait are committed together, so a hundred durable
    submissions share an fsync. Operations run on the event loop itself, for each takes less time than handing
    it to a thread would; what waits for the disk, and what is long, runs in a thread.
    """

    groups_at_once = MAX_GROUPS_A_COMMIT

    def __init__(
        self, path: Path, on_commit: CommitListener | None = None, reserve: Reserve | None = None
    ) -> None:
        super().__init__()
        self._reserve = reserve
        self._engine = sqlite_engine(path)
        self._reader = self._engine.connect()
        self._connection = self._engine.connect()
        self._scans = asyncio.Semaphore(MAX_SCANS_AT_ONCE)
        self._thread = ThreadPoolExecutor(1, "sqlite-writer")
        self._waiting: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._is_committing = False
        self._has_snapshot = False
        self._closed = False
        self._on_commit = on_commit

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a short query here and now: handing it to a thread would take longer than it does.

        Queries between two commits share a snapshot, for taking SQLite's locks takes as long as most
        queries. It ends before the next transaction begins, so that it never shows less than what this
        process has committed, and soon in any case, for what others have.
        """
        if not self._has_snapshot and not self._is_committing:
            self._driver_of(self._reader).execute("BEGIN")
            self._has_snapshot = True
            asyncio.get_running_loop().call_later(SNAPSHOT_SECONDS, self._end_snapshot)
        return query(self._reader)

    async def scan(self, query: Callable[[Connection], T]) -> T:
        """Run a longer query on a connection and in a thread of its own."""
        async with self._scans:
            return await asyncio.to_thread(self._scan, query)

    async def write(
        self, operation: Callable[[Connection], T], *, is_long: bool = False, takes_in: bool = False
    ) -> T:
        """Queue an operation and wait until it is durable."""
        if self._closed:
            raise RuntimeError("the database is closed")
        if takes_in and self._reserve is not None and self._reserve.is_in_use():
            raise StorageFull(
                "the database's disk is nearly full, and what is left is kept for running work; "
                "make room on its disk"
            )
        loop = asyncio.get_running_loop()
        waiting = _Waiting(operation, is_long, loop.create_future())
        self._waiting.append(waiting)
        if self._writing is None:
            self._writing = loop.create_task(self._write_in_groups())
        result: T = await waiting.future
        return result

    async def close(self) -> None:
        """Finish what was queued, then close."""
        if self._closed:
            return
        self._closed = True
        while self._writing is not None:
            await asyncio.wait([self._writing])
        self._end_snapshot()
        self._thread.shutdown()
        self._connection.close()
        self._reader.close()
        self._engine.dispose()

    def _scan(self, query: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                return query(connection)
            finally:
                connection.exec_driver_sql("ROLLBACK")

    async def _write_in_groups(self) -> None:
        # once round the loop, so that requests that arrived together are written together
        await asyncio.sleep(0)
        while self._waiting:
            size = min(len(self._waiting), MAX_OPERATIONS_A_COMMIT)
            group = [self._waiting.popleft() for _ in range(size)]
            await self._commit_together(group)
            for waiting in group:
                waiting.settle()
            await asyncio.sleep(0)
        self._writing = None

    async def _commit_together(self, group: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        driver = self._driver_of(self._connection)
        self._end_snapshot()
        self._is_committing = True
        try:
            opened_at = loop.time()
            driver.execute("BEGIN IMMEDIATE")
            began_at = loop.time()
            for waiting in group:
                if waiting.is_long:
                    await loop.run_in_executor(self._thread, waiting.run, self._connection, driver)
                else:
                    waiting.run(self._connection, driver)
                waiting.check_still_open(driver)
                if loop.time() - began_at > YIELD_AFTER_SECONDS:
                    await asyncio.sleep(0)
                    began_at = loop.time()
            await loop.run_in_executor(self._thread, driver.execute, "COMMIT")
            if self._on_commit is not None:
                self._on_commit(sum(carried_by(one.operation) for one in group), loop.time() - opened_at)
        except Exception as error:
            if driver.in_transaction:
                driver.execute("ROLLBACK")
            for waiting in group:
                waiting.error = waiting.error or _translated(error)
        finally:
            self._is_committing = False
        if self._reserve is not None and any(isinstance(one.error, StorageFull) for one in group):
            self._reserve.give_up()

    def _end_snapshot(self) -> None:
        if self._has_snapshot:
            self._has_snapshot = False
            self._driver_of(self._reader).execute("ROLLBACK")

    @staticmethod
    def _driver_of(connection: Connection) -> sqlite3.Connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        return driver


def is_damage(error: BaseException | None) -> bool:
    """Whether an error says that a file is no database, or not a whole one."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


def damaged(path: Path, error: BaseException) -> StorageDamaged:
    """What to say of a damaged file."""
    return StorageDamaged(
        f"{path} cannot be read as a database ({error}); bring a backup into an empty directory with "
        "`rgrid server restore BACKUP --data-dir DIR`, or move the file away to begin with nothing"
    )


def _translated(error: Exception) -> Exception:
    # SQLAlchemy's error wraps the driver's, which comes as it is from BEGIN and COMMIT
    cause = error.orig if isinstance(error, OperationalError) else error
    if isinstance(cause, sqlite3.OperationalError):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            full = StorageFull(f"the database cannot be written ({cause}); make room on its disk")
            full.__cause__ = error
            return full
    return error
