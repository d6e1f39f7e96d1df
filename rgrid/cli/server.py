"""``rgrid server``: hands over to the server's own command line."""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from rgrid.exceptions import ConfigurationError


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    help="Start a server of your own, and look after it.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Become the server."""
    if importlib.util.find_spec("rgrid_server") is None:
        raise ConfigurationError("the server is not installed here: pip install 'rgrid[server]'")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "rgrid_server", *arguments])  # noqa: S606
