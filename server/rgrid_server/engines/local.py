"""The local engine: one runner on this machine, a process of its own that outlives a restart of the server.

The runner holds a lock on ``runner.lock`` in the data directory for as long as it lives, and writes there who
it is. A server that finds the lock held leaves the work to that runner, which finds the server again through
the file ``address``; one that finds it free starts a runner, and starts another whenever that one ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
BACKOFF_MAX_SECONDS = 30.0
STOP_GRACE_SECONDS = 10.0


@dataclass(slots=True)
class LocalEngine:
    """Keeps one runner alive on this machine."""

    url: str
    data_dir: Path
    slots: int
    sandbox: str
    network: str
    runner_key: str
    options: Sequence[str] = ()
    """More of the runner's command line: how it logs and traces."""
    _started: Process | None = field(default=None, init=False)

    async def keep_running(self) -> None:
        """Start a runner whenever there is none, until canceled; it is left running then."""
        failures = 0
        while True:
            if is_runner_alive(self.data_dir):
                await asyncio.sleep(LOOK_SECONDS)
                continue
            loop = asyncio.get_running_loop()
            started = loop.time()
            starting = asyncio.ensure_future(self._start())
            try:
                self._started = await asyncio.shield(starting)
            except asyncio.CancelledError:
                # one that is half started is to be known, so that it can be stopped
                self._started = await starting
                raise
            code = await self._started.wait()
            failures = 0 if loop.time() - started > BACKOFF_MAX_SECONDS else failures + 1
            delay = min(BACKOFF_MAX_SECONDS, 0.2 * 2**failures) if failures else 0.0
            log.warning("the runner ended with code %s; another is started in %.1f s", code, delay)
            await asyncio.sleep(delay)

    async def stop_runner(self) -> None:
        """Ask the runner to end, and wait a little until it has."""
        asked = set()
        for _ in range(int(STOP_GRACE_SECONDS / 0.05)):
            pid = self._living()
            if pid is None and not is_runner_alive(self.data_dir):
                return
            if pid is not None and pid not in asked:
                asked.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            await asyncio.sleep(0.05)
        log.warning("the runner has not ended within %s s; it is left alone", STOP_GRACE_SECONDS)

    def _living(self) -> int | None:
        """The process id of the runner: the one started here, also while it has no lock yet, or another's."""
        if self._started is not None and self._started.returncode is None:
            return self._started.pid
        return runner_pid(self.data_dir) if is_runner_alive(self.data_dir) else None

    async def _start(self) -> Process:
        command = [sys.executable, "-m", "rgrid_server.runner", "--url", self.url]
        command += ["--data-dir", str(self.data_dir), "--slots", str(self.slots), "--sandbox", self.sandbox]
        command += ["--network", self.network]
        command += self.options
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("RGRID_", "PYTEST_"))
        }
        environment["RGRID_RUNNER_KEY"] = self.runner_key
        with (self.data_dir / "runner.log").open("ab") as output:
            # a session of its own: a signal to the server's terminal does not end the work
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )


def is_runner_alive(data_dir: Path) -> bool:
    """Whether a runner holds the directory's lock."""
    try:
        descriptor = os.open(data_dir / "runner.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def runner_pid(data_dir: Path) -> int | None:
    """The process id that the holder of the lock wrote there; None in the instant before it has."""
    try:
        return int(json.loads((data_dir / "runner.lock").read_text())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
