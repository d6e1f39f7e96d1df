"""The docker sandbox: each holder in a container of its own.

The container's first process is the holder (inside/holder/), which answers on a socket that stands in its
box; when that closes, the holder ends, and with it the container, which the daemon then removes. Scripts run
as an ordinary user without capabilities under Docker's own system call filter, on a root that is read-only.

Without an image they see what the bubblewrap sandbox shows of this machine (view.py), in a container of an
image that holds nothing but the places for it. The daemon has to be this machine's: it mounts paths of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import logging
import os
import socket
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rgrid_server.runner.sandbox import cgroups, seccomp, view
from rgrid_server.runner.sandbox.held import HeldSandbox
from rgrid_server.runner.sandbox.holders import BEGIN_SECONDS, INSIDE, RUN, Kind, Limits
from rgrid_server.runner.sandbox.inside.holder.channel import CHANNEL_VARIABLE
from rgrid_server.runner.workspace import PARTS

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

log = logging.getLogger(__name__)

BOXES_LABEL = "rgrid.boxes"
MACHINE_IMAGE = "rgrid-machine"
CHANNEL = "channel"
DAEMON_SECONDS = 120
LOOK_SECONDS = 0.5
DEFAULT_SOCKET = Path("/var/run/docker.sock")
_WRITABLE = ("/tmp", "/var/tmp")  # noqa: S108
_DOCKERS_OWN = frozenset({"hosts", "hostname", "resolv.conf"})
"""What of /etc the daemon puts there itself."""


class DockerSandbox(HeldSandbox):
    """Runs commands in containers.

    Args:
        boxes: a directory of this sandbox's own.
        network: whether commands reach the machine's network; without it they have a loopback of their own.

    Raises:
        OSError: there is no daemon, or it does not answer.
    """

    def __init__(self, boxes: Path, *, network: bool = True) -> None:
        self.client = connect()
        # a container that was made and never started ends with nobody
        with _as_os_errors():
            for left in self.client.containers.list(
                all=True, sparse=True, filters={"label": f"{BOXES_LABEL}={boxes}"}
            ):
                left.remove(force=True)
        super().__init__(_Confinement(self.client, boxes, network=network), boxes)

    async def close(self) -> None:
        """End every holder, and with it what it holds."""
        await super().close()
        self.client.close()


def connect() -> DockerClient:
    """A client of the daemon that DOCKER_HOST names, or of this machine's.

    Raises:
        OSError: there is none, or it does not answer; the error says what to do.
    """
    if not os.environ.get("DOCKER_HOST") and not DEFAULT_SOCKET.exists():
        raise OSError(f"there is no Docker daemon ({DEFAULT_SOCKET}), and DOCKER_HOST names none")
    try:
        import docker
    except ImportError:
        raise OSError("the Docker SDK is not installed; pip install 'rgrid[docker]'") from None
    with _as_os_errors():
        client = docker.from_env(timeout=DAEMON_SECONDS)
        client.ping()
    return client


def why_not() -> str | None:
    """Why the sandbox does not work on this machine; None where it does."""
    try:
        client = connect()
    except OSError as error:
        return str(error)
    try:
        with _as_os_errors():
            client.containers.run(
                _machine_image(client), ["/bin/true"], **confined(client, [], network=False), remove=True
            )
    except OSError as error:
        return f"the Docker daemon runs no container that shows this machine's programs: {error}"
    finally:
        client.close()
    return None


class _Confinement:
    name = "docker"

    def __init__(self, client: DockerClient, boxes: Path, *, network: bool) -> None:
        self._client = client
        self._boxes = boxes
        self._network = network
        # Docker's own filter, which depends on its version, lets some pass that no script needs
        self.call_filter = seccomp.make_filter()

    def seen(self, box: Path) -> Path:
        return view.BOX

    def take_in(self, workspace: Path) -> None:
        """Whoever runs in it is another user, where the runner is root; nothing is followed."""
        if os.getuid() != 0:
            return
        uid, gid = view.user()
        os.chown(workspace, uid, gid)
        for directory, names, files in os.walk(workspace):
            for name in (*names, *files):
                os.chown(os.path.join(directory, name), uid, gid, follow_symlinks=False)  # noqa: PTH118

    def give_out(self, workspace: Path) -> None:
        """Its directories are the runner's again; what is in them it reads and removes whosever it is."""
        if os.getuid() == 0:
            for directory in (workspace, *(workspace / part for part in PARTS)):
                with contextlib.suppress(FileNotFoundError):
                    os.chown(directory, os.getuid(), os.getgid(), follow_symlinks=False)

    def spawn(self, kind: Kind, box: Path, environment: Mapping[str, str]) -> SpawnedContainer:
        self.take_in(box)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, _as_os_errors():
            _bind(listener, box)
            container = self._create(kind, box, environment)
            try:
                return SpawnedContainer(container, listener)
            except BaseException:
                _remove(container)
                raise
            finally:
                (box / CHANNEL).unlink(missing_ok=True)

    def _create(self, kind: Kind, box: Path, environment: Mapping[str, str]) -> Container:
        shown = [(INSIDE, view.HOLDER, True), (box, view.BOX, False)]
        if not kind.image:
            shown += [(path, path, True) for path in view.read_only(kind)]
        return self._client.containers.create(
            kind.image or _machine_image(self._client),
            [kind.script or "-"],
            entrypoint=[kind.python],
            environment={
                **environment,
                "PYTHONPATH": str(view.HOLDER),
                CHANNEL_VARIABLE: str(view.BOX / CHANNEL),
            },
            working_dir=str(view.BOX / RUN / "work"),
            labels={BOXES_LABEL: str(self._boxes)},
            auto_remove=True,
            **confined(self._client, shown, network=self._network, of_machine=not kind.image),
        )


class SpawnedContainer:
    """A holder's container."""

    def __init__(self, container: Container, listener: socket.socket) -> None:
        self._container = container
        self._complaints: Any = container.attach_socket(params={"stdout": 1, "stderr": 1, "stream": 1})
        try:
            container.start()
            self.channel = self._accept(listener)
            container.reload()
            self.pid: int = container.attrs["State"]["Pid"]
            self.limits: Limits | None = _ContainerLimits(container, cgroups.Group.of(self.pid))
        except BaseException:
            self._complaints.close()
            raise

    def _accept(self, listener: socket.socket) -> socket.socket:
        """The holder's call; raises OSError with what it said instead."""
        deadline = time.monotonic() + BEGIN_SECONDS
        listener.settimeout(LOOK_SECONDS)
        while True:
            try:
                return listener.accept()[0]
            except TimeoutError:
                if not _runs(self._container) or time.monotonic() > deadline:
                    raise OSError(self.complaints() or "its container ended at once") from None

    def is_running(self) -> bool:
        """Whether it has not ended: then its end of the channel would be closed."""
        try:
            return self.channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def complaints(self) -> str:
        """What it wrote before it was ready."""
        connection = self._complaints._sock
        connection.setblocking(False)
        received = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(4096):
                received += part
        return _without_frames(received).decode(errors="replace").strip()

    def wait(self, seconds: float) -> int:
        """Wait until its container has ended, or kill it after so many seconds; nothing of it is left."""
        import docker
        import requests

        try:
            return int(self._container.wait(timeout=seconds)["StatusCode"])
        except docker.errors.NotFound:
            return 0
        except (docker.errors.APIError, requests.RequestException) as error:
            log.warning("container %s is killed: %s", self._container.short_id, error)
            _remove(self._container)
            return -1

    def release(self) -> None:
        """It has ended: let go of the rest."""
        self._complaints.close()


class _ContainerLimits:
    """A container's control group: written here where it may be, else by the daemon."""

    def __init__(self, container: Container, group: cgroups.Group) -> None:
        self._container = container
        self._group = group
        self._limits: tuple[int, int] | None = None

    async def limit(self, memory_mib: int, cpus_milli: int) -> None:
        if self._group.can_limit:
            await self._group.limit(memory_mib, cpus_milli)
        elif self._limits != (memory_mib, cpus_milli):
            memory_bytes = cgroups.outer_memory_bytes(memory_mib)
            await asyncio.to_thread(
                self._container.update,
                mem_limit=memory_bytes,
                memswap_limit=memory_bytes,
                cpu_period=cgroups.PERIOD_US,
                cpu_quota=cgroups.quota_us(cpus_milli),
            )
            self._limits = (memory_mib, cpus_milli)

    def was_out_of_memory(self) -> bool:
        return self._group.was_out_of_memory()

    def remove(self) -> None:
        """The daemon does."""


def confined(
    client: DockerClient,
    mounts: list[tuple[Path, Path, bool]],
    *,
    network: bool,
    of_machine: bool = True,
    keeps_output: bool = False,
) -> dict[str, Any]:
    """What a container is made with: no more than a script needs.

    Args:
        mounts: what is shown, where, and whether it may only be read.
        of_machine: show this machine's programs, in an image that has none.
        keeps_output: have the daemon keep what it prints, until it is removed.
    """
    from docker.types import LogConfig, Mount

    uid, gid = view.user()
    machine: list[tuple[Path, Path, bool]] = []
    if of_machine:
        machine += [(path, path, True) for path in view.programs()]
        machine += [(path.resolve(), path, True) for path in view.settings() if path.name not in _DOCKERS_OWN]
    return {
        "user": f"{uid}:{gid}",
        "hostname": "rgrid",
        "network_mode": _network(client) if network else "none",
        "ipc_mode": "private",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": cgroups.MAX_PROCESSES,
        "shm_size": view.SHARED_MEMORY_BYTES,
        "tmpfs": {
            **dict.fromkeys(_WRITABLE, f"size={view.SHARED_MEMORY_BYTES},mode=1777"),
            # nothing of the machine's hardware and control groups
            "/sys": "ro,size=0,mode=555",
        },
        "mounts": [
            Mount(str(seen), str(place), type="bind", read_only=is_read_only)
            for place, seen, is_read_only in (*machine, *mounts)
        ],
        "log_config": LogConfig(type=LogConfig.types.JSON if keeps_output else LogConfig.types.NONE),
    }


def _network(client: DockerClient) -> str:
    """A network of the daemon's where it has one, as usual; else this machine's."""
    return "bridge" if client.networks.list(names=["bridge"], filters={"driver": "bridge"}) else "host"


def _machine_image(client: DockerClient) -> str:
    """The image that holds the places where this machine is shown; made where the daemon has none yet."""
    import docker

    content = _machine_archive()
    name = f"{MACHINE_IMAGE}:{hashlib.sha256(content).hexdigest()[:16]}"
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        client.api.import_image_from_data(content, *name.split(":"))
    return name


def _machine_archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("dev", "etc", "home", "proc", "sys", "var"):
            _add(archive, name, tarfile.DIRTYPE)
        for name in _WRITABLE:
            # what is mounted there has the mode of what it is mounted on
            _add(archive, name.lstrip("/"), tarfile.DIRTYPE, mode=0o1777)
        for path in (view.BOX, view.HOLDER, *view.programs()):
            _add(archive, str(path).lstrip("/"), tarfile.DIRTYPE)
        for path, target in view.links():
            _add(archive, str(path).lstrip("/"), tarfile.SYMTYPE, target=str(target))
        _add(archive, "etc/passwd", tarfile.REGTYPE, view.passwd())
        _add(archive, "etc/group", tarfile.REGTYPE, view.group())
    return packed.getvalue()


def _add(
    archive: tarfile.TarFile,
    name: str,
    kind: bytes,
    content: bytes = b"",
    *,
    target: str = "",
    mode: int = 0o755,
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size, entry.mode = kind, target, len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _bind(listener: socket.socket, box: Path) -> None:
    """Listen in a box; a socket's own path may have 107 bytes only, and a box's may have more."""
    directory = os.open(box, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{CHANNEL}")
        listener.listen(1)
        (box / CHANNEL).chmod(0o600)
        if os.getuid() == 0:
            os.chown(box / CHANNEL, *view.user())
    finally:
        os.close(directory)


def _runs(container: Container) -> bool:
    import docker

    try:
        container.reload()
    except docker.errors.NotFound:
        return False
    return container.status in {"created", "running"}


def _remove(container: Container) -> None:
    import docker

    with contextlib.suppress(docker.errors.APIError):
        container.remove(force=True)


def _without_frames(received: bytes) -> bytes:
    """Both streams' bytes without the eight that go before each piece (Docker's API, "attach")."""
    text = b""
    while len(received) >= 8:
        size = int.from_bytes(received[4:8], "big")
        text += received[8 : 8 + size]
        received = received[8 + size :]
    return text


@contextlib.contextmanager
def _as_os_errors() -> Any:
    """What the SDK raises, as the error that a holder's start may raise."""
    import docker

    try:
        yield
    except docker.errors.DockerException as error:
        raise OSError(f"the Docker daemon: {error}") from error
