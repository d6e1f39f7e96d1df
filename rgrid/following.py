"""What goes on while somebody looks: logs, events, a batch's results, each of them once whatever breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rgrid import calls
from rgrid.patience import MAX_FAILURES, PASSING, WAIT_SECONDS, Patience

if TYPE_CHECKING:
    from rgrid import models, streams
    from rgrid.files import Progress
    from rgrid.transport.base import Transport


def logs(
    transport: Transport, execution_id: str, after: int, *, follow: bool, stream: str | None
) -> Iterator[models.LogEntry]:
    """As :meth:`rgrid.Client.logs`."""
    patience = Patience(MAX_FAILURES if follow else 0)
    while True:
        try:
            page = transport.send(calls.get_logs(execution_id, after, WAIT_SECONDS if follow else 0))
        except PASSING as failure:
            time.sleep(patience.delay_after(failure))
            continue
        patience.renew()
        for entry in page.entries:
            if stream is None or entry.stream == stream:
                yield entry
        after = page.next_after
        if page.is_complete or (not follow and not page.entries):
            return


def events(transport: Transport, after: int | None, batch_id: str | None) -> Iterator[models.Event]:
    """As :meth:`rgrid.Client.events`."""
    patience = Patience()
    while True:
        # from now on: where now is, the first answer says at once
        wait_seconds = 0 if after is None else WAIT_SECONDS
        try:
            page = transport.send(calls.get_events(after, wait_seconds=wait_seconds, batch_id=batch_id))
        except PASSING as failure:
            time.sleep(patience.delay_after(failure))
            continue
        patience.renew()
        yield from page.events
        after = page.next_after


def batch(
    transport: Transport,
    batch_id: str,
    after: int,
    call: Callable[..., calls.Call[bytes]],
    begin: Callable[[], streams.Sink],
    *,
    follow: bool,
    progress: Progress | None = None,
) -> Iterator[models.BatchResult]:
    """A batch's results behind a position, out of the streams of a call.

    Args:
        transport: who carries them.
        batch_id: the batch.
        after: the position of the last one that is known.
        call: makes the call of a stream, of the batch, a position, and ``follow``.
        begin: makes what takes the bytes of one stream.
        follow: go on until all of the batch has ended.
        progress: told of each byte.
    """
    patience, is_over = Patience(), False
    while True:
        sink, rest = begin(), None
        try:
            for chunk in transport.stream(call(batch_id, after, follow=follow)):
                if progress is not None:
                    progress.on_advance(len(chunk))
                for result in sink.feed(chunk):
                    patience.renew()
                    after = result.position
                    yield result
            # a server that stops ends its streams; only what ends after the batch has is whole
            if is_over or not follow:
                return
            is_over = transport.send(calls.get_batch(batch_id)).is_terminal
        except PASSING as failure:
            time.sleep(patience.delay_after(failure))
            rest = sink.rest()
        finally:
            sink.abandon()
        if rest is not None:
            from rgrid.transfers import fetch_rest

            if fetch_rest(transport, rest, progress):
                after = rest.result.position
                yield rest.result
