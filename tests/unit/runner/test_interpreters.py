"""Which Pythons a machine has, and which of them a runtime means."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from rgrid_server.domain.runtimes import Kind
from rgrid_server.runner.interpreters import Interpreter, choose, find_interpreters

HERE = {
    "python:3.11": Interpreter("3.11.7", "/usr/bin/python3.11"),
    "python:3.13": Interpreter("3.13.0", "/usr/bin/python3.13"),
}


@pytest.mark.parametrize(
    ("runtime", "version"),
    [
        ("python:3.11", "3.11.7"),
        ("python:3.13.0", "3.13.0"),
        ("python:3.11.8", None),
        ("python:3.12", None),
        ("python:3.1", None),
        ("python:3", None),
        ("python", None),
        ("node:20", None),
        ("python:3.11 ", None),
    ],
)
def test_a_runtime_means_one_interpreter_or_none(runtime: str, version: str | None) -> None:
    found = choose(runtime, HERE)
    assert (found.version if found is not None else None) == version


def test_the_runners_own_python_is_there() -> None:
    found = asyncio.run(find_interpreters())
    own = found[f"python:{sys.version_info[0]}.{sys.version_info[1]}"]
    assert own.version == ".".join(str(part) for part in sys.version_info[:3])


def test_what_only_looks_like_an_interpreter_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python3.99"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    assert "python:3.99" not in asyncio.run(find_interpreters())


def test_a_node_is_found_on_the_path_and_under_nvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path, of_nvm = tmp_path / "bin/node", tmp_path / "nvm/versions/node/v97.1.2/bin/node"
    for path, version in ((on_path, "v96.0.1"), (of_nvm, "v97.1.2")):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\necho {version}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{on_path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("NVM_DIR", str(tmp_path / "nvm"))
    found = asyncio.run(find_interpreters())
    assert found["node:96"] == Interpreter("96.0.1", str(on_path), Kind.NODE)
    assert found["node:97"] == Interpreter("97.1.2", str(of_nvm), Kind.NODE)


def test_an_interpreter_under_pyenv_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = tmp_path / "versions/3.98.1/bin"
    binaries.mkdir(parents=True)
    (binaries / "python3.98").write_text("#!/bin/sh\necho cpython final 3 98 1\n")
    (binaries / "python3.98").chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    found = asyncio.run(find_interpreters())
    assert found["python:3.98"] == Interpreter("3.98.1", str(binaries / "python3.98"))
