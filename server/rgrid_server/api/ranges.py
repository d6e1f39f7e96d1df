"""Stored bytes as an answer: all of them, or those that a Range header asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from rgrid_server.api.errors import ApiError
from rgrid_server.domain.ranges import Span, Unsatisfiable, wanted_span
from rgrid_server.scheduler.files import StoredBytes


async def bytes_answer(request: Request, stored: StoredBytes, content_type: str) -> Response:
    """200 with all bytes, or 206 with a part of them; to HEAD the same without bytes.

    Raises:
        ApiError: 416, what is asked for lies beyond the end.
        OSError: the bytes are not where they should be.
    """
    etag = f'"{stored.sha256}"'
    headers = {"ETag": etag, "X-SHA256": stored.sha256, "Accept-Ranges": "bytes"}
    asked = request.headers
    try:
        span = wanted_span(asked.get("range"), asked.get("if-range"), etag, stored.size_bytes)
    except Unsatisfiable:
        raise ApiError(
            416,
            "range_not_satisfiable",
            f"the file has {stored.size_bytes} bytes, and none where {asked['range'][:80]!r} begins",
            headers={**headers, "Content-Range": f"bytes */{stored.size_bytes}"},
            size_bytes=stored.size_bytes,
        ) from None
    start, end = span or Span(0, stored.size_bytes)
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size_bytes}"
    headers["Content-Length"] = str(end - start)
    status = 200 if span is None else 206
    if request.method == "HEAD":
        return Response(b"", status, headers, content_type)
    if stored.content is not None:
        return Response(stored.content[start:end], status, headers, content_type)
    await stored.check()
    return StreamingResponse(_first(stored.read(start), end - start), status, headers, content_type)


async def _first(chunks: AsyncIterator[bytes], size_bytes: int) -> AsyncIterator[bytes]:
    left_bytes = size_bytes
    async for chunk in chunks:
        yield chunk[:left_bytes]
        left_bytes -= len(chunk)
        if left_bytes <= 0:
            return
