"""Write what says what the code says: docs/reference/, parts of docs/how-to/, and the command line's help.

``scripts/reference.py`` writes them; ``--check`` says which are not as the code has them.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import click
from pydantic_core import PydanticUndefined

from rgrid.cli import HELP_OPTIONS, TOP_LEVEL, WRITTEN_COLUMNS
from rgrid.cli.commands import COMMANDS, cli
from rgrid_provider import get_provider_info
from rgrid_server.config import Settings
from rgrid_server.observability.metrics import Metrics

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
GUIDES = ROOT / "docs" / "how-to" / "airflow"
HELP = ROOT / "rgrid" / "cli" / "help"
WRITTEN_BY = "<!-- written by scripts/reference.py from the code; change it there -->"

SETTINGS = f"""{WRITTEN_BY}
# The server's settings

Each is an environment variable; those with an option in `rgrid server --help` may be given there too, and the
option wins. Sizes are bytes, durations say their unit.

| variable | default | what it says |
|---|---|---|
"""
METRICS = f"""{WRITTEN_BY}
# Metrics

What `/metrics` answers, in Prometheus' text format or OpenMetrics by `Accept`. Counters and histograms count
what this process has done since it started, so with several API processes each is scraped and the sums count;
the gauges of queue, attempts and runners are the database's, the same from every process. No label is an id.
Beside these come `process_*`, `python_gc_*` and `python_info`. How to use them:
[monitoring](../how-to/monitoring.md).

| name | type | labels | what it says |
|---|---|---|---|
"""

CONNECTION = f"""{WRITTEN_BY}
# The Airflow connection

The type is **{{hook_name}}** (`{{conn_type}}`), the default id `rgrid_default`; every operator, sensor,
notifier and hook takes another as
`rgrid_conn_id`. *Test* asks the server for its version and whose key it is.

| field | what it says |
|---|---|
| `host`, in the form *{{host}}* | its address; without a scheme `schema` decides, else it is https |
| `port` | where the address has none and the scheme's own is not meant |
| `schema` | `http` or `https` |
| `password`, in the form *{{password}}* | the API key; Airflow encrypts it, and masks it in logs |

| extra | in the form | type | what it says |
|---|---|---|---|
{{extras}}
No login is asked for: a key says whose it is.

## As an environment variable

`AIRFLOW_CONN_` and the id in capitals. As JSON, where nothing has to be escaped:

```sh
export AIRFLOW_CONN_RGRID_DEFAULT='{{as_json}}'
```

As a URI the path is `schema`, and extras are its query; a `/` in them is written `%2F`:

```sh
export AIRFLOW_CONN_RGRID_DEFAULT='rgrid://:sk_live_1@rgrid.example.com:8443/https?verify=%2Fetc%2Fssl%2Fcompany.pem&timeout=60'
```

## What the package registers with Airflow

`airflow providers get rgrid --full` shows the same.

| kind | what |
|---|---|
{{registered}}"""

SHOWN_CODE = re.compile(r"(^<!-- the code of (\S+) -->\n```\w+\n).*?(^```$)", re.MULTILINE | re.DOTALL)
SHOWN_TABLE = re.compile(
    r"(^<!-- the (arguments|attributes) of (\w+) in (\S+) -->\n\n)(?:^\|.*\n)*", re.MULTILINE
)
SECTION = {
    "arguments": re.compile(r"^Args[:,][^\n]*\n(?:^[^\s].*\n)*((?:^ .*\n?)+)", re.MULTILINE),
    "attributes": re.compile(r"^Attributes:\n((?:^ .*\n?)+)", re.MULTILINE),
}
ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)

EXAMPLE_CONNECTION = {
    "conn_type": "rgrid",
    "host": "https://rgrid.example.com:8443",
    "password": "sk_live_1",
    "extra": {"verify": "/etc/ssl/company.pem", "timeout": 60},
}


def main() -> int:
    """Write or check; returns the exit code."""
    is_check = "--check" in sys.argv[1:]
    pages = {REFERENCE / name: page() for name, page in PAGES.items()} | guides() | help_texts()
    stale = [path for path, text in pages.items() if not _is_written(path, text)]
    for path in stale:
        if is_check:
            print(f"{path.relative_to(ROOT)} is not what the code says; run scripts/reference.py")
        else:
            path.write_text(pages[path])
    return int(is_check and bool(stale))


def settings_page() -> str:
    """Every field of Settings."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if default is None or default is PydanticUndefined else f"`{_plain(default)}`"
        told = field.description or ""
        choices = [value for value in get_args(field.annotation) if isinstance(value, str)]
        if choices:
            told = f"{told}: " if told else ""
            told += ", ".join(f"`{choice}`" for choice in choices)
        lines.append(f"| `RGRID_{name.upper()}` | {shown} | {told} |\n")
    return SETTINGS + "".join(lines)


def metrics_page() -> str:
    """Every metric of this project, by name."""
    registry = Metrics().registry
    lines = []
    for collector in registry._collector_to_names:
        for family in getattr(collector, "describe", collector.collect)():
            if not family.name.startswith("rgrid_"):
                continue
            name = f"{family.name}_total" if family.type == "counter" else family.name
            name = f"{name}_info" if family.type == "info" else name
            kind = "gauge" if family.type == "info" else family.type
            labels = ", ".join(f"`{label}`" for label in _labels(collector))
            lines.append(f"| `{name}` | {kind} | {labels} | {family.documentation} |\n")
    return METRICS + "".join(sorted(lines))


def connection_page() -> str:
    """The connection's fields and what else Airflow's provider manager reads of this package."""
    info = get_provider_info()
    (kind,) = info["connection-types"]
    labels = kind["ui-field-behaviour"]["relabeling"]
    extras = "".join(
        f"| `{name}` | {field['label']} | {_json_types(field['schema'])} | {field['description']} |\n"
        for name, field in kind["conn-fields"].items()
    )
    registered = [(f"connection type `{kind['connection-type']}`", [kind["hook-class-name"]])]
    for kind_of, told in (
        ("hooks", "hook"),
        ("operators", "operators"),
        ("sensors", "sensors"),
        ("triggers", "triggers"),
    ):
        registered += [(told, item["python-modules"]) for item in info[kind_of]]
    registered += [
        (f"to {item['target-integration-name']}", [item["python-module"]]) for item in info["transfers"]
    ]
    registered += [(f"`@task.{item['name']}`", [item["class-name"]]) for item in info["task-decorators"]]
    registered += [("notifier", info["notifications"]), ("links", info["extra-links"])]
    registered += [(f"plugin `{item['name']}`", [item["plugin-class"]]) for item in info["plugins"]]
    return CONNECTION.format(
        hook_name=kind["hook-name"],
        conn_type=kind["connection-type"],
        host=labels["host"],
        password=labels["password"],
        as_json=json.dumps(EXAMPLE_CONNECTION),
        extras=extras,
        registered="".join(
            f"| {told} | {', '.join(f'`{name}`' for name in names)} |\n" for told, names in registered
        ),
    )


def guides() -> dict[Path, str]:
    """The pages of Airflow's operators, with what they show of the code as the code has it now.

    ``<!-- the code of FILE -->`` stands before a whole file, ``<!-- the arguments of CLASS in FILE -->`` and
    ``<!-- the attributes of CLASS in FILE -->`` before a table of what its docstring says of them.
    """
    written = {}
    for page in GUIDES.glob("*.md"):
        text = SHOWN_CODE.sub(
            lambda found: f"{found[1]}{(ROOT / found[2]).read_text()}{found[3]}", page.read_text()
        )
        written[page] = SHOWN_TABLE.sub(lambda found: found[1] + _table_of(*found.group(2, 3, 4)), text)
    return written


def _table_of(section: str, class_name: str, file: str) -> str:
    """A class's arguments or attributes, a row each, from its docstring; arguments with what is templated."""
    module = ast.parse((ROOT / file).read_text())
    (found,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    told = SECTION[section].search(ast.get_docstring(found) or "")
    assert told is not None, f"{class_name} has no {section} in its docstring"
    rows = [(name, _as_markdown(text)) for name, text in ENTRY.findall(told[1])]
    if section == "attributes":
        return "| name | what it says |\n|---|---|\n" + "".join(
            f"| `{name}` | {text} |\n" for name, text in rows
        )
    templated = _strings_of(found, "template_fields")
    head = "| argument | templated | what it says |\n|---|---|---|\n"
    return head + "".join(
        f"| `{name}` | {'yes' if name in templated else ''} | {text} |\n" for name, text in rows
    )


def _as_markdown(docstring: str) -> str:
    """A docstring's words as a cell of a table."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", " ".join(docstring.split()))
    return text.replace("``", "`").replace("|", "\\|")


def _strings_of(found: ast.ClassDef, name: str) -> set[str]:
    """The strings in what a class assigns to a name."""
    values = [
        node.value
        for node in found.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name
    ]
    return {
        node.value
        for value in values
        if value is not None
        for node in ast.walk(value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _json_types(schema: Mapping[str, Any]) -> str:
    return " or ".join(name for name in schema["type"] if name != "null")


def help_texts() -> dict[Path, str]:
    """What the command line answers to --help before click is loaded, as click has it."""
    return {
        HELP / f"{name}.{columns}.txt": _help_of(name, columns)
        for name in (TOP_LEVEL, *COMMANDS)
        for columns in WRITTEN_COLUMNS
        # which hands over to the server's own
        if name != "server"
    }


def _help_of(name: str, columns: int) -> str:
    context = click.Context(cli, info_name="rgrid", terminal_width=columns, help_option_names=HELP_OPTIONS)
    if name == TOP_LEVEL:
        return f"{cli.get_help(context)}\n"
    command = cli.get_command(context, name)
    assert command is not None
    return f"{command.get_help(click.Context(command, parent=context, info_name=name))}\n"


def _labels(collector: object) -> tuple[str, ...]:
    return getattr(collector, "_labelnames", None) or getattr(collector, "_labels", ())


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_written(page: Path, text: str) -> bool:
    return page.exists() and page.read_text() == text


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "airflow-connection.md": connection_page,
}

if __name__ == "__main__":
    sys.exit(main())
