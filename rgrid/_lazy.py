"""Names of a package that are loaded from its modules when they are first used."""

from __future__ import annotations

import sys

from rgrid._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def load(package: dict[str, Any], homes: Mapping[str, str], name: str) -> Any:
    """A name of a package, which stays in it from now on; for its ``__getattr__``.

    Args:
        package: its ``globals()``.
        homes: its modules by the names that are loaded from them.
        name: the name.

    Raises:
        AttributeError: it has no such name.
    """
    home = homes.get(name)
    if home is None:
        raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
    # as importlib does it, without loading that: a command that asks one thing needs it nowhere else
    module = f"{package['__name__']}.{home}"
    __import__(module)
    value = package[name] = getattr(sys.modules[module], name)
    return value
