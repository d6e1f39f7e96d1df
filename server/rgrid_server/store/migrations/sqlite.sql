CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE api_keys (
	key_hash VARCHAR NOT NULL,
	key_id VARCHAR NOT NULL,
	tenant_id VARCHAR NOT NULL,
	prefix VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	scopes VARCHAR NOT NULL,
	created_at_ms BIGINT NOT NULL,
	expires_at_ms BIGINT,
	revoked_at_ms BIGINT,
	PRIMARY KEY (key_hash),
	UNIQUE (key_id)
);

CREATE INDEX ix_api_keys_tenant_id ON api_keys (tenant_id);

CREATE TABLE artifacts (
	artifact_id VARCHAR NOT NULL,
	execution_id VARCHAR NOT NULL,
	tenant_id VARCHAR NOT NULL,
	artifact_type VARCHAR NOT NULL,
	filename VARCHAR NOT NULL,
	sha256 VARCHAR NOT NULL,
	size_bytes BIGINT NOT NULL,
	content_type VARCHAR NOT NULL,
	mode INTEGER NOT NULL,
	created_at_ms BIGINT NOT NULL,
	PRIMARY KEY (artifact_id),
	CONSTRAINT uq_artifacts_execution_filename UNIQUE (execution_id, artifact_type, filename)
);

CREATE TABLE attempts (
	execution_id VARCHAR NOT NULL,
	attempt INTEGER NOT NULL,
	tenant_id VARCHAR NOT NULL,
	runner_id VARCHAR NOT NULL,
	incarnation VARCHAR NOT NULL,
	claimed_at_ms BIGINT NOT NULL,
	lease_expires_at_ms BIGINT NOT NULL,
	ended_at_ms BIGINT,
	outcome VARCHAR,
	PRIMARY KEY (execution_id, attempt)
)
 WITHOUT ROWID;

CREATE INDEX ix_attempts_open ON attempts (lease_expires_at_ms) WHERE ended_at_ms IS NULL;

CREATE TABLE batches (
	sequence INTEGER NOT NULL,
	tenant_id VARCHAR NOT NULL,
	batch_id VARCHAR NOT NULL,
	parallelism INTEGER,
	run_key VARCHAR,
	fingerprint VARCHAR,
	template JSON,
	user_metadata JSON NOT NULL,
	closed BOOLEAN NOT NULL,
	created_at_ms BIGINT NOT NULL,
	completed_at_ms BIGINT,
	cancel_requested_at_ms BIGINT,
	acknowledged_at_ms BIGINT,
	queued INTEGER DEFAULT '0' NOT NULL,
	running INTEGER DEFAULT '0' NOT NULL,
	completed INTEGER DEFAULT '0' NOT NULL,
	failed INTEGER DEFAULT '0' NOT NULL,
	canceled INTEGER DEFAULT '0' NOT NULL,
	charge_nanos BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (sequence),
	CONSTRAINT uq_batches_tenant_batch UNIQUE (tenant_id, batch_id)
);

CREATE UNIQUE INDEX uq_batches_run_key ON batches (tenant_id, run_key) WHERE run_key IS NOT NULL AND acknowledged_at_ms IS NULL;

CREATE TABLE blobs (
	sha256 VARCHAR NOT NULL,
	size_bytes BIGINT NOT NULL,
	content BLOB,
	created_at_ms BIGINT NOT NULL, location VARCHAR, condemned_at_ms BIGINT,
	PRIMARY KEY (sha256)
);

CREATE TABLE charges (
	execution_id VARCHAR NOT NULL,
	attempt INTEGER NOT NULL,
	tenant_id VARCHAR NOT NULL,
	price_id VARCHAR NOT NULL,
	nanos BIGINT NOT NULL,
	charged_at_ms BIGINT NOT NULL,
	PRIMARY KEY (execution_id, attempt)
);

CREATE TABLE events (
	sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	tenant_id VARCHAR NOT NULL,
	execution_id VARCHAR NOT NULL,
	batch_id VARCHAR,
	status VARCHAR NOT NULL,
	attempt INTEGER NOT NULL,
	at_ms BIGINT NOT NULL
);

CREATE INDEX ix_events_tenant ON events (tenant_id, sequence);

CREATE TABLE executions (
	sequence INTEGER NOT NULL,
	execution_id VARCHAR NOT NULL,
	tenant_id VARCHAR NOT NULL,
	specification_id VARCHAR NOT NULL,
	runtime VARCHAR NOT NULL,
	batch_id VARCHAR,
	batch_index INTEGER,
	batch_input VARCHAR,
	status VARCHAR NOT NULL,
	created_at_ms BIGINT NOT NULL,
	ready_at_ms BIGINT,
	attempt INTEGER NOT NULL,
	retry_count INTEGER NOT NULL,
	max_retries INTEGER NOT NULL,
	started_at_ms BIGINT,
	completed_at_ms BIGINT,
	duration_ms BIGINT,
	cancel_requested_at_ms BIGINT,
	acknowledged_at_ms BIGINT,
	exit_code INTEGER,
	error_code VARCHAR,
	error_message TEXT,
	args JSON NOT NULL,
	env_vars JSON NOT NULL,
	inputs JSON NOT NULL,
	outputs JSON,
	user_metadata JSON NOT NULL,
	timeout_seconds INTEGER NOT NULL,
	cpus_milli INTEGER NOT NULL,
	memory_mib INTEGER NOT NULL,
	priority INTEGER NOT NULL,
	queue_rank INTEGER NOT NULL,
	run_key VARCHAR,
	fingerprint VARCHAR,
	inputs_due_at_ms BIGINT,
	stdout BLOB,
	stderr BLOB,
	output_truncated BOOLEAN DEFAULT 0 NOT NULL,
	last_sequence BIGINT DEFAULT '0' NOT NULL,
	worker_hostname VARCHAR,
	execution_metadata JSON,
	charge_nanos BIGINT DEFAULT '0' NOT NULL, flow VARCHAR DEFAULT '' NOT NULL, backoff_until_ms BIGINT, retry_policy JSON, script_retry_count INTEGER DEFAULT '0' NOT NULL, trace_parent VARCHAR, secrets JSON, cache VARCHAR,
	PRIMARY KEY (sequence),
	UNIQUE (execution_id)
);

CREATE INDEX ix_executions_history ON executions (tenant_id, runtime, completed_at_ms) WHERE status = 'completed';

CREATE INDEX ix_executions_inputs_due ON executions (inputs_due_at_ms) WHERE status = 'queued' AND ready_at_ms IS NULL;

CREATE INDEX ix_executions_tenant ON executions (tenant_id, sequence);

CREATE INDEX ix_executions_tenant_status ON executions (tenant_id, status, sequence);

CREATE UNIQUE INDEX uq_executions_run_key ON executions (tenant_id, run_key) WHERE run_key IS NOT NULL AND acknowledged_at_ms IS NULL;

CREATE TABLE input_cache (
	tenant_id VARCHAR NOT NULL,
	input_hash VARCHAR NOT NULL,
	file_references JSON NOT NULL,
	created_at_ms BIGINT NOT NULL,
	PRIMARY KEY (tenant_id, input_hash)
);

CREATE TABLE log_chunks (
	execution_id VARCHAR NOT NULL,
	first_sequence BIGINT NOT NULL,
	last_sequence BIGINT NOT NULL,
	attempt INTEGER NOT NULL,
	entries BLOB NOT NULL,
	PRIMARY KEY (execution_id, first_sequence)
);

CREATE TABLE metadata_index (
	tenant_id VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	value VARCHAR NOT NULL,
	sequence BIGINT NOT NULL,
	PRIMARY KEY (tenant_id, name, value, sequence)
)
 WITHOUT ROWID;

CREATE TABLE prices (
	price_id VARCHAR NOT NULL,
	engine VARCHAR NOT NULL,
	effective_from_ms BIGINT NOT NULL,
	nanos_per_vcpu_hour BIGINT NOT NULL,
	nanos_per_gib_hour BIGINT NOT NULL,
	PRIMARY KEY (price_id),
	CONSTRAINT uq_prices_engine_from UNIQUE (engine, effective_from_ms)
);

CREATE TABLE runners (
	runner_id VARCHAR NOT NULL,
	incarnation VARCHAR NOT NULL,
	hostname VARCHAR NOT NULL,
	slots INTEGER NOT NULL,
	runtimes JSON NOT NULL,
	sandbox VARCHAR NOT NULL,
	version VARCHAR NOT NULL,
	registered_at_ms BIGINT NOT NULL,
	seen_at_ms BIGINT NOT NULL, memory_mib INTEGER, drained_at_ms BIGINT, sandbox_reason VARCHAR,
	PRIMARY KEY (runner_id)
);

CREATE TABLE settings (
	name VARCHAR NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (name)
);

CREATE TABLE specifications (
	specification_id VARCHAR NOT NULL,
	tenant_id VARCHAR NOT NULL,
	script_content TEXT NOT NULL,
	script_name VARCHAR NOT NULL,
	runtime VARCHAR NOT NULL,
	requirements_content TEXT,
	created_at_ms BIGINT NOT NULL,
	PRIMARY KEY (specification_id)
);

CREATE TABLE spend_daily (
	tenant_id VARCHAR NOT NULL,
	day VARCHAR NOT NULL,
	dag_id VARCHAR NOT NULL,
	task_id VARCHAR NOT NULL,
	owner VARCHAR NOT NULL,
	runtime VARCHAR NOT NULL,
	executions BIGINT NOT NULL,
	failed BIGINT NOT NULL,
	compute_ms BIGINT NOT NULL,
	nanos BIGINT NOT NULL,
	PRIMARY KEY (tenant_id, day, dag_id, task_id, owner, runtime)
)
 WITHOUT ROWID;

CREATE TABLE spend_monthly (
	tenant_id VARCHAR NOT NULL,
	month VARCHAR NOT NULL,
	nanos BIGINT NOT NULL,
	PRIMARY KEY (tenant_id, month)
)
 WITHOUT ROWID;

CREATE TABLE tenant_blobs (
	tenant_id VARCHAR NOT NULL,
	sha256 VARCHAR NOT NULL, keep_until_ms BIGINT,
	PRIMARY KEY (tenant_id, sha256)
)
 WITHOUT ROWID;

CREATE TABLE tenants (
	tenant_id VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	monthly_limit_micros BIGINT,
	created_at_ms BIGINT NOT NULL, max_running INTEGER,
	PRIMARY KEY (tenant_id),
	UNIQUE (name)
);

CREATE TABLE usages (
	execution_id VARCHAR NOT NULL,
	attempt INTEGER NOT NULL,
	tenant_id VARCHAR NOT NULL,
	day VARCHAR NOT NULL,
	engine VARCHAR NOT NULL,
	runner_id VARCHAR NOT NULL,
	environment VARCHAR,
	runtime VARCHAR NOT NULL,
	outcome VARCHAR NOT NULL,
	is_final BOOLEAN NOT NULL,
	is_failed BOOLEAN NOT NULL,
	ended_at_ms BIGINT NOT NULL,
	duration_ms BIGINT NOT NULL,
	reserved_vcpu_ms BIGINT NOT NULL,
	reserved_mib_ms BIGINT NOT NULL,
	cpu_ms BIGINT NOT NULL,
	peak_memory_mib BIGINT NOT NULL,
	bytes_in BIGINT NOT NULL,
	bytes_out BIGINT NOT NULL,
	bytes_stored BIGINT NOT NULL,
	batch_id VARCHAR,
	dag_id VARCHAR,
	run_id VARCHAR,
	task_id VARCHAR,
	map_index VARCHAR,
	owner VARCHAR,
	user_metadata JSON NOT NULL,
	PRIMARY KEY (execution_id, attempt)
);

CREATE INDEX ix_executions_ready ON executions (queue_rank, tenant_id, flow, sequence) WHERE status = 'queued' AND ready_at_ms IS NOT NULL AND backoff_until_ms IS NULL;

CREATE INDEX ix_executions_backoff ON executions (backoff_until_ms) WHERE status = 'queued' AND backoff_until_ms IS NOT NULL;

CREATE INDEX ix_attempts_open_runner ON attempts (runner_id) WHERE ended_at_ms IS NULL;

CREATE INDEX ix_attempts_open_tenant ON attempts (tenant_id) WHERE ended_at_ms IS NULL;

CREATE INDEX ix_executions_tenant_batch ON executions (tenant_id, batch_id, batch_index) WHERE batch_id IS NOT NULL;

CREATE INDEX ix_blobs_condemned ON blobs (condemned_at_ms) WHERE condemned_at_ms IS NOT NULL;

CREATE INDEX ix_artifacts_blob ON artifacts (sha256, tenant_id);

CREATE INDEX ix_tenant_blobs_blob ON tenant_blobs (sha256);

CREATE INDEX ix_tenant_blobs_keep_until ON tenant_blobs (keep_until_ms) WHERE keep_until_ms IS NOT NULL;

CREATE INDEX ix_input_cache_created ON input_cache (created_at_ms);

CREATE INDEX ix_batches_open ON batches (tenant_id) WHERE NOT closed;

CREATE INDEX ix_events_batch_ended ON events (tenant_id, batch_id, sequence) WHERE batch_id IS NOT NULL AND status IN ('completed', 'failed', 'canceled');

CREATE INDEX ix_batches_canceling ON batches (cancel_requested_at_ms) WHERE cancel_requested_at_ms IS NOT NULL AND completed_at_ms IS NULL;

CREATE INDEX ix_usages_bill ON usages (tenant_id, day, execution_id, attempt);

CREATE TABLE secrets (
	tenant_id VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	sealed TEXT NOT NULL,
	updated_at_ms BIGINT NOT NULL,
	PRIMARY KEY (tenant_id, name)
);

CREATE TABLE result_cache (
	tenant_id VARCHAR NOT NULL,
	cache_key VARCHAR NOT NULL,
	execution_id VARCHAR NOT NULL,
	script_name VARCHAR NOT NULL,
	parts JSON NOT NULL,
	output_count INTEGER NOT NULL,
	created_at_ms BIGINT NOT NULL,
	expires_at_ms BIGINT NOT NULL,
	PRIMARY KEY (tenant_id, cache_key)
);

CREATE INDEX ix_result_cache_script ON result_cache (tenant_id, script_name, created_at_ms);

CREATE INDEX ix_result_cache_expiry ON result_cache (expires_at_ms);

INSERT INTO alembic_version VALUES ('0004')
