"""Run every test in the environment that it belongs to, and sum them up in the last line.

Two lanes run beside each other: what is mostly one process computing, and what is many processes waiting
for each other (Airflow, faults, a browser). Under RGRID_TEST_REQUIRE=all a skipped test is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAIN_TESTS = ("tests/unit", "tests/contract", "tests/integration")
AIRFLOW_TESTS = ("tests/airflow",)


@dataclass
class Suite:
    """Tests of one environment."""

    name: str
    environment: str
    paths: Sequence[str]
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    code: int = 0

    def run(self, directory: Path, arguments: Sequence[str], output: int | None) -> None:
        """Run them, and count."""
        report = directory / f"{self.name}.xml"
        command = [str(ROOT / self.environment / "bin" / "python"), "-m", "pytest", f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider", *arguments, *self.paths]
        self.code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, check=False).returncode
        if not report.exists():
            self.failed += 1
            return
        for suite in ET.parse(report).getroot().iter("testsuite"):
            counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
            self.failed += counts["failures"] + counts["errors"]
            self.skipped += counts["skipped"]
            self.passed += counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
        if self.code not in {0, 1} and not self.failed:
            self.failed += 1


def main(arguments: Sequence[str]) -> int:
    """Run all suites; returns the exit code."""
    lanes = [
        [Suite("main", ".venv", MAIN_TESTS)],
        [
            Suite("airflow3", ".venv-airflow3", AIRFLOW_TESTS),
            Suite("airflow2", ".venv-airflow2", AIRFLOW_TESTS),
            Suite("faults", ".venv", ["tests/faults"]),
            Suite("browser", ".venv", ["tests/browser"]),
        ],
    ]
    with tempfile.TemporaryDirectory(prefix="rgrid-tests-") as name:
        directory = Path(name)
        beside = threading.Thread(target=_run_quietly, args=(lanes[1], directory, arguments))
        beside.start()
        for suite in lanes[0]:
            suite.run(directory, arguments, None)
        beside.join()
        for suite in lanes[1]:
            print(f"\n--- {suite.name} ---", flush=True)
            print((directory / f"{suite.name}.txt").read_text(errors="replace"), flush=True)
    suites = [suite for lane in lanes for suite in lane]
    passed, failed, skipped = (
        sum(getattr(suite, word) for suite in suites) for word in ("passed", "failed", "skipped")
    )
    nothing_ran = any(suite.passed + suite.failed + suite.skipped == 0 for suite in suites)
    skips_fail = skipped > 0 and os.environ.get("RGRID_TEST_REQUIRE") == "all"
    if nothing_ran:
        print("a suite has run no test at all")
    if skips_fail:
        print("RGRID_TEST_REQUIRE=all allows no skip")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return int(bool(failed) or nothing_ran or skips_fail)


def _run_quietly(suites: Sequence[Suite], directory: Path, arguments: Sequence[str]) -> None:
    for suite in suites:
        with (directory / f"{suite.name}.txt").open("wb") as output:
            suite.run(directory, arguments, output.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
