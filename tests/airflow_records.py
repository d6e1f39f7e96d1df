"""What an Airflow's own database says of runs: their states, their tasks, their XComs; on either major."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy

ENDED = frozenset({"success", "failed"})


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task instance.

    Attributes:
        map_index: -1 where it is not mapped.
        label: what its map index is called.
        began_at: when its last try began, and
        ended_at: when it ended, both as the database has them.
    """

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    label: str | None
    pool: str
    began_at: Any
    ended_at: Any


class AirflowRecords:
    """Reads a database as it stands.

    Args:
        url: SQLAlchemy's, as Airflow is told it.
    """

    def __init__(self, url: str) -> None:
        self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)

    def dag_ids(self) -> set[str]:
        """The DAGs that can be run."""
        return {row[0] for row in self._rows("SELECT dag_id FROM serialized_dag")}

    def import_errors(self) -> list[str]:
        """What is wrong with files of DAGs."""
        return [row[0] for row in self._rows("SELECT stacktrace FROM import_error")]

    def runs(self) -> dict[tuple[str, str], tuple[str, str]]:
        """All runs by DAG and id: type and state."""
        rows = self._rows("SELECT dag_id, run_id, run_type, state FROM dag_run")
        return {(dag_id, run_id): (run_type, state) for dag_id, run_id, run_type, state in rows}

    def tasks(self, dag_id: str) -> list[TaskRecord]:
        """The task instances of all runs of a DAG, by their names."""
        rows = self._rows(
            "SELECT task_id, map_index, state, try_number, rendered_map_index, pool, start_date, end_date"
            " FROM task_instance WHERE dag_id = :dag_id ORDER BY task_id, map_index",
            dag_id=dag_id,
        )
        return [TaskRecord(*row) for row in rows]

    def xcoms(self, dag_id: str, task_id: str, key: str = "return_value") -> list[Any]:
        """What a task has left under a key, in order of its map indexes."""
        rows = self._rows(
            "SELECT value FROM xcom WHERE dag_id = :dag_id AND task_id = :task_id AND key = :key"
            " ORDER BY map_index",
            dag_id=dag_id,
            task_id=task_id,
            key=key,
        )
        return [parsed(row[0]) for row in rows]

    def asset_extras(self, table: str) -> list[dict[str, Any]]:
        """What events of assets carry; the table is ``asset_event`` or 2.11's ``dataset_event``."""
        return [parsed(row[0]) for row in self._rows(f"SELECT extra FROM {table}")]

    def _rows(self, statement: str, **values: Any) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(statement), values))


def parsed(value: Any) -> Any:
    """A value of JSON as the drivers give it: text, bytes, or what they have made of it themselves."""
    value = bytes(value) if isinstance(value, memoryview) else value
    return json.loads(value) if isinstance(value, str | bytes) else value
