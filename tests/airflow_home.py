"""An Airflow of its own: one home directory, one of the two environments, real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from tests.live import ROOT, LiveServer

READY_SECONDS = 180.0

ADD_ROLE = """
import sys
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

name, pairs = sys.argv[1], sys.argv[2:]
with get_application_builder() as builder:
    role = builder.sm.add_role(name)
    for action, resource in zip(pairs[::2], pairs[1::2]):
        builder.sm.add_permission_to_role(role, builder.sm.create_permission(action, resource))
"""

SEVERAL = """
import json, runpy, sys

commands, scripts = json.loads(sys.argv[1])
for arguments in commands:
    sys.argv = ["airflow", *arguments]
    runpy.run_module("airflow", run_name="__main__")
    print("\\f", flush=True)
for script in scripts:
    exec(compile(script, "script", "exec"), {})
    print("\\f", flush=True)
"""
"""Commands one after another in one process, for each takes seconds to start; a form feed behind each."""


class AirflowHome:
    """A home with a migrated database, the example DAGs, and the connection to a server.

    Args:
        major: 2 or 3.
        home: an empty directory.
        server: what ``rgrid_default`` names; no connection when None.
        fab: Airflow 3 with the FAB auth manager instead of the simple one.
        python: an environment's that has Airflow; by default this checkout's for the major.
    """

    def __init__(
        self,
        major: int,
        home: Path,
        server: LiveServer | None = None,
        *,
        fab: bool = False,
        python: Path | None = None,
    ) -> None:
        self.major = major
        self.home = home
        self.python = python or ROOT / f".venv-airflow{major}" / "bin" / "python"
        self.dags = home / "dags"
        self.dags.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.is_fab = fab or major == 2
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "RGRID_", "_AIRFLOW"))}
        self.env = {
            **clean,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor" if major == 3 else "SequentialExecutor",
            "AIRFLOW__CORE__FERNET_KEY": "",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "60",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "RGRID_EXAMPLE_OUTPUT_DIR": str(home / "outputs"),
            "PYTHONWARNINGS": "ignore",
            "PATH": f"{self.python.parent}:{clean.get('PATH', os.defpath)}",
        }
        if major == 3:
            self.env |= {
                "AIRFLOW__API__BASE_URL": self.url,
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
                "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-this-test" * 4,
                "AIRFLOW__API__SECRET_KEY": "a-secret-of-this-test",
                "AIRFLOW__API__WORKERS": "1",
            }
            if fab:
                self.env["AIRFLOW__CORE__AUTH_MANAGER"] = (
                    "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
                )
            else:
                passwords = home / "passwords.json"
                passwords.write_text(json.dumps({"admin": "admin", "viewer": "viewer"}))
                self.env |= {
                    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,viewer:viewer",
                    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
                }
        else:
            self.env |= {
                "AIRFLOW__WEBSERVER__BASE_URL": self.url,
                "AIRFLOW__WEBSERVER__SECRET_KEY": "a-secret-of-this-test",
                "AIRFLOW__WEBSERVER__WORKERS": "1",
                "AIRFLOW__WEBSERVER__UPDATE_FAB_PERMS": "True",
            }
        if server is not None:
            self.env["AIRFLOW_CONN_RGRID_DEFAULT"] = json.dumps(
                {"conn_type": "rgrid", "host": server.url, "password": server.api_key}
            )

    def migrate(self) -> AirflowHome:
        """Make the database."""
        self.airflow("db", "migrate")
        if self.is_fab:
            self.airflow("sync-perm")
        return self

    def airflow(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of Airflow's commands."""
        return self._run(["-m", "airflow", *arguments], f"airflow {' '.join(arguments)}", check)

    def several(self, *commands: Sequence[str], scripts: Sequence[str] = ()) -> list[str]:
        """Run several of Airflow's commands, then scripts, in one process; returns what each printed."""
        told = "; ".join(" ".join(command) for command in commands)
        done = self._run(["-c", SEVERAL, json.dumps([commands, scripts])], f"airflow {told}", check=True)
        return done.stdout.split("\f\n")[:-1]

    def _run(self, arguments: Sequence[str], told: str, check: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.python), *arguments],
            env=self.env,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{told}: {done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done

    def add_user(self, name: str, role: str) -> None:
        """Make a user of the FAB auth manager, whose password is their name."""
        self.airflow(
            *["users", "create", "--username", name, "--password", name, "--role", role],
            *["--firstname", name, "--lastname", name, "--email", f"{name}@example.org"],
        )

    def add_role(self, name: str, permissions: Sequence[tuple[str, str]]) -> None:
        """Make a role of the FAB auth manager that may do (action, resource) pairs."""
        script = self.home / "add_role.py"
        script.write_text(ADD_ROLE)
        pairs = [part for pair in permissions for part in pair]
        subprocess.run([str(self.python), str(script), name, *pairs], env=self.env, cwd=self.home, check=True)

    def start(self, *names: str) -> AirflowHome:
        """Start components: ``web``, ``scheduler``, ``triggerer``, ``dag-processor``."""
        for name in names:
            self._start(name, self._command(name))
        if "web" in names:
            self._wait_for_web()
        return self

    def log_of(self, name: str) -> str:
        """What a component wrote."""
        path = self.home / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def task_logs(self) -> str:
        """All task logs together."""
        files = sorted((self.home / "logs").rglob("*.log"))
        return "\n".join(path.read_text(errors="replace") for path in files if "dag_id=" in str(path))

    def kill(self, name: str) -> None:
        """End a component with SIGKILL; what it started lives on."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """End every component with all that it started."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
        # tasks may have groups of their own, and some have outlived their component
        for pid in processes_of(self._sessions):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def __enter__(self) -> AirflowHome:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self, name: str) -> Sequence[str]:
        if name != "web":
            return [name]
        if self.major == 3:
            return ["api-server", "--host", "127.0.0.1", "--port", str(self.port)]
        return ["webserver", "--hostname", "127.0.0.1", "--port", str(self.port), "--workers", "1"]

    def _start(self, name: str, command: Sequence[str]) -> None:
        with (self.home / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                [str(self.python), "-m", "airflow", *command],
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._processes[name] = process
        self._sessions.add(process.pid)

    def _wait_for_web(self) -> None:
        path = "/api/v2/monitor/health" if self.major == 3 else "/health"
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            for process in self._processes.values():
                if process.poll() is not None:
                    told = self.log_of("web")[-4000:]
                    raise RuntimeError(f"Airflow ended with code {process.returncode}:\n{told}")
            with (
                contextlib.suppress(OSError, urllib.error.URLError),
                urllib.request.urlopen(f"{self.url}{path}", timeout=5) as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.2)
        raise RuntimeError(f"Airflow's pages do not come up:\n{self.log_of('web')[-4000:]}")


def processes_of(sessions: Container[int]) -> Iterator[int]:
    """The processes of some sessions, by their ids."""
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                # the session stands behind the name, which is in brackets
                if int((directory / "stat").read_text().rpartition(")")[2].split()[3]) in sessions:
                    yield int(directory.name)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
