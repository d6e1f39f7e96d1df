"""What is written from the code: pages of the reference, and the command line's help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rgrid.cli import WRITTEN_COLUMNS
from rgrid.cli.commands import COMMANDS
from rgrid_provider import get_provider_info
from scripts.reference import GUIDES, HELP, PAGES, REFERENCE, ROOT, guides, help_texts

EXAMPLES = ROOT / "dags" / "examples"
ANSWER = (
    "import sys\nfrom rgrid.cli import main\n"
    "try: main(sys.argv[1:])\n"
    "finally: print('\\nLOADED', 'click' in sys.modules, file=sys.stderr)"
)
BY_CLICK = "import sys\nfrom rgrid.cli.commands import run\nsys.exit(run(sys.argv[1:]))"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_the_code_says(name: str) -> None:
    assert (REFERENCE / name).read_text() == PAGES[name](), "run scripts/reference.py"


@pytest.mark.parametrize("page", guides(), ids=lambda page: page.name)
def test_a_guide_shows_the_code_as_it_is(page: Path) -> None:
    assert page.read_text() == guides()[page], "run scripts/reference.py"


def test_airflow_is_told_of_each_guide_and_each_shows_an_example_of_its_own() -> None:
    info = get_provider_info()
    (integration,), (transfer,) = info["integrations"], info["transfers"]
    told = {ROOT / path.lstrip("/") for path in [*integration["how-to-guide"], transfer["how-to-guide"]]}
    assert told == set(GUIDES.glob("*.md"))
    shown = [re.findall(r"^<!-- the code of (\S+) -->$", page.read_text(), re.MULTILINE) for page in told]
    assert sorted(shown) == [[f"dags/examples/{path.name}"] for path in sorted(EXAMPLES.glob("rgrid_*.py"))]


def test_every_class_that_a_dag_names_has_a_guide() -> None:
    pages = " ".join(page.read_text() for page in GUIDES.glob("*.md"))
    named = [
        f"{class_name} in {path.relative_to(ROOT)}"
        for kind in ("operators", "sensors", "transfers", "notifications")
        for path in (ROOT / "rgrid_provider" / kind).glob("*.py")
        for class_name in re.findall(r"^class (RGrid\w+)\(", path.read_text(), re.MULTILINE)
    ]
    assert len(named) >= 7
    assert [name for name in named if f"<!-- the arguments of {name} -->" not in pages] == []


def test_the_help_that_is_kept_is_what_click_writes() -> None:
    kept = {path: path.read_text() for path in HELP.iterdir()}
    assert kept == help_texts(), "run scripts/reference.py"


@pytest.mark.parametrize("command", ["", *sorted(COMMANDS.keys() - {"server"})])
def test_help_is_the_same_with_and_without_click(command: str) -> None:
    asked = [*command.split(), "--help"]
    for columns in WRITTEN_COLUMNS:
        at_once = _run(ANSWER, asked, columns + 2)
        by_click = _run(BY_CLICK, asked, columns + 2)
        assert (at_once.returncode, at_once.stdout) == (0, by_click.stdout)
        assert at_once.stderr.split() == ["LOADED", "False"]


@pytest.mark.parametrize(
    ("asked", "code", "says"),
    [
        (["--version"], 0, ""),
        (["top-level", "--help"], 2, "No such command"),
        (["rgrid", "--help"], 2, "No such command"),
        (["../help/run", "--help"], 2, "No such command"),
        (["cost", "set-limit"], 2, "Missing argument"),
        (["--version", "--nonsense"], 2, "No such option"),
        ([], 2, "Usage: rgrid"),
    ],
)
def test_what_is_not_answered_at_once_is_left_to_click(asked: list[str], code: int, says: str) -> None:
    done = _run(ANSWER, asked, 80)
    assert done.returncode == code
    assert says in done.stderr


def test_a_width_that_no_text_has_is_left_to_click() -> None:
    narrow = _run(ANSWER, ["run", "--help"], 60)
    assert narrow.returncode == 0
    assert max(map(len, narrow.stdout.splitlines())) <= 60
    assert narrow.stderr.split() == ["LOADED", "True"]


def _run(code: str, arguments: list[str], columns: int) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": str(columns)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
    )
