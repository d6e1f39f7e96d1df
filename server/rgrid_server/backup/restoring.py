"""A backup's way back: into an empty data directory, or into an empty PostgreSQL database beside one."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from rgrid_server.backup import contents
from rgrid_server.backup.archive import BackupError, Reader, open_backup
from rgrid_server.backup.contents import Manifest
from rgrid_server.backup.making import check_backup
from rgrid_server.config import Settings
from rgrid_server.storage import DATABASE_FILE, blob_directory, migrate, name_of, postgres_url
from rgrid_server.store.copying import copy_rows, is_empty
from rgrid_server.store.events import rebase_positions
from rgrid_server.store.schema import upgrade_schema
from rgrid_server.store.sqlite import sqlite_engine


def restore(source: Path, settings: Settings, *, is_thorough: bool = False) -> Manifest:
    """Bring a backup's data to where the settings say that data stand.

    What was running when the backup was made is run again once its lease is over, as after the loss of its
    runner.

    Args:
        source: a backup.
        settings: where the data are to stand; nothing may be there.
        is_thorough: whether every blob's bytes are compared with its hash first.

    Raises:
        BackupError: the backup is not whole, or the place is not empty; nothing was changed.
    """
    made = check_backup(source, is_thorough=is_thorough)
    data_dir, blobs = settings.data_dir, blob_directory(settings)
    for directory in {data_dir, blobs}:
        if directory.exists() and any(directory.iterdir()):
            raise BackupError(
                f"{directory} is not empty; restore into a directory that is, or does not exist"
            )
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with open_backup(source) as reader:
            _fill(reader, settings, blobs)
    except BaseException:
        # it was empty before; a half of the data is worse than none
        for path in (*data_dir.iterdir(), *(blobs.iterdir() if blobs.exists() else ())):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise
    return made


def _fill(reader: Reader, settings: Settings, blobs: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="restoring-", dir=settings.data_dir) as scratch:
        database = Path(scratch) / contents.DATABASE
        reader.extract(contents.DATABASE, database)
        for blob in contents.kept_blobs(database):
            if blob.name is not None:
                target = blobs / Path(blob.name).relative_to(contents.BLOBS)
                target.parent.mkdir(parents=True, exist_ok=True)
                reader.extract(blob.name, target)
        for name in contents.KEYS:
            if name in reader.sizes():
                reader.extract(name, settings.data_dir / name)
        if postgres_url(settings) is not None:
            _load_into_postgres(settings, database)
        else:
            # last: without it nothing counts
            database.replace(settings.data_dir / DATABASE_FILE)
            migrate(settings)
    _fsync_tree(settings.data_dir)
    _fsync_tree(blobs)


def _load_into_postgres(settings: Settings, database: Path) -> None:
    from rgrid_server.store.postgres import postgres_engine

    url = postgres_url(settings)
    assert url is not None
    migrate(settings)
    source, target = sqlite_engine(database), postgres_engine(url, 1)
    try:
        with closing(source.connect()) as rows:
            upgrade_schema(rows, str(database))
            with target.execution_options(isolation_level="READ COMMITTED").begin() as connection:
                if not is_empty(connection):
                    raise BackupError(f"{name_of(settings)} has data; restore into an empty database")
                copy_rows(rows, connection)
                rebase_positions(connection)
    finally:
        source.dispose()
        target.dispose()


def _fsync_tree(directory: Path) -> None:
    if not directory.exists():
        return
    for path in (directory, *(found for found in directory.rglob("*") if found.is_dir())):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
