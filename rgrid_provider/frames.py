"""Values with frames in them as bytes: JSON, and behind it each frame as an Arrow IPC stream.

It stands alone: a function that is called on the grid brings this file along, so that both sides read and
write the same. Python 3.9 and pyarrow are all that it needs, and pandas where the frames are pandas'.

The bytes are the length of the JSON (8 bytes, big-endian), the JSON ``{"value": …, "frames": [{"kind",
"size", "name"}, …]}``, and the streams one after the other. In the value ``{"rgrid:frame": n}`` stands for
frame n.
"""

from __future__ import annotations

import json
from typing import Any

PLACE = "rgrid:frame"
TABLE, FRAME, SERIES = "pyarrow.Table", "pandas.DataFrame", "pandas.Series"
CARRIED_BY_XCOM = frozenset({FRAME})
"""What Airflow's own serialization knows of these."""
WHAT_IS_CARRIED = "pandas DataFrames and Series, pyarrow Tables, and what JSON has"
_HEAD_BYTES = 8


def dumps(value: Any, protocol: Any = None) -> bytes:
    """A value as bytes.

    Raises:
        TypeError, ValueError: something in it cannot be carried; the message names it.
    """
    described: list[dict[str, Any]] = []
    streams: list[bytes] = []
    told = json.dumps(
        {"value": _without_frames(value, described, streams), "frames": described}, sort_keys=True
    )
    head = told.encode()
    return b"".join([len(head).to_bytes(_HEAD_BYTES, "big"), head, *streams])


def loads(content: bytes) -> Any:
    """The value that was made into bytes.

    Raises:
        ImportError: pyarrow, or pandas for its frames, is not installed here.
    """
    head, at = _head_of(content)
    frames = []
    for described in head["frames"]:
        frames.append(_read(described, memoryview(content)[at : at + described["size"]]))
        at += described["size"]
    return _with_frames(head["value"], frames)


def load(file: Any) -> Any:
    """The same from a file that is read as bytes."""
    return loads(file.read())


def kinds_in(content: bytes) -> set[str]:
    """Which kinds of frames are in what a value was made into: the constants of this module."""
    head, _ = _head_of(content)
    return {described["kind"] for described in head["frames"]}


def is_carried_by_xcom(content: bytes) -> bool:
    """Whether Airflow itself carries the value that was made into these bytes."""
    return kinds_in(content) <= CARRIED_BY_XCOM


def _head_of(content: bytes) -> tuple[dict[str, Any], int]:
    at = _HEAD_BYTES + int.from_bytes(content[:_HEAD_BYTES], "big")
    found: dict[str, Any] = json.loads(content[_HEAD_BYTES:at])
    return found, at


def _without_frames(value: Any, described: list[dict[str, Any]], streams: list[bytes]) -> Any:
    """The value with a place for each of its frames, which are added to the others."""
    kind = _kind_of(value)
    if kind is not None:
        stream = _write(kind, value)
        told = {"kind": kind, "size": len(stream)}
        if kind == SERIES:
            if not (value.name is None or isinstance(value.name, (str, int))):
                raise TypeError(f"the Series is named {value.name!r}, which is neither a string nor a number")
            told["name"] = value.name
        described.append(told)
        streams.append(stream)
        return {PLACE: len(described) - 1}
    if isinstance(value, dict):
        if PLACE in value:
            raise ValueError(f"a dict has the key {PLACE!r}, which stands for a frame")
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a dict has keys that are no strings")
        return {key: _without_frames(one, described, streams) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_frames(one, described, streams) for one in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a {type(value).__module__}.{type(value).__name__} is none of {WHAT_IS_CARRIED}")


def _with_frames(value: Any, frames: list[Any]) -> Any:
    if isinstance(value, dict):
        if PLACE in value:
            return frames[value[PLACE]]
        return {key: _with_frames(one, frames) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_frames(one, frames) for one in value]
    return value


def _kind_of(value: Any) -> str | None:
    """By its class's name, so that neither library is loaded for what is no frame."""
    for cls in type(value).__mro__:
        package = cls.__module__.partition(".")[0]
        for kind in (TABLE, FRAME, SERIES):
            if (package, cls.__name__) == tuple(kind.split(".")):
                return kind
    return None


def _write(kind: str, value: Any) -> bytes:
    import pyarrow

    if kind == TABLE:
        table = value
    else:
        frame = value.to_frame("values") if kind == SERIES else value
        try:
            table = pyarrow.Table.from_pandas(frame)
        except (pyarrow.ArrowException, ValueError, TypeError) as error:
            raise TypeError(f"Arrow has no type for what is in the {kind}: {error}") from error
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def _read(described: dict[str, Any], stream: memoryview) -> Any:
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.py_buffer(stream)) as reader:
        table = reader.read_all()
    if described["kind"] == TABLE:
        return table
    try:
        frame = table.to_pandas()
    except ImportError as error:
        raise ImportError(f"a {described['kind']} is carried, and pandas is not installed here") from error
    return frame if described["kind"] == FRAME else frame["values"].rename(described["name"])
