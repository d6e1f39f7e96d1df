"""Run every test in the environment that it belongs to, and sum them up in the last line.

Suites are taken by three workers, the longest first: that keeps two cores busy, since many tests wait for
processes. What a suite printed is shown when it has ended. Under RGRID_TEST_REQUIRE=all a skipped test is a
failure.
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
from queue import Empty, SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 3


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
    suites = _suites()
    waiting = SimpleQueue[Suite]()
    for suite in suites:
        waiting.put(suite)
    shown = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="rgrid-tests-") as name:

        def work() -> None:
            while True:
                try:
                    suite = waiting.get_nowait()
                except Empty:
                    return
                printed = Path(name) / f"{suite.name}.txt"
                with printed.open("wb") as output:
                    suite.run(Path(name), arguments, output.fileno())
                with shown:
                    print(f"\n--- {suite.name} ---\n{printed.read_text(errors='replace')}", flush=True)

        workers = [threading.Thread(target=work) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
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


def _suites() -> list[Suite]:
    """All of them, the longest first; a module of tests is in one and no other."""
    alone = [f"tests/integration/test_{name}.py" for name in ("runner_protocol", "backup")]
    contract = [f"tests/contract/test_{name}.py" for name in ("sandboxes", "hostile_scripts")]
    return [
        Suite("faults", ".venv", ["tests/faults"]),
        Suite("contract", ".venv", [*_but("contract", contract), *_but("integration", alone, "[e-z]*")]),
        Suite(
            "integration", ".venv", [*_but("integration", alone, "[a-d]*"), "tests/integration/same_as_local"]
        ),
        Suite("airflow3", ".venv-airflow3", ["tests/airflow"]),
        Suite("airflow2", ".venv-airflow2", ["tests/airflow"]),
        Suite("alone", ".venv", alone),
        Suite("sandboxes", ".venv", contract),
        Suite("browser", ".venv", ["tests/browser"]),
        Suite("unit", ".venv", ["tests/unit"]),
    ]


def _but(folder: str, left_out: Sequence[str], which: str = "*") -> list[str]:
    """The modules of a folder whose names begin so, but for some that are elsewhere."""
    found = sorted((ROOT / "tests" / folder).glob(f"test_{which}.py"))
    return [name for path in found if (name := str(path.relative_to(ROOT))) not in left_out]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
