"""What a call is: what to send, how to read the answer; and what the descriptions of calls share."""

from __future__ import annotations

import json

from rgrid._typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from rgrid import models

T = TypeVar("T")


class Answer:
    """What the server sent back."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is not.
        """
        return json.loads(self.body)


class Call(Generic[T]):
    """One request and the way to read its answer; nothing changes it.

    A plain class, since loading what makes dataclasses takes as long as all that a short command does.

    Attributes:
        path: under ``/api/v1``, or a whole URL for signed ones, which are called without a key.
        is_repeatable: whether sending it twice does what sending it once does.
        wait_seconds: how long the server may take on purpose, on top of the usual timeout.
        file: a file whose bytes are the body.
        span: which of the file's bytes: from where on, and how many; None for all.
        start: from which byte on the answer's body is wanted.
    """

    __slots__ = (
        "body",
        "file",
        "headers",
        "is_repeatable",
        "json",
        "method",
        "path",
        "query",
        "read",
        "span",
        "start",
        "wait_seconds",
    )

    def __init__(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], T],
        *,
        query: Sequence[tuple[str, str]] = (),
        json: Any = None,
        body: bytes | None = None,
        file: Path | None = None,
        span: tuple[int, int] | None = None,
        start: int = 0,
        headers: Mapping[str, str] | None = None,
        is_repeatable: bool = True,
        wait_seconds: float = 0.0,
    ) -> None:
        self.method = method
        self.path = path
        self.read = read
        self.query = query
        self.json = json
        self.body = body
        self.file = file
        self.span = span
        self.start = start
        self.headers = headers or {}
        self.is_repeatable = is_repeatable
        self.wait_seconds = wait_seconds

    @property
    def target(self) -> str:
        """Path and query."""
        if not self.query:
            return self.path
        return f"{self.path}?{'&'.join(f'{quoted(name)}={quoted(value)}' for name, value in self.query)}"


def as_sent(call: Call[Any]) -> Call[Any]:
    """The same question, answered with the JSON that the server sent, which loads no model."""
    return Call(
        call.method,
        call.path,
        Answer.json,
        query=call.query,
        headers=call.headers,
        is_repeatable=call.is_repeatable,
        wait_seconds=call.wait_seconds,
    )


def read_one(model: Callable[[], type[models.M]]) -> Callable[[Answer], models.M]:
    """How an answer is read that is one model, named by a function so that it is loaded only then."""
    return lambda answer: model().from_wire(answer.json())


def read_many(model: Callable[[], type[models.M]]) -> Callable[[Answer], list[models.M]]:
    """How an answer is read that lists models."""
    return lambda answer: [model().from_wire(item) for item in answer.json()]


def read_body(answer: Answer) -> bytes:
    """The bytes as they came."""
    return answer.body


def read_message(answer: Answer) -> str:
    """What the server says of what it did."""
    return str(answer.json()["message"])


def query_of(**parameters: str | float | None) -> list[tuple[str, str]]:
    """The parameters that are given."""
    return [(name, str(value)) for name, value in parameters.items() if value is not None]


def quoted(text: object) -> str:
    """A text as part of a path or a query."""
    word = str(text)
    if word.isascii() and word.replace("_", "").replace("-", "").replace(".", "").isalnum():
        return word
    # loaded only where something is to be quoted: it takes 2 ms, as long as all other work of `rgrid status`
    from urllib.parse import quote

    return quote(word, safe="")
