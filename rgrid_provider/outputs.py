"""A dict whose values are a task's outputs, each an XCom of its own: which of them stay on the grid.

It stands alone: a function that is called on the grid brings this file along. Python 3.9 is all that it
needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MAX_APART = 100
"""So many values get a file of their own at most; a dict of more large ones stays in one piece."""


def take_apart(
    value: Any,
    content: bytes,
    most_bytes: int,
    name: str,
    serializer: Any,
    dumps: Callable[[Any], bytes],
    write: Callable[[str, bytes], None],
) -> tuple[bytes, dict[str, str] | None]:
    """Write what is large of a dict, or what XCom does not carry, into files of its own.

    Args:
        value: the dict, or whatever it is instead.
        content: the bytes that it was made into.
        most_bytes: so much of it may stay together.
        name: how the files are called, before their numbers.
        serializer: reads bytes, and may say by ``is_carried_by_xcom`` what was made into them.
        dumps: makes bytes by it.
        write: writes a file.

    Returns:
        The bytes of what stays together, with None in place of what does not, and the files by the keys of
        their values: no files where all stays together, None where the value is no dict of outputs.
    """
    if isinstance(value, Mapping) and not _are_outputs(value):
        # JSON makes strings of its keys
        value = serializer.loads(content)
    if not _are_outputs(value):
        return content, None
    is_carried = getattr(serializer, "is_carried_by_xcom", lambda _content: True)
    if len(content) <= most_bytes and is_carried(content):
        return content, {}
    keys = _keys_apart(value, most_bytes, dumps, is_carried)
    if len(keys) > MAX_APART:
        return content, {}
    places = {key: f"{name}-{number}" for number, key in enumerate(keys, 1)}
    for key, place in places.items():
        write(place, dumps(value[key]))
    return dumps({key: None if key in places else one for key, one in value.items()}), places


def _are_outputs(value: Any) -> bool:
    """Whether Airflow takes a value for outputs."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _keys_apart(
    value: Mapping[str, Any],
    most_bytes: int,
    dumps: Callable[[Any], bytes],
    is_carried: Callable[[bytes], bool],
) -> list[str]:
    """Of what XCom does not carry, and of the largest values until the rest is small; or too many."""
    sizes: dict[str, int] = {}
    apart: list[str] = []
    for key, one in value.items():
        content = dumps({key: one})
        if is_carried(content):
            sizes[key] = len(content)
        else:
            apart.append(key)
    left_bytes = sum(sizes.values())
    for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if left_bytes <= most_bytes or len(apart) > MAX_APART:
            break
        apart.append(key)
        left_bytes -= sizes[key]
    return apart
