"""The schema's revision: brought up to this version's, or refused when it is from a newer one.

Alembic, which brings half a dozen dialects with it, is imported only where there is something to migrate: a
server that starts on data of its own version has nothing to do, and an empty SQLite database gets the schema
that all migrations lead to at once (``migrations/sqlite.sql``, which ``scripts/schema_snapshot.py`` writes).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

from rgrid_server.store.database import StorageError

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).with_name("migrations")
SNAPSHOT = MIGRATIONS / "sqlite.sql"
BETWEEN_STATEMENTS = ";\n\n"
_REVISION_FILE = re.compile(r"(\d{4})_\w+\.py")


class NewerSchema(StorageError):
    """The data were written by a newer RGrid than this one."""


def known_revisions() -> list[str]:
    """The revisions that this version has migrations to, the oldest first, as their files are named."""
    names = (entry.name for entry in (MIGRATIONS / "versions").iterdir())
    return sorted(match.group(1) for name in names if (match := _REVISION_FILE.fullmatch(name)))


def current_revision(connection: Connection) -> str | None:
    """A database's revision; None for one that has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def upgrade_schema(connection: Connection, where: str) -> None:
    """Bring a database to this version's schema; one that is there already is left alone.

    Args:
        connection: an open connection.
        where: how messages call the database, such as its path.

    Raises:
        NewerSchema: its revision is unknown here.
    """
    current, known = current_revision(connection), known_revisions()
    if current == known[-1]:
        return
    if current is not None and current not in known:
        raise NewerSchema(
            f"{where} was written by a newer RGrid (schema {current}, this version knows "
            f"{known[-1]}); start that version, or give other data"
        )
    if connection.dialect.name == "sqlite" and not inspect(connection).get_table_names():
        _create_at_once(connection)
        return
    from alembic import command

    command.upgrade(alembic_config(connection), "head")


def check_schema(connection: Connection, where: str) -> None:
    """Make sure that a database has this version's schema, and change nothing.

    Raises:
        StorageError: it has another one.
    """
    wanted, current = known_revisions()[-1], current_revision(connection)
    if current != wanted:
        raise StorageError(
            f"{where} has the schema {current or 'of nothing yet'}, this version works on {wanted}; "
            "bring it there first with `rgrid server migrate`, or use the version that wrote it"
        )


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for a connection; there is no ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "rgrid_server.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _create_at_once(connection: Connection) -> None:
    """All of the schema in one transaction: whoever is killed meanwhile leaves an empty database."""
    statements = SNAPSHOT.read_text().split(BETWEEN_STATEMENTS)
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            connection.exec_driver_sql(statement)
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")
