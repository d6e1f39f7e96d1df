"""The command line, as a whole process."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

import pytest
import requests

from tests.performance.conftest import Api, Report, percentile

BIN = Path(__file__).resolve().parents[2] / ".venv" / "bin"
RGRID = BIN / "rgrid"

HELP_MS = {
    ("--help",): 54,
    ("--version",): 41,
    ("run", "--help"): 50,
    ("status", "--help"): 41,
    ("logs", "--help"): 46,
    ("cost", "--help"): 41,
    ("retry", "--help"): 54,
}


def command_ms(*arguments: str, program: Path = RGRID, env: dict[str, str] | None = None) -> float:
    """Milliseconds of a command that must succeed."""
    # with bytecode written, as it is wherever rgrid is installed
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    done = subprocess.run(
        [str(program), *arguments], env={**clean, **(env or {})}, capture_output=True, check=False
    )
    elapsed_ms = (time.perf_counter() - started) * 1000
    assert done.returncode == 0, done.stderr
    return elapsed_ms


def test_the_least_that_a_command_line_in_python_takes(report: Report) -> None:
    """How fast this machine is just now: no command can be much faster than importing what parses it."""
    import_click = ("-c", "import click")
    command_ms(*import_click, program=BIN / "python")
    values = [command_ms(*import_click, program=BIN / "python") for _ in range(7)]
    report.add("python -c 'import click', on this machine", "median of 7", statistics.median(values), None)


@pytest.mark.parametrize("arguments", list(HELP_MS))
def test_help(report: Report, arguments: tuple[str, ...]) -> None:
    command_ms(*arguments)
    median = statistics.median(command_ms(*arguments) for _ in range(7))
    report.add(f"CLI: {' '.join(arguments)}", "median of 7", median, HELP_MS[arguments])


def test_status_of_an_execution(api: Api, report: Report) -> None:
    env = {"RGRID_API_URL": api.root, "RGRID_API_KEY": api.key}
    listed = requests.get(f"{api.base}/executions?limit=1", headers=api.headers, timeout=30).json()
    execution_id = listed[0]["execution_id"]
    command_ms("status", execution_id, env=env)
    median = statistics.median(command_ms("status", execution_id, env=env) for _ in range(7))
    report.add("CLI with the server: status ID", "median of 7", median, 78)


def test_cost_of_seven_days(api: Api, report: Report) -> None:
    env = {"RGRID_API_URL": api.root, "RGRID_API_KEY": api.key}
    command_ms("cost", "--days", "7", env=env)
    median = statistics.median(command_ms("cost", "--days", "7", env=env) for _ in range(7))
    report.add("CLI with the server: cost --days 7", "median of 7", median, 51)


def test_cold_start(report: Report) -> None:
    report.add("CLI cold", "once", command_ms("--version"), 50)


def test_warm_start(report: Report) -> None:
    values = [command_ms("--version") for _ in range(20)]
    report.add("CLI warm", "mean", statistics.mean(values), 48)
    report.add("CLI warm", "p95", percentile(values, 95), 59)
