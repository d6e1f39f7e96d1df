"""What answers on the port for metrics: those, without a key, and nothing else."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rgrid_server.api.errors import RETRY_AFTER_SECONDS
from rgrid_server.api.json import Json
from rgrid_server.observability.gauges import Scrape
from rgrid_server.store.database import StorageError


class MetricsPort:
    """An application of one path, ``/metrics``."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            answer = await self._answer(Request(scope, receive))
            await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.url.path != "/metrics":
            return Json({"detail": "Not Found"}, 404)
        if request.method not in {"GET", "HEAD"}:
            return Json({"detail": "Method Not Allowed"}, 405, {"Allow": "GET, HEAD"})
        try:
            content, content_type = await self._scrape.render(request.headers.get("accept", ""))
        except StorageError as error:
            detail = {"error": "storage_unavailable", "message": str(error)}
            return Json({"detail": detail}, 503, {"Retry-After": RETRY_AFTER_SECONDS})
        return Response(content, headers={"Content-Type": content_type})
