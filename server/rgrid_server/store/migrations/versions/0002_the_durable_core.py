"""Flows of the queue, retry policies, blobs that can be let go, results in order of their end, traces."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

A_DAY_MS = 86_400_000


def upgrade() -> None:
    _queue()
    _retries_and_limits()
    _blobs()
    _results()
    op.add_column("executions", sa.Column("trace_parent", sa.String(), nullable=True))
    if op.get_context().dialect.name == "postgresql":
        _positions()


def _queue() -> None:
    op.add_column("executions", sa.Column("flow", sa.String(), nullable=False, server_default=""))
    op.execute("UPDATE executions SET flow = batch_id WHERE batch_id IS NOT NULL")
    op.add_column("executions", sa.Column("backoff_until_ms", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE executions SET backoff_until_ms = ready_at_ms"
        " WHERE status = 'queued' AND ready_at_ms IS NOT NULL AND retry_count > 0"
    )
    op.drop_index("ix_executions_ready", table_name="executions")
    _partial_index(
        "ix_executions_ready",
        "executions",
        ["queue_rank", "tenant_id", "flow", "sequence"],
        "status = 'queued' AND ready_at_ms IS NOT NULL AND backoff_until_ms IS NULL",
    )
    _partial_index(
        "ix_executions_backoff",
        "executions",
        ["backoff_until_ms"],
        "status = 'queued' AND backoff_until_ms IS NOT NULL",
    )
    _partial_index("ix_attempts_open_runner", "attempts", ["runner_id"], "ended_at_ms IS NULL")
    _partial_index("ix_attempts_open_tenant", "attempts", ["tenant_id"], "ended_at_ms IS NULL")
    op.drop_index("ix_executions_tenant_batch", table_name="executions")
    _partial_index(
        "ix_executions_tenant_batch",
        "executions",
        ["tenant_id", "batch_id", "batch_index"],
        "batch_id IS NOT NULL",
    )


def _retries_and_limits() -> None:
    op.add_column("executions", sa.Column("retry_policy", sa.JSON(), nullable=True))
    op.add_column(
        "executions", sa.Column("script_retry_count", sa.Integer(), nullable=False, server_default="0")
    )
    op.add_column("tenants", sa.Column("max_running", sa.Integer(), nullable=True))
    op.add_column("runners", sa.Column("memory_mib", sa.Integer(), nullable=True))
    op.add_column("runners", sa.Column("drained_at_ms", sa.BigInteger(), nullable=True))


def _blobs() -> None:
    op.add_column("blobs", sa.Column("location", sa.String(), nullable=True))
    op.add_column("blobs", sa.Column("condemned_at_ms", sa.BigInteger(), nullable=True))
    _partial_index("ix_blobs_condemned", "blobs", ["condemned_at_ms"], "condemned_at_ms IS NOT NULL")
    op.create_index("ix_artifacts_blob", "artifacts", ["sha256", "tenant_id"])
    op.add_column("tenant_blobs", sa.Column("keep_until_ms", sa.BigInteger(), nullable=True))
    # those that nothing has used yet may still be used; a day is what a new upload is given
    kept = sa.table("tenant_blobs", sa.column("keep_until_ms", sa.BigInteger()))
    op.execute(kept.update().values(keep_until_ms=time.time_ns() // 1_000_000 + A_DAY_MS))
    op.create_index("ix_tenant_blobs_blob", "tenant_blobs", ["sha256"])
    _partial_index(
        "ix_tenant_blobs_keep_until", "tenant_blobs", ["keep_until_ms"], "keep_until_ms IS NOT NULL"
    )
    op.create_index("ix_input_cache_created", "input_cache", ["created_at_ms"])
    _partial_index("ix_batches_open", "batches", ["tenant_id"], "NOT closed")


def _results() -> None:
    _partial_index(
        "ix_events_batch_ended",
        "events",
        ["tenant_id", "batch_id", "sequence"],
        "batch_id IS NOT NULL AND status IN ('completed', 'failed', 'canceled')",
    )
    _partial_index(
        "ix_batches_canceling",
        "batches",
        ["cancel_requested_at_ms"],
        "cancel_requested_at_ms IS NOT NULL AND completed_at_ms IS NULL",
    )


def _positions() -> None:
    """Positions in the feed that never appear behind a reader: see docs/explanation/event-feed.md."""
    op.execute("CREATE SEQUENCE rgrid_event_number AS bigint MINVALUE 0 MAXVALUE 1048575 CACHE 1 CYCLE")
    # read at each event, so that it counts at once for every process
    op.execute(
        """
        CREATE FUNCTION rgrid_event_base() RETURNS bigint LANGUAGE sql STABLE AS $$
            SELECT coalesce((SELECT value::bigint FROM settings WHERE name = 'event_base'), 0)
        $$
        """
    )
    # not only this transaction's own number: what it has waited for may bear a higher one, and came before
    op.execute(
        """
        CREATE FUNCTION rgrid_next_position() RETURNS bigint LANGUAGE sql VOLATILE AS $$
            SELECT (
                (
                    greatest(
                        pg_current_xact_id()::text::bigint,
                        pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1
                    ) + rgrid_event_base()
                ) << 20
            ) | nextval('rgrid_event_number')
        $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION rgrid_visible_before() RETURNS bigint LANGUAGE sql STABLE AS $$
            SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + rgrid_event_base()) << 20
        $$
        """
    )
    op.execute("ALTER TABLE events ALTER COLUMN sequence SET DEFAULT rgrid_next_position()")
    op.execute("DROP SEQUENCE events_sequence_seq")


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
