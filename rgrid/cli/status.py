"""``rgrid status``."""

from __future__ import annotations

import click

from rgrid.cli import shown
from rgrid.cli.clicked import options
from rgrid.cli.quick import STATUS

command = click.command(help=STATUS.help)(options(STATUS)(shown.status))
