"""One INSERT of several rows, which binds once what stands in all of them.

SQLite takes longer to be given fifty values than to write a short row; rows that are made together differ in
one or two. Its parameters may have numbers, and stand in a statement as often as they are needed:
https://www.sqlite.org/lang_expr.html#varparam
"""

from __future__ import annotations

ROWS_AT_ONCE = (16, 4)
"""So many rows one statement inserts: with more than the first of these a row takes hardly less."""
MAX_FORMS = 64
"""So many statements are kept of one, by what differs in its rows; more forms are inserted row by row."""


class SeveralRows:
    """The forms of a statement ``INSERT … VALUES (?, …)`` that insert several rows.

    Args:
        head: all before ``VALUES``.
        parameters: how many a row has.
    """

    def __init__(self, head: str, parameters: int) -> None:
        self._head = head
        self._parameters = parameters
        self._forms: dict[tuple[int, tuple[int, ...]], str] = {}

    @classmethod
    def of(cls, sql: str, parameters: int) -> SeveralRows | None:
        """Those of a statement for one row; None where it is no such insert."""
        values = f" VALUES ({', '.join('?' * parameters)})"
        return cls(sql.removesuffix(values), parameters) if sql.endswith(values) else None

    def sql(self, rows: int, differing: tuple[int, ...]) -> str | None:
        """The form for so many rows that differ in the parameters at these places; None for none.

        Its parameters are what the rows share, in its order, and then for each row what is its own.
        """
        form = (rows, differing)
        found = self._forms.get(form)
        if found is None and len(self._forms) < MAX_FORMS:
            found = self._forms[form] = f"{self._head} VALUES {self._rows(*form)}"
        return found

    def _rows(self, rows: int, differing: tuple[int, ...]) -> str:
        own = {place: at for at, place in enumerate(differing)}
        shared = [place for place in range(self._parameters) if place not in own]
        number_of = {place: at + 1 for at, place in enumerate(shared)}
        written = []
        for row in range(rows):
            before = len(shared) + row * len(differing) + 1
            numbers = (
                before + own[place] if place in own else number_of[place] for place in range(self._parameters)
            )
            written.append(f"({', '.join(f'?{number}' for number in numbers)})")
        return ", ".join(written)
