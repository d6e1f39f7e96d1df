"""Where control groups can be made, by what the machine says; and what killed runners have left there."""

from __future__ import annotations

import os
from pathlib import Path

from rgrid_server.runner.sandbox.cgroups import find

GONE = 2**22 + 1
"""No process has this number (/proc/sys/kernel/pid_max is 2**22 at most)."""


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own"
    path.write_text(text)
    return path


def test_version_1_has_a_hierarchy_for_each_controller(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    for directory in ("memory/a/b", "pids"):
        (root / directory).mkdir(parents=True)
    found = find(root, own(tmp_path, "3:pids:/not/here\n2:memory:/a/b\n1:cpu:/\n"))
    assert found.version == 1
    assert found.parents == {"memory": root / "memory/a/b", "pids": root / "pids"}
    assert "cannot be written" in found.missing["cpu"]


def test_version_2_is_asked_to_pass_its_controllers_on(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    (root / "slice").mkdir(parents=True)
    found = find(root, own(tmp_path, "0::/slice\n"))
    # a plain file keeps what was written to it
    assert (root / "slice/cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert found.version == 2


def test_what_cannot_be_had_is_told(tmp_path: Path) -> None:
    found = find(tmp_path / "cgroup", own(tmp_path, "0::/slice\n"))
    assert found.parents == {}
    assert "cannot be written; delegate it to the runner" in found.said


def test_the_groups_of_runners_that_are_gone_are_removed(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    groups = [root / "pids" / f"rgrid-{pid}-0a" for pid in (GONE, os.getpid())]
    for group in groups:
        group.mkdir(parents=True)
    find(root, own(tmp_path, "3:pids:/\n"))
    assert [group.exists() for group in groups] == [False, True]
