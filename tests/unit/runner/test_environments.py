"""What a specification asks for, and what uv's answers mean; uv itself runs in tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgrid_server.domain.attempts import Specification
from rgrid_server.domain.runtimes import Kind
from rgrid_server.runner.interpreters import Interpreter
from rgrid_server.runner.pipconfig import index_settings
from rgrid_server.runner.requirements import find_wanted, script_metadata
from rgrid_server.runner.uv import EnvironmentFault, Rejected, classify, uv_environment

HERE = {
    "python:3.11": Interpreter("3.11.7", "/usr/bin/python3.11"),
    "python:3.13": Interpreter("3.13.0", "/usr/bin/python3.13"),
}

PEP_723 = """\
#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "requests<3",
#   "rich",
# ]
# ///
import requests
"""


def specification(
    script: str = "pass", *, runtime: str = "python:3.11", requirements: str | None = None
) -> Specification:
    return Specification(script, "script.py", runtime, requirements)


def rejection(wanted: Specification) -> Rejected:
    with pytest.raises(Rejected) as rejected:
        find_wanted(wanted, HERE)
    return rejected.value


def test_without_requirements_nothing_is_wanted_but_the_interpreter() -> None:
    wanted = find_wanted(specification(), HERE)
    assert (wanted.interpreter, wanted.requirements) == (HERE["python:3.11"], "")


def test_the_scripts_own_block_and_the_requirements_are_wanted_together() -> None:
    wanted = find_wanted(specification(PEP_723, requirements="numpy\n"), HERE)
    assert wanted.requirements.split() == ["requests<3", "rich", "numpy"]


def test_windows_line_ends_do_not_hide_the_block() -> None:
    assert script_metadata(PEP_723.replace("\n", "\r\n"))["requires-python"] == ">=3.11"


def test_equal_texts_for_another_interpreter_are_another_environment() -> None:
    keys = {find_wanted(specification(runtime=name, requirements="six"), HERE).text_key for name in HERE}
    assert len(keys) == 2


def test_a_runtime_that_is_not_there_is_answered_with_those_that_are() -> None:
    error = rejection(specification(runtime="python:2.7"))
    assert error.code == "runtime_unavailable"
    assert "'python:2.7' is not on this machine; there is python:3.11, python:3.13" in str(error)


NODE = {**HERE, "node:20": Interpreter("20.11.1", "/usr/bin/node", Kind.NODE)}


def test_a_script_of_node_has_no_block_of_pythons() -> None:
    wanted = find_wanted(specification(PEP_723, runtime="node:20"), NODE)
    assert (wanted.interpreter, wanted.requirements) == (NODE["node:20"], "")


def test_requirements_of_a_script_of_node_are_invalid() -> None:
    with pytest.raises(Rejected, match=r"requirements are Python's, and node:20 is none"):
        find_wanted(specification(runtime="node:20", requirements="six"), NODE)


@pytest.mark.parametrize("runtime", ["node:18", "node:20.11.2"])
def test_a_node_of_another_version_is_not_there(runtime: str) -> None:
    with pytest.raises(Rejected, match=r"is not on this machine; there is node:20, python:3\.11") as error:
        find_wanted(specification(runtime=runtime), NODE)
    assert error.value.code == "runtime_unavailable"


def test_a_python_that_the_script_does_not_take_is_unavailable() -> None:
    error = rejection(specification(PEP_723.replace(">=3.11", ">=3.12")))
    assert error.code == "runtime_unavailable"
    assert "requires Python >=3.12, and python:3.11 is 3.11.7" in str(error)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (PEP_723.replace('">=3.11"', '"at least 3.11"'), "is not a version specifier"),
        (PEP_723.replace("dependencies = [", "dependencies = [["), "is not TOML"),
        ("# /// script\n# dependencies = 'six'\n# ///\n", "is no list of texts"),
        (PEP_723 + PEP_723, "several PEP 723 blocks"),
    ],
)
def test_a_block_that_cannot_be_read_is_invalid(script: str, why: str) -> None:
    error = rejection(specification(script))
    assert (error.code, why in str(error)) == ("requirements_invalid", True)


@pytest.mark.parametrize(
    "line",
    ["-r /etc/passwd", "-rother.txt", "  --requirement=x", "-c x", "--constraint x", "-e .", "--editable ."],
)
def test_requirements_that_name_another_file_are_invalid(line: str) -> None:
    error = rejection(specification(requirements=f"six\n{line}\n"))
    assert error.code == "requirements_invalid"
    assert line.strip() in str(error)


@pytest.mark.parametrize("line", ["--extra-index-url https://example.org/simple", "--no-binary six", "--pre"])
def test_requirements_may_have_options_that_name_no_file(line: str) -> None:
    assert line in find_wanted(specification(requirements=f"{line}\nsix"), HERE).requirements


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("error: No solution found when resolving dependencies\n cause: Because x was not found", Rejected),
        (
            "error: Request failed after 3 retries in 7.5s\n cause: Failed to fetch: http://h/six/",
            EnvironmentFault,
        ),
        ("error: Couldn't parse requirement in `requirements.txt` at position 0", Rejected),
        ("error: failed to write: No space left on device (os error 28)", EnvironmentFault),
        ("error: Failed to build `x==1`", Rejected),
    ],
)
def test_uvs_complaints_are_told_apart(said: str, kind: type[Exception]) -> None:
    assert type(classify(said)) is kind


def test_a_long_complaint_is_trimmed() -> None:
    assert len(str(classify("No solution found" + "x" * 100_000))) <= 4000


def test_uv_is_run_without_what_is_the_servers_own() -> None:
    passed_on = uv_environment(
        {"RGRID_RUNNER_KEY": "secret", "VIRTUAL_ENV": "/server", "HOME": "/h", "UV_CACHE_DIR": "/c"}
    )
    assert (passed_on["HOME"], passed_on["UV_CACHE_DIR"]) == ("/h", "/c")
    assert not {"RGRID_RUNNER_KEY", "VIRTUAL_ENV"} & passed_on.keys()


def test_pips_index_is_uvs_index(tmp_path: Path) -> None:
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / ".config/pip/pip.conf").write_text("[global]\nindex-url = https://example.org/%20simple\n")
    found = index_settings({"HOME": str(tmp_path)})
    assert found["UV_DEFAULT_INDEX"] == "https://example.org/%20simple"


def test_the_nearest_of_pips_files_wins(tmp_path: Path) -> None:
    for name, index in ((".pip/pip.conf", "https://far"), (".config/pip/pip.conf", "https://near")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"[global]\nindex-url = {index}\n")
    assert index_settings({"HOME": str(tmp_path)})["UV_DEFAULT_INDEX"] == "https://near"


@pytest.mark.parametrize(
    ("environment", "index"),
    [
        ({"PIP_INDEX_URL": "https://pip"}, "https://pip"),
        ({"PIP_INDEX_URL": "https://pip", "UV_DEFAULT_INDEX": "https://uv"}, None),
        ({}, None),
    ],
)
def test_variables_come_before_files_and_uvs_own_before_pips(
    environment: dict[str, str], index: str | None
) -> None:
    found = index_settings(environment | {"PIP_CONFIG_FILE": "/dev/null"})
    assert found.get("UV_DEFAULT_INDEX") == index


def test_a_file_of_pips_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("index-url = nowhere\n")
    assert "UV_DEFAULT_INDEX" not in index_settings({"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")})
