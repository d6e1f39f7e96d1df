"""A holder's life: it makes imports, then carries one run after the other."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import sys

from . import confinement, preloading, processes
from .channel import CHANNEL_VARIABLE, Channel
from .child import Child
from .ending import Ending
from .run import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    # it takes long to import, and no annotation is looked at
    from typing import Any

CLEARED = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108
"""What scripts can write to beside their workspaces, where they are no links into these."""


def serve(before: set[str]) -> None:
    """Serve runs until the socket ends; returns only in a warm child.

    Args:
        before: the modules that the interpreter had loaded when it came here.
    """
    try:
        channel = Channel(os.environ.pop(CHANNEL_VARIABLE))
        holder = Holder(channel)
        hide(before)
        order = channel.receive()
        if order is not None:
            holder.begin(order[0])
            while holder.take_one():
                pass
            if holder.is_script:
                return
    except BaseException as error:
        # whoever started it reads this
        os.write(2, f"the holder failed: {error!r}\n".encode())
        os._exit(1)
    os._exit(0)


class Holder:
    """One holder.

    Attributes:
        is_script: whether this process is a warm child of it, and is to go on with its start.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.is_script = False
        self._is_first_in_namespace = processes.is_first_in_namespace()
        self._ending = Ending()
        self._child = Child(self._ending)
        self._cleared: dict[str, set[str]] = {}
        if self._is_first_in_namespace:
            for place in CLEARED:
                if os.path.isdir(place):
                    self._note(place, os.stat(place).st_dev)
        _heed_signals()
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        for number in (_signal.SIGTERM, _signal.SIGHUP):
            # these are the runner's to act on; it ends us by closing the socket
            _signal.signal(number, _signal.SIG_IGN)
        processes.become_subreaper()
        # what is of this user inside may neither trace it nor write into its memory
        processes.set_dumpable(False)

    def begin(self, order: dict[str, Any]) -> None:
        """Import what scripts will import, and say what came of it."""
        if order["call_filter"]:
            confinement.set_call_filter(order["call_filter"])
        if self._is_first_in_namespace:
            confinement.keep_to_own_sockets()
        before = set(sys.modules)
        try:
            asked = self._preload(order["imports"])
        except preloading.Unfit as unfit:
            self._channel.send(f"unfit {unfit}")
            os._exit(0)
        if asked:
            self._channel.send("asked " + " ".join(sorted(asked)))
        self._child.note_loaded()
        gc.collect()
        # shared pages stay shared for as long as no collection writes to them: the one at a script's end
        # would copy all that pandas is made of, which takes longer than most scripts
        gc.freeze()
        names = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
        self._channel.send("ready " + " ".join(names))

    def _preload(self, statements: list[tuple[str, tuple[str, ...]]]) -> set[str]:
        # it starts and ends beside the imports
        probe = self._ending.probe()
        try:
            return preloading.make_imports(statements)
        finally:
            self._ending.heed(probe)

    def take_one(self) -> bool:
        """Carry one run; returns whether there may be another."""
        received = self._channel.receive()
        if received is None:
            return False
        message, descriptors = received
        if "run" not in message:
            # it came too late for its run
            return True
        run = Run(self._channel, self._child, message["run"], descriptors)
        answer = run.carry()
        if run.is_script:
            self.is_script = True
            return False
        if answer is None:
            return False
        problem = self._renew() if self._is_first_in_namespace else None
        self._channel.send(f"{answer}\n{problem or ''}")
        return True

    def _note(self, directory: str, device: int) -> None:
        """Note what stands in a directory before any script has run: paths to what is mounted below it."""
        if os.path.islink(directory) or os.stat(directory).st_dev != device:
            return
        names = set(os.listdir(directory))
        self._cleared[directory] = names
        for name in names:
            self._note(directory + "/" + name, device)

    def _renew(self) -> str | None:
        """Leave to the next script nothing that outlives processes; returns what could not be removed."""
        try:
            for directory, kept in self._cleared.items():
                for name in set(os.listdir(directory)) - kept:
                    path = directory + "/" + name
                    if os.path.isdir(path) and not os.path.islink(path):
                        return path
                    os.unlink(path)
            for kind in ("shm", "sem", "msg"):
                with open(f"/proc/sysvipc/{kind}", "rb") as file:
                    if len(file.read().splitlines()) > 1:
                        return f"a System V {kind}"
        except OSError as error:
            return str(error)
        return None


def hide(before: set[str]) -> None:
    """Take every trace of this program out of what a script may look at."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [entry for entry in sys.path if entry != own]
    searched = [own]
    os.environ.pop("PYTHONPATH", None)
    for name in set(sys.modules) - before - {"sitecustomize"}:
        searched += getattr(sys.modules.pop(name), "__path__", ())
    for directory in searched:
        sys.path_importer_cache.pop(directory, None)
    mine = sys.modules.pop("sitecustomize")
    try:
        __import__("sitecustomize")
    except ImportError:
        sys.modules["sitecustomize"] = mine


def _heed_signals() -> None:
    """Block and ignore none, whatever the runner was started with: nohup and a shell's ``&`` ignore some."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    for number in range(1, _signal.NSIG):
        # Python ignores these two itself
        if number not in (_signal.SIGPIPE, _signal.SIGXFSZ) and _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)
