"""An attempt's directory: what is laid out, and what is found afterwards."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from rgrid_server.runner.workspace import MAX_SHELVED, OutputLimit, Shelf, Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "attempt")
    made.create()
    return made


def put(workspace: Workspace, name: str, content: bytes) -> None:
    workspace.put(name, content, sha256=hashlib.sha256(content).hexdigest())


def names(workspace: Workspace, globs: list[str] | None = None) -> list[str]:
    return [item.name for item in workspace.find_outputs(globs, max_files=100, max_bytes=10_000).files]


def passed_over(workspace: Workspace) -> str:
    return "\n".join(workspace.find_outputs(None, max_files=100, max_bytes=10_000).passed_over)


def test_a_new_file_is_an_output(workspace: Workspace) -> None:
    (workspace.work / "out.csv").write_bytes(b"a,b\n")
    (found,) = workspace.find_outputs(None, max_files=1, max_bytes=4).files
    assert (found.name, found.size_bytes, found.content_type) == ("out.csv", 4, "text/csv")
    assert found.sha256 == hashlib.sha256(b"a,b\n").hexdigest()


def test_files_in_folders_keep_their_names(workspace: Workspace) -> None:
    (workspace.work / "a/b").mkdir(parents=True)
    (workspace.work / "a/b/c d.txt").touch()
    assert names(workspace) == ["a/b/c d.txt"]


def test_an_input_that_stays_as_it_is_is_no_output(workspace: Workspace) -> None:
    put(workspace, "data/in.csv", b"1")
    assert names(workspace) == []


def test_an_input_that_was_changed_is_an_output(workspace: Workspace) -> None:
    put(workspace, "in.csv", b"1")
    (workspace.work / "in.csv").write_bytes(b"2")
    assert names(workspace) == ["in.csv"]


def test_a_change_that_hides_its_time_is_seen(workspace: Workspace) -> None:
    put(workspace, "in.csv", b"1")
    before = (workspace.work / "in.csv").stat()
    (workspace.work / "in.csv").write_bytes(b"2")
    os.utime(workspace.work / "in.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert names(workspace) == ["in.csv"]


def test_an_input_that_was_written_again_with_the_same_bytes_is_no_output(workspace: Workspace) -> None:
    put(workspace, "in.csv", b"1")
    (workspace.work / "in.csv").write_bytes(b"1")
    assert names(workspace) == []


def test_globs_choose_the_outputs(workspace: Workspace) -> None:
    for name in ("keep.csv", "drop.txt", "deep/keep.csv", "folder/any"):
        (workspace.work / name).parent.mkdir(exist_ok=True)
        (workspace.work / name).touch()
    assert names(workspace, ["*.csv", "folder/"]) == ["deep/keep.csv", "folder/any", "keep.csv"]


def test_what_python_compiled_is_no_output(workspace: Workspace) -> None:
    (workspace.work / "__pycache__").mkdir()
    (workspace.work / "__pycache__/a.cpython-311.pyc").touch()
    (workspace.work / "b.pyc").touch()
    assert names(workspace) == []


def test_a_hard_link_is_an_output(workspace: Workspace) -> None:
    put(workspace, "in.csv", b"1")
    os.link(workspace.work / "in.csv", workspace.work / "again.csv")
    assert names(workspace) == ["again.csv"]


def test_a_link_to_a_file_inside_is_taken_as_its_content(workspace: Workspace) -> None:
    (workspace.work / "real").write_bytes(b"content")
    (workspace.work / "link").symlink_to("real")
    found = workspace.find_outputs(None, max_files=2, max_bytes=100).files
    assert [(item.name, item.size_bytes) for item in found] == [("link", 7), ("real", 7)]


@pytest.mark.parametrize("target", ["/etc/passwd", "../home", "nowhere", "loop", "/proc/self/environ"])
def test_a_link_out_of_the_directory_is_passed_over(workspace: Workspace, target: str) -> None:
    (workspace.work / "loop").symlink_to(target)
    assert names(workspace) == []
    assert "loop is a link out of the working directory" in passed_over(workspace)


def test_a_linked_folder_is_not_entered(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").touch()
    (workspace.work / "folder").symlink_to(tmp_path / "secret")
    assert names(workspace) == []


def test_what_is_no_file_is_passed_over(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(workspace.work / "fifo")
    monkeypatch.chdir(workspace.work)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    assert names(workspace) == []
    assert "fifo is no regular file" in passed_over(workspace)
    assert "socket is no regular file" in passed_over(workspace)


def test_a_name_that_is_not_unicode_is_passed_over(workspace: Workspace) -> None:
    with open(os.fsencode(workspace.work) + b"/caf\xe9", "wb"):
        pass
    assert names(workspace) == []
    assert "'caf\\udce9' is not valid Unicode" in passed_over(workspace)


def test_a_name_with_a_newline_is_passed_over(workspace: Workspace) -> None:
    (workspace.work / "two\nlines").touch()
    assert "'two\\nlines' has a control character" in passed_over(workspace)


def test_more_files_than_allowed_are_refused(workspace: Workspace) -> None:
    for number in range(3):
        (workspace.work / str(number)).touch()
    with pytest.raises(OutputLimit, match="more than 2 files; pack them"):
        workspace.find_outputs(None, max_files=2, max_bytes=100)


def test_more_bytes_than_allowed_are_refused(workspace: Workspace) -> None:
    (workspace.work / "large").write_bytes(b"12345")
    with pytest.raises(OutputLimit, match=r"more than 4 bytes in files \(at large\)"):
        workspace.find_outputs(None, max_files=2, max_bytes=4)


def test_a_sparse_file_is_refused_by_its_size_without_being_read(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rgrid_server.runner.workspace.hash_file", lambda path: pytest.fail(f"read {path}"))
    with (workspace.work / "sparse").open("wb") as file:
        file.truncate(2 * 1024**3)
    with pytest.raises(OutputLimit, match="sparse"):
        workspace.find_outputs(None, max_files=2, max_bytes=1024**3)


def test_files_that_are_not_wanted_do_not_count(workspace: Workspace) -> None:
    (workspace.work / "scratch").write_bytes(b"12345")
    (workspace.work / "out").write_bytes(b"1")
    assert len(workspace.find_outputs(["out"], max_files=1, max_bytes=1).files) == 1


def test_ten_thousand_files_are_found(workspace: Workspace) -> None:
    for number in range(10_000):
        (workspace.work / f"{number:05}").write_bytes(b"%d" % number)
    found = workspace.find_outputs(None, max_files=10_000, max_bytes=2**20).files
    assert [item.name for item in found] == [f"{number:05}" for number in range(10_000)]


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../x", "a\0b"])
def test_an_input_is_not_laid_out_outside(workspace: Workspace, name: str) -> None:
    with pytest.raises(ValueError, match="the name"):
        put(workspace, name, b"1")


def test_the_directories_are_private(workspace: Workspace) -> None:
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (workspace.work, workspace.home, workspace.tmp)
    }
    assert modes == {"work": 0o700, "home": 0o700, "tmp": 0o700}


def test_a_directory_without_rights_is_removed(workspace: Workspace) -> None:
    (workspace.work / "locked").mkdir()
    (workspace.work / "locked/file").touch()
    (workspace.work / "locked").chmod(0)
    workspace.remove()
    assert not workspace.work.parent.exists()


def test_a_directory_deeper_than_any_stack_is_passed_over_and_removed(workspace: Workspace) -> None:
    here = os.open(workspace.work, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=here)
        inner = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    assert names(workspace) == []
    workspace.remove()
    assert not workspace.work.parent.exists()


# what is put away and taken down again


def made(tmp_path: Path, name: str = "one") -> Workspace:
    """A workspace beside the shelf ``tmp_path/shelf``."""
    workspace = Workspace(tmp_path / name, Shelf(tmp_path / "shelf"))
    workspace.create()
    return workspace


def test_what_was_put_away_is_as_a_new_one(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    first = Workspace(tmp_path / "first", shelf)
    first.create()
    first.put("script.py", b"print(1)", sha256="x")
    (first.work / "out.txt").write_text("of the first")
    (first.home / ".rc").write_text("of the first")
    (first.tmp / "scratch").write_text("of the first")
    first.work.chmod(0o755)
    first.home.chmod(0o500)
    assert first.put_away()
    assert not first.root.exists()
    second = Workspace(tmp_path / "second", shelf)
    assert second.take_down()
    fresh = Workspace(tmp_path / "fresh")
    fresh.create()
    for workspace in (second, fresh):
        assert sorted(path.name for path in workspace.root.iterdir()) == ["home", "tmp", "work"]
        for part in (workspace.root, workspace.work, workspace.home, workspace.tmp):
            assert part.stat().st_mode & 0o7777 == 0o700
            assert part == workspace.root or list(part.iterdir()) == []
    assert list((tmp_path / "shelf").iterdir()) == []
    assert not Workspace(tmp_path / "third", shelf).take_down()


def test_a_directory_in_the_way_is_not_taken_for_an_empty_workspace(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    first = Workspace(tmp_path / "first", shelf)
    first.create()
    assert first.put_away()
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "left").write_text("of a runner that was killed")
    assert not Workspace(tmp_path / "second", shelf).take_down()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda workspace: (workspace.work / "deep").mkdir(),
        lambda workspace: (workspace.root / "beside").write_text("x"),
        lambda workspace: workspace.tmp.rmdir(),
        lambda workspace: [(workspace.work / str(n)).write_text("x") for n in range(100)],
        lambda workspace: os.setxattr(workspace.work, "user.mark", b"x"),
        lambda workspace: (workspace.home.rmdir(), workspace.home.symlink_to("/etc")),
        lambda workspace: (workspace.home.rmdir(), workspace.home.write_text("x")),
    ],
    ids=["directory", "beside", "gone", "many", "attribute", "link", "file"],
)
def test_what_a_script_has_changed_is_not_kept(tmp_path: Path, spoil: Callable[[Workspace], object]) -> None:
    workspace = made(tmp_path)
    try:
        spoil(workspace)
    except OSError:
        pytest.skip("this file system has no such attributes")
    assert not workspace.put_away()
    workspace.remove()
    assert not workspace.root.exists()
    assert list((tmp_path / "shelf").iterdir()) == []
    assert Path("/etc/passwd").exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("stays")
    workspace = made(tmp_path)
    (workspace.work / "link").symlink_to(tmp_path / "secret")
    (workspace.work / "hard").hardlink_to(tmp_path / "secret")
    assert workspace.put_away()
    assert (tmp_path / "secret").read_text() == "stays"


def test_no_more_are_kept_than_there_is_room_for(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    kept = []
    for number in range(MAX_SHELVED + 3):
        workspace = Workspace(tmp_path / str(number), shelf)
        workspace.create()
        kept.append(workspace.put_away())
    assert kept.count(True) == MAX_SHELVED


@pytest.mark.parametrize(
    ("lay_out", "is_small"),
    [
        (lambda work: None, True),
        (lambda work: (work / "a").write_bytes(b"x" * 1000), True),
        (lambda work: (work / "a").write_bytes(b"x" * 1_000_000), False),
        (lambda work: [(work / str(n)).write_bytes(b"") for n in range(40)], False),
        (lambda work: (work / "folder").mkdir(), False),
        (lambda work: (work / "link").symlink_to("a"), False),
        (lambda work: os.mkfifo(work / "pipe"), False),
        (lambda work: work.rmdir(), False),
    ],
)
def test_only_a_few_plain_files_are_looked_at_at_once(
    tmp_path: Path, lay_out: Callable[[Path], object], is_small: bool
) -> None:
    workspace = made(tmp_path)
    lay_out(workspace.work)
    assert workspace.is_small() is is_small
