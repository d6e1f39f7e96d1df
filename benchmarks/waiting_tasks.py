"""Ten thousand tasks that wait in one triggerer: wake-up latency, memory and connections.

`waiting_tasks.py [--tasks 10000] [--ended 1000]` starts as many of the provider's triggers as one triggerer
would hold, all following their logs, in one event loop against a real server. Then some executions are
canceled, one every ten milliseconds; the latency is from the server's answer to that until the trigger's
event. Run it with the Python of an Airflow environment.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="rgrid-waiting-"))

import psutil

from rgrid import calls
from rgrid.aio import AsyncClient
from rgrid.client import Client
from rgrid.transport.base import Server
from rgrid.transport.httpx import HttpxTransport
from tests.live import LiveServer

TARGET_P95_SECONDS = 1.0
PAUSE_SECONDS = 0.01
ITEMS_A_REQUEST = 10_000
MIB = 1024 * 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--ended", type=int, default=1_000)
    asked = parser.parse_args()
    with LiveServer(options=["--slots", "0"]) as server:
        os.environ["AIRFLOW_CONN_RGRID_DEFAULT"] = json.dumps(
            {"conn_type": "rgrid", "host": server.url, "password": server.api_key}
        )
        client = Client(server.url, server.api_key)
        ids = submitted(client, asked.tasks)
        asyncio.run(measure(server, ids, asked.ended))


def submitted(client: Client, count: int) -> list[str]:
    """Executions that wait, by their ids."""
    ids: list[str] = []
    for first in range(0, count, ITEMS_A_REQUEST):
        size = min(ITEMS_A_REQUEST, count - first)
        body = {"template": {"script_content": "pass"}, "items": [{}] * size}
        batch = client.send(calls.submit_batch(body))
        ids += [result.execution_id for result in client.batch_executions(batch.batch_id)]
    return ids


async def measure(server: LiveServer, ids: list[str], ended: int) -> None:
    """Start all triggers, end some executions, and print what that took."""
    from rgrid_provider.triggers.rgrid import RGridExecutionTrigger

    own = psutil.Process()
    before_bytes = own.memory_info().rss
    ended_at: dict[str, float] = {}
    latencies: list[float] = []
    connections: list[int] = []
    started = time.perf_counter()

    async def wait(execution_id: str) -> None:
        trigger = RGridExecutionTrigger(rgrid_conn_id="rgrid_default", execution_id=execution_id)
        async for _ in trigger.run():
            if execution_id in ended_at:
                latencies.append(time.perf_counter() - ended_at[execution_id])

    waiting = {one: asyncio.create_task(wait(one)) for one in ids}
    # everyone has been looked at once a short read of the feed's own comes back
    await asyncio.sleep(5)
    settled = time.perf_counter() - started
    held_bytes = own.memory_info().rss
    cpu_before, idle_from = own.cpu_times(), time.perf_counter()
    for _ in range(50):
        connections.append(len(own.net_connections(kind="tcp")))
        await asyncio.sleep(0.2)
    cpu, idle = own.cpu_times(), time.perf_counter() - idle_from
    busy = (cpu.user + cpu.system - cpu_before.user - cpu_before.system) / idle

    other = AsyncClient(transport=HttpxTransport(Server(server.url, server.api_key, 30)))
    chosen = ids[:: max(1, len(ids) // ended)][:ended]
    for execution_id in chosen:
        await other.cancel(execution_id)
        ended_at[execution_id] = time.perf_counter()
        await asyncio.sleep(PAUSE_SECONDS)
    await asyncio.gather(*[waiting[one] for one in chosen])
    await other.close()
    for task in waiting.values():
        task.cancel()
    await asyncio.gather(*waiting.values(), return_exceptions=True)

    latencies.sort()
    p50, p95 = (latencies[int(len(latencies) * share)] for share in (0.50, 0.95))
    heads = "waiting | connections median / most | wake-up p50 ms | p95 ms | target p95 ms | longest ms"
    print(f"| {heads} | KiB a task | % of a core while nothing happens |\n" + "|---:" * 8 + "|")
    print(
        f"| {len(ids)} | {statistics.median(connections):.0f} / {max(connections)} | {p50 * 1000:.0f} | "
        f"{p95 * 1000:.0f} | {TARGET_P95_SECONDS * 1000:.0f} | {latencies[-1] * 1000:.0f} | "
        f"{(held_bytes - before_bytes) / 1024 / len(ids):.1f} | {busy * 100:.1f} |"
    )
    print(f"all were waiting {settled:.1f} s after the first began", file=sys.stderr)


if __name__ == "__main__":
    main()
