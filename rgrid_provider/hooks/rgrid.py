"""Hooks: an Airflow connection of the type ``rgrid`` as a client of an RGrid server."""

from __future__ import annotations

import json
import logging
from functools import cached_property
from typing import Any

import requests

from rgrid.aio import AsyncClient
from rgrid.client import Client
from rgrid.exceptions import RGridError
from rgrid.transport.base import RetryPolicy, Server
from rgrid.transport.requests import RequestsTransport
from rgrid_provider._compat import AirflowException, BaseHook

DEFAULT_TIMEOUT_SECONDS = 30.0
KEPT_CONNECTIONS = 2
"""Of an asynchronous client between its calls: one that is held by the feed, one for short reads."""


class RGridHook(BaseHook):
    """Talks to an RGrid server through the requests library.

    The connection's host is the server's address, with or without a scheme (without one its ``schema``
    decides, https by default), its port is optional, and its password is the API key. Extra: ``verify``
    (true, false or a CA bundle's path), ``proxies``, ``timeout`` in seconds, ``tenant`` (a note).

    Args:
        rgrid_conn_id: the connection's id.
    """

    conn_name_attr = "rgrid_conn_id"
    default_conn_name = "rgrid_default"
    conn_type = "rgrid"
    hook_name = "RGrid"

    def __init__(self, rgrid_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.rgrid_conn_id = rgrid_conn_id

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Extra fields of Airflow 2's connection form; Airflow 3 takes them from the provider's metadata."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from flask_babel import lazy_gettext
        from wtforms import StringField

        return {
            "tenant": StringField(lazy_gettext("Tenant"), widget=BS3TextFieldWidget()),
            "verify": StringField(lazy_gettext("Verify TLS"), widget=BS3TextFieldWidget()),
            "proxies": StringField(lazy_gettext("Proxies (JSON)"), widget=BS3TextFieldWidget()),
            "timeout": StringField(lazy_gettext("Timeout in seconds"), widget=BS3TextFieldWidget()),
        }

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """How the connection form of Airflow 2 looks."""
        return {
            "hidden_fields": ["login"],
            "relabeling": {"host": "Server", "password": "API key"},
            "placeholders": {"host": "https://rgrid.example.com", "password": "sk_..."},
        }

    @cached_property
    def settings(self) -> ConnectionSettings:
        """The connection, read once."""
        return ConnectionSettings.from_connection(self.get_connection(self.rgrid_conn_id))

    def get_conn(self) -> Client:
        """The client."""
        return self.client

    @cached_property
    def client(self) -> Client:
        """The client: everything that the server can do."""
        return self.new_client()

    def new_client(self, answer_seconds: float | None = None) -> Client:
        """Another client, for whom the first one may be in the middle of a request.

        Args:
            answer_seconds: ask once, and wait so long for an answer; as the connection says when None.
        """
        server, retries = self.settings.server, None
        if answer_seconds is not None:
            server = Server(server.url, server.api_key, min(answer_seconds, server.timeout_seconds))
            retries = RetryPolicy(attempts=1)
        session = requests.Session()
        session.verify = self.settings.verify
        session.proxies.update(self.settings.proxies)
        return Client(transport=RequestsTransport(server, retries, session=session))

    def test_connection(self) -> tuple[bool, str]:
        """Whether the server answers and knows the key."""
        try:
            who = self.client.whoami()
            health = self.client.health()
        except (RGridError, AirflowException, ValueError) as error:
            return False, str(error)
        return True, f"RGrid {health.version}: tenant {who.tenant_name}, scopes {', '.join(who.scopes)}"


class RGridAsyncHook(RGridHook):
    """The same connection for callers that await, such as triggers."""

    async def get_async_client(self) -> AsyncClient:
        """A client of its own; close it when done."""
        from airflow.providers.common.compat.connection import get_async_connection

        from rgrid.transport.httpx import HttpxTransport

        # one line a request would drown the script's own in the task's log
        logging.getLogger("httpx").setLevel(logging.WARNING)
        connection = await get_async_connection(self.rgrid_conn_id)
        settings = ConnectionSettings.from_connection(connection)
        transport = HttpxTransport(
            settings.server,
            verify=settings.verify,
            proxies=settings.proxies,
            kept_connections=KEPT_CONNECTIONS,
        )
        return AsyncClient(transport=transport)


class ConnectionSettings:
    """What a connection says, in the client's words."""

    def __init__(self, server: Server, verify: bool | str, proxies: dict[str, str]) -> None:
        self.server = server
        self.verify = verify
        self.proxies = proxies

    @classmethod
    def from_connection(cls, connection: Any) -> ConnectionSettings:
        """Read a connection.

        Raises:
            ValueError: its host is missing, or an extra cannot be read.
        """
        url = address_of(connection, "the RGrid server's address")
        extra = connection.extra_dejson
        proxies = extra.get("proxies") or {}
        try:
            timeout = float(extra.get("timeout") or DEFAULT_TIMEOUT_SECONDS)
            proxies = json.loads(proxies) if isinstance(proxies, str) else dict(proxies)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the extra of the connection {connection.conn_id!r} cannot be read: {error}"
            ) from error
        return cls(
            Server(url, connection.password or None, timeout), _verify(extra.get("verify", True)), proxies
        )


def address_of(connection: Any, what: str) -> str:
    """A connection's host as a URL; a scheme is in the host, or is ``schema``, or https.

    Raises:
        ValueError: there is no host; ``what`` says what is to stand there.
    """
    host = (connection.host or "").strip()
    if not host:
        raise ValueError(f"the connection {connection.conn_id!r} has no host; write {what} there")
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    if connection.port:
        scheme, _, rest = url.partition("://")
        place, slash, path = rest.partition("/")
        if ":" not in place.rpartition("]")[2]:
            url = f"{scheme}://{place}:{connection.port}{slash}{path}"
    return url


def _verify(value: object) -> bool | str:
    if isinstance(value, bool) or value is None:
        return value is not False
    text = str(value).strip()
    if text.lower() in {"", "true", "1", "yes"}:
        return True
    return False if text.lower() in {"false", "0", "no"} else text
