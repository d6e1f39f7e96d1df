"""Where a server's data stand, as its settings say: which database, which blobs, and who tells whom."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError

from rgrid_server.blobs.base import BlobStore
from rgrid_server.blobs.directory import DirectoryBlobStore
from rgrid_server.config import Settings
from rgrid_server.store.database import CommitListener, Database, StorageError, StorageUnavailable
from rgrid_server.store.events import rebase_positions
from rgrid_server.store.reserve import Reserve, reserved_bytes
from rgrid_server.store.schema import upgrade_schema
from rgrid_server.store.sqlite import SqliteDatabase, damaged, is_damage, sqlite_engine

if TYPE_CHECKING:
    from rgrid_server.store.notifications import Notifications

DATABASE_FILE = "rgrid.sqlite"
RESERVE_FILE = "reserve"
MIGRATION_LOCK = 0x5247_7269_64
"""The advisory lock under which one process at a time migrates ("RGrid")."""
MIGRATION_LOCK_TIMEOUT = "5s"
"""A table's lock is not waited for longer, for everyone who wants the table waits behind it."""
MIGRATION_TRIES = 60


class UnknownStorage(StorageError):
    """The settings name a place that this version knows nothing of."""


def check_storage(settings: Settings) -> None:
    """Make sure that the settings name places that are known.

    Raises:
        UnknownStorage: one is not; the message says which are.
    """
    postgres_url(settings)
    blob_directory(settings)


def postgres_url(settings: Settings) -> URL | None:
    """The PostgreSQL database that the settings name; None for SQLite in the data directory.

    Raises:
        UnknownStorage: it is no URL of PostgreSQL.
    """
    if settings.database_url is None:
        return None
    try:
        url = make_url(settings.database_url.get_secret_value())
    except ArgumentError:
        # the error says the URL, and with it the password
        raise UnknownStorage(
            "--database-url is no URL; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from None
    if url.drivername not in {"postgresql", "postgres", "postgresql+psycopg"}:
        raise UnknownStorage(
            f"--database-url begins with {url.drivername}://; there is postgresql://, "
            "and without the option SQLite in --data-dir"
        )
    return url.set(drivername="postgresql+psycopg")


def blob_directory(settings: Settings) -> Path:
    """The directory that keeps blobs.

    Raises:
        UnknownStorage: the settings name another place than a directory.
    """
    if settings.blob_url is None:
        return settings.data_dir / "blobs"
    parts = urlsplit(settings.blob_url)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise UnknownStorage(
            f"--blob-url begins with {parts.scheme or settings.blob_url[:20]}; there is file:///DIRECTORY, "
            "and without the option a directory in --data-dir"
        )
    return Path(unquote(parts.path))


def name_of(settings: Settings) -> str:
    """How messages call the database; never with its password."""
    url = postgres_url(settings)
    if url is None:
        return str(settings.data_dir / DATABASE_FILE)
    _require_driver()
    from rgrid_server.store.postgres import shown

    return shown(url)


def kind_of_database(settings: Settings) -> str:
    """``sqlite`` or ``postgresql``."""
    return "sqlite" if postgres_url(settings) is None else "postgresql"


def open_database(settings: Settings, on_commit: CommitListener | None = None) -> Database:
    """The database, which has this version's schema already."""
    url = postgres_url(settings)
    if url is None:
        reserve = Reserve(settings.data_dir / RESERVE_FILE, settings.reserve_bytes)
        return SqliteDatabase(settings.data_dir / DATABASE_FILE, on_commit, reserve)
    _require_driver()
    from rgrid_server.store.postgres import PostgresDatabase

    return PostgresDatabase(url, settings.database_connections, on_commit)


def open_blobs(settings: Settings) -> BlobStore:
    """The store of those blobs that are too large for the database."""
    directory = blob_directory(settings)
    directory.mkdir(parents=True, exist_ok=True)
    untouched_bytes = reserved_bytes(directory, settings.reserve_bytes) if settings.blob_url is None else 0
    return DirectoryBlobStore(directory, settings.min_free_bytes, untouched_bytes)


def open_notifications(settings: Settings) -> Notifications | None:
    """How servers on one database tell each other what has changed; None where there is only one server."""
    url = postgres_url(settings)
    if url is None:
        return None
    from rgrid_server.store.notifications import Notifications

    return Notifications(url)


def has_data(settings: Settings) -> bool:
    """Whether there is a database to look at."""
    return settings.database_url is not None or (settings.data_dir / DATABASE_FILE).exists()


def migrate(settings: Settings) -> None:
    """Bring the database to this version's schema; several processes may do so at once.

    Raises:
        NewerSchema: a newer version wrote it.
        StorageDamaged: what stands there is no database.
        StorageUnavailable: it does not answer.
    """
    url = postgres_url(settings)
    if url is not None:
        _require_driver()
        _migrate_postgres(url, name_of(settings))
        return
    path = settings.data_dir / DATABASE_FILE
    make_private_file(path)
    try:
        with sqlite_engine(path).connect() as connection:
            upgrade_schema(connection, str(path))
    except DatabaseError as error:
        if error.orig is not None and is_damage(error.orig):
            raise damaged(path, error.orig) from error
        raise


def make_data_directory(directory: Path) -> None:
    """Make a data directory that is its owner's only; one that is there already stays as it is."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_private_file(path: Path) -> None:
    """Make an empty file that is its owner's only; SQLite gives the files beside it the same rights."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def write_private(path: Path, text: str) -> None:
    """Write a file that is its owner's only, whole and durably, in place of one that is there."""
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _migrate_postgres(url: URL, where: str) -> None:
    from rgrid_server.store.postgres import Trouble, postgres_engine, trouble_of

    engine = postgres_engine(url, 1).execution_options(isolation_level="READ COMMITTED")
    try:
        for tries_left in reversed(range(MIGRATION_TRIES)):
            try:
                # all of it in one transaction: an older process sees the old schema until it sees the new one
                with engine.begin() as connection:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                    connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_TIMEOUT}'"))
                    upgrade_schema(connection, where)
                    rebase_positions(connection)
            except DBAPIError as error:
                trouble = trouble_of(error)
                if trouble is Trouble.AWAY and not tries_left:
                    raise StorageUnavailable(f"the database {where} does not answer: {error.orig}") from error
                if trouble not in {Trouble.CONFLICT, Trouble.AWAY} or not tries_left:
                    raise
                time.sleep(0.5)
            else:
                return
    finally:
        engine.dispose()


def _require_driver() -> None:
    try:
        import psycopg  # noqa: F401 - asked for here, so that its absence is said plainly
    except ImportError:
        raise UnknownStorage(
            "--database-url needs psycopg, which is not installed: pip install 'rgrid[server,postgres]'"
        ) from None
