"""A Docker daemon of the tests' own: Debian's, with no network, and its images in a directory of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 30.0


def why_not() -> str | None:
    """Why none can be started here; None where it can."""
    if shutil.which("dockerd") is None:
        return "the program dockerd is not installed (Debian's docker.io)"
    return None if os.getuid() == 0 else "dockerd wants root"


class DockerDaemon:
    """Runs for the length of a ``with`` block; ``host`` is what DOCKER_HOST is to say."""

    def __init__(self) -> None:
        # a socket's path may have 107 bytes, which pytest's directories use up
        self._directory = Path(tempfile.mkdtemp(prefix="rgrid-docker-"))
        self.host = f"unix://{self._directory}/docker.sock"
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DockerDaemon:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *["dockerd", "--host", self.host, "--data-root", str(self._directory / "data")],
                    *["--exec-root", str(self._directory / "exec"), "--bridge=none"],
                    *["--pidfile", str(self._directory / "pid"), "--iptables=false", "--ip6tables=false"],
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not (self._directory / "docker.sock").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
