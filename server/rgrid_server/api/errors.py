"""Errors on the wire: one shape, one place that knows which status each is."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response
from starlette.routing import Match

from rgrid_server.api.json import Json
from rgrid_server.blobs.base import BlobError
from rgrid_server.domain.execution import Refused, RefusedReason
from rgrid_server.domain.submission import Problem
from rgrid_server.errors import Conflict, Gone, Invalid, LimitReached, NotFound, Superseded
from rgrid_server.store.database import StorageError, StorageFull, Unstorable

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = "5"
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class ApiError(HTTPException):
    """An answer that is an error: a stable code, a sentence, and facts beside them."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None, **facts: object
    ) -> None:
        super().__init__(status, {"error": code, "message": message, **facts}, headers)


def install(app: FastAPI) -> None:
    """Teach an application how errors are answered."""
    app.add_exception_handler(RequestValidationError, _validation_error)
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)


async def answer_to(request: Request, error: Exception) -> Response:
    """The answer that an error is, as the application itself would give it."""
    for kind, answer in _ANSWERS.items():
        if isinstance(error, kind):
            if kind is Exception:
                log.exception("the request failed", exc_info=error)
            return await answer(request, error)
    raise error


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # the framework names those of the first route with this path only
        headers["Allow"] = ", ".join(_methods_of(request))
    return Json({"detail": error.detail}, error.status_code, headers)


def _methods_of(request: Request) -> list[str]:
    asked = {"type": "http", "path": request.scope["path"], "root_path": "", "headers": []}
    return [
        method
        for method in _METHODS
        if any(route.matches({**asked, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


async def _validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        {"type": item["type"], "loc": list(item["loc"]), "msg": item["msg"]} for item in error.errors()
    ]
    return Json({"detail": problems}, 422)


async def _not_found(_request: Request, error: Exception) -> Response:
    return Json({"detail": str(error)}, 404)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Invalid)
    too_large = next((problem for problem in error.problems if problem.too_large), None)
    if too_large is not None:
        return _answer(413, too_large.code, too_large.message)
    return Json({"detail": _in_fastapis_form(error.problems)}, 422)


async def _conflict(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Conflict)
    return _answer(409, error.code, str(error), **error.facts)


async def _gone(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Gone)
    return _answer(410, error.code, str(error), **error.facts)


async def _limit_reached(_request: Request, error: Exception) -> Response:
    assert isinstance(error, LimitReached)
    return _answer(
        402,
        "spending_limit_exceeded",
        str(error),
        current_usage_micros=error.usage_micros,
        monthly_limit_micros=error.limit_micros,
    )


async def _superseded(_request: Request, error: Exception) -> Response:
    return _answer(403, "superseded", str(error))


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    if error.reason is RefusedReason.NOT_FINISHED:
        return _answer(409, "not_finished", "the execution has not finished; wait for it or cancel it")
    return _answer(409, "conflict", f"the execution's state does not allow this ({error.reason.value})")


async def _blob_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BlobError)
    status = {"hash_mismatch": 400, "blob_too_large": 413, "partial_limit": 413, "storage_full": 503}[
        error.code
    ]
    return _answer(status, error.code, str(error))


async def _storage_error(_request: Request, error: Exception) -> Response:
    code = "storage_full" if isinstance(error, StorageFull) else "storage_unavailable"
    return _answer(503, code, str(error))


async def _unstorable(_request: Request, error: Exception) -> Response:
    return _answer(422, "invalid", str(error))


async def _unexpected(request: Request, _error: Exception) -> Response:
    request_id = request.scope.get("state", {}).get("request_id", "")
    return _answer(
        500,
        "internal_error",
        f"the server failed to answer; its log has the cause under request {request_id}",
        request_id=request_id,
    )


_ANSWERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    NotFound: _not_found,
    Invalid: _invalid,
    Conflict: _conflict,
    Gone: _gone,
    LimitReached: _limit_reached,
    Superseded: _superseded,
    Refused: _refused,
    BlobError: _blob_error,
    StorageError: _storage_error,
    Unstorable: _unstorable,
    StarletteHTTPException: _http_error,
    Exception: _unexpected,
}


def _answer(status: int, code: str, message: str, **facts: object) -> Response:
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if status == 503 else None
    return Json({"detail": {"error": code, "message": message, **facts}}, status, headers)


def _in_fastapis_form(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [
        {"type": problem.code, "loc": [problem.part, *problem.location], "msg": problem.message}
        for problem in problems
    ]
