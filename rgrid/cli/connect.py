"""Finding the server that a command talks to."""

from __future__ import annotations

from rgrid import config
from rgrid._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rgrid.client import Client
    from rgrid.transport.plain import PlainTransport


def connect(*, may_start: bool = False) -> Client:
    """A client of the configured server, or of the one on this machine.

    Args:
        may_start: start a server here where none is configured; otherwise only one that was started before.

    Raises:
        rgrid.exceptions.ConfigurationError: no server is configured.
    """
    from rgrid.client import Client

    return Client(transport=transport(may_start=may_start))


def transport(*, may_start: bool = False) -> PlainTransport:
    """What carries calls to the server that :func:`connect` would find; raises as it does."""
    from rgrid.transport.base import Server
    from rgrid.transport.plain import PlainTransport

    found = config.resolve()
    if found.api_url is not None:
        return PlainTransport(Server(found.api_url, found.api_key))
    from rgrid.cli import embedded

    if not may_start and not embedded.has_data():
        raise config.no_server()
    return PlainTransport(Server(*embedded.ensure()))


def parse_pairs(pairs: tuple[str, ...], option: str) -> dict[str, str]:
    """Read K=V options.

    Raises:
        click.UsageError: one has no equals sign.
    """
    import click

    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{option} wants NAME=VALUE, not {pair!r}")
        found[name] = value
    return found


def parse_secrets(given: tuple[str, ...]) -> dict[str, str | None]:
    """Read --secret options: a value that is given here, or None for one that is kept on the server."""
    found: dict[str, str | None] = {}
    for one in given:
        name, equals, value = one.partition("=")
        found[name] = value if equals else None
    return found


def is_batch_id(identifier: str) -> bool:
    """Whether an id is a batch's."""
    return identifier.startswith("batch_")


def relative_to_cwd(path: Path) -> str:
    """A path as a person in this directory would write it."""
    from pathlib import Path

    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
