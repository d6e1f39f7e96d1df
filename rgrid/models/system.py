"""What a server says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from rgrid.models.base import Model


@dataclass(frozen=True, slots=True)
class Runtime(Model):
    """What scripts can run with."""

    name: str
    version: str = ""
    default: bool = False


@dataclass(frozen=True, slots=True)
class Limits(Model):
    """The upper ends of what may be asked for."""

    max_timeout_seconds: int = 3600
    max_cpus: float = 0
    max_memory_mib: int = 0
    max_script_bytes: int = 0
    max_blob_bytes: int = 0
    max_batch_items: int = 10_000
    max_input_files: int = 0
    engine: str = ""
    sandboxes: list[str] = field(default_factory=list)
    sandbox_reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Identity(Model):
    """Whose key this is."""

    tenant_id: str
    tenant_name: str
    key_prefix: str = ""
    scopes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class KeptSecret(Model):
    """A secret that is kept on the server; its value is never read back."""

    name: str
    updated_at: str = ""


@dataclass(frozen=True, slots=True)
class Health(Model):
    """What a server says of itself."""

    status: str
    version: str
    timestamp: str = ""
