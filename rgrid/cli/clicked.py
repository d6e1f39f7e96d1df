"""click's form of the commands that ``rgrid.cli.quick`` describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rgrid.cli.quick import Asked, Option


def option(described: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One option, as a decorator."""
    if not described.metavar:
        return click.option(described.spelled, described.name, is_flag=True, help=described.help)
    kind = click.IntRange(min=1) if described.is_number else click.STRING
    return click.option(
        described.spelled, described.name, type=kind, metavar=described.metavar, help=described.help
    )


def options(described: Asked) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """All options and the argument of a command, as one decorator."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(described.options):
            function = option(one)(function)
        if described.argument is not None:
            function = click.argument(described.argument, metavar="ID")(function)
        return function

    return decorate
