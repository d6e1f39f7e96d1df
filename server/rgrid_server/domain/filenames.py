"""Which names an input or output may have: relative POSIX paths that stay where they are put."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""What most names are, and what nothing can be wrong with."""

MAX_NAME_BYTES = 1024
MAX_SEGMENT_BYTES = 255
"""The longest file name that Linux's common file systems take."""


def why_not_a_name(name: str) -> str | None:
    """Say what is wrong with a file's name, or None when it is good.

    >>> why_not_a_name("data/in.csv") is None, why_not_a_name("../in.csv")
    (True, "has the segment '..'; names are relative and stay inside the workspace")
    """
    if _PLAIN.fullmatch(name):
        return None
    problem: str | None = None
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode; rename the file"
    if not name:
        problem = "is empty"
    elif size_bytes > MAX_NAME_BYTES:
        problem = f"is {size_bytes} bytes long; at most {MAX_NAME_BYTES} are allowed"
    elif name.startswith("/"):
        problem = "is absolute; give a name relative to the working directory"
    elif _CONTROL.search(name):
        problem = "has a control character (a newline, a tab or a NUL); rename the file"
    elif "\\" in name:
        problem = "has a backslash; separate folders by /"
    else:
        problem = next((found for segment in name.split("/") if (found := _segment_problem(segment))), None)
    return problem


def _segment_problem(segment: str) -> str | None:
    if segment in {"", ".", ".."}:
        shown = segment or "(empty)"
        return f"has the segment '{shown}'; names are relative and stay inside the workspace"
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        return f"has a segment of {len(segment.encode())} bytes; file systems take {MAX_SEGMENT_BYTES}"
    return None
