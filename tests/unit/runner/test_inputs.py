"""Inputs are fetched once and kept as long as there is room."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rgrid_server.runner import inputs
from rgrid_server.runner.connection import Gone
from rgrid_server.runner.inputs import InputCache


class FakeConnection:
    """Gives a hash's own name as its bytes."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.failure: Exception | None = None

    async def get_blob(self, assignment: Any, sha256: str, target: Path) -> None:
        del assignment
        self.fetched.append(sha256)
        await asyncio.sleep(0)
        target.write_text(sha256)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


def fetch(cache: InputCache, *names: str) -> list[str]:
    """Fetch several at once; returns what each held."""
    taken: list[str] = []

    async def all_of_them() -> None:
        await asyncio.gather(
            *(
                cache.fetch(None, name, lambda path: taken.append(path.read_text()))  # type: ignore[arg-type]
                for name in names
            )
        )

    asyncio.run(all_of_them())
    return taken


def test_one_download_serves_all_who_want_it(tmp_path: Path, connection: FakeConnection) -> None:
    cache = InputCache(tmp_path, connection)  # type: ignore[arg-type]
    assert sorted(fetch(cache, *["a"] * 10, "b")) == ["a"] * 10 + ["b"]
    assert sorted(connection.fetched) == ["a", "b"]


def test_what_was_fetched_is_kept_for_the_next_attempt(tmp_path: Path, connection: FakeConnection) -> None:
    fetch(InputCache(tmp_path, connection), "a")  # type: ignore[arg-type]
    assert fetch(InputCache(tmp_path, connection), "a") == ["a"]  # type: ignore[arg-type]
    assert connection.fetched == ["a"]


def test_the_oldest_make_room(
    tmp_path: Path, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MAX_CACHE_BYTES", 2)
    cache = InputCache(tmp_path, connection)  # type: ignore[arg-type]
    for name in "abc":
        fetch(cache, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
    assert fetch(cache, "a") == ["a"]


def test_nothing_is_left_of_a_download_that_failed(tmp_path: Path, connection: FakeConnection) -> None:
    connection.failure = Gone("not yours")
    with pytest.raises(Gone):
        fetch(InputCache(tmp_path, connection), "a")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_was_cut_short_by_a_kill_is_removed(
    tmp_path: Path, connection: FakeConnection
) -> None:
    (tmp_path / "0123.part").touch()
    InputCache(tmp_path, connection)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
