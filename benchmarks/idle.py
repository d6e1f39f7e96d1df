"""A server that has nothing to do: how soon it answers on an empty data directory, and what it takes then."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.live import LiveServer

SETTLE_SECONDS = 5.0


def start_ms() -> float:
    """From the start of the process to its first health answer, on an empty data directory."""
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        server = LiveServer(Path(directory) / "data").start()
        taken = (time.perf_counter() - started) * 1000
        server.stop()
    return taken


def idle(seconds: float) -> dict[str, tuple[float, float]]:
    """Resident MiB, and the part of a core in per cent, of a server and of its runner after an execution."""
    with LiveServer() as server:
        server.wait_for_runner()
        time.sleep(SETTLE_SECONDS)
        processes = {
            "server": psutil.Process(server.pid),
            "runner": psutil.Process(server.runner_pid() or server.pid),
        }
        before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
        time.sleep(seconds)
        return {
            name: (
                process.memory_info().rss / 1024**2,
                (sum(process.cpu_times()[:2]) - before[name]) / seconds * 100,
            )
            for name, process in processes.items()
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    print("| what | figure | target |")
    print("|---|---:|---:|")
    start = statistics.median(start_ms() for _ in range(arguments.runs))
    print(f"| start on an empty data directory to the first answer | {start:.0f} ms | 1,500 ms |")
    for name, (mib, percent) in idle(arguments.seconds).items():
        print(f"| {name}, idle: resident, of a core | {mib:.0f} MiB, {percent:.2f} % | 120 MiB, 0.5 % |")


if __name__ == "__main__":
    main()
