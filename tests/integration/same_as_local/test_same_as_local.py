"""A script cannot tell the grid from ``python script.py``, and neither can whoever reads what it leaves.

Each script in ``scripts/`` runs here once, and on a grid in each sandbox, started warm and started cold. Both
streams, the exit code and the files are compared byte for byte; only the directory's name may differ.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from rgrid import Client
from rgrid.models import Execution
from rgrid_server.runner.sandbox import bubblewrap
from tests.live import LiveServer

SCRIPTS = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "scripts").glob("*.py"))}
ARGUMENTS = ["one", "two words", "", "--flag=ü", "input.txt"]
GIVEN = {"GIVEN": "a value = with\tspaces"}
INPUTS = {
    "input.txt": b"first line\nsecond",
    "data.csv": b"a,b\n1,2\n",
    "beside.py": b"NAME = __name__\n",
    "broken_module.py": b"import sys\n\ndef f():\n    return 1 / 0\n\nf()\n",
    "package/__init__.py": b"",
    "package/inner.py": b"from . import __name__ as parent\nVALUE = 42\ndef sibling():\n    return parent\n",
    "package/data.txt": b"resource\n",
}
OWN_INPUTS = {"import_beside_shadows": {"random.py": b"MINE = 'not the library'\n"}}
VARIANTS = [(sandbox, start) for sandbox in ("process", "bubblewrap", "docker") for start in ("warm", "cold")]
WAIT_SECONDS = 600.0

ADDRESSES = re.compile(rb"0x[0-9a-f]+")


@dataclass(frozen=True)
class Left:
    """What a run leaves: exit code, streams, and files with their bytes and whether they are programs."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    files: dict[str, tuple[bytes, bool]]


class Grid:
    """A server whose runner uses one sandbox; all scripts are submitted at once."""

    def __init__(self, server: LiveServer, start: str, inputs: Path) -> None:
        self.client = Client(server.url, server.api_key)
        self.root = re.compile(
            b"/rgrid/run|"
            + re.escape(str(server.data_dir.resolve()).encode())
            + rb"/runner/boxes/[0-9a-f]+/run"
        )
        # any other value of this variable means the same to Python, and does not fit a warm interpreter
        self.env_vars = GIVEN if start == "warm" else {**GIVEN, "PYTHONUNBUFFERED": "yes"}
        self.submitted = {name: self._submit(name, inputs) for name in SCRIPTS}

    def _submit(self, name: str, inputs: Path) -> str:
        given = self.client.upload({item: inputs / item for item in INPUTS})
        own = self.client.upload({item: inputs / name / item for item in OWN_INPUTS.get(name, {})})
        return self.client.submit(
            SCRIPTS[name],
            script_name="script.py",
            args=ARGUMENTS,
            inputs={**given, **own},
            env_vars=self.env_vars,
            timeout_seconds=600,
        ).execution_id

    def execution(self, name: str) -> Execution:
        return self.client.wait(self.submitted[name], WAIT_SECONDS)

    def left(self, name: str, directory: Path) -> Left:
        execution = self.execution(name)
        streams = {"stdout": b"", "stderr": b""}
        for entry in self.client.logs(execution.execution_id):
            streams[entry.stream] += entry.data
        self.client.download(execution.execution_id, directory)
        assert execution.exit_code is not None, execution
        return Left(
            execution.exit_code,
            _plain(streams["stdout"], self.root),
            _plain(streams["stderr"], self.root),
            _files(directory, {}),
        )


class Local:
    """This machine, with the interpreter that the grid uses."""

    def __init__(self, python: Path, directory: Path) -> None:
        self._python = python
        self._directory = directory
        self._known: dict[str, Left] = {}

    def left(self, name: str) -> Left:
        """What a script leaves here; it runs once."""
        if name not in self._known:
            self._known[name] = self._run(name)
        return self._known[name]

    def _run(self, name: str) -> Left:
        root = self._directory / name
        for part in ("work", "home", "tmp"):
            (root / part).mkdir(parents=True)
        given = INPUTS | OWN_INPUTS.get(name, {})
        _write(root / "work", given)
        (root / "work/script.py").write_text(SCRIPTS[name])
        ended = subprocess.run(
            [str(self._python), "script.py", *ARGUMENTS],
            cwd=root / "work",
            env={
                "HOME": str(root / "home"),
                "TMPDIR": str(root / "tmp"),
                "PATH": f"{self._python.parent}:{os.environ['PATH']}",
                "LANG": "C.UTF-8",
                "PYTHONUNBUFFERED": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "VIRTUAL_ENV": str(self._python.parent.parent),
                **GIVEN,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            start_new_session=True,
            # tests that were started in the background may ignore interrupts and hang-ups, and hand that on
            preexec_fn=_heed_interrupts,
        )
        place = re.compile(re.escape(str(root).encode()))
        code = ended.returncode if ended.returncode >= 0 else 128 - ended.returncode
        before = {**given, "script.py": SCRIPTS[name].encode()}
        return Left(
            code, _plain(ended.stdout, place), _plain(ended.stderr, place), _files(root / "work", before)
        )


def _heed_interrupts() -> None:
    for one in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(one, signal.SIG_DFL)


def _plain(printed: bytes, root: re.Pattern[bytes]) -> bytes:
    return ADDRESSES.sub(b"0x", root.sub(b"<root>", printed))


def _write(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def _files(directory: Path, before: dict[str, bytes]) -> dict[str, tuple[bytes, bool]]:
    found = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_file() and "__pycache__" not in name and path.read_bytes() != before.get(name):
            found[name] = (path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found


@pytest.fixture(scope="module")
def servers(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    require: Callable[[bool, str], None],
) -> Iterator[Callable[[str], LiveServer]]:
    started: dict[str, LiveServer] = {}

    def get(sandbox: str) -> LiveServer:
        require(
            sandbox != "bubblewrap" or bubblewrap.why_not() is None, f"{sandbox} ({bubblewrap.why_not()})"
        )
        if sandbox not in started:
            directory = tmp_path_factory.mktemp(sandbox)
            env = {"DOCKER_HOST": request.getfixturevalue("own_docker")} if sandbox == "docker" else {}
            server = LiveServer(directory, options=["--sandbox", sandbox, "--slots", "2"], env=env).start()
            started[sandbox] = server.wait_for_runner()
        return started[sandbox]

    yield get
    for server in started.values():
        server.stop()


@pytest.fixture(scope="module")
def grids(
    servers: Callable[[str], LiveServer], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Grid]:
    known: dict[tuple[str, str], Grid] = {}
    inputs = tmp_path_factory.mktemp("inputs")
    _write(inputs, INPUTS)
    for name, own in OWN_INPUTS.items():
        _write(inputs / name, own)

    def get(sandbox: str, start: str) -> Grid:
        if (sandbox, start) not in known:
            known[sandbox, start] = Grid(servers(sandbox), start, inputs)
        return known[sandbox, start]

    return get


@pytest.fixture(scope="module")
def local(servers: Callable[[str], LiveServer], tmp_path_factory: pytest.TempPathFactory) -> Local:
    server = servers("process")
    client = Client(server.url, server.api_key)
    probe = client.wait(client.submit("pass").execution_id, WAIT_SECONDS)
    key = probe.execution_metadata["environment"]
    (python,) = server.data_dir.glob(f"runner/environments/{key}*/bin/python")
    made = Local(python, tmp_path_factory.mktemp("local"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(made.left, SCRIPTS))
    return made


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(("sandbox", "start"), VARIANTS)
def test_it_leaves_what_it_leaves_here(
    grids: Callable[[str, str], Grid], local: Local, tmp_path: Path, sandbox: str, start: str, name: str
) -> None:
    assert grids(sandbox, start).left(name, tmp_path / "outputs") == local.left(name)


@pytest.mark.parametrize(("sandbox", "start"), VARIANTS)
def test_it_starts_as_its_metadata_say(grids: Callable[[str, str], Grid], sandbox: str, start: str) -> None:
    metadata = grids(sandbox, start).execution("argv").execution_metadata
    assert (metadata["sandbox"], metadata["start"]) == (sandbox, start)
    assert metadata.get("cold_reason") == (
        None if start == "warm" else "the interpreter itself reads PYTHONUNBUFFERED"
    )
