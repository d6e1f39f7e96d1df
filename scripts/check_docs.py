"""Check the documentation: links lead to files and headings, and every dependency has its reason."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"^[A-Za-z0-9_.-]+")


def main() -> int:
    """Check everything; prints what is wrong, and returns the exit code."""
    places = ("*.md", "docs/**/*.md", "benchmarks/*.md", "dags/**/*.md")
    pages = [page for place in places for page in ROOT.glob(place)]
    problems = [problem for page in pages for problem in broken_links(page)] + missing_reasons()
    for problem in problems:
        print(problem)
    return int(bool(problems))


def broken_links(page: Path) -> list[str]:
    """Links of a page that lead nowhere in this checkout."""
    text = FENCE.sub("", page.read_text())
    problems = []
    for match in LINK.finditer(text):
        target = match.group(1) or match.group(2)
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            problems.append(f"{page.relative_to(ROOT)}: {target} is not there")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            problems.append(f"{page.relative_to(ROOT)}: {target} has no such heading")
    return problems


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in HEADING.findall(FENCE.sub("", page.read_text())):
        plain = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        found.add(re.sub(r"\s", "-", plain))
    return found


def missing_reasons() -> list[str]:
    """Dependencies of pyproject.toml that docs/dependencies.md does not name, and the other way round."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {match.group().lower() for group in groups for item in group if (match := NAME.match(item))}
    told = set(re.findall(r"^\| `([^`]+)`", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE))
    return [f"docs/dependencies.md does not say why {name} is needed" for name in sorted(wanted - told)] + [
        f"docs/dependencies.md names {name}, which pyproject.toml does not" for name in sorted(told - wanted)
    ]


if __name__ == "__main__":
    sys.exit(main())
