"""PostgreSQL: any number of processes on one database, each operation in a transaction of its own.

Transactions run at READ COMMITTED, so that many of them add to one batch's counts without conflict; what an
operation is going to change it reads FOR UPDATE. One that a conflict or a lost connection undid is run again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

import orjson
import psycopg
from sqlalchemy import URL, create_engine, event
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from rgrid_server.store.database import CommitListener, StorageFull, StorageUnavailable, Unstorable
from rgrid_server.store.readers import Readers
from rgrid_server.store.together import WritesTogether, carried_by
from rgrid_server.store.witness import Session, Witness, is_readable

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_CONNECTIONS = 24
_AWAY_MESSAGE = "the database does not answer now; ask again in some seconds"
_IN_DOUBT = (
    "the database went away during a commit, and it is not known yet whether that was made; "
    "look in some seconds, or ask again under the same run key"
)
PATIENCE_SECONDS = 5.0
"""So long an operation waits for a database that is away: as long as a restart of it takes."""
MAX_CONFLICTS = 20
MAX_GROUPS_AT_ONCE = 3
"""Of items that wait for the same operation: with fewer transactions, each carries more of them."""
MAX_PAUSE_SECONDS = 0.25
_CONNECT_ARGUMENTS = {
    "connect_timeout": "5",
    "application_name": "rgrid",
    "client_encoding": "utf8",
    # a machine that has gone without a word is missed within a minute
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


class Trouble(Enum):
    """What an error says about the database, as far as running the operation again may help."""

    CONFLICT = auto()
    """Another transaction was in the way."""
    DUPLICATE = auto()
    """A key is taken; where another process took it a moment ago, a second look finds that."""
    AWAY = auto()
    """The database does not answer; nothing of the operation stays."""
    FULL = auto()
    """Its disk is full."""


# serialization failure, deadlock, a lock that was waited for long enough
_CONFLICTS = {"40001", "40P01", "55P03"}
_DUPLICATE = "23505"
_FULL = {"53100"}
# shutting down, crashed, starting up, too many connections; a standby takes no writes until it is promoted
_AWAY = {"57P01", "57P02", "57P03", "57P05", "53300", "25006"}


@dataclass(slots=True)
class CommitLost(Exception):
    """The connection broke while a commit was under way: only the database knows what became of it."""

    transaction_id: str
    witness: Session
    result: Any


def postgres_engine(url: URL, connections: int = DEFAULT_CONNECTIONS) -> Engine:
    """An engine for a database, set up as RGrid uses PostgreSQL."""
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        # what is bound may be a script or a secret, and errors are logged
        hide_parameters=True,
        pool_size=connections,
        max_overflow=0,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args=_defaults(url),
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: psycopg.Connection[Any], _record: object) -> None:
        # what is answered is durable, whatever the database's own setting says
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )

    @event.listens_for(engine, "checkout")
    def check(connection: psycopg.Connection[Any], _record: object, _proxy: object) -> None:
        # a connection that nobody uses has nothing to say unless it has ended: cheaper than asking it
        if connection.closed or is_readable(connection.fileno()):
            raise InvalidatePoolError()

    return engine


def shown(url: URL) -> str:
    """How messages call a database: without its password, also where that stands among the parameters."""
    host = url.host or url.query.get("host") or "localhost"
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{host if isinstance(host, str) else ','.join(host)}{port}/{url.database or ''}"


def connect_arguments(url: URL) -> dict[str, Any]:
    """What to connect with, for those who use the driver itself."""
    dialect: Dialect = url.set(drivername="postgresql+psycopg").get_dialect()()
    _, arguments = dialect.create_connect_args(url)
    return {**_defaults(url), **arguments}


class PostgresDatabase(WritesTogether):
    """The store protocol on a PostgreSQL database; it belongs to the event loop that first uses it.

    Args:
        url: of the database, with any scheme of PostgreSQL.
        connections: how many are used at once, at most.
        on_commit: is told of every commit, on the event loop; the wait for a connection is part of its time.
    """

    groups_at_once = MAX_GROUPS_AT_ONCE

    def __init__(
        self,
        url: URL,
        connections: int = DEFAULT_CONNECTIONS,
        on_commit: CommitListener | None = None,
    ) -> None:
        super().__init__()
        self._engine = postgres_engine(url, connections)
        self._witness = Witness(connect_arguments(url))
        self._where = shown(url)
        self._is_away = False
        self._on_commit = on_commit
        # short reads wait neither for long ones nor for commits
        scans, reads = max(1, connections // 6), max(1, connections // 3)
        self._scanners = ThreadPoolExecutor(scans, "postgres-scan")
        self._readers = Readers(reads, self._connected)
        self._writers = ThreadPoolExecutor(max(1, connections - scans - reads), "postgres-write")
        self._closed = False

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a short query; each of its statements sees what is committed when it begins."""
        return await self._until_it_is_done(lambda: self._readers.run(query))

    async def scan(self, query: Callable[[Connection], T]) -> T:
        """Run a longer query on one snapshot."""
        loop = asyncio.get_running_loop()
        return await self._until_it_is_done(lambda: loop.run_in_executor(self._scanners, self._scan, query))

    async def write(
        self, operation: Callable[[Connection], T], *, is_long: bool = False, takes_in: bool = False
    ) -> T:
        """Run an operation in a transaction, again where a conflict or a lost connection has undone it."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        result = await self._until_it_is_done(
            lambda: loop.run_in_executor(self._writers, self._write, operation)
        )
        if self._on_commit is not None:
            self._on_commit(carried_by(operation), loop.time() - began_at)
        return result

    async def close(self) -> None:
        """Finish what was begun, then close."""
        if self._closed:
            return
        self._closed = True
        for threads in (self._writers, self._scanners):
            await asyncio.to_thread(threads.shutdown)
        await self._readers.close()
        self._witness.close()
        self._engine.dispose()

    async def _until_it_is_done(self, do: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        patience = _Patience(loop.time() + PATIENCE_SECONDS)
        while True:
            if self._closed:
                raise RuntimeError("the database is closed")
            try:
                found = await do()
            except CommitLost as lost:
                if await self._was_committed(lost):
                    committed: T = lost.result
                    return committed
            except Exception as error:
                await self._pause(patience, error)
            else:
                self._is_away = False
                return found

    async def _was_committed(self, lost: CommitLost) -> bool:
        """What became of a transaction whose commit was not answered.

        Raises:
            StorageUnavailable: that cannot be found out now.
        """
        loop = asyncio.get_running_loop()
        patience = _Patience(loop.time() + 2 * PATIENCE_SECONDS, is_in_doubt=True)
        while True:
            try:
                return await loop.run_in_executor(self._writers, self._fate_of, lost)
            except StorageUnavailable:
                raise
            except Exception as error:
                await self._pause(patience, error)

    async def _pause(self, patience: _Patience, error: Exception) -> None:
        if trouble_of(error) is Trouble.AWAY and not self._is_away:
            # once, however many ask; those who ask are not told where the database is
            self._is_away = True
            log.warning("the database %s does not answer: %s", self._where, _first_line(error))
        await asyncio.sleep(patience.pause_after(error, asyncio.get_running_loop().time()))

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            connection = self._engine.connect()
        except InvalidRequestError as error:
            # so says the pool when connections end as soon as they are made
            raise psycopg.OperationalError(str(error)) from error
        try:
            yield connection
        finally:
            # giving a broken connection back raises, which must not hide what became of a commit
            with suppress(SQLAlchemyError, psycopg.Error):
                if not connection.invalidated and _driver_of(connection).closed:
                    connection.invalidate()
                connection.close()

    def _scan(self, query: Callable[[Connection], T]) -> T:
        with self._connected() as connection:
            driver = _driver_of(connection)
            driver.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                return query(connection)
            finally:
                _roll_back(driver)

    def _write(self, operation: Callable[[Connection], T]) -> T:
        with self._connected() as connection:
            driver = _driver_of(connection)
            witness = self._witness.session()
            transaction_id = _begin(driver)
            try:
                result = operation(connection)
            except BaseException:
                _roll_back(driver)
                raise
            try:
                done = driver.execute("COMMIT")
            except psycopg.Error as error:
                if trouble_of(error) is not Trouble.AWAY:
                    raise
                raise CommitLost(transaction_id, witness, result) from error
            if done.statusmessage != "COMMIT":
                raise RuntimeError(f"the transaction was not committed but ended with {done.statusmessage}")
            return result

    def _fate_of(self, lost: CommitLost) -> bool:
        transaction_id = lost.transaction_id
        with self._connected() as connection:
            driver = _driver_of(connection)
            # its session may not have noticed that nobody is there any more, and has not heard of the commit
            driver.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xid = %s::xid8::xid",
                [transaction_id],
            )
            found = driver.execute("SELECT pg_xact_status(%s::xid8)", [transaction_id]).fetchone()
            status = found[0] if found is not None else None
            if status not in {"committed", "aborted"}:
                raise _Undecided(f"transaction {transaction_id} is {status}")
            if status == "committed" and not self._witness.vouches_since(lost.witness):
                # after a crash it may be another transaction of the same id that was
                raise StorageUnavailable(_IN_DOUBT)
            return bool(status == "committed")


class _Undecided(Exception):
    """The database has not decided yet."""


class _Patience:
    """How often and how long one operation is run again."""

    def __init__(self, until: float, *, is_in_doubt: bool = False) -> None:
        self._until = until
        self._is_in_doubt = is_in_doubt
        self._tries = 0
        self._duplicates = 0

    def pause_after(self, error: Exception, now: float) -> float:
        """How many seconds to wait before the next try.

        Raises:
            StorageFull: the disk is full.
            StorageUnavailable: the database was away for too long.
            Exception: the error itself, where another try would not help.
        """
        trouble = Trouble.AWAY if self._is_in_doubt else trouble_of(error)
        self._tries += 1
        if trouble is Trouble.FULL:
            raise StorageFull("the database has no room left; make room on its disk") from error
        if trouble is Trouble.DUPLICATE and self._duplicates < 2:
            self._duplicates += 1
            return 0.0
        if trouble is Trouble.CONFLICT and self._tries <= MAX_CONFLICTS:
            return self._pause()
        if trouble is Trouble.AWAY:
            if now < self._until:
                return self._pause()
            raise StorageUnavailable(_IN_DOUBT if self._is_in_doubt else _AWAY_MESSAGE) from error
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, psycopg.DataError):
            raise Unstorable(f"a value cannot be stored: {_first_line(cause)}") from error
        raise error

    def _pause(self) -> float:
        # full jitter: those who ran into each other part
        return random.uniform(0.0, min(MAX_PAUSE_SECONDS, 0.004 * 2 ** min(self._tries, 10)))  # noqa: S311


def trouble_of(error: BaseException) -> Trouble | None:
    """What an error of the database says; None where running the operation again cannot help."""
    if isinstance(error, PoolTimeout | InvalidatePoolError):
        return Trouble.AWAY
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.Error):
        return None
    code = cause.sqlstate
    if not code:
        # the server said nothing: the connection could not be made or broke, or broke within an answer, which
        # has no class of its own; what the driver refuses by itself has one
        is_lost = isinstance(cause, psycopg.OperationalError) or type(cause) is psycopg.DatabaseError
        return Trouble.AWAY if is_lost else None
    if code in _CONFLICTS:
        return Trouble.CONFLICT
    if code == _DUPLICATE:
        return Trouble.DUPLICATE
    if code in _FULL:
        return Trouble.FULL
    return Trouble.AWAY if code in _AWAY or code.startswith("08") else None


def _defaults(url: URL) -> dict[str, str]:
    return {name: value for name, value in _CONNECT_ARGUMENTS.items() if name not in url.query}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def _begin(driver: psycopg.Connection[Any]) -> str:
    """Begin a transaction; returns its id, by which its fate can be asked for."""
    cursor = driver.execute("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_current_xact_id()::text")
    cursor.nextset()
    found = cursor.fetchone()
    assert found is not None
    return str(found[0])


def _roll_back(driver: psycopg.Connection[Any]) -> None:
    # a connection that broke has rolled back by itself, and the error that is on its way says so
    if not driver.closed:
        try:
            driver.execute("ROLLBACK")
        except psycopg.Error:
            driver.close()


def _driver_of(connection: Connection) -> psycopg.Connection[Any]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
