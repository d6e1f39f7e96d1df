"""Statements whose SQL is made once: the hot way past what SQLAlchemy does at every execution.

To find that it has compiled a statement before, and to wrap its rows, takes SQLAlchemy about 100 µs; SQLite
answers in 10. A prepared statement goes to the driver's own cursor with the types' own conversions. What is
asked rarely, or with a changing shape, stays with ``connection.execute``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from sys import intern
from typing import Any, Protocol

from sqlalchemy import Insert, Select, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPICursor, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from rgrid_server.store.database import Row
from rgrid_server.store.severalrows import ROWS_AT_ONCE, SeveralRows

_NOTHING: Any = object()


class Upsert(Protocol):
    """An insert that knows what to do about a row that is there, as both dialects have it."""

    def __call__(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Begin the statement."""


def replacing(table: Table, key: Sequence[str], columns: Sequence[str]) -> Callable[[Upsert], ClauseElement]:
    """An insert of these columns that takes the place of the row that has its key, if there is one."""

    def statement(insert: Upsert) -> ClauseElement:
        putting = insert(table)
        return putting.on_conflict_do_update(
            index_elements=list(key),
            set_={name: putting.excluded[name] for name in columns if name not in key},
        )

    return statement


class Prepared:
    """A statement with bound parameters, compiled once for each kind of database.

    Args:
        statement: of SQLAlchemy Core; every ``bindparam`` in it is given by name at each execution. One that
            says what to do on conflict is a function of the dialect's own ``insert``.
        columns: for an insert or update without values, the columns that are given.
    """

    def __init__(
        self,
        statement: ClauseElement | Callable[[Upsert], ClauseElement],
        columns: Sequence[str] | None = None,
    ) -> None:
        self._statement = statement
        self._columns = columns
        self._compiled: dict[str, _Compiled] = {}

    def all(self, connection: Connection, **parameters: object) -> list[Row]:
        """Every row."""
        compiled = self._for(connection.dialect)
        cursor = compiled.execute(connection, parameters)
        try:
            return [compiled.row(values) for values in cursor.fetchall()]
        finally:
            cursor.close()

    def first(self, connection: Connection, **parameters: object) -> Row | None:
        """The first row, None where there is none."""
        compiled = self._for(connection.dialect)
        cursor = compiled.execute(connection, parameters)
        try:
            values = cursor.fetchone()
        finally:
            cursor.close()
        return None if values is None else compiled.row(values)

    def scalar(self, connection: Connection, **parameters: object) -> Any:
        """The first column of the first row, None where there is none."""
        found = self.first(connection, **parameters)
        return None if found is None else next(iter(found.values()))

    def run(self, connection: Connection, **parameters: object) -> int:
        """Execute it; returns how many rows it changed."""
        cursor = self._for(connection.dialect).execute(connection, parameters)
        changed = int(cursor.rowcount)
        cursor.close()
        return changed

    def run_many(self, connection: Connection, rows: Iterable[Mapping[str, object]]) -> None:
        """Execute it once for each of some parameters."""
        self._for(connection.dialect).execute_many(connection, rows)

    def run_alike(
        self,
        connection: Connection,
        shared: Mapping[str, object],
        names: Sequence[str],
        rows: Sequence[Sequence[object]],
    ) -> None:
        """Execute it once for each row of the values of ``names``, with ``shared`` for all others.

        What is shared is converted once, and so is a value that is the same object as the row's before it.
        """
        self._for(connection.dialect).execute_alike(connection, shared, names, rows)

    def _for(self, dialect: Dialect) -> _Compiled:
        found = self._compiled.get(dialect.name)
        if found is None or found.dialect is not dialect:
            found = self._compiled[dialect.name] = _Compiled(
                self._statement_for(dialect), self._columns, dialect
            )
        return found

    def _statement_for(self, dialect: Dialect) -> ClauseElement:
        if isinstance(self._statement, ClauseElement):
            return self._statement
        return self._statement(sqlite.insert if dialect.name == "sqlite" else postgresql.insert)


class _Compiled:
    """One dialect's SQL with the conversions of its parameters and columns."""

    def __init__(self, statement: ClauseElement, columns: Sequence[str] | None, dialect: Dialect) -> None:
        if isinstance(statement, Insert):
            # what the database numbers is not asked for: nobody reads it
            statement = statement.inline()
        compiled = statement.compile(dialect=dialect, column_keys=list(columns) if columns else None)
        if not isinstance(compiled, SQLCompiler):
            raise TypeError(f"{statement} cannot be prepared")
        self.dialect = dialect
        self._sql = compiled.string
        self._is_positional = compiled.positional
        self._names = tuple(compiled.positiontup or compiled.bind_names.values())
        self._several = SeveralRows.of(self._sql, len(self._names)) if compiled.positional else None
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}
        self._binders: dict[str, Callable[[Any], Any]] = dict(compiled._bind_processors)  # type: ignore[arg-type]
        self._placed_binders = tuple(
            (place, self._binders[name]) for place, name in enumerate(self._names) if name in self._binders
        )
        self._columns = plain_names(column.keyname for column in compiled._result_columns)
        self._readers = tuple(
            (index, reader)
            for index, column in enumerate(compiled._result_columns)
            if (reader := column.type._cached_result_processor(dialect, None)) is not None
        )

    def execute(self, connection: Connection, parameters: Mapping[str, object]) -> DBAPICursor:
        """Execute it; the caller closes the cursor."""
        cursor = self._cursor(connection)
        try:
            cursor.execute(self._sql, self._bound(parameters))
        except self._errors as error:
            raise self._wrapped(connection, cursor, error) from error
        return cursor

    def execute_many(self, connection: Connection, rows: Iterable[Mapping[str, object]]) -> None:
        """Execute it for each of some parameters."""
        self._execute_bound(connection, [self._bound(row) for row in rows])

    def execute_alike(
        self,
        connection: Connection,
        shared: Mapping[str, object],
        names: Sequence[str],
        rows: Sequence[Sequence[object]],
    ) -> None:
        """Execute it for each row of some parameters' values, with the others shared."""
        converted: list[Any] = [list(row) for row in rows]
        for at, name in enumerate(names):
            if (binder := self._binders.get(name)) is not None:
                _convert(converted, at, binder)
        if self._is_positional and tuple(names) == self._names:
            bound = converted
        else:
            common = {name: shared[name] for name in self._names if name not in names and name in shared}
            blank: dict[str, object] = dict.fromkeys(names)
            bound = self._laid_over(self._bound({**common, **blank}), names, converted)
        self._execute_bound(connection, bound)

    def _laid_over(self, template: Any, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Any]:
        """The template with each row's own values."""
        if not self._is_positional:
            return [{**template, **dict(zip(names, values, strict=True))} for values in rows]
        places = [self._names.index(name) for name in names]
        bound = []
        for values in rows:
            row = list(template)
            for place, value in zip(places, values, strict=True):
                row[place] = value
            bound.append(row)
        return bound

    def _execute_bound(self, connection: Connection, bound: Sequence[Any]) -> None:
        cursor = self._cursor(connection)
        try:
            left = bound[self._insert_several(cursor, bound) :]
            if len(left) == 1:
                cursor.execute(self._sql, left[0])
            elif left:
                cursor.executemany(self._sql, left)
        except self._errors as error:
            raise self._wrapped(connection, cursor, error) from error
        finally:
            cursor.close()

    def _insert_several(self, cursor: DBAPICursor, bound: Sequence[Sequence[Any]]) -> int:
        """Insert several rows at a time as long as there are as many; returns how many that were."""
        if self._several is None or len(bound) < ROWS_AT_ONCE[-1]:
            return 0
        columns = list(zip(*bound, strict=True))
        differing = tuple(
            place for place, column in enumerate(columns) if column.count(column[0]) < len(column)
        )
        shared = [column[0] for place, column in enumerate(columns) if place not in differing]
        own = list(zip(*[columns[place] for place in differing], strict=True))
        done = 0
        for rows in ROWS_AT_ONCE:
            sql = self._several.sql(rows, differing)
            while sql is not None and len(bound) - done >= rows:
                cursor.execute(sql, [*shared, *chain.from_iterable(own[done : done + rows])])
                done += rows
        return done

    def row(self, values: Sequence[Any]) -> Row:
        """A row by its columns' names."""
        found = dict(zip(self._columns, values, strict=True))
        for index, reader in self._readers:
            name = self._columns[index]
            found[name] = reader(found[name])
        return found

    @property
    def _errors(self) -> type[Exception]:
        kind: type[Exception] = self.dialect.loaded_dbapi.Error
        return kind

    def _cursor(self, connection: Connection) -> DBAPICursor:
        return connection.connection.cursor()

    def _bound(self, parameters: Mapping[str, object]) -> Any:
        values = {**self._fixed, **parameters} if self._fixed else parameters
        bound = [values[name] for name in self._names]
        # few have a conversion
        for place, binder in self._placed_binders:
            bound[place] = binder(bound[place])
        return bound if self._is_positional else dict(zip(self._names, bound, strict=True))

    def _wrapped(self, connection: Connection, cursor: DBAPICursor, error: Exception) -> Exception:
        is_lost = self.dialect.is_disconnect(error, connection.connection, cursor)  # type: ignore[arg-type]
        if is_lost:
            connection.invalidate(error)
        cursor.close()
        wrapped = DBAPIError.instance(
            self._sql,
            None,
            error,
            self._errors,
            hide_parameters=True,
            connection_invalidated=is_lost,
            dialect=self.dialect,
        )
        return wrapped if isinstance(wrapped, Exception) else error


def _convert(rows: list[list[Any]], at: int, binder: Callable[[Any], Any]) -> None:
    """Convert a column in place; what is the same object as in the row before is converted only there."""
    last, last_found = _NOTHING, None
    for row in rows:
        value = row[at]
        if value is not last:
            last, last_found = value, binder(value)
        row[at] = last_found


def all_rows(connection: Connection, query: Select[Any]) -> list[Row]:
    """Every row of a query whose shape changes from call to call."""
    result = connection.execute(query)
    names = plain_names(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


def first_row(connection: Connection, query: Select[Any]) -> Row | None:
    """The first row of a query whose shape changes from call to call, None where there is none."""
    result = connection.execute(query)
    names, row = plain_names(result.keys()), result.first()
    return None if row is None else dict(zip(names, row, strict=True))


def plain_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of columns as rows have them: a dictionary is slow with the kind of str that SQLAlchemy has."""
    return tuple(intern(str(name)) for name in names)
