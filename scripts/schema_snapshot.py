"""Write the schema of an empty SQLite database, as all migrations leave it; ``--check`` compares only."""

from __future__ import annotations

import re
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alembic import command

from rgrid_server.store.schema import BETWEEN_STATEMENTS, SNAPSHOT, alembic_config
from rgrid_server.store.sqlite import sqlite_engine

_STATEMENTS = """
    SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid
"""
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)


def snapshot() -> str:
    """Every statement that makes it, and the revision that it then has."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "migrated.sqlite"
        with sqlite_engine(file).connect() as connection:
            command.upgrade(alembic_config(connection), "head")
        with sqlite3.connect(file) as database:
            made = [_TRAILING.sub("", sql.strip()) for (sql,) in database.execute(_STATEMENTS)]
            (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return BETWEEN_STATEMENTS.join([*made, f"INSERT INTO alembic_version VALUES ('{revision}')"]) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write or compare; returns the exit code."""
    if "--check" not in arguments:
        SNAPSHOT.write_text(snapshot())
        return 0
    if SNAPSHOT.exists() and SNAPSHOT.read_text() == snapshot():
        return 0
    print(f"{SNAPSHOT.name} is not where the migrations lead: run python {sys.argv[0]}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
