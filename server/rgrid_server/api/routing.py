"""Routes that ask for a key before anything else about a request."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rgrid_server.api.errors import ApiError
from rgrid_server.api.json import MAX_BODY_BYTES, JsonRequest
from rgrid_server.api.services import services
from rgrid_server.domain.apikeys import Scope as KeyScope
from rgrid_server.domain.apikeys import opens
from rgrid_server.store.tenants import Principal
from rgrid_server.tenancy import DEFAULT_TENANT, is_operator

F = TypeVar("F", bound=Callable[..., Any])


def needs(
    scope: KeyScope, *, of_operator: bool = False, max_body_bytes: int = MAX_BODY_BYTES
) -> Callable[[F], F]:
    """Mark an endpoint with the scope that its key must have, and whether it must be the operator's."""

    def mark(endpoint: F) -> F:
        endpoint.needed_scope = scope  # type: ignore[attr-defined]
        endpoint.of_operator = of_operator  # type: ignore[attr-defined]
        endpoint.max_body_bytes = max_body_bytes  # type: ignore[attr-defined]
        return endpoint

    return mark


class GuardedRoute(APIRoute):
    """Authenticates before the body is read, and before the method is looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind the key that the endpoint needs."""
        handle = super().get_route_handler()
        scope: KeyScope | None = getattr(self.endpoint, "needed_scope", None)
        max_body_bytes: int = getattr(self.endpoint, "max_body_bytes", MAX_BODY_BYTES)

        async def guarded(request: Request) -> Response:
            if scope is not None:
                principal = await authenticate(request)
                check_scope(principal, scope)
                if getattr(self.endpoint, "of_operator", False):
                    check_operator(principal)
                request.state.principal = principal
            limited = JsonRequest(request.scope, request.receive)
            limited.max_body_bytes = max_body_bytes
            return await handle(limited)

        return guarded

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; one with a wrong method learns so only with a key."""
        wrong_method = bool(self.methods) and scope["method"] not in (self.methods or ())
        if wrong_method and scope["method"] != "OPTIONS" and hasattr(self.endpoint, "needed_scope"):
            await authenticate(HTTPConnection(scope))
        await super().handle(scope, receive, send)


def guarded_router() -> APIRouter:
    """A router of guarded routes."""
    return APIRouter(route_class=GuardedRoute)


async def authenticate(connection: HTTPConnection, key: str | None = None) -> Principal:
    """Who asks.

    Raises:
        ApiError: 401 without a key, or with one that opens nothing.
    """
    found = services(connection)
    given = key or bearer(connection)
    if given is None:
        raise _unauthorized("no API key; send the header 'Authorization: Bearer sk_...'")
    principal = await found.tenancy.authenticate(given)
    if principal is None:
        raise _unauthorized("this API key is not known here, was revoked, or has expired")
    return principal


def check_scope(principal: Principal, scope: KeyScope) -> None:
    """Let a key pass that has a scope.

    Raises:
        ApiError: 403, it lacks it.
    """
    if not opens(principal.scopes, scope):
        raise ApiError(
            403,
            "scope_missing",
            f"this key lacks the scope {scope.value!r}; ask an administrator for one that has it",
        )


def check_operator(principal: Principal) -> None:
    """Let a key pass that is the operator's: of the tenant that is there from the first start on.

    Raises:
        ApiError: 403, it is another tenant's.
    """
    if not is_operator(principal):
        raise ApiError(
            403,
            "operator_only",
            f"this key administers the tenant {principal.tenant_name!r} only; "
            f"ask the server's operator, whose keys are of the tenant {DEFAULT_TENANT!r}",
        )


def bearer(connection: HTTPConnection) -> str | None:
    """The bearer token of a request."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


async def _principal(request: Request) -> Principal:
    found: Principal = request.state.principal
    return found


Who = Annotated[Principal, Depends(_principal)]
"""The owner of the key that a request came with."""
