"""The bubblewrap sandbox: each holder in namespaces of its own, which see little of the machine.

What a script sees: the machine's programs and libraries, its environment, and its workspace at
``/rgrid/run``, which is all that it can write beside ``/tmp`` (a part of it) and ``/dev/shm``. It is an
ordinary user without any capability, its processes are alone in their namespace, and calls that reach
beyond it are refused (seccomp.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rgrid_server.runner.interpreters import installation
from rgrid_server.runner.sandbox import cgroups, seccomp
from rgrid_server.runner.sandbox.held import HeldSandbox
from rgrid_server.runner.sandbox.holders import BASE_PYTHON, INSIDE, RUN, Kind, Spawned

BOX = Path("/rgrid")
HOLDER = Path("/rgrid-holder")
PROBE_SECONDS = 20.0
SHARED_MEMORY_BYTES = 1024**3
USER = "rgrid"
USER_ID = 1000
"""Who root's scripts think they are; an ordinary user's are that user."""

_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = (
    *("alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "fonts", "gai.conf"),
    *("host.conf", "hosts", "inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias"),
    *("localtime", "magic", "mime.types", "nsswitch.conf", "os-release", "pki", "protocols", "resolv.conf"),
    *("services", "ssl", "terminfo", "timezone"),
)
"""What of /etc programs read and nobody minds."""


class BubblewrapSandbox(HeldSandbox):
    """Runs commands in namespaces.

    Args:
        boxes: a directory of this sandbox's own.
        network: whether commands reach the machine's network; without it they have a loopback of their own.
    """

    def __init__(self, boxes: Path, *, network: bool = True) -> None:
        self.groups = cgroups.find()
        super().__init__(_Confinement(self.groups, network=network), boxes)


def why_not() -> str | None:
    """Why the sandbox does not work on this machine; None where it does."""
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap is not installed (the program bwrap)"
    try:
        seccomp.make_filter()
    except seccomp.UnknownMachine as error:
        return str(error)
    with tempfile.TemporaryDirectory() as box:
        (Path(box) / RUN / "work").mkdir(parents=True)
        arguments = _arguments(Path(box), [], network=False, passwd=None, system_calls=None)
        try:
            ended = subprocess.run(
                [program, *arguments, "/bin/true"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bubblewrap does not run: {error}"
    if ended.returncode != 0:
        return f"bubblewrap cannot make namespaces here: {ended.stderr.strip() or ended.returncode}"
    return None


class _Confinement:
    name = "bubblewrap"

    def __init__(self, groups: cgroups.Available, *, network: bool) -> None:
        self._program = shutil.which("bwrap") or "bwrap"
        self._groups = groups
        self._network = network
        self._filter = seccomp.make_filter()

    def seen(self, box: Path) -> Path:
        return BOX

    def spawn(self, kind: Kind, box: Path, environment: Mapping[str, str], channel: int) -> Spawned:
        group = cgroups.Group(self._groups)
        descriptors = [_file(self._filter), _file(_passwd()), _file(_group())]
        try:
            arguments = _arguments(
                box,
                _read_only(kind),
                network=self._network,
                passwd=(descriptors[1], descriptors[2]),
                system_calls=descriptors[0],
            )
            # the shell enters the groups before anything is started that is to be in them
            enter = "".join(f'echo $$ > "{entrance}" && ' for entrance in group.entrances)
            return Spawned(
                [
                    *["/bin/sh", "-c", f'{enter}exec "$0" "$@"', self._program, *arguments],
                    *[kind.python, kind.script or "-"],
                ],
                [channel, *descriptors],
                group,
                env={**environment, "PYTHONPATH": str(HOLDER)},
            )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _arguments(
    box: Path,
    read_only: Sequence[Path],
    *,
    network: bool,
    passwd: tuple[int, int] | None,
    system_calls: int | None,
) -> list[str]:
    """What bwrap is told, up to the program."""
    uid, gid = (USER_ID, USER_ID) if os.getuid() == 0 else (os.getuid(), os.getgid())
    arguments = [
        *["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"],
        *["--as-pid-1", "--die-with-parent", "--new-session", "--hostname", "rgrid"],
        *["--uid", str(uid), "--gid", str(gid), "--cap-drop", "ALL"],
    ]
    if not network:
        arguments.append("--unshare-net")
    for path in map(Path, _PROGRAMS):
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for path in _settings():
        arguments += ["--ro-bind-try", str(path.resolve()), str(path)]
    if passwd is not None:
        arguments += ["--ro-bind-data", str(passwd[0]), "/etc/passwd"]
        arguments += ["--ro-bind-data", str(passwd[1]), "/etc/group"]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    arguments += ["--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    arguments += ["--dir", "/var", "--dir", "/home"]
    for place in (Path("/tmp"), Path("/var/tmp")):  # noqa: S108
        if any(directory.is_relative_to(place) for directory in read_only):
            # a link would hide what is shown below it; the holder clears this one between runs
            arguments += ["--size", str(SHARED_MEMORY_BYTES), "--tmpfs", str(place)]
        else:
            arguments += ["--symlink", str(BOX / RUN / "tmp"), str(place)]
    for directory in read_only:
        arguments += ["--ro-bind", str(directory), str(directory)]
    arguments += ["--ro-bind", str(INSIDE), str(HOLDER)]
    arguments += ["--bind", str(box), str(BOX), "--remount-ro", "/", "--chdir", str(BOX / RUN / "work")]
    if system_calls is not None:
        arguments += ["--seccomp", str(system_calls)]
    return [*arguments, "--"]


def _read_only(kind: Kind) -> list[Path]:
    """What is shown beside the machine's own programs, outer directories first."""
    wanted = {*kind.read_only, *(installation(kind.python) if kind.python == BASE_PYTHON else ())}
    return sorted(path for path in wanted if not path.is_relative_to("/usr"))


def _settings() -> Iterator[Path]:
    etc = Path("/etc")
    yield from (etc / name for name in _SETTINGS if (etc / name).exists())
    yield from sorted(etc.glob("python3*"))


def _passwd() -> bytes:
    uid, gid = (USER_ID, USER_ID) if os.getuid() == 0 else (os.getuid(), os.getgid())
    return (
        f"{USER}:x:{uid}:{gid}::{BOX / RUN / 'home'}:/bin/sh\n"
        "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
    ).encode()


def _group() -> bytes:
    gid = USER_ID if os.getuid() == 0 else os.getgid()
    return f"{USER}:x:{gid}:\nnogroup:x:65534:\n".encode()


def _file(content: bytes) -> int:
    """A file without a name that holds these bytes; returns a descriptor of it."""
    descriptor = os.memfd_create("rgrid")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
