"""Making a backup of a server's data, while it runs or not.

The database comes first, as one snapshot. Every blob that it names is on the disk by then, for a blob is made
durable before it is named; and it stays there for an hour at least after the last thing that points to it is
gone (``domain.retention.DELETE_AFTER_MS``), so it cannot vanish while it is copied. Files of blobs never
change, so on one file system a second name for each (a hard link) is all that a copy takes.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import delete, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from rgrid_server import __version__
from rgrid_server.backup import contents
from rgrid_server.backup.archive import BackupError, Writer, create, open_backup
from rgrid_server.backup.contents import Manifest
from rgrid_server.config import Settings
from rgrid_server.storage import DATABASE_FILE, blob_directory, name_of, postgres_url
from rgrid_server.store.copying import copy_rows
from rgrid_server.store.schema import check_schema, upgrade_schema
from rgrid_server.store.sqlite import sqlite_engine
from rgrid_server.store.tables import blobs


def make_backup(settings: Settings, target: Path, *, is_thorough: bool = False) -> Manifest:
    """Copy everything that a server is started with: rows, blobs, keys.

    Args:
        settings: where the data stand.
        target: a directory or a ``.tar`` file that does not exist yet.
        is_thorough: whether every blob's bytes are read again and compared with its hash.

    Raises:
        BackupError: it cannot be made; nothing is left of it.
    """
    with create(target) as (writer, scratch):
        database = scratch / contents.DATABASE
        try:
            _take_snapshot(settings, database)
        except DBAPIError as error:
            raise BackupError(f"{name_of(settings)} cannot be copied: {error.orig}") from error
        count, size_bytes = _add_blobs(writer, database, blob_directory(settings))
        for name in contents.KEYS:
            if (settings.data_dir / name).is_file():
                writer.add(name, settings.data_dir / name)
        made = Manifest(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            version=__version__,
            database="sqlite" if settings.database_url is None else "postgresql",
            blobs=count,
            blob_bytes=size_bytes,
        )
        manifest = scratch / contents.MANIFEST
        manifest.write_bytes(made.to_bytes())
        writer.add(contents.DATABASE, database, may_link=True)
        writer.add(contents.MANIFEST, manifest)
    check_backup(target, is_thorough=is_thorough)
    return made


def check_backup(source: Path, *, is_thorough: bool) -> Manifest:
    """Make sure that a backup is whole.

    Raises:
        BackupError: it is not.
    """
    with open_backup(source) as reader:
        made = contents.read_manifest(reader)
        with contents.database_of(reader) as database:
            found = contents.check(reader, database, is_thorough=is_thorough)
        if found != (made.blobs, made.blob_bytes):
            raise BackupError(
                f"the backup {source} has {found[0]} blobs of {found[1]} bytes, and should have "
                f"{made.blobs} of {made.blob_bytes}"
            )
    return made


def _take_snapshot(settings: Settings, target: Path) -> None:
    """Write all rows, as they are at one moment, to a SQLite file with this version's schema."""
    if postgres_url(settings) is None:
        # in one read transaction, and without the pages that deleted logs have left
        source = sqlite_engine(settings.data_dir / DATABASE_FILE)
        with closing(source.connect()) as connection:
            connection.execute(text("VACUUM INTO :target"), {"target": str(target)})
        source.dispose()
    target.touch(mode=0o600)
    target.chmod(0o600)
    copy = sqlite_engine(target)
    with closing(copy.connect()) as connection:
        # a writer's log beside the file would not be copied with it
        connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
        upgrade_schema(connection, str(target))
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if postgres_url(settings) is not None:
            _copy_from_postgres(settings, connection)
        # what is condemned counts as absent, and its bytes may go at any time
        connection.execute(delete(blobs).where(blobs.c.condemned_at_ms.is_not(None)))
        connection.exec_driver_sql("COMMIT")
    copy.dispose()


def _copy_from_postgres(settings: Settings, target: Connection) -> None:
    from rgrid_server.store.postgres import postgres_engine

    url = postgres_url(settings)
    assert url is not None
    engine = postgres_engine(url, 1)
    try:
        with engine.connect() as connection:
            source = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with source.begin():
                check_schema(source, name_of(settings))
                copy_rows(source, target)
    finally:
        engine.dispose()


def _add_blobs(writer: Writer, database: Path, directory: Path) -> tuple[int, int]:
    count = size_bytes = 0
    for blob in contents.kept_blobs(database):
        count += 1
        size_bytes += blob.size_bytes
        if blob.name is None:
            continue
        try:
            writer.add(blob.name, directory / Path(blob.name).relative_to(contents.BLOBS), may_link=True)
        except FileNotFoundError as error:
            raise BackupError(
                f"the blob {blob.sha256} is not at {error.filename}; if the copy took more than an hour it "
                "was let go meanwhile: try again with a target on the same disk. Otherwise it is lost"
            ) from None
    return count, size_bytes
