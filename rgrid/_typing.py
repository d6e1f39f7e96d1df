"""What annotations need of ``typing``, without loading it.

A command that asks the server one thing runs for 40 ms, of which ``typing`` and what it loads would be 10.
Annotations are never evaluated here, so a type checker sees the real names and a process only stand-ins.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Generic, Protocol, TypeVar
else:

    class _Subscriptable:
        def __class_getitem__(cls, _parameters: object) -> type:
            return cls

    class Generic(_Subscriptable):
        """Stands for ``typing.Generic``."""

    class Protocol(_Subscriptable):
        """Stands for ``typing.Protocol``."""

    def TypeVar(name: str, **_bounds: object) -> str:  # noqa: N802 - it stands for typing's
        """Stands for ``typing.TypeVar``."""
        return name


__all__ = ["TYPE_CHECKING", "Generic", "Protocol", "TypeVar"]
