"""Every table, in SQLAlchemy Core. Times are milliseconds since the epoch, money is nano-euro."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData()

Sequence = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the primary key is INTEGER to the letter."""

settings = Table(
    "settings",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)

tenants = Table(
    "tenants",
    metadata,
    Column("tenant_id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("monthly_limit_micros", BigInteger),
    Column("max_running", Integer),
    Column("created_at_ms", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_hash", String, primary_key=True),
    Column("key_id", String, nullable=False, unique=True),
    Column("tenant_id", String, nullable=False, index=True),
    Column("prefix", String, nullable=False),
    Column("name", String, nullable=False),
    Column("scopes", String, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
)

specifications = Table(
    "specifications",
    metadata,
    Column("specification_id", String, primary_key=True),
    Column("tenant_id", String, nullable=False),
    Column("script_content", Text, nullable=False),
    Column("script_name", String, nullable=False),
    Column("runtime", String, nullable=False),
    Column("requirements_content", Text),
    Column("created_at_ms", BigInteger, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("sequence", Sequence, primary_key=True, autoincrement=True),
    Column("tenant_id", String, nullable=False),
    Column("batch_id", String, nullable=False),
    Column("parallelism", Integer),
    Column("run_key", String),
    Column("fingerprint", String),
    Column("template", JSON),
    Column("user_metadata", JSON, nullable=False),
    Column("closed", Boolean, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("completed_at_ms", BigInteger),
    Column("cancel_requested_at_ms", BigInteger),
    Column("acknowledged_at_ms", BigInteger),
    Column("queued", Integer, nullable=False, server_default="0"),
    Column("running", Integer, nullable=False, server_default="0"),
    Column("completed", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("canceled", Integer, nullable=False, server_default="0"),
    Column("charge_nanos", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("tenant_id", "batch_id", name="uq_batches_tenant_batch"),
    Index(
        "uq_batches_run_key",
        "tenant_id",
        "run_key",
        unique=True,
        sqlite_where=text("run_key IS NOT NULL AND acknowledged_at_ms IS NULL"),
        postgresql_where=text("run_key IS NOT NULL AND acknowledged_at_ms IS NULL"),
    ),
    Index(
        "ix_batches_canceling",
        "cancel_requested_at_ms",
        sqlite_where=text("cancel_requested_at_ms IS NOT NULL AND completed_at_ms IS NULL"),
        postgresql_where=text("cancel_requested_at_ms IS NOT NULL AND completed_at_ms IS NULL"),
    ),
    # those whose template new items may still take inputs from
    Index(
        "ix_batches_open",
        "tenant_id",
        sqlite_where=text("NOT closed"),
        postgresql_where=text("NOT closed"),
    ),
)

executions = Table(
    "executions",
    metadata,
    Column("sequence", Sequence, primary_key=True, autoincrement=True),
    Column("execution_id", String, nullable=False, unique=True),
    Column("tenant_id", String, nullable=False),
    Column("specification_id", String, nullable=False),
    Column("runtime", String, nullable=False),
    Column("batch_id", String),
    Column("batch_index", Integer),
    Column("batch_input", String),
    # the batch, or nothing: what shares a place in the queue
    Column("flow", String, nullable=False, server_default=""),
    # the state, as domain.execution.State has it
    Column("status", String, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("ready_at_ms", BigInteger),
    # set while it waits out a backoff, and taken away when that is over: what is ready has none
    Column("backoff_until_ms", BigInteger),
    Column("attempt", Integer, nullable=False),
    Column("retry_count", Integer, nullable=False),
    Column("max_retries", Integer, nullable=False),
    Column("script_retry_count", Integer, nullable=False, server_default="0"),
    Column("started_at_ms", BigInteger),
    Column("completed_at_ms", BigInteger),
    Column("duration_ms", BigInteger),
    Column("cancel_requested_at_ms", BigInteger),
    Column("acknowledged_at_ms", BigInteger),
    Column("exit_code", Integer),
    Column("error_code", String),
    Column("error_message", Text),
    # what was asked for
    Column("args", JSON, nullable=False),
    Column("env_vars", JSON, nullable=False),
    Column("inputs", JSON, nullable=False),
    Column("outputs", JSON),
    Column("user_metadata", JSON, nullable=False),
    Column("timeout_seconds", Integer, nullable=False),
    Column("cpus_milli", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("queue_rank", Integer, nullable=False),
    Column("retry_policy", JSON),
    # names to what domain.sealing makes of their values
    Column("secrets", JSON),
    # what domain.caching.Caching says; nothing for off
    Column("cache", String),
    Column("run_key", String),
    Column("fingerprint", String),
    Column("inputs_due_at_ms", BigInteger),
    # what came of it
    # UTF-8; a text column would not take NUL characters on every database
    Column("stdout", LargeBinary),
    Column("stderr", LargeBinary),
    Column("output_truncated", Boolean, nullable=False, server_default=false()),
    Column("last_sequence", BigInteger, nullable=False, server_default="0"),
    Column("worker_hostname", String),
    Column("execution_metadata", JSON),
    # the traceparent of the request that submitted it
    Column("trace_parent", String),
    Column("charge_nanos", BigInteger, nullable=False, server_default="0"),
    Index("ix_executions_tenant", "tenant_id", "sequence"),
    Index("ix_executions_tenant_status", "tenant_id", "status", "sequence"),
    Index(
        "ix_executions_tenant_batch",
        "tenant_id",
        "batch_id",
        "batch_index",
        sqlite_where=text("batch_id IS NOT NULL"),
        postgresql_where=text("batch_id IS NOT NULL"),
    ),
    Index(
        "ix_executions_history",
        "tenant_id",
        "runtime",
        "completed_at_ms",
        sqlite_where=text("status = 'completed'"),
        postgresql_where=text("status = 'completed'"),
    ),
    Index(
        "ix_executions_ready",
        "queue_rank",
        "tenant_id",
        "flow",
        "sequence",
        sqlite_where=text("status = 'queued' AND ready_at_ms IS NOT NULL AND backoff_until_ms IS NULL"),
        postgresql_where=text("status = 'queued' AND ready_at_ms IS NOT NULL AND backoff_until_ms IS NULL"),
    ),
    Index(
        "ix_executions_backoff",
        "backoff_until_ms",
        sqlite_where=text("status = 'queued' AND backoff_until_ms IS NOT NULL"),
        postgresql_where=text("status = 'queued' AND backoff_until_ms IS NOT NULL"),
    ),
    Index(
        "ix_executions_inputs_due",
        "inputs_due_at_ms",
        sqlite_where=text("status = 'queued' AND ready_at_ms IS NULL"),
        postgresql_where=text("status = 'queued' AND ready_at_ms IS NULL"),
    ),
    Index(
        "uq_executions_run_key",
        "tenant_id",
        "run_key",
        unique=True,
        sqlite_where=text("run_key IS NOT NULL AND acknowledged_at_ms IS NULL"),
        postgresql_where=text("run_key IS NOT NULL AND acknowledged_at_ms IS NULL"),
    ),
)

metadata_index = Table(
    "metadata_index",
    metadata,
    Column("tenant_id", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("value", String, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    Column("execution_id", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("tenant_id", String, nullable=False),
    Column("runner_id", String, nullable=False),
    Column("incarnation", String, nullable=False),
    Column("claimed_at_ms", BigInteger, nullable=False),
    Column("lease_expires_at_ms", BigInteger, nullable=False),
    Column("ended_at_ms", BigInteger),
    Column("outcome", String),
    Index(
        "ix_attempts_open",
        "lease_expires_at_ms",
        sqlite_where=text("ended_at_ms IS NULL"),
        postgresql_where=text("ended_at_ms IS NULL"),
    ),
    Index(
        "ix_attempts_open_runner",
        "runner_id",
        sqlite_where=text("ended_at_ms IS NULL"),
        postgresql_where=text("ended_at_ms IS NULL"),
    ),
    Index(
        "ix_attempts_open_tenant",
        "tenant_id",
        sqlite_where=text("ended_at_ms IS NULL"),
        postgresql_where=text("ended_at_ms IS NULL"),
    ),
    sqlite_with_rowid=False,
)

runners = Table(
    "runners",
    metadata,
    Column("runner_id", String, primary_key=True),
    Column("incarnation", String, nullable=False),
    Column("hostname", String, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("memory_mib", Integer),
    Column("runtimes", JSON, nullable=False),
    Column("sandbox", String, nullable=False),
    Column("sandbox_reason", String, nullable=True),
    Column("version", String, nullable=False),
    Column("registered_at_ms", BigInteger, nullable=False),
    Column("seen_at_ms", BigInteger, nullable=False),
    # since when an administrator wants it to be given no more work
    Column("drained_at_ms", BigInteger),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("content", LargeBinary),
    Column("created_at_ms", BigInteger, nullable=False),
    # under which name its bytes are kept where they are not in ``content``; None for the hash itself
    Column("location", String),
    # since when nothing points to it: as if it were not here, until it is given again or swept away
    Column("condemned_at_ms", BigInteger),
    Index(
        "ix_blobs_condemned",
        "condemned_at_ms",
        sqlite_where=text("condemned_at_ms IS NOT NULL"),
        postgresql_where=text("condemned_at_ms IS NOT NULL"),
    ),
)

tenant_blobs = Table(
    "tenant_blobs",
    metadata,
    Column("tenant_id", String, primary_key=True),
    Column("sha256", String, primary_key=True),
    # so long it is kept though nothing uses it; None while it is left to the artifacts that point to it
    Column("keep_until_ms", BigInteger),
    Index("ix_tenant_blobs_blob", "sha256"),
    Index(
        "ix_tenant_blobs_keep_until",
        "keep_until_ms",
        sqlite_where=text("keep_until_ms IS NOT NULL"),
        postgresql_where=text("keep_until_ms IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("artifact_id", String, primary_key=True),
    Column("execution_id", String, nullable=False),
    Column("tenant_id", String, nullable=False),
    Column("artifact_type", String, nullable=False),
    Column("filename", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("content_type", String, nullable=False),
    Column("mode", Integer, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    UniqueConstraint("execution_id", "artifact_type", "filename", name="uq_artifacts_execution_filename"),
    Index("ix_artifacts_blob", "sha256", "tenant_id"),
)

log_chunks = Table(
    "log_chunks",
    metadata,
    Column("execution_id", String, primary_key=True),
    Column("first_sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("entries", LargeBinary, nullable=False),
)

input_cache = Table(
    "input_cache",
    metadata,
    Column("tenant_id", String, primary_key=True),
    Column("input_hash", String, primary_key=True),
    Column("file_references", JSON, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("ix_input_cache_created", "created_at_ms"),
)

result_cache = Table(
    "result_cache",
    metadata,
    Column("tenant_id", String, primary_key=True),
    Column("cache_key", String, primary_key=True),
    Column("execution_id", String, nullable=False),
    Column("script_name", String, nullable=False),
    Column("parts", JSON, nullable=False),
    Column("output_count", Integer, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Index("ix_result_cache_script", "tenant_id", "script_name", "created_at_ms"),
    Index("ix_result_cache_expiry", "expires_at_ms"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("tenant_id", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("sealed", Text, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
)

prices = Table(
    "prices",
    metadata,
    Column("price_id", String, primary_key=True),
    Column("engine", String, nullable=False),
    Column("effective_from_ms", BigInteger, nullable=False),
    Column("nanos_per_vcpu_hour", BigInteger, nullable=False),
    Column("nanos_per_gib_hour", BigInteger, nullable=False),
    UniqueConstraint("engine", "effective_from_ms", name="uq_prices_engine_from"),
)

usages = Table(
    "usages",
    metadata,
    Column("execution_id", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("tenant_id", String, nullable=False),
    Column("day", String, nullable=False),
    Column("engine", String, nullable=False),
    Column("runner_id", String, nullable=False),
    Column("environment", String),
    Column("runtime", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("is_final", Boolean, nullable=False),
    Column("is_failed", Boolean, nullable=False),
    Column("ended_at_ms", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("reserved_vcpu_ms", BigInteger, nullable=False),
    Column("reserved_mib_ms", BigInteger, nullable=False),
    Column("cpu_ms", BigInteger, nullable=False),
    Column("peak_memory_mib", BigInteger, nullable=False),
    Column("bytes_in", BigInteger, nullable=False),
    Column("bytes_out", BigInteger, nullable=False),
    Column("bytes_stored", BigInteger, nullable=False),
    Column("batch_id", String),
    Column("dag_id", String),
    Column("run_id", String),
    Column("task_id", String),
    Column("map_index", String),
    Column("owner", String),
    Column("user_metadata", JSON, nullable=False),
    # the bill is read in this order, a page at a time
    Index("ix_usages_bill", "tenant_id", "day", "execution_id", "attempt"),
)

charges = Table(
    "charges",
    metadata,
    Column("execution_id", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("tenant_id", String, nullable=False),
    Column("price_id", String, nullable=False),
    Column("nanos", BigInteger, nullable=False),
    Column("charged_at_ms", BigInteger, nullable=False),
)

spend_daily = Table(
    "spend_daily",
    metadata,
    Column("tenant_id", String, primary_key=True),
    Column("day", String, primary_key=True),
    Column("dag_id", String, primary_key=True),
    Column("task_id", String, primary_key=True),
    Column("owner", String, primary_key=True),
    Column("runtime", String, primary_key=True),
    Column("executions", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("compute_ms", BigInteger, nullable=False),
    Column("nanos", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

spend_monthly = Table(
    "spend_monthly",
    metadata,
    Column("tenant_id", String, primary_key=True),
    Column("month", String, primary_key=True),
    Column("nanos", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("sequence", Sequence, primary_key=True, autoincrement=True),
    Column("tenant_id", String, nullable=False),
    Column("execution_id", String, nullable=False),
    Column("batch_id", String),
    Column("status", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Index("ix_events_tenant", "tenant_id", "sequence"),
    Index(
        "ix_events_batch_ended",
        "tenant_id",
        "batch_id",
        "sequence",
        sqlite_where=text("batch_id IS NOT NULL AND status IN ('completed', 'failed', 'canceled')"),
        postgresql_where=text("batch_id IS NOT NULL AND status IN ('completed', 'failed', 'canceled')"),
    ),
    sqlite_autoincrement=True,
)
