"""The API beside the smallest ASGI application, in one run on this machine: medians of five rounds.

The reference answers two bytes on the same server program (uvicorn, uvloop, httptools, one process).
"""

from __future__ import annotations

import json
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


def main() -> None:
    """Print the table."""
    port = free_port()
    hello = subprocess.Popen([sys.executable, "-c", HELLO, str(port)])
    try:
        wait_until_well(f"http://127.0.0.1:{port}/")
        with LiveServer(options=["--slots", "0"]) as server:
            body = {"script_content": "print(1)"}
            url = f"{server.api}/executions"
            made = requests.post(url, json=body, headers=server.headers, timeout=10).json()
            place = server.url.removeprefix("http://")
            rows = [
                ("health", "GET", "/health", None, 0.40),
                ("read one execution", "GET", f"/api/v1/executions/{made['execution_id']}", None, 0.30),
                ("cost by day", "GET", "/api/v1/cost", None, None),
                ("submit, durable", "POST", "/api/v1/executions", body, 0.25),
            ]
            print("| what | hello/s | ours/s | ratio | target | p99 ms |\n|---|---:|---:|---:|---:|---:|")
            for name, method, path, content, target in rows:
                ours, theirs, p99 = [], [], []
                for _ in range(ROUNDS):
                    theirs.append(load(f"127.0.0.1:{port}", "GET", "/", None, "")["per_second"])
                    found = load(place, method, path, content, server.api_key)
                    assert not found["failures"], found
                    ours.append(found["per_second"])
                    p99.append(found["p99_ms"])
                hello_median, our_median = statistics.median(theirs), statistics.median(ours)
                wanted = "–" if target is None else f"{target:.2f}"
                figures = (
                    f"{hello_median:.0f} | {our_median:.0f} | {our_median / hello_median:.2f} | {wanted}"
                )
                print(f"| {name} | {figures} | {statistics.median(p99):.0f} |", flush=True)
    finally:
        hello.terminate()
        hello.wait()


def load(place: str, method: str, path: str, content: object, key: str) -> dict[str, float]:
    """One round against a server."""
    body = json.dumps(content).encode() if content is not None else b""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {place}", f"Content-Length: {len(body)}"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if content is not None:
        lines.append("Content-Type: application/json")
    request = "\r\n".join([*lines, "", ""]).encode() + body
    host, _, port = place.partition(":")
    generator = Path(__file__).with_name("load.py")
    command = [sys.executable, str(generator), host, port, str(CONNECTIONS), str(SECONDS)]
    done = subprocess.run(command, input=request, capture_output=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


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
