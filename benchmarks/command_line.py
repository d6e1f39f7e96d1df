"""The command line beside Python with what it needs imported: medians of eleven, one run on this machine."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requests

from tests.live import ROOT, LiveServer

RGRID = str(ROOT / ".venv" / "bin" / "rgrid")
ROUNDS = 11


def main() -> None:
    """Print the table."""
    with LiveServer(options=["--slots", "0"]) as server:
        body = {"script_content": "print(1)"}
        made = requests.post(f"{server.api}/executions", json=body, headers=server.headers, timeout=10).json()
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env |= {"RGRID_API_URL": server.url, "RGRID_API_KEY": server.api_key}
        click = [sys.executable, "-c", "import click"]
        client = [sys.executable, "-c", "import click, http.client, json"]
        rows = [
            ("`rgrid --help`", [RGRID, "--help"], click),
            ("`rgrid --version`", [RGRID, "--version"], click),
            ("`rgrid status ID`", [RGRID, "status", made["execution_id"]], client),
            ("`rgrid cost --days 7`", [RGRID, "cost", "--days", "7"], client),
        ]
        print("| what | ours ms | reference ms | ratio | target |\n|---|---:|---:|---:|---:|")
        for name, ours, reference in rows:
            timings = [(milliseconds(ours, env), milliseconds(reference, env)) for _ in range(ROUNDS + 1)][1:]
            mine, theirs = (statistics.median(column) for column in zip(*timings, strict=True))
            print(f"| {name} | {mine:.0f} | {theirs:.0f} | {mine / theirs:.2f} | 1.30 |", flush=True)


def milliseconds(command: list[str], env: dict[str, str]) -> float:
    """A whole process."""
    started = time.perf_counter()
    subprocess.run(command, env=env, capture_output=True, check=True)
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
