"""Thousands of clients wait for executions and batches at once: all are woken, and the server stays small."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil
import pytest
import requests

from tests.faults import tally
from tests.faults.scale import DEADLINE_SECONDS, ROUNDS, WAITING_CLIENTS
from tests.faults.sockets import Waiter, gather_all, raise_descriptor_limit
from tests.integration.conftest import Api
from tests.live import LiveServer

PROGRAM = "many waiting clients"
EXECUTIONS = 8
BATCHES = 2
KIB_A_CLIENT = 40
"""What a waiting client may take of the server's memory: its connection, its request, its task."""
KIB_BESIDE = 64 * 1024


@pytest.mark.parametrize("round_", ROUNDS)
def test_all_who_wait_are_woken(tmp_path: Path, round_: int) -> None:
    count = raise_descriptor_limit(WAITING_CLIENTS)
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        api = Api(server.api, server.api_key)
        paths = [f"/executions/{api.submit('print(1)')['execution_id']}" for _ in range(EXECUTIONS)]
        for _ in range(BATCHES):
            body = {"template": {"script_content": "print(1)"}, "items": [{}, {}]}
            paths.append(f"/batches/{api.post('/batches', body).json()['batch_id']}")
        process = psutil.Process(server.pid)
        before_bytes, before_descriptors = process.memory_info().rss, process.num_fds()
        waiters = [Waiter(server.url, server.api_key, paths[n % len(paths)]) for n in range(count)]

        async def wait_and_end() -> int:
            waiting = await gather_all(waiters)
            during_bytes = process.memory_info().rss
            # others are answered beside them
            assert await asyncio.to_thread(lambda: requests.get(f"{server.url}/health", timeout=300).ok)
            for path in paths:
                answer = await asyncio.to_thread(api.post, f"{path}/cancel")
                assert answer.status_code == 200, answer.text
            await asyncio.wait_for(waiting, DEADLINE_SECONDS)
            return during_bytes

        during_bytes = asyncio.run(wait_and_end())
        assert {waiter.status for waiter in waiters} == {"canceled"}
        assert (during_bytes - before_bytes) // 1024 <= KIB_BESIDE + KIB_A_CLIENT * count
        wait_for_descriptors(process, before_descriptors)
        tally.count(PROGRAM, rounds=1, clients=count, executions=EXECUTIONS + 2 * BATCHES)


def wait_for_descriptors(process: psutil.Process, before: int) -> None:
    """Wait until nothing is left of the clients' connections."""
    deadline = time.monotonic() + 120
    while (now := process.num_fds()) > before + 10:
        assert time.monotonic() < deadline, f"{now} descriptors are open, {before} were"
        time.sleep(0.05)
