"""JSON in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MAX_BODY_BYTES = 16 * 1024 * 1024
"""The most that a JSON body may be; a route that takes more says so."""


class Json(Response):
    """A JSON answer, written fast."""

    media_type = "application/json"

    def __init__(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        # what Starlette's own does, less what JSON never needs
        self.status_code = status
        self.background = None
        self.body = orjson.dumps(content)
        self.raw_headers = [
            (b"content-length", b"%d" % len(self.body)),
            (b"content-type", b"application/json"),
        ]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))


class BodyTooLarge(HTTPException):
    """A body is larger than the route takes."""

    def __init__(self, max_bytes: int) -> None:
        message = f"the request's body is larger than {max_bytes} bytes; send less at once"
        super().__init__(413, {"error": "body_too_large", "message": message})


class JsonRequest(Request):
    """A request whose body is read up to a limit, and strictly: valid UTF-8, no lone surrogates."""

    max_body_bytes = MAX_BODY_BYTES

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: it is larger than the limit.
        """
        if not hasattr(self, "_body"):
            declared = self.headers.get("content-length", "")
            if declared.isdigit() and int(declared) > self.max_body_bytes:
                raise BodyTooLarge(self.max_body_bytes)
            held = bytearray()
            async for chunk in self.stream():
                held += chunk
                if len(held) > self.max_body_bytes:
                    raise BodyTooLarge(self.max_body_bytes)
            self._body = bytes(held)
        return self._body

    async def json(self) -> Any:
        """The body as JSON.

        Raises:
            json.JSONDecodeError: it is not.
        """
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json
