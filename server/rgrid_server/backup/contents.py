"""What stands in a backup, and whether all of it does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from sqlalchemy import create_engine, select
from sqlalchemy.engine import Connection

from rgrid_server.backup.archive import BackupError, Reader
from rgrid_server.blobs.base import location_of
from rgrid_server.store.tables import blobs

FORMAT = 1
MANIFEST = "backup.json"
DATABASE = "rgrid.sqlite"
BLOBS = "blobs"
KEYS = ("admin.key", "runner.key")
"""Keys in the clear that the server keeps beside its data; the database has the hashes of all."""
READ_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself."""

    made_at: str
    version: str
    database: str
    blobs: int
    blob_bytes: int
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """As it is written."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class KeptBlob:
    """A blob of a backup; ``name`` is None where its bytes stand in the database, in ``content``."""

    sha256: str
    size_bytes: int
    name: str | None
    content: bytes | None


def read_manifest(reader: Reader) -> Manifest:
    """What a backup says of itself.

    Raises:
        BackupError: it says nothing, or it is of a newer kind.
    """
    with reader.open(MANIFEST) as file:
        try:
            known: dict[str, Any] = json.loads(file.read())
            made = Manifest(**{name: known[name] for name in Manifest.__dataclass_fields__})
        except (ValueError, KeyError, TypeError) as error:
            raise BackupError(f"{MANIFEST} cannot be read: {error!r}") from None
    if made.format != FORMAT:
        raise BackupError(
            f"the backup has the format {made.format}, this version knows {FORMAT}; "
            f"restore it with rgrid {made.version}"
        )
    return made


def kept_blobs(database: Path, *, with_content: bool = False) -> Iterator[KeptBlob]:
    """Every blob that a backup's database names."""
    # as it stands: not even the lock of a reader is written beside it
    engine = create_engine(f"sqlite:///file:{quote(str(database.resolve()))}?mode=ro&immutable=1&uri=true")
    try:
        with closing(engine.connect()) as connection:
            yield from _kept_blobs(connection, with_content=with_content)
    finally:
        engine.dispose()


@contextmanager
def database_of(reader: Reader) -> Iterator[Path]:
    """A backup's database as a file, which is not to be written."""
    path = reader.path(DATABASE)
    if path is not None:
        if not path.exists():
            raise BackupError(f"the backup has no file {DATABASE}")
        yield path
        return
    with TemporaryDirectory(prefix="rgrid-backup-") as scratch:
        extracted = Path(scratch) / DATABASE
        reader.extract(DATABASE, extracted)
        yield extracted


def check(reader: Reader, database: Path, *, is_thorough: bool) -> tuple[int, int]:
    """Make sure that every blob is there with its size, and when asked, with its bytes.

    Returns how many blobs there are, and their bytes.

    Raises:
        BackupError: one is missing, or is another one; up to ten are named.
    """
    sizes = reader.sizes()
    wrong: list[str] = []
    count = size_bytes = 0
    for blob in kept_blobs(database, with_content=is_thorough):
        count += 1
        size_bytes += blob.size_bytes
        why = _what_is_wrong(reader, sizes, blob, is_thorough=is_thorough)
        if why is not None and len(wrong) < 10:
            wrong.append(f"{blob.sha256} {why}")
    if wrong:
        raise BackupError(f"the backup is not whole: {'; '.join(wrong)}")
    return count, size_bytes


def _kept_blobs(connection: Connection, *, with_content: bool) -> Iterator[KeptBlob]:
    query = select(
        blobs.c.sha256, blobs.c.size_bytes, blobs.c.location, blobs.c.content.is_(None).label("is_file")
    )
    if with_content:
        query = query.add_columns(blobs.c.content)
    rows = connection.execution_options(yield_per=100).execute(query.order_by(blobs.c.sha256))
    for row in rows.mappings():
        name = f"{BLOBS}/{location_of(row['sha256'], row['location'])}" if row["is_file"] else None
        yield KeptBlob(row["sha256"], row["size_bytes"], name, row["content"] if with_content else None)


def _what_is_wrong(reader: Reader, sizes: dict[str, int], blob: KeptBlob, *, is_thorough: bool) -> str | None:
    if blob.name is not None and blob.name not in sizes:
        return "is missing"
    if blob.name is not None and sizes[blob.name] != blob.size_bytes:
        return f"has {sizes[blob.name]} bytes, not {blob.size_bytes}"
    if is_thorough and _hash_of(reader, blob) != blob.sha256:
        return "has other bytes"
    return None


def _hash_of(reader: Reader, blob: KeptBlob) -> str:
    digest = hashlib.sha256(blob.content or b"")
    if blob.name is not None:
        with reader.open(blob.name) as file:
            while chunk := file.read(READ_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
