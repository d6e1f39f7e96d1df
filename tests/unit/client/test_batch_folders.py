"""What the folders of a batch's outputs are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgrid.cli.run_batch import name_folders, plan_items


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["in/a.csv", "in/b.csv"], ["a.csv", "b.csv"]),
        (["x/f.csv", "y/f.csv", "y/g.csv"], ["x/f.csv", "y/f.csv", "g.csv"]),
        (["/data/x/f.csv", "/data/y/f.csv", "/data/y/g.csv"], ["x/f.csv", "y/f.csv", "g.csv"]),
        (["/data/f.csv", "/data/y/f.csv"], ["f.csv", "y/f.csv"]),
        (["../x/f.csv", "../y/f.csv"], ["x/f.csv", "y/f.csv"]),
    ],
)
def test_a_folder_is_called_as_shortly_as_tells_it_apart(paths: list[str], names: list[str]) -> None:
    assert name_folders(paths, Path("/work/here")) == names


def test_files_of_one_name_from_elsewhere_are_executions_of_their_own(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for folder in ("dir1", "dir2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f.csv").write_text(folder)
    items = plan_items(str(tmp_path / "dir?" / "f.csv"), [], here)
    assert [item.name for item in items] == ["dir1/f.csv", "dir2/f.csv"]
    assert [item.args for item in items] == [("f.csv",)] * 2
    assert [item.files["f.csv"].read_text() for item in items] == ["dir1", "dir2"]
