"""The commands: one module each, loaded only when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import click

from rgrid._version import __version__
from rgrid.cli import BROKEN_PIPE, HELP_OPTIONS, VERSION, help_columns

COMMANDS = {
    "run": ("run", "Run a script on the grid, or over many files with --batch."),
    "status": ("status", "Show an execution or a batch."),
    "list": ("listing", "List executions, newest first."),
    "logs": ("logs", "Print or follow an execution's log."),
    "download": ("download", "Fetch an execution's outputs."),
    "retry": ("retry", "Run an execution or a batch again."),
    "cancel": ("cancel", "Stop an execution or a batch."),
    "cost": ("cost", "Show what was spent, and limit it."),
    "secret": ("secret", "Keep secrets on the server, for --secret NAME."),
    "estimate": ("estimate", "Say what a run is likely to take and cost."),
    "init": ("init", "Say which server this project uses."),
    "server": ("server", "Start a server of your own, and look after it."),
    "doctor": ("doctor", "Say what is in force here, and what is wrong."),
    "version": ("version", "Print the version."),
    "completion": ("completion", "Print a shell's completion script."),
}
"""Command names, their modules here, and their one line of help: `--help` loads none of them."""

CONTEXT = {"help_option_names": HELP_OPTIONS, "terminal_width": help_columns()}


class LazyGroup(click.Group):
    """Loads a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"rgrid.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Their names and lines, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="rgrid", message=VERSION)
def cli() -> None:
    """Run a Python script on a grid as simply as on your own machine, and know what it cost.

    The server is named by RGRID_API_URL and RGRID_API_KEY, by .rgrid/config in the project, or by
    ~/.rgrid/credentials. Without any, `rgrid run` starts one of its own on this machine.
    """


def run(argv: Sequence[str]) -> int:
    """Run a command; returns the exit code."""
    try:
        code = cli.main(list(argv), prog_name="rgrid", standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except BrokenPipeError:
        # whoever read our output has left, as `| head` does
        return BROKEN_PIPE
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0
    except Exception as error:
        from rgrid.cli.failures import tell_failure

        return tell_failure(error)
    return code if isinstance(code, int) else 0
