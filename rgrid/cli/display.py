"""What the command line writes beside a script's own output, with nothing loaded to do it."""

from __future__ import annotations

import sys

from rgrid._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any


def tell(message: str) -> None:
    """RGrid's own words that are always said, on stderr; one that cannot be written ends nothing."""
    try:
        sys.stderr.write(f"rgrid: {message}\n")
        sys.stderr.flush()
    except OSError:
        pass


def say(message: str, *, verbose: bool = False) -> None:
    """RGrid's own words: on a terminal's stderr, or wherever it goes when they are asked for."""
    if is_told(verbose=verbose):
        tell(message)


def is_told(*, verbose: bool) -> bool:
    """Whether RGrid's own words are for whoever runs it."""
    return verbose or sys.stderr.isatty()


def print_line(text: str) -> None:
    """A line on stdout, at once: who reads it through a pipe may be waiting for it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tell_passed_over(notes: Sequence[str], *, of: str = "") -> None:
    """Name every file that the script left and that was not taken for an output, and why.

    Args:
        notes: the file's name and why, each.
        of: what to begin with where there are several scripts that left files.
    """
    for note in notes:
        tell(f"{of}not taken: {note}")


def print_json(document: Any) -> None:
    """One JSON document on one line."""
    import json

    if hasattr(document, "__dataclass_fields__"):
        from dataclasses import asdict

        document = asdict(document)
        # a list carries less than an execution has: what was not received is not made up
        if received := document.pop("received", ()):
            document = {name: document[name] for name in received}
    print_line(json.dumps(document, ensure_ascii=False, default=_as_json))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be."""
    lines = [list(heads), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def euros(micros: int | None) -> str:
    """An amount: two decimals, or all six where two would not show it."""
    if micros is None:
        return "-"
    whole, fraction = divmod(abs(micros), 1_000_000)
    digits = f"{fraction:06d}"
    sign = "-" if micros < 0 else ""
    return f"{sign}€{whole}.{digits[:2] if digits.endswith('0000') else digits}"


def seconds(value: float | None) -> str:
    """A duration."""
    return "-" if value is None else f"{value:.1f} s"


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
