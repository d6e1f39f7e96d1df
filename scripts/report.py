"""Measure a fresh server by the old report's rows; write them, then and now, to docs/performance-report.md.

Exits with 0 only if every row was measured and none is slower than it was.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from live_process import ROOT, LiveServer

TARGET = ROOT / "docs" / "performance-report.md"
MORE_IS_BETTER = {"r/s", "n"}


def main() -> int:
    """Measure and write; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="rgrid-report-") as name:
        figures = Path(name) / "figures.json"
        with LiveServer(Path(name) / "server") as server:
            server.wait_for_runner()
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "tests/performance"],
                cwd=ROOT,
                env={
                    **os.environ,
                    "RGRID_API_URL": server.url,
                    "RGRID_API_KEY": server.api_key,
                    "RGRID_REPORT_FILE": str(figures),
                },
                check=False,
            )
        rows = json.loads(figures.read_text()) if figures.exists() else []
    slower = [row for row in rows if is_slower(row)]
    TARGET.write_text(page(rows, slower))
    print(f"{len(rows)} figures in {TARGET.relative_to(ROOT)}, {len(slower)} slower than then")
    for row in slower:
        print(f"slower: {row['row']}, {row['figure']}: {row['now']} {row['unit']}, then {row['then']}")
    return int(done.returncode != 0 or bool(slower) or not rows)


def is_slower(row: dict[str, object]) -> bool:
    """Whether a figure is worse than the old one."""
    now, then = row["now"], row["then"]
    if not isinstance(now, int | float) or not isinstance(then, int | float):
        return False
    return now < then if row["unit"] in MORE_IS_BETTER else now > then


def page(rows: list[dict[str, object]], slower: list[dict[str, object]]) -> str:
    """The report as Markdown."""
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [
        "# Performance, then and now",
        "",
        f"Measured on {today} by `make report`: a fresh server and its clients on one machine with "
        f"{os.cpu_count()} CPUs ({platform.machine()}, Python {platform.python_version()}). *Then* is the "
        "report of 2025-11-22, taken through the network from a public staging server, so the two columns "
        "say that nothing has become slower for its users, not by how much the code has become faster; "
        "ratios on one machine are in [benchmarks](../benchmarks/README.md).",
        "",
        f"{len(rows)} figures, {len(slower)} slower than then.",
        "",
        "| what | figure | then | now |",
        "|---|---|---:|---:|",
    ]
    for row in rows:
        then = "–" if row["then"] is None else f"{row['then']} {row['unit']}"
        lines.append(f"| {row['row']} | {row['figure']} | {then} | {row['now']} {row['unit']} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
