"""What every model is: a frozen value that reads itself from the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

M = TypeVar("M", bound="Model")

TERMINAL = frozenset({"completed", "failed", "canceled"})


@dataclass(frozen=True, slots=True)
class Model:
    """A value that reads itself from the wire."""

    @classmethod
    def from_wire(cls: type[M], wire: Mapping[str, Any]) -> M:
        """Read one from an answer's JSON.

        Raises:
            TypeError: a field that it needs is missing.
        """
        return cls(**{f.name: wire[f.name] for f in fields(cls) if f.name in wire})
