"""Files of executions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rgrid.models.base import Model


@dataclass(frozen=True, slots=True)
class Artifact(Model):
    """A named file of an execution, in or out."""

    artifact_id: str
    execution_id: str
    artifact_type: Literal["input", "output"]
    filename: str
    file_path: str
    size_bytes: int
    content_type: str = "application/octet-stream"
    sha256: str = ""
    mode: int = 0o644
    created_at: str | None = None
    expires_at: str | None = None
