"""Commands that ask the server one thing and print it, read without click.

click takes as long to load as Python takes to start. What is typed plainly, with nothing to explain, is read
here and done at once; all else (help, a mistake, an option that is not known) goes to click;
``rgrid.cli.clicked`` makes its form of the same descriptions.
"""

from __future__ import annotations

import os

from rgrid._typing import TYPE_CHECKING
from rgrid.cli import BROKEN_PIPE

if TYPE_CHECKING:
    from collections.abc import Sequence

_Given = dict[str, "str | int | bool | None"]


class Option:
    """An option: a flag, a text, or a number from 1 up.

    Attributes:
        spelled: how it is typed, such as ``--days``.
        name: the parameter of the function that it becomes.
        metavar: what stands for its value in help; empty for a flag.
    """

    __slots__ = ("help", "is_number", "metavar", "name", "spelled")

    def __init__(
        self, spelled: str, name: str, help: str, *, metavar: str = "", is_number: bool = False
    ) -> None:
        self.spelled = spelled
        self.name = name
        self.help = help
        self.metavar = metavar
        self.is_number = is_number


class Asked:
    """A command: the one word that it needs, if any, and its options."""

    __slots__ = ("argument", "help", "options")

    def __init__(self, help: str, options: tuple[Option, ...], argument: str | None = None) -> None:
        self.help = help
        self.options = options
        self.argument = argument

    def read(self, words: Sequence[str]) -> _Given | None:
        """The parameters that the words give; None where they are for click to read or to refuse."""
        given: _Given = {option.name: None if option.metavar else False for option in self.options}
        known = {option.spelled: option for option in self.options}
        rest: list[str] = []
        waiting = iter(words)
        for word in waiting:
            if not word.startswith("-"):
                rest.append(word)
                continue
            spelled, equals, value = word.partition("=")
            option = known.get(spelled)
            if option is None or (equals and not option.metavar):
                return None
            if not option.metavar:
                given[option.name] = True
                continue
            if not equals:
                value = next(waiting, "-")
            if value.startswith("-"):
                return None
            if not option.is_number:
                given[option.name] = value
            elif value.isascii() and value.isdigit() and int(value) >= 1:
                given[option.name] = int(value)
            else:
                return None
        if len(rest) != (self.argument is not None):
            return None
        if self.argument is not None:
            given[self.argument] = rest[0]
        return given


AS_JSON = Option("--json", "as_json", "Print a JSON document.")
SINCE = Option("--since", "since", "The first day.", metavar="YYYY-MM-DD")
UNTIL = Option("--until", "until", "The last day.", metavar="YYYY-MM-DD")
DAYS = Option("--days", "days", "So many days; 7 by default.", metavar="N", is_number=True)
BY = Option("--by", "group_by", "How to cut it.", metavar="day|dag|task|owner|batch|metadata.K")
AS_CSV = Option("--csv", "as_csv", "Print comma-separated values.")

STATUS = Asked("Show an execution, or a batch by its counts.", (AS_JSON,), argument="identifier")
COST = Asked("Show what was spent: by day, or cut as --by says.", (SINCE, UNTIL, DAYS, BY, AS_JSON, AS_CSV))

COMMANDS = {"status": STATUS, "cost": COST}
"""By name; ``rgrid.cli.shown`` has a function of each name."""


def run(argv: Sequence[str]) -> int | None:
    """Do what is asked; returns the exit code, or None where click is to read it."""
    asked = COMMANDS.get(argv[0]) if argv else None
    if asked is None or "_RGRID_COMPLETE" in os.environ:
        return None
    given = asked.read(argv[1:])
    if given is None:
        return None
    from rgrid.cli import shown

    try:
        getattr(shown, argv[0])(**given)
    except BrokenPipeError:
        return BROKEN_PIPE
    except KeyboardInterrupt:
        from rgrid.cli.failures import INTERRUPTED

        return INTERRUPTED
    except Exception as error:
        from rgrid.cli.failures import tell_failure

        return tell_failure(error)
    return 0
