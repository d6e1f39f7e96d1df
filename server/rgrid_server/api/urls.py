"""URLs that work without a key, for one path and one method, until they expire."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from fastapi import Request

from rgrid_server.api.errors import ApiError
from rgrid_server.api.services import services
from rgrid_server.clock import now_ms

PREFIX = "/api/v1"
UPLOAD_LIFETIME_MS = 3_600_000
DOWNLOAD_LIFETIME_MS = 24 * 3_600_000


def upload_url(request: Request, execution_id: str, name: str) -> str:
    """Where the bytes of an awaited file are PUT."""
    path = f"{PREFIX}/uploads/{execution_id}/{name}"
    return _signed(request, "PUT", path, UPLOAD_LIFETIME_MS)


def download_url(request: Request, artifact_id: str, filename: str) -> str:
    """Where an artifact's bytes are fetched."""
    path = f"{PREFIX}/downloads/{artifact_id}/{filename}"
    return _signed(request, "GET", path, DOWNLOAD_LIFETIME_MS)


def check_signature(request: Request) -> None:
    """Let a signed call pass.

    Raises:
        ApiError: 403, it is not signed by this server, or its time is over.
    """
    expires = request.query_params.get("expires", "")
    signature = request.query_params.get("signature", "")
    expires_at_ms = int(expires) if expires.isascii() and expires.isdigit() and len(expires) < 20 else 0
    method = "GET" if request.method == "HEAD" else request.method
    if not services(request).signer.is_url_signature(signature, method, request.scope["path"], expires_at_ms):
        raise ApiError(403, "signature_invalid", "this URL was not signed by this server; ask for a new one")
    if expires_at_ms < now_ms():
        raise ApiError(403, "signature_expired", "this URL has expired; ask for a new one")


def _signed(request: Request, method: str, path: str, lifetime_ms: int) -> str:
    found = services(request)
    expires_at_ms = now_ms() + lifetime_ms
    base = (found.settings.public_url or str(request.base_url)).rstrip("/").removesuffix(PREFIX)
    query = urlencode(
        {
            "expires": expires_at_ms,
            "signature": found.signer.url_signature(method, path, expires_at_ms),
        }
    )
    return f"{base}{quote(path)}?{query}"
