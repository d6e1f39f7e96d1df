"""Logs as chunks of consecutive entries."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from sqlalchemy import Integer, bindparam, func, insert, literal, select
from sqlalchemy.engine import Connection

from rgrid_server.domain.attempts import LogChunk, LogEntry
from rgrid_server.store.prepared import Prepared
from rgrid_server.store.tables import executions, log_chunks

CHUNKS_A_PAGE = 64
PAGE_BYTES = 256 * 1024
"""A page ends with the chunk that makes it so large; one chunk may be larger."""

_LAST = Prepared(
    select(func.max(log_chunks.c.last_sequence)).where(log_chunks.c.execution_id == bindparam("execution_id"))
)
_INSERT = Prepared(insert(log_chunks), [column.name for column in log_chunks.c])
_BEHIND = (
    log_chunks.c.execution_id == bindparam("execution_id"),
    log_chunks.c.last_sequence > bindparam("after"),
)
_SIZES = Prepared(
    select(func.length(log_chunks.c.entries).label("size_bytes"))
    .where(*_BEHIND)
    .order_by(log_chunks.c.first_sequence)
    .limit(CHUNKS_A_PAGE)
)
_PAGE = Prepared(
    select(log_chunks.c.first_sequence, log_chunks.c.entries)
    .where(*_BEHIND)
    .order_by(log_chunks.c.first_sequence)
    .limit(bindparam("max_rows", type_=Integer))
)


def append_chunk(connection: Connection, execution_id: str, attempt: int, chunk: LogChunk) -> bool:
    """Keep a chunk; returns False, and changes nothing, when its beginning is stored already."""
    last = _LAST.scalar(connection, execution_id=execution_id)
    if last is not None and chunk.first_sequence <= last:
        return False
    _INSERT.run(
        connection,
        execution_id=execution_id,
        first_sequence=chunk.first_sequence,
        last_sequence=chunk.first_sequence + len(chunk.entries) - 1,
        attempt=attempt,
        entries=orjson.dumps([tuple(entry) for entry in chunk.entries]),
    )
    return True


def copy_log(connection: Connection, source_id: str, execution_id: str, attempt: int) -> bool:
    """Give an execution without a log another's; returns False, and changes nothing, if that is not whole."""
    whole = executions.c.last_sequence
    expected = connection.execute(select(whole).where(executions.c.execution_id == source_id)).scalar() or 0
    if (_LAST.scalar(connection, execution_id=source_id) or 0) < expected:
        return False
    if _LAST.scalar(connection, execution_id=execution_id) is not None:
        # lines of an attempt that was lost
        return False
    chunk = log_chunks.c
    connection.execute(
        insert(log_chunks).from_select(
            [column.name for column in chunk],
            select(
                literal(execution_id),
                chunk.first_sequence,
                chunk.last_sequence,
                literal(attempt),
                chunk.entries,
            ).where(chunk.execution_id == source_id),
        )
    )
    return True


def read_log(
    connection: Connection, execution_id: str, after: int, max_entries: int
) -> list[tuple[int, LogEntry]]:
    """Entries behind a sequence number with their numbers, as far as one page of chunks goes."""
    count = size_bytes = 0
    for size in _SIZES.all(connection, execution_id=execution_id, after=after):
        count += 1
        size_bytes += size["size_bytes"]
        if size_bytes >= PAGE_BYTES:
            break
    if not count:
        return []
    rows = _PAGE.all(connection, execution_id=execution_id, after=after, max_rows=count)
    found: list[tuple[int, LogEntry]] = []
    for row in rows:
        found.extend(
            (sequence, LogEntry(*entry))
            for sequence, entry in enumerate(orjson.loads(row["entries"]), row["first_sequence"])
            if sequence > after
        )
        if len(found) >= max_entries:
            return found[:max_entries]
    return found


def has_log(connection: Connection, execution_id: str) -> bool:
    """Whether anything of a log is kept."""
    return _LAST.scalar(connection, execution_id=execution_id) is not None


def last_sequence(connection: Connection, execution_ids: Sequence[str]) -> dict[str, int]:
    """The number of each execution's newest entry; those without a log are missing."""
    rows = connection.execute(
        select(log_chunks.c.execution_id, func.max(log_chunks.c.last_sequence))
        .where(log_chunks.c.execution_id.in_(execution_ids))
        .group_by(log_chunks.c.execution_id)
    ).all()
    return {execution_id: int(last) for execution_id, last in rows}
