"""The fault programs' own summary."""

from __future__ import annotations

import pytest

from tests.faults import tally


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each program has done."""
    if lines := tally.lines():
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)
