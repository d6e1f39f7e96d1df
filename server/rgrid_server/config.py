"""Every option of the server: its name, its environment variable (RGRID_…) and its default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from rgrid_server.domain.retention import DAY_MS, RetentionTimes
from rgrid_server.domain.submission import Limits
from rgrid_server.scheduler.claims import AttemptLimits


class Settings(BaseSettings):
    """Read from arguments, then from the environment."""

    model_config = SettingsConfigDict(env_prefix="RGRID_", env_ignore_empty=True, extra="ignore")

    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(
        8000, ge=0, le=65535, description="the port; 0 takes a free one, written to `DIR/address`"
    )
    data_dir: Path = Field(Path("rgrid-data"), description="where database, blobs and runners' files stand")
    database_url: SecretStr | None = Field(
        None, description="a PostgreSQL database, in place of SQLite in the data directory"
    )
    database_connections: int = Field(
        24, ge=3, description="to PostgreSQL at once, beside two for notifications"
    )
    blob_url: str | None = Field(
        None,
        description="file:///DIRECTORY for blobs that servers share which have data directories of their own",
    )
    engine: Literal["local", "ray"] = Field("local", description="on which machines attempts are carried")
    slots: int | None = Field(
        None, ge=0, description="executions at once; by default one a CPU, 0 for no runner"
    )
    allow_process_sandbox: bool = Field(
        False, description="let runners serve several tenants with a sandbox that does not keep them apart"
    )
    network: Literal["host", "none"] = Field(
        "host", description="what scripts may reach: the machine's network, or none but a loopback"
    )
    presets_file: Path | None = Field(
        None, description="a TOML file of presets: names that stand for a runtime with requirements"
    )
    environments_dir: Path | None = Field(
        None,
        description="where the runner keeps environments, by default in the data directory; "
        "runners of one host and user may share it",
    )
    max_environments_bytes: int = Field(
        20 * 1024**3,
        ge=0,
        description="when environments take more, those are removed that were not used for longest",
    )
    secret_keys: SecretStr | None = Field(
        None,
        description="keys that seal secrets, the newest first, with commas between; "
        "by default the file secret.keys in the data directory; servers of one database share them",
    )
    sandbox: Literal["auto", "process", "bubblewrap", "docker"] = Field(
        "auto", description="what confines a script"
    )
    bootstrap_api_key: SecretStr | None = Field(None, description="the admin key that the first start makes")
    public_url: str | None = Field(
        None, description="how clients reach this server, for the URLs that it hands out"
    )
    cors_origins: list[str] = Field(
        default_factory=list, description="origins whose pages may call the API, as a JSON list"
    )
    max_timeout_seconds: int = Field(3600, ge=1, description="the longest timeout that may be asked for")
    max_blob_bytes: int = Field(16 * 1024**3, ge=1, description="the largest file that is taken")
    max_unfinished_bytes: int = Field(
        64 * 1024**3, ge=1, description="what a tenant may have of large files that have come in part only"
    )
    upload_retention_days: float = Field(
        1, gt=0, description="so long what has come of a large file is kept while nothing more comes"
    )
    log_retention_days: float = Field(7, gt=0, description="so long after its end an execution's log is kept")
    output_retention_days: float = Field(
        30, gt=0, description="so long after its end an execution's inputs, outputs and events are kept"
    )
    idle_exit_seconds: float | None = Field(
        None, gt=0, description="stop when nothing was asked or run for so long"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least that is logged"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="log lines to read, or one JSON document each"
    )
    access_log: bool = Field(False, description="a log line for every request")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="answer /metrics there without a key; 0 takes a free port"
    )
    metrics_host: str = Field("127.0.0.1", description="the address of that port")
    tracing: bool | None = Field(
        None, description="send traces; by default when OTEL_EXPORTER_OTLP_ENDPOINT is set"
    )
    tracing_ratio: float = Field(
        1.0, ge=0, le=1, description="which part of the traces that begin here is recorded"
    )
    min_free_bytes: int = Field(
        64 * 1024**2,
        ge=0,
        description="less room than this on the blobs' disk, and the server is not ready; "
        "on its own disk (there no more than a 20th of it), and the runner takes nothing",
    )
    reserve_bytes: int = Field(
        8 * 1024**2,
        ge=0,
        description="room that is set aside beside SQLite (at most a 32nd of the disk), "
        "so that running work can be ended when the disk is full",
    )

    @property
    def limits(self) -> Limits:
        """What a tenant may ask for."""
        return Limits(max_timeout_seconds=self.max_timeout_seconds, max_blob_bytes=self.max_blob_bytes)

    @property
    def retention(self) -> RetentionTimes:
        """How long logs and files are kept."""
        return RetentionTimes(
            log_ms=round(self.log_retention_days * DAY_MS),
            output_ms=round(self.output_retention_days * DAY_MS),
            upload_ms=round(self.upload_retention_days * DAY_MS),
        )

    @property
    def attempt_limits(self) -> AttemptLimits:
        """What one attempt may leave."""
        return AttemptLimits()
