"""Environments as uv really builds them, from a package index that is a directory."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rgrid_server.domain.attempts import Specification
from rgrid_server.runner import environments as module
from rgrid_server.runner.environments import Environment, Environments
from rgrid_server.runner.envstore import LOCKS, MARK, RESOLUTIONS, EnvironmentStore, Resolution
from rgrid_server.runner.filelock import FileLock
from rgrid_server.runner.interpreters import Interpreter
from rgrid_server.runner.uv import EnvironmentFault, Rejected
from tests.package_index import Index, make_index

RUNTIME = f"python:{sys.version_info[0]}.{sys.version_info[1]}"
OWN = Interpreter(".".join(str(part) for part in sys.version_info[:3]), sys._base_executable)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    return make_index(tmp_path, monkeypatch)


@pytest.fixture
def make(tmp_path: Path, index: Index) -> Callable[..., Environments]:
    del index
    return lambda **options: Environments(tmp_path / "environments", {RUNTIME: OWN}, **options)


def wanted(requirements: str | None) -> Specification:
    return Specification("pass", "script.py", RUNTIME, requirements)


async def use(environments: Environments, requirements: str | None) -> Environment:
    async with environments.use(wanted(requirements)) as environment:
        return environment


def asked(environment: Environment, code: str) -> str:
    return subprocess.run(
        [environment.python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def kept(environments: Environments) -> list[str]:
    """The names of what stands in the directory, beside locks and resolutions."""
    directory = environments._store._directory
    return sorted(path.name for path in directory.iterdir() if path.name not in {LOCKS, RESOLUTIONS})


def full_disk(*_arguments: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The uv commands that are run, in order."""
    commands: list[str] = []
    real = module.run_uv

    async def noted(*arguments: str, directory: Path, lock: FileLock, **more: Any) -> str:
        commands.append(" ".join(arguments[: 2 if arguments[0] == "pip" else 1]))
        return await real(*arguments, directory=directory, lock=lock, **more)

    monkeypatch.setattr(module, "run_uv", noted)
    return commands


def test_requirements_are_installed(make: Callable[..., Environments], index: Index) -> None:
    index.add("inner", "1.5")
    index.add("outer", "2.0", requires="inner>=1")
    environment = asyncio.run(use(make(), "outer\n"))
    assert asked(environment, "import inner, outer; print(inner.VERSION, outer.VERSION)") == "1.5 2.0"


def test_without_requirements_there_is_the_standard_library_and_nothing_else(
    make: Callable[..., Environments],
) -> None:
    environment = asyncio.run(use(make(), None))
    assert asked(environment, "import importlib.metadata as m; print(list(m.distributions()))") == "[]"


def test_a_hundred_who_ask_at_once_wait_for_one_build(
    make: Callable[..., Environments], index: Index, built: list[str]
) -> None:
    index.add("demo", "1.0")

    async def ask() -> set[Environment]:
        environments = make()
        return set(await asyncio.gather(*(use(environments, "demo") for _ in range(100))))

    assert len(asyncio.run(ask())) == 1
    assert built == ["pip compile", "venv", "pip install"]


async def hear(environments: Environments, requirements: str, told: list[str]) -> None:
    """Use an environment; ``told`` gets what is said of its making."""
    async with environments.use(wanted(requirements), told.append):
        pass


def test_all_who_wait_for_a_build_are_told_what_uv_says_and_who_finds_it_is_not(
    make: Callable[..., Environments], index: Index
) -> None:
    index.add("inner", "1.5")
    index.add("outer", "2.0", requires="inner")
    told: list[list[str]] = [[], [], []]

    async def ask() -> None:
        environments = make()
        await asyncio.gather(*(hear(environments, "outer", lines) for lines in told[:2]))
        await hear(environments, "outer", told[2])

    asyncio.run(ask())
    assert told[0] == told[1]
    assert [line for line in told[0] if line.startswith(" +")] == [" + inner==1.5", " + outer==2.0"]
    assert told[2] == []


def test_a_build_that_fails_is_told_to_all_who_wait_and_the_error_holds_its_end(
    make: Callable[..., Environments], index: Index
) -> None:
    index.add("outer", "2.0", requires="nowhere")
    told: list[list[str]] = [[], []]

    async def ask() -> list[BaseException | None]:
        environments = make()
        asked = (hear(environments, "outer", lines) for lines in told)
        return await asyncio.gather(*asked, return_exceptions=True)

    for failure, lines in zip(asyncio.run(ask()), told, strict=True):
        assert isinstance(failure, Rejected)
        assert any("No solution found" in line for line in lines)
        assert lines[-1].strip() in str(failure)


def test_who_waits_for_another_runners_build_is_told_what_that_said(
    make: Callable[..., Environments], index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("demo", "1.0")
    told: list[list[str]] = [[], []]

    async def ask() -> None:
        builder, waiter = make(), make()
        await hear(make(), None, [])
        waits, real_lock, real_uv = asyncio.Event(), waiter._store.lock, module.run_uv
        waiting: list[asyncio.Task[None]] = []

        async def lock(key: str, timeout_seconds: float) -> FileLock:
            waits.set()
            return await real_lock(key, timeout_seconds)

        async def run_uv(*arguments: str, **more: Any) -> str:
            if arguments[1] == "install":
                # the other one has the resolution already, and comes to wait for what is being built here
                monkeypatch.setattr(waiter._store, "lock", lock)
                waiting.append(asyncio.create_task(hear(waiter, "demo", told[1])))
                await waits.wait()
            return await real_uv(*arguments, **more)

        monkeypatch.setattr(module, "run_uv", run_uv)
        await hear(builder, "demo", told[0])
        await waiting[0]

    asyncio.run(ask())
    assert " + demo==1.0" in told[0]
    # line by line: resolving may have said the same as building does, to the millisecond
    assert told[1] == told[0][-len(told[1]) :]
    assert " + demo==1.0" in told[1]


def test_a_password_in_an_indexs_address_is_not_told(
    make: Callable[..., Environments], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://someone:of-the-index@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    told: list[str] = []
    with pytest.raises(EnvironmentFault) as failure:
        asyncio.run(hear(make(), "demo", told))
    assert any("127.0.0.1:9" in line for line in told)
    assert "of-the-index" not in str(failure.value) + "".join(told)


def test_different_texts_that_resolve_to_the_same_share_an_environment(
    make: Callable[..., Environments], index: Index, built: list[str]
) -> None:
    index.add("demo", "1.0")

    async def ask() -> tuple[Environment, Environment]:
        environments = make()
        return await use(environments, "demo"), await use(environments, "demo>=1\n# pinned\n")

    first, second = asyncio.run(ask())
    assert first == second
    assert built.count("pip install") == 1


def test_an_environment_is_found_again_by_the_next_runner(
    make: Callable[..., Environments], index: Index, built: list[str]
) -> None:
    index.add("demo", "1.0")
    asyncio.run(use(make(), "demo==1.0"))
    asyncio.run(use(make(), "demo==1.0"))
    assert built.count("venv") == 1


def test_what_is_not_pinned_is_resolved_anew_after_a_while(
    make: Callable[..., Environments], index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESOLUTION_LIFETIME_SECONDS", 0.0)

    async def ask() -> tuple[Environment, Environment]:
        environments = make()
        index.add("demo", "1.0")
        first = await use(environments, "demo")
        index.add("demo", "1.1")
        return first, await use(environments, "demo")

    first, second = asyncio.run(ask())
    assert asked(first, "import demo; print(demo.VERSION)") == "1.0"
    assert asked(second, "import demo; print(demo.VERSION)") == "1.1"


def test_an_older_resolution_is_used_while_the_index_is_away(
    make: Callable[..., Environments], index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESOLUTION_LIFETIME_SECONDS", 0.0)
    index.add("demo", "1.0")

    async def ask() -> tuple[Environment, Environment]:
        environments = make()
        first = await use(environments, "demo")
        monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("UV_CACHE_DIR", str(index.root.parent / "empty"))
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        return first, await use(environments, "demo")

    first, second = asyncio.run(ask())
    assert first == second
    assert first.warning is None
    assert second.warning is not None
    assert "could not be fetched" in second.warning


def test_the_older_resolution_may_be_that_of_an_earlier_runner(
    make: Callable[..., Environments], index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("demo", "1.0")
    first = asyncio.run(use(make(), "demo"))
    monkeypatch.setattr(module, "RESOLUTION_LIFETIME_SECONDS", 0.0)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(index.root.parent / "empty"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    assert asyncio.run(use(make(), "demo")) == first


def test_a_resolution_from_the_future_is_made_anew(
    make: Callable[..., Environments], index: Index, built: list[str]
) -> None:
    index.add("demo", "1.0")
    environments = make()
    asyncio.run(use(environments, "demo"))
    (known,) = environments._resolutions
    tomorrow = Resolution(environments._resolutions[known].pins, time.time() + 86_400)
    environments._resolutions[known] = tomorrow
    environments._store.keep_resolution(known, tomorrow)
    asyncio.run(use(environments, "demo"))
    assert built.count("pip compile") == 2


def test_an_index_that_is_away_is_the_grids_fault(
    make: Callable[..., Environments], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(EnvironmentFault, match="could not be fetched"):
        asyncio.run(use(make(), "demo"))


@pytest.mark.parametrize(
    ("requirements", "code", "why"),
    [
        ("nothing-of-this-name", "requirements_unresolvable", "nothing-of-this-name was not found"),
        ("demo==9", "requirements_unresolvable", "no version of demo==9"),
        ("demo==1.0\ndemo==1.1", "requirements_unresolvable", "unsatisfiable"),
        ("demo ==== 1", "requirements_invalid", "`requirements.txt`"),
        ("not a requirement", "requirements_invalid", "`requirements.txt`"),
    ],
)
def test_requirements_that_cannot_be_met_are_rejected_with_the_reason(
    make: Callable[..., Environments], index: Index, requirements: str, code: str, why: str
) -> None:
    index.add("demo", "1.0")
    index.add("demo", "1.1")
    with pytest.raises(Rejected, match=why) as rejected:
        asyncio.run(use(make(), requirements))
    assert rejected.value.code == code


def test_a_build_that_was_cut_short_is_made_anew_and_nothing_of_it_is_left(
    make: Callable[..., Environments], index: Index
) -> None:
    index.add("demo", "1.0")
    environments = make()
    environment = asyncio.run(use(environments, "demo"))
    (environment.directory / MARK).unlink()
    environment.python.unlink()
    again = asyncio.run(use(environments, "demo"))
    assert asked(again, "import demo; print(demo.VERSION)") == "1.0"
    assert not environment.directory.exists()


def test_a_build_that_fails_leaves_nothing(
    make: Callable[..., Environments], index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("demo", "1.0")
    environments = make()
    monkeypatch.setattr(EnvironmentStore, "publish", full_disk)
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(use(environments, "demo"))
    assert kept(environments) == []


def test_an_environment_whose_interpreter_is_gone_is_made_anew(make: Callable[..., Environments]) -> None:
    environment = asyncio.run(use(make(), None))
    environment.python.unlink()
    again = asyncio.run(use(make(), None))
    assert again.key == environment.key
    assert asked(again, "print('here')") == "here"


def test_one_who_goes_away_does_not_end_the_build_of_the_others(
    make: Callable[..., Environments], index: Index, built: list[str]
) -> None:
    index.add("demo", "1.0")

    async def ask() -> Environment:
        environments = make()
        impatient = asyncio.create_task(use(environments, "demo"))
        patient = asyncio.create_task(use(environments, "demo"))
        while not built:
            await asyncio.sleep(0)
        impatient.cancel()
        return await patient

    assert asked(asyncio.run(ask()), "import demo; print(demo.VERSION)") == "1.0"
    assert built.count("pip compile") == 1


def test_the_longest_unused_make_room_and_those_in_use_stay(
    make: Callable[..., Environments], index: Index, tmp_path: Path
) -> None:
    for name in ("used", "idle", "newest"):
        index.add(name, "1.0", size_bytes=400_000)

    async def fill() -> list[Environment]:
        environments = make(max_bytes=1_000_000)
        async with environments.use(wanted("used")) as used:
            idle = await use(environments, "idle")
            newest = await use(environments, "newest")
            return [used, idle, newest]

    used, idle, newest = asyncio.run(fill())
    assert [one.python.exists() for one in (used, idle, newest)] == [True, False, True]
    assert not list((tmp_path / "environments").glob("removed-*"))


def test_what_another_runner_uses_is_not_removed_for_room(
    make: Callable[..., Environments], index: Index
) -> None:
    for name in ("used", "newest"):
        index.add(name, "1.0", size_bytes=800_000)

    async def fill() -> tuple[bool, bool]:
        one, other = make(max_bytes=1_000_000), make(max_bytes=1_000_000)
        async with one.use(wanted("used")) as used:
            await use(other, "newest")
            stayed = used.python.exists()
        index.add("last", "1.0")
        await use(other, "last")
        return stayed, used.python.exists()

    assert asyncio.run(fill()) == (True, False)


def test_nothing_of_a_resolution_is_left_behind(make: Callable[..., Environments], index: Index) -> None:
    del index
    environments = make()
    with pytest.raises(Rejected):
        asyncio.run(use(environments, "nothing-of-this-name"))
    assert kept(environments) == []
