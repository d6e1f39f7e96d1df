"""What is read without click is what click would have read, and what click refuses is left to it."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid.cli import cost, quick, status
from rgrid.cli.commands import CONTEXT, cli

CLICKED = {"status": status.command, "cost": cost.command}
WORDS = [
    *(
        "--json",
        "--csv",
        "--days",
        "--since",
        "--until",
        "--by",
        "--help",
        "-h",
        "--",
        "-",
        "-x",
        "--nothing",
    ),
    *("--days=3", "--days=x", "--since=2026-11-01", "--by=dag,task", "--json=1", "--days=", "--jso"),
    *("7", "0", "-1", "x", "", "٣", "2026-11-01", "day", "exec_1", "batch_1", "export", "set-limit"),
]


def _as_click_reads(name: str, words: list[str]) -> dict[str, object] | None:
    """The parameters that click reads; None where it refuses, answers itself, or goes to a command below."""
    try:
        above = click.Context(cli, **CONTEXT)
        context = CLICKED[name].make_context(name, list(words), parent=above)
    except (click.exceptions.Exit, click.ClickException):
        return None
    return None if [*context._protected_args, *context.args] else context.params


@given(st.sampled_from(sorted(CLICKED)), st.lists(st.sampled_from(WORDS), max_size=5))
def test_what_is_read_without_click_is_what_click_reads(name: str, words: list[str]) -> None:
    given_without_click = quick.COMMANDS[name].read(words)
    if given_without_click is not None:
        assert given_without_click == _as_click_reads(name, words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["status", "exec_1"], {"identifier": "exec_1", "as_json": False}),
        (["status", "--json", "exec_1"], {"identifier": "exec_1", "as_json": True}),
        (
            ["cost", "--days", "7", "--by=dag"],
            {"since": None, "until": None, "days": 7, "group_by": "dag", "as_json": False, "as_csv": False},
        ),
    ],
)
def test_what_is_typed_most_needs_no_click(words: list[str], expected: dict[str, object]) -> None:
    assert quick.COMMANDS[words[0]].read(words[1:]) == expected


@pytest.mark.parametrize(
    "words", [[], ["list"], ["status"], ["status", "a", "b"], ["status", "--help"], ["cost", "export"]]
)
def test_everything_else_is_left_to_click(words: list[str]) -> None:
    assert quick.run(words) is None


@pytest.mark.parametrize("words", [["status", "exec_1"], ["cost", "--days", "7"]])
def test_a_question_to_the_server_loads_neither_click_nor_what_makes_dataclasses(words: list[str]) -> None:
    program = (
        "import sys\n"
        "from rgrid.cli import quick\n"
        f"code = quick.run({words!r})\n"
        "heavy = {'click', 'dataclasses', 'inspect', 'typing', 'http.client', 'ssl'} & set(sys.modules)\n"
        "print(code, sorted(heavy))\n"
    )
    # nobody listens there: the question is asked, and told to have failed, all the same
    environment = {"RGRID_API_URL": "http://127.0.0.1:1", "RGRID_API_KEY": "k", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "69 []\n"
