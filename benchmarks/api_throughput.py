"""The API beside the smallest ASGI application, in one run on this machine: medians of five rounds.

The reference answers two bytes on the same server program (uvicorn, uvloop, httptools, one process).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requests

from tests.airflow_home import free_port
from tests.live import LiveServer

CONNECTIONS = 100
SECONDS = 2.0
ROUNDS = 5
HELLO = """
import uvicorn, uvloop, asyncio, sys
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
config = uvicorn.Config(app, port=int(sys.argv[1]), access_log=False, log_level="error", lifespan="off")
uvloop.run(uvicorn.Server(config).serve())
"""


Call = tuple[str, str, object]
"""Method, path and body."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--database-url", help="measure on this database in place of SQLite")
    asked = parser.parse_args()
    options = ["--slots", "0", *(["--database-url", asked.database_url] if asked.database_url else [])]
    server_cpu, load_cpu = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {server_cpu})
    port = free_port()
    hello = subprocess.Popen([sys.executable, "-c", HELLO, str(port)])
    try:
        wait_until_well(f"http://127.0.0.1:{port}/")
        with LiveServer(options=options) as server:
            os.sched_setaffinity(0, {load_cpu})
            print(
                "| what | hello/s | ours/s | ratio | target | p99 ms |\n|---|---:|---:|---:|---:|---:|",
                flush=True,
            )
            for name, calls, target in rows_of(server):
                print(measured(name, calls, target, server, f"127.0.0.1:{port}"), flush=True)
    finally:
        hello.terminate()
        hello.wait()


def rows_of(server: LiveServer) -> list[tuple[str, list[Call], float | None]]:
    """What is measured: a name, the calls that take turns, and the ratio to reach."""
    body = {"script_content": "print(1)"}
    made = requests.post(f"{server.api}/executions", json=body, headers=server.headers, timeout=10).json()
    api = "/api/v1"
    health: Call = ("GET", "/health", None)
    listed: Call = ("GET", f"{api}/executions", None)
    cost: Call = ("GET", f"{api}/cost", None)
    estimate: Call = ("GET", f"{api}/estimate", None)
    return [
        ("health", [health], 0.40),
        ("read one execution", [("GET", f"{api}/executions/{made['execution_id']}", None)], 0.30),
        ("cost by day", [cost], None),
        ("four endpoints mixed", [health, listed, cost, estimate], None),
        ("submit, durable", [("POST", f"{api}/executions", body)], 0.25),
    ]


def measured(name: str, calls: list[Call], target: float | None, server: LiveServer, hello: str) -> str:
    """A row of the table: medians over the rounds, the ratio of each round's own two figures."""
    place = server.url.removeprefix("http://")
    ours, theirs, p99 = [], [], []
    for _ in range(ROUNDS):
        theirs.append(load(hello, [("GET", "/", None)], "")["per_second"])
        found = load(place, calls, server.api_key)
        assert not found["failures"], found
        ours.append(found["per_second"])
        p99.append(found["p99_ms"])
    reference, own = statistics.median(theirs), statistics.median(ours)
    wanted = "–" if target is None else f"{target:.2f}"
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    figures = f"{reference:.0f} | {own:.0f} | {ratio:.2f} | {wanted}"
    return f"| {name} | {figures} | {statistics.median(p99):.0f} |"


def load(place: str, calls: list[Call], key: str) -> dict[str, float]:
    """One round against a server."""
    host, _, port = place.partition(":")
    generator = Path(__file__).with_name("load.py")
    command = [sys.executable, str(generator), host, port, str(CONNECTIONS), str(SECONDS)]
    sent = b"\0".join(request_of(place, call, key) for call in calls)
    done = subprocess.run(command, input=sent, capture_output=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def request_of(place: str, call: Call, key: str) -> bytes:
    """A call's bytes."""
    method, path, content = call
    body = json.dumps(content).encode() if content is not None else b""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {place}", f"Content-Length: {len(body)}"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if content is not None:
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode() + body


def wait_until_well(url: str) -> None:
    """Wait for a server's first answer."""
    for _ in range(200):
        try:
            requests.get(url, timeout=1)
        except requests.ConnectionError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{url} does not answer")


if __name__ == "__main__":
    main()
