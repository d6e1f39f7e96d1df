"""Why a request cannot be served; the HTTP edge says which status each is."""

from __future__ import annotations

from collections.abc import Sequence

from rgrid_server.domain.submission import Problem


class ServiceError(Exception):
    """The base of what a service refuses."""


class NotFound(ServiceError):
    """There is no such thing, or it is another tenant's."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"{kind} not found")


class Gone(NotFound):
    """It was kept once, as long as the server keeps such things, and is no more."""

    def __init__(self, code: str, message: str, **facts: object) -> None:
        ServiceError.__init__(self, message)
        self.code = code
        self.facts = facts


class Invalid(ServiceError):
    """A request asks for what cannot be."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


class Conflict(ServiceError):
    """The thing's state does not allow it."""

    def __init__(self, code: str, message: str, **facts: object) -> None:
        super().__init__(message)
        self.code = code
        self.facts = facts


class Superseded(ServiceError):
    """Another runner goes by the name of the one that asks."""


class LimitReached(ServiceError):
    """The tenant's budget is used up."""

    def __init__(self, usage_micros: int, limit_micros: int, message: str) -> None:
        super().__init__(message)
        self.usage_micros = usage_micros
        self.limit_micros = limit_micros
