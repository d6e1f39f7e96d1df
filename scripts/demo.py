"""The whole way on real data: a script, a batch, an Airflow DAG, and what they cost.

Exits with 0 only if every result is what the data say it should be.
"""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from live_process import ROOT, AirflowHome, LiveServer

from rgrid.client import Client

DATA = ROOT / "dags" / "examples" / "data"
SCRIPTS = ROOT / "dags" / "examples" / "scripts"
YEARS = (2012, 2013, 2014, 2015)
RGRID = ROOT / ".venv" / "bin" / "rgrid"


class Mismatch(Exception):
    """A result is not what it should be."""


def main() -> int:
    """Show everything; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="rgrid-demo-") as name:
        home = Path(name)
        with LiveServer(home / "server") as server:
            server.wait_for_runner()
            say(f"a server of its own at {server.url}")
            try:
                run_a_script(server, home / "script")
                run_a_batch(server, home / "batch")
                run_a_dag(server, home / "airflow")
                show_cost(server)
            except Mismatch as mismatch:
                say(f"FAILED: {mismatch}")
                return 1
    say("every result is what the data say")
    return 0


def run_a_script(server: LiveServer, directory: Path) -> None:
    """One script over one file."""
    directory.mkdir()
    shutil.copy(DATA / "seattle-weather-2012.csv", directory / "weather.csv")
    (directory / "wettest.py").write_text(
        "import csv, sys\n"
        "days = list(csv.DictReader(open(sys.argv[1])))\n"
        "wettest = max(days, key=lambda day: float(day['precipitation']))\n"
        "open('wettest.txt', 'w').write(wettest['date'])\n"
        "print(len(days), 'days, the wettest was', wettest['date'], 'with', wettest['precipitation'], 'mm')\n"
    )
    printed = rgrid(server, directory, "run", "wettest.py", "weather.csv")
    wettest = max(rows_of(2012), key=lambda row: float(row["precipitation"]))
    check(f"was {wettest['date']} with {wettest['precipitation']} mm" in printed, "the wettest day")
    check((directory / "wettest.txt").read_text() == wettest["date"], "wettest.txt")


def run_a_batch(server: LiveServer, directory: Path) -> None:
    """One script over four files, with pandas."""
    directory.mkdir()
    shutil.copytree(DATA, directory / "data")
    for name in ("summarise_year.py", "requirements.txt"):
        shutil.copy(SCRIPTS / name, directory / name)
    rgrid(
        server, directory, "run", "summarise_year.py", "--batch", "data/*.csv", "--parallel", "2", "--watch"
    )
    for year in YEARS:
        summary = directory / "outputs" / f"seattle-weather-{year}.csv" / "summary.csv"
        check_rain(summary, year)
        say(f"{summary.relative_to(directory)}: {summary.read_text().splitlines()[1]} …")


def run_a_dag(server: LiveServer, directory: Path) -> None:
    """The example DAG in Airflow 3."""
    say("the example DAG in Airflow 3: four yearly summaries, and a picture of them")
    with AirflowHome(3, directory, server) as home:
        shutil.copytree(ROOT / "dags" / "examples", home.dags, dirs_exist_ok=True)
        home.migrate()
        done = home.airflow("dags", "test", "seattle_weather", check=False)
    told = done.stdout + done.stderr
    for line in told.splitlines():
        if "[stderr]" in line or "micro-euro" in line:
            print(f"  {line[:160]}")
    check(done.returncode == 0, f"the DAG: {told[-3000:]}")
    picture = directory / "outputs" / "rain.png"
    check(picture.exists() and picture.read_bytes().startswith(b"\x89PNG"), "the picture")
    say(f"rain.png: {picture.stat().st_size} bytes")
    for year in YEARS:
        check_rain(directory / "outputs" / "summaries" / f"seattle-weather-{year}.csv" / "summary.csv", year)


def show_cost(server: LiveServer) -> None:
    """What it all cost."""
    rgrid(server, ROOT, "list", "--limit", "5")
    rgrid(server, ROOT, "cost", "--by", "dag,task")
    with Client(server.url, server.api_key) as client:
        whole = client.cost()
        for cut in ("day", "dag", "task", "dag,task"):
            parts = client.cost_breakdown(cut)
            check(
                sum(group.cost_micros for group in parts.groups) == whole.total_cost_micros,
                f"the cost by {cut}",
            )
        check(whole.total_executions == 1 + 4 + 5, f"{whole.total_executions} executions")


def rgrid(server: LiveServer, directory: Path, *arguments: str) -> str:
    """Type a command, and show what it says."""
    print(f"\n$ rgrid {' '.join(arguments)}", flush=True)
    env = {**os.environ, "RGRID_API_URL": server.url, "RGRID_API_KEY": server.api_key}
    done = subprocess.run(
        [str(RGRID), *arguments],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    print(done.stdout + done.stderr, end="", flush=True)
    check(done.returncode == 0, f"rgrid {arguments[0]} ended with {done.returncode}")
    return done.stdout


def check_rain(summary: Path, year: int) -> None:
    """A summary's rain is the data's."""
    check(summary.exists(), str(summary))
    with summary.open() as opened:
        found = sum(float(row["rain_mm"]) for row in csv.DictReader(opened))
    wanted = sum(float(row["precipitation"]) for row in rows_of(year))
    check(abs(found - wanted) < 0.06, f"the rain of {year}: {found}, not {wanted}")


def rows_of(year: int) -> list[dict[str, str]]:
    """A year's data."""
    with (DATA / f"seattle-weather-{year}.csv").open() as opened:
        return list(csv.DictReader(opened))


def check(holds: bool, what: str) -> None:
    """Stop at what is not as it should be."""
    if not holds:
        raise Mismatch(what)


def say(text: str) -> None:
    """Tell what happens."""
    print(f"\n# {text}", flush=True)


def _stop(_number: int, _frame: object) -> None:
    # as Ctrl-C does: everything that was started is stopped on the way out
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
