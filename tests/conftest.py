"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.live import LiveServer


@pytest.fixture(scope="session")
def live_server() -> Iterator[LiveServer]:
    """A server with a runner, shared by all tests of a session; tests tell their things apart by name."""
    with LiveServer(options=["--slots", "4"]) as server:
        yield server.wait_for_runner()


@pytest.fixture(scope="session")
def require() -> Callable[[bool, str], None]:
    """Skip a test that needs what this machine lacks, by name; a failure where nothing may be skipped."""

    def check(condition: bool, what: str) -> None:
        if condition:
            return
        if os.environ.get("RGRID_TEST_REQUIRE") == "all":
            pytest.fail(f"needs {what}, and RGRID_TEST_REQUIRE=all allows no skip")
        pytest.skip(f"needs {what}")

    return check
