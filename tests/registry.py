"""A registry of images on this machine that wants a password: Debian's docker-registry."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

START_SECONDS = 30.0
USERNAME = "someone"
PASSWORD = "open sesame"

CONFIGURATION = """
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {directory}/images}}}}
http: {{addr: 127.0.0.1:{port}}}
auth: {{htpasswd: {{realm: tests, path: {directory}/htpasswd}}}}
"""


def why_not() -> str | None:
    """Why none can be started here; None where it can."""
    missing = [name for name in ("docker-registry", "htpasswd") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class Registry:
    """Runs for the length of a ``with`` block; ``address`` is what images' names begin with."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="rgrid-registry-"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Registry:
        hashed = subprocess.run(
            ["htpasswd", "-Bbn", USERNAME, PASSWORD], capture_output=True, text=True, check=True
        )
        (self._directory / "htpasswd").write_text(hashed.stdout)
        port = self.address.rpartition(":")[2]
        configuration = self._directory / "config.yml"
        configuration.write_text(CONFIGURATION.format(directory=self._directory, port=port))
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(configuration)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no registry: {(self._directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/v2/", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False
