"""Which texts the grid carries: all that can be written in UTF-8. A name of other bytes has no such text."""

from __future__ import annotations

from rgrid._typing import TYPE_CHECKING
from rgrid.exceptions import ConfigurationError

if TYPE_CHECKING:
    from typing import Any

MAX_SHOWN = 80


def check_texts(body: Any) -> None:
    """Look at every text in what is about to be sent: values of lists and mappings, and these' keys.

    Raises:
        rgrid.exceptions.ConfigurationError: one has half a surrogate pair, as Python reads bytes that are
            no UTF-8 (PEP 383).
    """
    found = _first_wrong(body)
    if found is not None:
        place, text = found
        raise not_text(text, place.lstrip("."))


def not_text(text: str, place: str) -> ConfigurationError:
    """The error of a text that cannot be written in UTF-8."""
    shown = repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")
    return ConfigurationError(
        f"{place}: {shown} is not UTF-8, which is all that the grid carries; rename the file, or put the "
        "value into one"
    )


def _first_wrong(value: Any) -> tuple[str, str] | None:
    if isinstance(value, str):
        return None if value.isascii() or _is_text(value) else ("", value)
    # places are put together only where something is wrong: a batch has many thousand texts
    if isinstance(value, dict):
        for name, item in value.items():
            if (found := _first_wrong(name)) is not None:
                return found
            if (found := _first_wrong(item)) is not None:
                return f".{name}{found[0]}", found[1]
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            if (found := _first_wrong(item)) is not None:
                return f"[{number}]{found[0]}", found[1]
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
