"""Large files in parts: what to ask for next, whatever is cut, whoever carries the bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from rgrid import calls
from rgrid.exceptions import ConfigurationError, Conflict, InvalidRequest, NotFound, RGridError
from rgrid.patience import PASSING, Patience

PART_VARIABLE = "RGRID_UPLOAD_PART_BYTES"
PART_BYTES = 64 * 1024 * 1024

UploadState: TypeAlias = tuple[int, bool]
"""How many bytes of an upload are on the server, and whether it is a blob already."""
Steps: TypeAlias = Generator["calls.Call[UploadState] | calls.Call[None] | float", "UploadState | None", None]
"""Calls to send, whose answer or failure is to be sent or thrown in; and seconds to wait."""


class Part(NamedTuple):
    """Bytes of a file: from where on, how many, and whether the file ends with them."""

    start: int
    length: int
    is_last: bool


def part_bytes() -> int:
    """Files larger than this are uploaded in parts of this size.

    Raises:
        rgrid.exceptions.ConfigurationError: the variable says no number.
    """
    text = os.environ.get(PART_VARIABLE, "")
    if not text:
        return PART_BYTES
    if not text.isdecimal() or int(text) == 0:
        raise ConfigurationError(
            f"{PART_VARIABLE} is {text[:40]!r}; give a number of bytes, such as {PART_BYTES}"
        )
    return int(text)


def next_part(size_bytes: int, offset: int, most_bytes: int) -> Part:
    """What to send of a file of which so much is there.

    More is never there than the file has, unless what is there is of another one: then nothing is sent but
    that this is all, and the server finds that the hash is another.

    >>> next_part(10, 4, 5)
    Part(start=4, length=5, is_last=False)
    >>> next_part(10, 9, 5)
    Part(start=9, length=1, is_last=True)
    """
    start = min(offset, size_bytes)
    length = min(most_bytes, size_bytes - start)
    return Part(start, length, start + length == size_bytes)


def upload_steps(
    sha256: str, path: Path, size_bytes: int, most_bytes: int, on_advance: Callable[[int], None]
) -> Steps:
    """Upload a file in parts, going on from what is there, through failures that pass.

    Args:
        sha256: of the whole file.
        path: where it is.
        size_bytes: how large it is.
        most_bytes: the size of a part.
        on_advance: told how many bytes more are there, less than 0 where some were lost.

    Raises:
        rgrid.exceptions.RGridError: the server refuses it, or is away for too long.
    """
    patience, offset, sent_bytes = Patience(), -1, 0
    seen_bytes, is_complete = 0, False
    while not is_complete:
        try:
            if offset < 0:
                offset, is_complete = yield from _answer(calls.get_upload(sha256))
            else:
                part = next_part(size_bytes, offset, most_bytes)
                sent_bytes += part.length
                call = calls.append_part(sha256, path, *part[:2], size_bytes, is_last=part.is_last)
                offset, is_complete = yield from _answer(call)
        except NotFound:
            # a server of before, which takes files whole
            yield calls.put_blob(sha256, path)
            offset, is_complete = size_bytes, True
        except (*PASSING, Conflict) as failure:
            offset = -1
            yield patience.delay_after(failure)
            continue
        except InvalidRequest as failure:
            # what was there before, from an earlier call or another client, may not have been of this file
            if failure.code != "hash_mismatch" or sent_bytes >= size_bytes:
                raise
            offset, sent_bytes = 0, 0
        if offset > seen_bytes:
            patience.renew()
        on_advance(offset - seen_bytes)
        seen_bytes = offset


def carry(steps: Steps, send: Callable[[calls.Call[Any]], UploadState | None]) -> None:
    """Go through steps, each after the one before."""
    with suppress(StopIteration):
        step = next(steps)
        while True:
            if isinstance(step, float):
                time.sleep(step)
                step = next(steps)
                continue
            try:
                answer = send(step)
            except RGridError as failure:
                step = steps.throw(failure)
            else:
                step = steps.send(answer)


async def acarry(steps: Steps, send: Callable[[calls.Call[Any]], Awaitable[UploadState | None]]) -> None:
    """The same as :func:`carry`, awaited."""
    # whoever awaits has loaded it already, and others do without
    import asyncio

    with suppress(StopIteration):
        step = next(steps)
        while True:
            if isinstance(step, float):
                await asyncio.sleep(step)
                step = next(steps)
                continue
            try:
                answer = await send(step)
            except RGridError as failure:
                step = steps.throw(failure)
            else:
                step = steps.send(answer)


def _answer(
    call: calls.Call[UploadState],
) -> Generator[calls.Call[UploadState], UploadState | None, UploadState]:
    answer = yield call
    if answer is None:
        raise RGridError("a call is answered before the next step")
    return answer
