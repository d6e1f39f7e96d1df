"""The child's side of a holder's fork: from a copy of the holder to the process of one script.

A *warm* child comes back from here, and goes on with its interpreter's start. A *cold* one executes a
program.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import resource
import sys
import time

from . import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .ending import Ending

SPAWN_FAILED = 127
OUTER_MEMORY_BYTES = 4 * 1024**3


class Child:
    """What the children of a holder have in common.

    Args:
        ending: how a warm one's interpreter ends.
    """

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._loaded: set[str] = set()

    def note_loaded(self) -> None:
        """What is imported now is what warm children find."""
        self._loaded = set(sys.modules)
        self._ending.note_loaded(self._loaded)

    def become(self, command: dict[str, Any], streams: list[int], holder: int) -> None:
        """Take on what a script's process has of its own; returns only in a warm child.

        Args:
            command: what the runner asked for.
            streams: descriptors of standard output and standard error.
            holder: the holder's process number.

        Raises:
            OSError: something of it cannot be had.
        """
        os.setsid()
        processes.end_with_parent(_signal.SIGKILL)
        if os.getppid() != holder:
            # it ended before the kernel was told
            os._exit(SPAWN_FAILED)
        processes.set_dumpable(True)
        _limit_all(command)
        os.umask(0o022)
        os.chdir(command["directory"])
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        for number in (_signal.SIGTERM, _signal.SIGHUP):
            _signal.signal(number, _signal.SIG_DFL)
        if command["warm"]:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
            self._become_warm(command)
        else:
            # Python ignores two of these at its start, and what is ignored stays so through exec
            for number in (_signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ):
                _signal.signal(number, _signal.SIG_DFL)
            argv = command["argv"]
            os.execve(argv[0], argv, command["environment"])  # noqa: S606

    def _become_warm(self, command: dict[str, Any]) -> None:
        """What an interpreter has that was started for this script alone."""
        argv = command["argv"]
        sys.argv[1:] = argv[2:]
        if hasattr(sys, "orig_argv"):
            sys.orig_argv[1:] = argv[1:]
        os.environ.clear()
        os.environ.update(command["environment"])
        for name in set(sys.modules) - self._loaded:
            # os.wait4() loads one
            del sys.modules[name]
        if command["watches"]:
            gc.unfreeze()
            self._ending.forbid()
        else:
            # the script's own objects are to be collected at its end, with the module that they hang on
            main = type(sys)("__main__")
            main.__dict__.clear()
            main.__dict__.update(sys.modules["__main__"].__dict__)
            sys.modules["__main__"] = main
            self._ending.allow()
        _start_anew()


def _limit_all(command: dict[str, Any]) -> None:
    memory_bytes = command["memory_mib"] * 1024 * 1024
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, command["max_file_bytes"])
    # far outside of what is watched: it stops what would grow faster than the watch can look
    _limit(resource.RLIMIT_DATA, 4 * memory_bytes + OUTER_MEMORY_BYTES)
    if command["max_processes"]:
        _limit(resource.RLIMIT_NPROC, command["max_processes"])


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, most))


def _start_anew() -> None:
    """Make new what a fresh interpreter draws or notes at an import; ``random`` sees to itself at a fork."""
    loaded = sys.modules
    if "numpy.random" in loaded:
        loaded["numpy.random"].seed()
    if "multiprocessing.process" in loaded:
        loaded["multiprocessing.process"].current_process().authkey = os.urandom(32)
    if "logging" in loaded:
        now = loaded["logging"].__dict__
        now["_startTime"] = time.time_ns() if sys.version_info >= (3, 13) else time.time()
