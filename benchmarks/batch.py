"""Batches through a real server against ``xargs -P2 python``: from submit to the last output on the disk.

Each side starts with its files on the disk and ends with each script's output in a directory of its own. The
server takes in every item durably, confines it, logs it, charges for it and keeps its output; a warm-up run
comes first on both sides, and each figure is the median of several runs.

Cold there are two of: ``--fresh`` starts server and runner anew before every run, so that nothing waits warm
and nothing is known of the scripts, and the batch is the first thing that is asked of them; ``--cold`` gives
every script an interpreter of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rgrid import Client
from rgrid.submissions import execution_body
from tests.docker_daemon import DockerDaemon
from tests.live import LiveServer

TINY = """import sys
with open('result.txt', 'w') as file:
    file.write(sys.argv[1])
print('done', sys.argv[1])
"""
PANDAS = """import pandas as pd
import sys
frame = pd.DataFrame({'a': range(10), 'b': int(sys.argv[1])})
frame.to_csv('result.csv')
print(frame['a'].sum())
"""


def cpu_ms(pid: int, *, with_children: bool) -> float:
    """What a process has used of a processor, alone or with all that it has started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    used = sum(map(int, fields[11 : 15 if with_children else 13])) * 1000 / os.sysconf("SC_CLK_TCK")
    if with_children:
        used += sum(
            cpu_ms(int(child), with_children=True)
            for file in Path(f"/proc/{pid}/task").glob("*/children")
            for child in file.read_text().split()
        )
    return used


class Side:
    """A server with one sandbox, and its client."""

    def __init__(self, sandbox: str, directory: Path, *, is_cold: bool = False) -> None:
        # any variable that the interpreter itself reads makes a script start cold
        self.env_vars = {"PYTHONUNBUFFERED": "yes"} if is_cold else {}
        self.server = LiveServer(directory, options=["--sandbox", sandbox, "--slots", "2"])
        self._known: list[str] = []
        self.start()

    def start(self) -> None:
        """Start the server, and wait until its runner has said anew what it can do."""
        self.server.start()
        self.client = Client(self.server.url, self.server.api_key)
        while (found := self._registrations()) == self._known:
            time.sleep(0.01)
        self._known = found

    def _registrations(self) -> list[str]:
        request = urllib.request.Request(f"{self.server.api}/admin/runners", headers=self.server.headers)
        with urllib.request.urlopen(request) as answer:
            return [runner["registered_at"] for runner in json.load(answer)]

    def restart(self) -> None:
        """Start both anew, with the environments that they have built."""
        self.server.stop()
        self.start()

    def batch(self, script: str, size: int, directory: Path, requirements: str | None) -> None:
        """Submit, wait for the last result, download every output and its log's head."""
        items = [{"args": [str(number)]} for number in range(size)]
        template = execution_body(script, requirements=requirements, env_vars=self.env_vars)
        batch = self.client.submit_batch(template, items)
        results = list(
            self.client.batch_outputs(
                batch.batch_id, directory, follow=True, folder_of=lambda result: result.execution_id
            )
        )
        if [result.status for result in results] != ["completed"] * size:
            raise SystemExit(
                f"the batch did not succeed: {[one for one in results if one.status != 'completed'][:3]}"
            )

    def cpu_ms(self) -> dict[str, float]:
        """What server, runner, and the sandboxes with the scripts in them have used so far."""
        runner = self.server.runner_pid() or 0
        own = cpu_ms(runner, with_children=False)
        return {
            "server": cpu_ms(self.server.pid, with_children=False),
            "runner": own,
            "scripts": cpu_ms(runner, with_children=True) - own,
            "client": time.process_time() * 1000,
        }

    def first(self, script: str, requirements: str | None) -> tuple[float, float]:
        """From submit to the client's knowing, and the script's own time, in ms."""
        started = time.perf_counter()
        execution = self.client.submit(script, args=["1"], requirements=requirements, env_vars=self.env_vars)
        ended = self.client.wait(execution.execution_id)
        return (time.perf_counter() - started) * 1000, (ended.duration_seconds or 0) * 1000

    def python(self, requirements: str | None) -> Path:
        """The interpreter that the runner made."""
        execution = self.client.wait(self.client.submit("pass", requirements=requirements).execution_id)
        key = execution.execution_metadata["environment"]
        return next(self.server.data_dir.glob(f"runner/environments/{key}*/bin/python"))


def xargs(python: Path, script: str, size: int, directory: Path) -> None:
    """The same by hand: two at a time, each in a directory of its own."""
    (directory / "script.py").write_text(script)
    shell = f'mkdir -p "{directory}/$0" && cd "{directory}/$0" && "{python}" ../script.py "$0" > stdout'
    subprocess.run(
        ["xargs", "-P2", "-I{}", "sh", "-c", shell, "{}"],
        input="\n".join(map(str, range(size))).encode(),
        check=True,
    )


def taken_ms(work: Callable[[Path], None]) -> float:
    """How long some work in a directory of its own takes, in ms."""
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        work(Path(directory))
        return (time.perf_counter() - started) * 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--pandas-size", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sandboxes", nargs="*", default=["bubblewrap", "process"])
    parser.add_argument("--cold", action="store_true", help="start every script cold")
    parser.add_argument("--fresh", action="store_true", help="start server and runner before every run")
    arguments = parser.parse_args()
    row("what", "ours", "reference", "ratio", "target")
    with tempfile.TemporaryDirectory() as top, ExitStack() as stack:
        if "docker" in arguments.sandboxes and "DOCKER_HOST" not in os.environ:
            os.environ["DOCKER_HOST"] = stack.enter_context(DockerDaemon()).host
        firsts: dict[str, float] = {}
        for sandbox in arguments.sandboxes:
            side = Side(sandbox, Path(top) / sandbox, is_cold=arguments.cold)
            try:
                for name, script, requirements, size, target in (
                    ("tiny", TINY, None, arguments.size, "1 / 2"),
                    ("pandas", PANDAS, "pandas", arguments.pandas_size, "10"),
                ):
                    if not size:
                        continue
                    python = side.python(requirements)
                    xargs(python, script, 4, make(Path(top) / f"warm-{sandbox}-{name}"))
                    side.batch(script, 4, make(Path(top) / f"warm-{sandbox}-{name}-ours"), requirements)
                    ours: list[float] = []
                    theirs: list[float] = []
                    used: Counter[str] = Counter()
                    by_hand = 0.0
                    for _ in range(arguments.runs):
                        if arguments.fresh:
                            side.restart()
                        before = side.cpu_ms()
                        ours.append(taken_ms(partial(side.batch, script, size, requirements=requirements)))
                        used.update({who: now - before[who] for who, now in side.cpu_ms().items()})
                        children_before = children_ms()
                        theirs.append(taken_ms(partial(xargs, python, script, size)))
                        by_hand += children_ms() - children_before
                    items = size * arguments.runs
                    mine, reference = statistics.median(ours), statistics.median(theirs)
                    ratio = f"{reference / mine:.2f}"
                    row(f"{size} {name}, {sandbox}", f"{mine:.0f} ms", f"{reference:.0f} ms", ratio, target)
                    row(
                        "  processor time of an item",
                        f"{used.total() / items:.1f} ms",
                        f"{by_hand / items:.1f} ms",
                        f"{by_hand / used.total():.2f}",
                        ", ".join(f"{who} {ms / items:.1f}" for who, ms in used.items()),
                    )
                    over = statistics.median(
                        total - own for total, own in (side.first(script, requirements) for _ in range(21))
                    )
                    row(f"first result, {name}, {sandbox}", f"{over:.1f} ms", "", "", "50 ms over the script")
                    firsts[f"{name} {sandbox}"] = over
            finally:
                side.server.stop()
        for sandbox in arguments.sandboxes:
            if {f"tiny {sandbox}", "tiny process"} <= firsts.keys() and sandbox != "process":
                more = firsts[f"tiny {sandbox}"] - firsts["tiny process"]
                row(f"{sandbox} over process", f"{more:.1f} ms", "", "", "15 ms")


def children_ms() -> float:
    """What this process's own children have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) * 1000


def make(directory: Path) -> Path:
    """A directory, made."""
    directory.mkdir()
    return directory


def row(what: str, ours: str, reference: str, ratio: str, target: str) -> None:
    """One line of the table."""
    print(f"| {what:<40} | {ours:>12} | {reference:>12} | {ratio:>6} | {target:<22} |", flush=True)


if __name__ == "__main__":
    main()
