"""Large bodies, read in a thread: ten thousand items take longer than others should wait."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request

from rgrid_server.api.schemas import Body

B = TypeVar("B", bound=Body)

LONG_BODY_BYTES = 32 * 1024


async def read_bulk(request: Request, kind: type[B]) -> B:
    """A request's JSON body, with the errors that the framework gives.

    Raises:
        RequestValidationError: it is no JSON, or not of this kind.
    """
    received = await request.body()
    if len(received) < LONG_BODY_BYTES:
        return _parse(received, kind)
    return await asyncio.to_thread(_parse, received, kind)


def bulk_body(kind: type[Body]) -> dict[str, Any]:
    """What the API's description says of a body that is read by :func:`read_bulk`."""
    schema = kind.model_json_schema()
    content = {"application/json": {"schema": _inlined(schema, schema.pop("$defs", {}))}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema with what it refers to in place, for its references would not hold in another document."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in schema.items()}


def _parse(received: bytes, kind: type[B]) -> B:
    try:
        content = orjson.loads(received)
    except orjson.JSONDecodeError as error:
        problem = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error"}
        raise RequestValidationError([problem]) from None
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        found = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(found) from None
