"""The process sandbox: own session, limits, environment and workspace, and a holder that ends the whole tree.

It is not a wall against hostile code, which runs as the runner's user and sees what that user sees.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from rgrid_server.runner.sandbox.held import HeldSandbox
from rgrid_server.runner.sandbox.holders import END_SECONDS, INSIDE, RUN, Kind, SpawnedProcess
from rgrid_server.runner.sandbox.inside.holder.processes import children_of, is_subreaper, kill

log = logging.getLogger(__name__)

_starting = threading.Lock()
"""Between its fork and its exec a holder looks like an orphan."""


class ProcessSandbox(HeldSandbox):
    """Runs commands as the runner's user, in a directory that they could leave."""

    def __init__(self, boxes: Path) -> None:
        super().__init__(_Unconfined(), boxes)

    def end_orphans(self) -> None:
        """End what a lost holder held, which a runner, as a subreaper, is the parent of now.

        Every script has a session of its own, and so has what it started. The runner's other children are in
        the runner's session, or are holders.
        """
        if not is_subreaper():
            return
        deadline = time.monotonic() + END_SECONDS
        with _starting:
            while orphans := [pid for pid in children_of(os.getpid()) if _is_orphan(pid)]:
                if time.monotonic() > deadline:
                    log.error("these processes of a lost holder cannot be ended: %s", orphans)
                    return
                for pid in orphans:
                    kill(pid, signal.SIGKILL)
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                time.sleep(0.005)


class _Unconfined:
    name = "process"
    call_filter = b""

    def seen(self, box: Path) -> Path:
        return box

    def spawn(self, kind: Kind, box: Path, environment: Mapping[str, str]) -> SpawnedProcess:
        with _starting:
            spawned = SpawnedProcess(
                [kind.python, kind.script or "-"],
                environment={**environment, "PYTHONPATH": str(INSIDE)},
                cwd=box / RUN / "work",
            )
            _holders.add(spawned.pid)
        return spawned

    def take_in(self, workspace: Path) -> None:
        """It is the runner's user's already, as the scripts are."""

    def give_out(self, workspace: Path) -> None:
        """It has stayed so."""


_holders: set[int] = set()
"""Every holder that this process started; a number comes back long after its process was reaped."""


def _is_orphan(pid: int) -> bool:
    try:
        return os.getsid(pid) != os.getsid(0) and pid not in _holders
    except ProcessLookupError:
        return False
