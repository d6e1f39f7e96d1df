"""Run every test in the environment that it belongs to, and sum them up in the last line.

The tests are cut into suites, which a few workers take from a queue, the longest first: most of them wait for
processes half of their time, so that three fill two cores. Those that start an Airflow compute all the time,
and run one after another. A suite's output is printed whole when it has ended. Under RGRID_TEST_REQUIRE=all a
skipped test is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 3
SPLIT_UP = "tests/integration"
"""Its entries may run beside each other: none shares a server with another."""
LONG_SECONDS = {
    "test_runner_protocol.py": 160,
    "test_backup.py": 60,
    "test_package.py": 60,
    "same_as_local": 60,
}
"""Those of them that are suites of their own."""
PARTS = 3
"""So many suites are the others."""


@dataclass
class Suite:
    """Tests of one environment that run one after another.

    Attributes:
        seconds: about how long they take, by which they are ordered; nothing else depends on it.
        turn: suites of one turn run one after another, such as those that keep a core busy by themselves.
        variables: what stands in its environment besides.
    """

    name: str
    environment: str
    paths: Sequence[str]
    seconds: int
    turn: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    passed: int = field(default=0, init=False)
    failed: int = field(default=0, init=False)
    skipped: int = field(default=0, init=False)
    took_seconds: float = field(default=0.0, init=False)

    def run(self, directory: Path, arguments: Sequence[str]) -> None:
        """Run them, and count."""
        report, begun = directory / f"{self.name}.xml", time.monotonic()
        command = [str(ROOT / self.environment / "bin" / "python"), "-m", "pytest", f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider", *arguments, *self.paths]
        with (directory / f"{self.name}.txt").open("wb") as output:
            code = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **self.variables},
                stdout=output,
                stderr=output,
                check=False,
            ).returncode
        self.took_seconds = time.monotonic() - begun
        if not report.exists():
            self.failed += 1
            return
        for suite in ET.parse(report).getroot().iter("testsuite"):
            counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
            self.failed += counts["failures"] + counts["errors"]
            self.skipped += counts["skipped"]
            self.passed += counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
        if code not in {0, 1} and not self.failed:
            self.failed += 1


def compile_sources() -> None:
    """Write bytecode once; hundreds of processes start, each of which would compile where that is off."""
    packages = ["rgrid", "rgrid_provider", "server"]
    command = [str(ROOT / ".venv/bin/python"), "-m", "compileall", "-q", *packages]
    subprocess.run(command, cwd=ROOT, check=False)


def suites() -> list[Suite]:
    """All of them; whatever stands in a directory of tests is in one."""
    integration = [path.name for path in sorted((ROOT / SPLIT_UP).iterdir()) if _has_tests(path)]
    rest = [name for name in integration if name not in LONG_SECONDS]
    return [
        *[
            Suite(name.removesuffix(".py"), ".venv", [f"{SPLIT_UP}/{name}"], seconds)
            for name, seconds in LONG_SECONDS.items()
        ],
        *[
            Suite(
                f"integration-{part + 1}",
                ".venv",
                [f"{SPLIT_UP}/{name}" for name in rest[part::PARTS]],
                150,
            )
            for part in range(PARTS)
        ],
        Suite("unit", ".venv", ["tests/unit"], 60),
        Suite("contract", ".venv", ["tests/contract"], 210),
        Suite("airflow3", ".venv-airflow3", ["tests/airflow"], 300, turn="airflow"),
        Suite("airflow2", ".venv-airflow2", ["tests/airflow"], 290, turn="airflow"),
        Suite("faults", ".venv", ["tests/faults"], 400),
        Suite("browser", ".venv", ["tests/browser"], 120, turn="airflow"),
    ]


def _has_tests(path: Path) -> bool:
    return path.name.startswith("test_") or (path.is_dir() and any(path.glob("test_*.py")))


def run_all(suites: Sequence[Suite], arguments: Sequence[str]) -> int:
    """Run them, print each when it has ended and their sum at last; returns the exit code."""
    compile_sources()
    wanted = sorted(suites, key=lambda suite: -suite.seconds)
    printing = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="rgrid-tests-") as name:
        directory = Path(name)

        def run(suite: Suite) -> None:
            suite.run(directory, arguments)
            with printing:
                print(f"\n--- {suite.name}: {suite.took_seconds:.0f} s ---", flush=True)
                print((directory / f"{suite.name}.txt").read_text(errors="replace"), flush=True)

        turns: dict[str, list[Suite]] = {}
        for suite in wanted:
            turns.setdefault(suite.turn or suite.name, []).append(suite)
        queue = sorted(turns.values(), key=lambda suites: -sum(suite.seconds for suite in suites))
        with ThreadPoolExecutor(WORKERS) as workers:
            list(workers.map(lambda suites: [run(suite) for suite in suites], queue))
    passed, failed, skipped = (
        sum(getattr(suite, word) for suite in wanted) for word in ("passed", "failed", "skipped")
    )
    idle = [suite.name for suite in wanted if suite.passed + suite.failed + suite.skipped == 0]
    skips_fail = skipped > 0 and os.environ.get("RGRID_TEST_REQUIRE") == "all"
    if idle:
        print(f"no test was run in: {', '.join(idle)}")
    if skips_fail:
        print("RGRID_TEST_REQUIRE=all allows no skip")
    bad = [suite.name for suite in wanted if suite.failed]
    if bad:
        print(f"failures in: {', '.join(bad)}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return int(bool(failed) or bool(idle) or skips_fail)


if __name__ == "__main__":
    sys.exit(run_all(suites(), sys.argv[1:]))
