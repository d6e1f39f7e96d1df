"""Readers of a long log stop reading: nobody waits for them, the server stays small, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.faults import tally
from tests.faults.scale import IS_SOAK, ROUNDS
from tests.integration.conftest import Api
from tests.live import LiveServer

PROGRAM = "stalled readers"
READERS = 12
LINES = 80_000 if IS_SOAK else 20_000
LINE_BYTES = 2_000
SCRIPT = f"""
import sys
for n in range({LINES}):
    sys.stdout.write(f"{{n:0{LINE_BYTES - 1}}}\\n")
"""
MEBIBYTES_BESIDE = 128
"""What the server may need beside: SQLite's caches, and what the runner just sends."""
MEBIBYTES_A_READER = 3
"""A page, and what is on its way to one; the whole log is ten times as much, and forty times in the soak."""


class Reader:
    """A socket with a small buffer that follows a log as server-sent events, when it is asked to read."""

    def __init__(self, server: LiveServer, execution_id: str) -> None:
        parts = urlsplit(server.url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(300)
        self._socket.connect((parts.hostname, parts.port))
        self._socket.sendall(
            (
                f"GET /api/v1/executions/{execution_id}/logs?follow=true HTTP/1.0\r\nHost: rgrid\r\n"
                f"Authorization: Bearer {server.api_key}\r\nAccept: text/event-stream\r\n\r\n"
            ).encode()
        )

    def read_a_little(self) -> bytes:
        """The first bytes of the answer."""
        return self._socket.recv(1024)

    def messages(self, begun: bytes) -> Iterator[tuple[int, str]]:
        """Go on: number and text of every entry until the end, those of the first bytes too."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024**2)
        with self._socket.makefile("rb") as file:
            number = 0
            for line in _lines(begun, iter(file.readline, b"")):
                if line.startswith(b"id: "):
                    number = int(line[4:])
                if line.startswith(b"data: ") and b'"message"' in line:
                    yield number, json.loads(line[6:])["message"]

    def close(self) -> None:
        """Leave."""
        self._socket.close()


@pytest.mark.parametrize("round_", ROUNDS)
def test_readers_who_stall_cost_the_server_little_and_lose_nothing(tmp_path: Path, round_: int) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "1"]) as server:
        server.wait_for_runner()
        api = Api(server.api, server.api_key)
        process = psutil.Process(server.pid)
        before_bytes = process.memory_info().rss
        execution_id = api.submit(SCRIPT, env_vars={"PYTHONUNBUFFERED": ""})["execution_id"]
        readers = [Reader(server, execution_id) for _ in range(READERS)]
        begun = [reader.read_a_little() for reader in readers]
        # nobody waits for those who do not read
        assert api.wait(execution_id, seconds=600)["status"] == "completed"
        grown_bytes = process.memory_info().rss - before_bytes
        allowed_bytes = (MEBIBYTES_BESIDE + MEBIBYTES_A_READER * READERS) * 1024**2
        assert grown_bytes < allowed_bytes, f"{grown_bytes:,} bytes"
        assert api.get("/health").status_code == 200
        for reader in readers[1:]:
            reader.close()
        told = list(readers[0].messages(begun[0]))
        readers[0].close()
        assert [number for number, _ in told] == list(range(1, LINES + 1))
        assert all(int(text) == number - 1 for number, text in told)
        wait_for_connections(process, 0)
        tally.count(PROGRAM, rounds=1, readers=READERS, lines=len(told))


def wait_for_connections(process: psutil.Process, at_most: int) -> None:
    """Wait until the server has let go of the readers' connections; the runner's and this test's remain."""
    deadline = time.monotonic() + 120
    while (open_now := _from_readers(process)) > at_most:
        assert time.monotonic() < deadline, f"{open_now} connections of readers are still open"
        time.sleep(0.05)


def _from_readers(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.AccessDenied):
        return sum(one.status == psutil.CONN_CLOSE_WAIT for one in process.net_connections("tcp"))
    return 0


def _lines(begun: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """Lines of the first bytes and of what follows."""
    *whole, part = begun.split(b"\n")
    yield from whole
    yield part + next(rest, b"")
    yield from rest
