"""A real server as a process of its own, for tests of everything that talks to one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
"""The server's own environment, also where the test runs in one of Airflow's."""

API_KEY = "sk_test_admin_of_the_default_tenant"
READY_SECONDS = 60.0


class LiveServer:
    """Starts, kills, stops and restarts a server on one data directory.

    Args:
        data_dir: where its data stand; a fresh directory when None.
        port: 0 takes a free one.
        options: more of the command line.
        env: more environment variables.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        port: int = 0,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._own = tempfile.TemporaryDirectory(prefix="rgrid-") if data_dir is None else None
        self.data_dir = Path(self._own.name) if self._own is not None else Path(data_dir or "")
        self.api_key = API_KEY
        self.url = ""
        self._port = port
        self.options = list(options)
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        """The address of the API."""
        return f"{self.url}/api/v1"

    @property
    def headers(self) -> dict[str, str]:
        """The header that opens everything."""
        return {"Authorization": f"Bearer {self.api_key}"}

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self.data_dir / "server.log").read_text(errors="replace")

    def start(self) -> LiveServer:
        """Start it, and wait until it is well."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        address = self.data_dir / "address"
        address.unlink(missing_ok=True)
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("RGRID_", "AIRFLOW"))
        }
        command = [
            str(PYTHON),
            "-m",
            "rgrid_server",
            "--port",
            str(self._port),
            "--data-dir",
            str(self.data_dir),
        ]
        with (self.data_dir / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                command + self.options,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={
                    **clean,
                    "RGRID_BOOTSTRAP_API_KEY": self.api_key,
                    "RGRID_ALLOW_PROCESS_SANDBOX": "1",
                    **self._env,
                },
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with code {self._process.returncode}:\n{self.log}")
            with contextlib.suppress(OSError):
                self.url = address.read_text().strip()
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return self
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"the server is not well after {READY_SECONDS} s:\n{self.log}")

    def wait_for_runner(self) -> LiveServer:
        """Wait until a runner has registered."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            request = urllib.request.Request(f"{self.api}/runtimes", headers=self.headers)
            with urllib.request.urlopen(request, timeout=5) as answer:
                if json.load(answer):
                    return self
            time.sleep(0.05)
        raise RuntimeError(f"no runner has registered:\n{self.log}")

    def kill(self) -> None:
        """End the server with SIGKILL; its runner goes on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int | None:
        """End the server with SIGTERM, and its runner; returns the server's exit code."""
        code = None
        if self._process is not None:
            self._process.terminate()
            code = self._process.wait(timeout=60)
            self._process = None
        self.end_runner()
        return code

    def restart(self) -> LiveServer:
        """Start again after a kill or a stop."""
        return self.start()

    def runner_pid(self) -> int | None:
        """The process id of the runner that lives."""
        try:
            with (self.data_dir / "runner.lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(OSError, ValueError, KeyError):
                return int(json.loads((self.data_dir / "runner.lock").read_text())["pid"])
        except OSError:
            return None
        return None

    def end_runner(self) -> None:
        """End the runner, and wait until it is gone."""
        pid = self.runner_pid()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        # asked twice, it does not let scripts run on
        time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.runner_pid() == pid:
            time.sleep(0.02)
        if self.runner_pid() == pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> LiveServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._own is not None:
            self._own.cleanup()
