"""The schema's revision: brought up to this version's, or refused when it is from a newer one."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from rgrid_server.store.database import StorageError


class NewerSchema(StorageError):
    """The data were written by a newer RGrid than this one."""


def upgrade_schema(connection: Connection, where: str) -> None:
    """Bring a database to this version's schema; one that is there already is left alone.

    Args:
        connection: an open connection.
        where: how messages call the database, such as its path.

    Raises:
        NewerSchema: its revision is unknown here.
    """
    config = alembic_config(connection)
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise NewerSchema(
            f"{where} was written by a newer RGrid (schema {current}, this version knows "
            f"{scripts.get_current_head()}); start that version, or give other data"
        )
    command.upgrade(config, "head")


def check_schema(connection: Connection, where: str) -> None:
    """Make sure that a database has this version's schema, and change nothing.

    Raises:
        StorageError: it has another one.
    """
    wanted = ScriptDirectory.from_config(alembic_config(connection)).get_current_head()
    current = MigrationContext.configure(connection).get_current_revision()
    if current != wanted:
        raise StorageError(
            f"{where} has the schema {current or 'of nothing yet'}, this version works on {wanted}; "
            "bring it there first with `rgrid server migrate`, or use the version that wrote it"
        )


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for a connection; there is no ini file."""
    config = Config()
    config.set_main_option("script_location", "rgrid_server.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
