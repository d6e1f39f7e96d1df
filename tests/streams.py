"""Readers of streams that tests hold in their hands: server-sent events, and connections that stall."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import requests

SMALL_BUFFER_BYTES = 4096


@dataclass(frozen=True)
class SentEvent:
    """One server-sent event."""

    name: str
    id: str
    data: Any


def sent_events(answer: requests.Response) -> Iterator[SentEvent]:
    """The events of a stream, as the standard of EventSource reads them; comments are passed over."""
    name, last_id, data = "", "", []
    for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield SentEvent(name, last_id, json.loads("\n".join(data)))
            name, data = "", []
        elif field == "event":
            name = value
        elif field == "id":
            last_id = value
        elif field == "data":
            data.append(value)


class StalledReader:
    """Asks for a stream, takes the beginning of its answer, and nothing more until it is told to."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        place = urlsplit(url)
        self._socket = socket.socket()
        # what the kernel takes for a reader is no memory of the server's, but would hide how much that holds
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        self._socket.settimeout(60)
        self._socket.connect((place.hostname, place.port))
        target = f"{place.path}?{place.query}" if place.query else place.path
        lines = [f"GET {target} HTTP/1.1", f"Host: {place.netloc}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._held = b""
        while b"\r\n\r\n" not in self._held:
            self._held += self._socket.recv(1024)
        assert b" 200 " in self._held[:15], self._held

    def take_rest(self) -> bytes:
        """Read on to the end of the stream; returns its body as it was sent, without the chunks' frames."""
        parts = [self._held]
        while part := self._socket.recv(1024 * 1024):
            parts.append(part)
        _, _, chunked = b"".join(parts).partition(b"\r\n\r\n")
        return b"".join(_chunks(chunked))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> StalledReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _chunks(body: bytes) -> Iterator[bytes]:
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        if not size:
            return
        yield body[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
