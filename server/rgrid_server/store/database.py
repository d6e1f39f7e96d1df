"""What every database offers: transactions run as functions of a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy.engine import Connection

T = TypeVar("T")
Item = TypeVar("Item")

CommitListener = Callable[[int, float], None]
"""Is told how many operations a commit carried, and how many seconds it took until it was durable."""

Row = Mapping[str, Any]
"""A row as queries return it, by column names; what the edge may know of SQL."""
MAX_POSITION = 2**63 - 1
"""A position in a list, a log or a feed is a number that every database keeps."""


class Database(Protocol):
    """Runs functions of a connection. None of them may keep the connection or wait for anything else."""

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a short query, such as a lookup by key, on what is committed."""

    async def scan(self, query: Callable[[Connection], T]) -> T:
        """Run a query that may take long, on one snapshot, without holding others up."""

    async def write(
        self, operation: Callable[[Connection], T], *, is_long: bool = False, takes_in: bool = False
    ) -> T:
        """Run an operation in a transaction; when this returns, what it did is durable.

        The operation may be run more than once, after a conflict that undid it; ``is_long`` says that it
        takes more than some milliseconds, ``takes_in`` that it takes in something new, which is refused while
        the little room that is left is kept for what ends work and removes data.

        Raises:
            StorageFull: the disk is full; nothing was written.
            StorageUnavailable: the database is away.
            Unstorable: a value cannot be kept; nothing was written.
            Exception: whatever the operation raised; nothing of it was written.
        """

    def write_together(
        self,
        operation: Callable[[Connection, Sequence[Item]], Sequence[T | Exception]],
        item: Item,
        *,
        takes_in: bool = False,
    ) -> Awaitable[T]:
        """Run an operation on an item, in one transaction with others that wait for the same operation.

        The operation is given some items and answers each, in their order, with what was found or with an
        error of its own. Where it raises, each of its items is tried alone. Otherwise
        as :meth:`write`. What waits is kept by operation, so that is a function that stays, not one made anew
        for each call.
        """

    async def close(self) -> None:
        """Finish what was begun and let go of every connection."""


class Unstorable(Exception):
    """A value that the database has no place for, such as a NUL character; the message says which."""


class StorageError(Exception):
    """The database cannot be used; the message names it and the way out."""


class StorageFull(StorageError):
    """No room is left where the data stand."""


class StorageDamaged(StorageError):
    """What stands there is no database, or not a whole one."""


class StorageUnavailable(StorageError):
    """The database does not answer now; it may do so soon."""
