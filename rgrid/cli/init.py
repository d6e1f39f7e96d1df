"""``rgrid init``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rgrid import config
from rgrid.cli.display import tell
from rgrid.exceptions import ApiError, RGridError


@click.command(help="Write .rgrid/config here, so that commands in this project use a server.")
@click.option("--api-url", help="The server's address.")
@click.option("--api-key", help="Its key; asked for where it is not given.", envvar=config.KEY_VARIABLE)
def command(api_url: str | None, api_key: str | None) -> None:
    """Write the project's configuration."""
    if not sys.stdin.isatty():
        # there is nobody to ask
        if not api_url:
            raise click.UsageError("no server is named, and no terminal is here to ask on: give --api-url")
        if not api_key:
            raise click.UsageError(
                f"no key is given, and no terminal is here to ask on: set {config.KEY_VARIABLE}, "
                "or give --api-key"
            )
    from rgrid.client import Client
    from rgrid.transport.base import base_url

    url = base_url(api_url or click.prompt("Address of the server", default="http://127.0.0.1:8000"))
    key = api_key or click.prompt("Key (sk_...)", hide_input=True)
    with Client(url, key, timeout_seconds=10) as client:
        try:
            who = client.whoami()
            click.echo(f"{url} knows this key: tenant {who.tenant_name}, {', '.join(who.scopes)}")
        except ApiError:
            raise
        except RGridError as error:
            tell(f"{error}; the configuration is written all the same")
    path = Path.cwd() / config.PROJECT_FILE
    config.write_file(str(path), {"api_url": url, "api_key": key})
    # the key is nobody else's, and no part of the project's history
    ignore = path.parent / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    click.echo(f"wrote {path}")
