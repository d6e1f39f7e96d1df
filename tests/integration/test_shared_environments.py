"""Several runners of a host on one directory of environments, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rgrid_server.domain.attempts import Specification
from rgrid_server.runner import environments as module
from rgrid_server.runner.environments import Environments
from rgrid_server.runner.envstore import LOCKS, MARK
from rgrid_server.runner.filelock import FileLock, try_lock, wait_lock
from rgrid_server.runner.uv import EnvironmentFault
from tests.environments_worker import OWN, RUNTIME
from tests.package_index import Index, make_index

LONG_SECONDS = 60.0
ROOT = Path(__file__).parents[2]


class Runner:
    """A runner's environments in another process."""

    def __init__(self, directory: Path, asks: int, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.environments_worker", directory, "demo", str(asks), *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def heard(self) -> str:
        """The next thing that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self) -> None:
        """Let it begin to ask."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What it did in the end."""
        result: dict[str, Any] = json.loads(self.heard())
        return result


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "environments"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    made = make_index(tmp_path, monkeypatch)
    made.add("demo", "1.0")
    return made


@pytest.fixture
def runner(directory: Path, index: Index) -> Iterator[Callable[..., Runner]]:
    del index
    begun: list[Runner] = []

    def begin(asks: int, *options: str) -> Runner:
        begun.append(Runner(directory, asks, *options))
        assert begun[-1].heard() == "ready"
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.communicate()


def test_a_hundred_who_ask_two_runners_wait_for_one_resolution_and_one_build(
    runner: Callable[..., Runner], directory: Path
) -> None:
    both = [runner(50), runner(50)]
    for one in both:
        one.begin()
    results = [one.result() for one in both]
    assert sorted(results[0]["commands"] + results[1]["commands"]) == ["pip compile", "pip install", "venv"]
    assert results[0]["given"] == results[1]["given"]
    assert len(results[0]["given"]) == len(list(directory.glob(f"*/{MARK}"))) == 1


def test_who_waits_for_a_runner_that_is_killed_builds_in_its_place_and_nothing_of_it_is_left(
    runner: Callable[..., Runner], directory: Path
) -> None:
    builder = runner(1, "--hang")
    builder.begin()
    assert builder.heard() == "installing"
    (half,) = directory.glob("*/half")
    waiting = runner(2)
    waiting.begin()
    builder.process.kill()
    result = waiting.result()
    # the resolution of the one that was killed stays
    assert result["commands"] == ["venv", "pip install"]
    assert not half.parent.exists()
    (standing,) = directory.glob("[0-9a-f]*")
    assert [str(standing)] == result["given"]


def test_a_runner_that_starts_removes_what_killed_ones_have_left_and_nothing_that_is_being_built(
    runner: Callable[..., Runner], directory: Path
) -> None:
    builder = runner(1, "--hang")
    builder.begin()
    assert builder.heard() == "installing"
    (directory / "removed-half").mkdir()
    (directory / f"resolving-{'0' * 64}").mkdir()
    Environments(directory, {RUNTIME: OWN})
    (building,) = directory.glob("*/half")
    assert {path.name for path in directory.iterdir()} == {building.parent.name, LOCKS, "resolutions"}
    builder.process.kill()
    builder.process.wait()
    Environments(directory, {RUNTIME: OWN})
    assert {path.name for path in directory.iterdir()} == {LOCKS, "resolutions"}
    assert list((directory / LOCKS).iterdir()) == []


def test_who_waits_too_long_is_told_what_for(
    runner: Callable[..., Runner], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = runner(1, "--hang")
    builder.begin()
    assert builder.heard() == "installing"
    monkeypatch.setattr(module, "BUILD_WAIT_SECONDS", 0.01)
    with pytest.raises(EnvironmentFault, match="another runner of this host is at the same environment"):
        asyncio.run(ask(Environments(directory, {RUNTIME: OWN})))


def test_waiting_ends_at_once_when_it_is_canceled_and_the_lock_goes_to_the_next(
    runner: Callable[..., Runner], directory: Path
) -> None:
    builder = runner(1, "--hang")
    builder.begin()
    assert builder.heard() == "installing"

    async def give_up() -> None:
        environments = Environments(directory, {RUNTIME: OWN})
        waiting = asyncio.create_task(ask(environments))
        while not any(name.startswith("build") for name in environments._once.under_way):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await environments.close()

    asyncio.run(asyncio.wait_for(give_up(), LONG_SECONDS))
    following = runner(1)
    following.begin()
    builder.process.kill()
    assert following.result()["commands"] == ["venv", "pip install"]


def test_a_lock_lasts_as_long_as_the_last_child_of_a_builder_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = wait_at_once(path)
    # ends with its standard input, as uv does with its work
    child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, pass_fds=(lock.descriptor,))
    lock.release()
    assert try_lock(path) is None
    child.communicate()
    wait_at_once(path).release()


def test_a_lock_on_a_file_that_its_holder_removed_is_taken_on_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    async def wait() -> FileLock:
        first = await wait_lock(path, LONG_SECONDS)
        waiting = asyncio.create_task(wait_lock(path, LONG_SECONDS))
        await asyncio.sleep(0)
        path.unlink()
        first.release()
        return await waiting

    with asyncio.run(wait()):
        assert try_lock(path) is None


def wait_at_once(path: Path) -> FileLock:
    return asyncio.run(wait_lock(path, LONG_SECONDS))


async def ask(environments: Environments) -> None:
    async with environments.use(Specification("pass", "script.py", RUNTIME, "demo")):
        pass
