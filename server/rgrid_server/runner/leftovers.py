"""What a runner that was killed has left: processes and workspaces, ended and removed by the next one."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path

from rgrid_server.runner.workspace import Workspace

log = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0


def sweep(work_directory: Path) -> None:
    """End every process that was started in a workspace below a directory, then remove the workspaces.

    Usually the holders have done so themselves; this is for when they were killed as well.
    """
    deadline = time.monotonic() + SWEEP_SECONDS
    while found := orphans(work_directory):
        if time.monotonic() > deadline:
            log.error("these processes of an earlier runner cannot be ended: %s", sorted(found))
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    if work_directory.is_dir():
        for root in work_directory.iterdir():
            Workspace(root).remove()


def orphans(work_directory: Path) -> set[int]:
    """The scripts' processes that were started in a workspace below a directory, or that stand in one."""
    root = str(work_directory.resolve())
    marks = (f"HOME={root}/".encode(), f"TMPDIR={root}/".encode())
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            directory = str((entry / "cwd").readlink())
        except OSError:
            # not ours to look at, gone, or a zombie
            continue
        is_script = any(line.startswith(b"RGRID_EXECUTION_ID=") for line in environment)
        is_here = directory.startswith(f"{root}/") or any(line.startswith(marks) for line in environment)
        if is_script and is_here:
            found.add(int(entry.name))
    return found
