"""Lists by any filters, whichever of them drives the query, against the filters written out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.engine import Connection

from rgrid_server.domain.execution import Status
from rgrid_server.store import listing, tables
from rgrid_server.store.sqlite import sqlite_engine

ROWS = 120
TENANT = "tenant_a"


def notes(n: int) -> dict[str, str]:
    """What execution ``n`` was noted with: values that match all, some and almost none."""
    return {"all": "x", "third": str(n % 3), "rare": "yes" if n in {7, 55} else "no"}


def status(n: int) -> Status:
    return Status.CANCELED if n in {7, 80} else Status.FAILED if n % 4 == 0 else Status.COMPLETED


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    engine = sqlite_engine(tmp_path_factory.mktemp("listing") / "rgrid.sqlite")
    with engine.connect() as opened:
        tables.metadata.create_all(opened)
        opened.execute(insert(tables.executions), [row(n) for n in range(ROWS)])
        opened.execute(
            insert(tables.metadata_index),
            [
                {"tenant_id": owner(n), "name": name, "value": value, "sequence": n}
                for n in range(ROWS)
                for name, value in notes(n).items()
            ],
        )
        yield opened


def owner(n: int) -> str:
    return "tenant_b" if n % 10 == 9 else TENANT


def row(n: int) -> dict[str, Any]:
    unset = {column.name: None for column in tables.executions.c if not column.nullable}
    return unset | {
        "sequence": n,
        "execution_id": f"exec_{n}",
        "tenant_id": owner(n),
        "specification_id": "one",
        "runtime": "python:3.11",
        "flow": "",
        "status": status(n).value,
        "user_metadata": notes(n),
        **dict.fromkeys(("created_at_ms", "attempt", "retry_count", "max_retries", "timeout_seconds"), 0),
        **dict.fromkeys(("cpus_milli", "memory_mib", "priority", "queue_rank", "charge_nanos"), 0),
        **dict.fromkeys(("script_retry_count", "last_sequence"), 0),
        "output_truncated": False,
        "args": [],
        "env_vars": {},
        "inputs": {},
    }


CHOICES: dict[str, tuple[str | None, ...]] = {
    "all": (None, "x"),
    "third": (None, "0", "2"),
    "rare": (None, "yes", "no", "never"),
}


@pytest.mark.parametrize("wanted_status", [None, Status.FAILED, Status.CANCELED, Status.RUNNING])
@pytest.mark.parametrize("before", [None, 60])
def test_every_combination_of_filters_finds_what_it_says_newest_first(
    connection: Connection, wanted_status: Status | None, before: int | None
) -> None:
    for values in product(*CHOICES.values()):
        metadata = {name: value for name, value in zip(CHOICES, values, strict=True) if value is not None}
        found = listing.list_executions(
            connection, TENANT, limit=10, before=before, status=wanted_status, metadata=metadata
        )
        expected = [
            f"exec_{n}"
            for n in reversed(range(ROWS if before is None else before))
            if owner(n) == TENANT
            and metadata.items() <= notes(n).items()
            and wanted_status in {None, status(n)}
        ]
        assert [item["execution_id"] for item in found] == expected[:10], metadata


@pytest.mark.parametrize(
    ("wanted_status", "metadata", "driver"),
    [
        (None, {"all": "x", "rare": "yes"}, "rare"),
        (Status.CANCELED, {"all": "x"}, None),
        (Status.COMPLETED, {"third": "0"}, "third"),
    ],
)
def test_what_matches_least_drives_the_query(
    connection: Connection, wanted_status: Status | None, metadata: dict[str, str], driver: str | None
) -> None:
    assert listing._narrowest(connection, TENANT, ROWS, wanted_status, metadata) == driver
