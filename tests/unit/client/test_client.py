"""The client's own rules: inputs, outputs' places, configuration, and what importing it loads."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from rgrid import calls, config, exceptions
from rgrid.files import AtomicFile, plan_inputs, target_of
from rgrid.models import Batch, CostGroup, Execution, LogEntry
from rgrid.submissions import execution_body, read_script


def test_arguments_that_name_files_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("x")
    outside = tmp_path.parent / "outside.csv"
    outside.write_text("y")
    planned = plan_inputs(["data/a.csv", "--n", "3", str(outside), "missing.csv", "data", ""], tmp_path)
    assert planned.args == ("data/a.csv", "--n", "3", "outside.csv", "missing.csv", "data", "")
    assert set(planned.files) == {"data/a.csv", "outside.csv"}


def test_two_files_of_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text(folder)
    with pytest.raises(exceptions.ConfigurationError, match="would both be carried as a"):
        plan_inputs([str(tmp_path / "x" / "a"), str(tmp_path / "y" / "a")], tmp_path / "x")


@pytest.mark.parametrize("arg", ["x" * 5000, "a\0b", "-"])
def test_an_argument_that_can_be_no_file_is_left_alone(tmp_path: Path, arg: str) -> None:
    assert plan_inputs([arg], tmp_path).args == (arg,)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ""])
def test_an_output_never_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(exceptions.ResponseInvalid, match="leads out"):
        target_of(name, tmp_path)


def test_an_output_does_not_follow_a_link_out(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    with pytest.raises(exceptions.ResponseInvalid, match="through a link"):
        target_of("link/x", inside)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "d" / "f"
    with (
        pytest.raises(exceptions.ResponseInvalid, match="other bytes"),
        AtomicFile(target, "0" * 64, 0o644) as file,
    ):
        file.write(b"x")
    with contextlib.suppress(RuntimeError), AtomicFile(target, "", 0o644) as file:
        file.write(b"x")
        raise RuntimeError
    assert list((tmp_path / "d").iterdir()) == []
    with AtomicFile(target, "", 0o600) as file:
        file.write(b"x")
    assert target.read_bytes() == b"x"
    assert target.stat().st_mode & 0o777 == 0o600


def test_the_nearest_configuration_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RGRID_API_URL", raising=False)
    monkeypatch.delenv("RGRID_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    project = tmp_path / "project" / "deep"
    project.mkdir(parents=True)
    assert config.resolve(cwd=str(project)).api_url is None
    config.write_file(
        str(tmp_path / "home/.rgrid/credentials"), {"api_url": "http://home", "api_key": "sk_home"}
    )
    assert config.resolve(cwd=str(project)).api_url == "http://home"
    config.write_file(str(tmp_path / "project/.rgrid/config"), {"api_url": "http://project"})
    found = config.resolve(cwd=str(project))
    assert (found.api_url, found.api_key) == ("http://project", None), "a key goes to its own server only"
    monkeypatch.setenv("RGRID_API_URL", "http://variable")
    monkeypatch.setenv("RGRID_API_KEY", "sk_variable")
    found = config.resolve(cwd=str(project))
    assert (found.api_url, found.api_key) == ("http://variable", "sk_variable")
    assert config.resolve("http://argument", "sk_a", str(project)).api_url == "http://argument"


def test_a_configuration_that_cannot_be_read_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("# fine\n[section]\napi_url = x\nrubbish\n")
    with pytest.raises(exceptions.ConfigurationError, match="line 4"):
        config.read_file(str(file))


def test_a_script_is_read_by_its_coding_line(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_bytes("# coding: latin-1\nprint('caf\u00e9')".encode("latin-1"))
    assert "caf\u00e9" in read_script(script)


def test_what_is_not_given_is_left_to_the_server() -> None:
    assert set(execution_body("print(1)")) == {
        "script_content",
        "args",
        "inputs",
        "env_vars",
        "user_metadata",
    }


def test_models_pass_over_what_a_newer_server_adds() -> None:
    assert Execution.from_wire({"execution_id": "e", "status": "completed", "news": 1}).succeeded
    counts = {"completed": 1, "news": 2}
    batch = Batch.from_wire({"batch_id": "b", "status": "completed", "total": 1, "counts": counts})
    assert batch.counts.finished == 1
    assert CostGroup.from_wire({"key": "a", "executions": 1, "cost_micros": 2}).key == ("a",)


@pytest.mark.parametrize(
    ("wire", "data"),
    [
        ({"message": "a", "newline": True}, b"a\n"),
        ({"message": "a", "newline": False}, b"a"),
        ({"message": "?", "message_base64": "/w==", "newline": False}, b"\xff"),
    ],
)
def test_a_log_entry_is_what_was_printed(wire: dict[str, object], data: bytes) -> None:
    assert LogEntry.from_wire({"sequence_number": 1, "stream": "stdout", **wire}).data == data


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement loads."""
    code = f"import sys\nbefore = set(sys.modules)\n{statement}\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_rgrid_loads_next_to_nothing() -> None:
    loaded = loaded_by("import rgrid")
    assert not loaded & {
        "http.client",
        "json",
        "ssl",
        "asyncio",
        "dataclasses",
        "click",
        "requests",
        "httpx",
        "rich",
    }


@pytest.mark.parametrize("command", ["run", "status", "logs", "cost", "retry", "list"])
def test_the_help_of_a_command_loads_no_client(command: str) -> None:
    statement = (
        "import sys\nfrom rgrid.cli import main\n"
        f"try: main(['{command}', '--help'])\nexcept SystemExit: pass\nimport io"
    )
    code = f"{statement}\nprint('LOADED', *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("LOADED")[1].split())
    assert not loaded & {"http.client", "ssl", "rich", "requests", "httpx", "asyncio", "rgrid.client"}


def test_the_script_itself_is_no_input_but_another_file_of_its_name_is(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for script in (tmp_path / "c.py", tmp_path / "sub" / "c.py"):
        script.write_text(f"print({str(script)!r})")
    planned = plan_inputs(["c.py", str(tmp_path / "c.py")], tmp_path, tmp_path / "c.py")
    assert (planned.args, planned.files) == (("c.py", "c.py"), {})
    other = plan_inputs(["c.py"], tmp_path, tmp_path / "sub" / "c.py")
    assert set(other.files) == {"c.py"}


def test_a_file_that_there_is_no_room_for_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "big", "", 0o644).__enter__()
    file._file.close()
    file._file = Path("/dev/full").open("wb")  # noqa: SIM115 - closed by AtomicFile
    with pytest.raises(exceptions.ConfigurationError, match="big cannot be written: No space left"):
        file.write(b"x" * 100_000)
    file.__exit__(exceptions.ConfigurationError, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"args": ["a", "b\udcff"]}, r"args\[1\]"),
        ({"env_vars": {"A": "\udc80"}}, r"env_vars\.A"),
        ({"items": [{"inputs": {"\udcff.csv": "00"}}]}, r"items\[0\]\.inputs"),
    ],
)
def test_what_is_not_utf_8_is_refused_before_it_is_sent(body: dict[str, object], place: str) -> None:
    for submit in (calls.submit_execution, calls.submit_batch):
        with pytest.raises(exceptions.ConfigurationError, match=rf"{place}: '.*\\udc.*is not UTF-8"):
            submit(body)


def test_other_texts_than_ascii_are_sent() -> None:
    body = {"args": ["caf\u00e9", "\U0001f600"], "cpus": 1.5}
    assert calls.submit_execution(body).json == body


def test_an_execution_knows_which_fields_it_received() -> None:
    listed = Execution.from_wire({"execution_id": "e", "status": "completed", "news": 1})
    assert listed.received == ("execution_id", "status")
    assert listed == Execution("e", "completed"), "what is equal does not depend on it"
