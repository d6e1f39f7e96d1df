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
from collections.abc import Mapping, Sequence
from pathlib import Path

from rgrid_server.runner.sandbox import cgroups, seccomp, view
from rgrid_server.runner.sandbox.held import HeldSandbox
from rgrid_server.runner.sandbox.holders import INSIDE, RUN, Kind, SpawnedProcess

PROBE_SECONDS = 20.0


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
    call_filter = b""

    def __init__(self, groups: cgroups.Available, *, network: bool) -> None:
        self._program = shutil.which("bwrap") or "bwrap"
        self._groups = groups
        self._network = network
        self._filter = seccomp.make_filter()

    def seen(self, box: Path) -> Path:
        return view.BOX

    def take_in(self, workspace: Path) -> None:
        """Whoever runs in it is the runner's user outside of it."""

    def give_out(self, workspace: Path) -> None:
        """It has stayed so."""

    def spawn(self, kind: Kind, box: Path, environment: Mapping[str, str]) -> SpawnedProcess:
        group = cgroups.Group.make(self._groups)
        descriptors = [_file(self._filter), _file(view.passwd()), _file(view.group())]
        try:
            arguments = _arguments(
                box,
                view.read_only(kind),
                network=self._network,
                passwd=(descriptors[1], descriptors[2]),
                system_calls=descriptors[0],
            )
            # the shell enters the groups before anything is started that is to be in them
            enter = "".join(f'echo $$ > "{entrance}" && ' for entrance in group.entrances)
            return SpawnedProcess(
                [
                    *["/bin/sh", "-c", f'{enter}exec "$0" "$@"', self._program, *arguments],
                    *[kind.python, kind.script or "-"],
                ],
                environment={**environment, "PYTHONPATH": str(view.HOLDER)},
                descriptors=descriptors,
                limits=group,
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
    uid, gid = view.user()
    arguments = [
        *["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"],
        *["--as-pid-1", "--die-with-parent", "--new-session", "--hostname", "rgrid"],
        *["--uid", str(uid), "--gid", str(gid), "--cap-drop", "ALL"],
    ]
    if not network:
        arguments.append("--unshare-net")
    for path, target in view.links():
        arguments += ["--symlink", str(target), str(path)]
    for path in view.programs():
        arguments += ["--ro-bind", str(path), str(path)]
    for path in view.settings():
        arguments += ["--ro-bind-try", str(path.resolve()), str(path)]
    if passwd is not None:
        arguments += ["--ro-bind-data", str(passwd[0]), "/etc/passwd"]
        arguments += ["--ro-bind-data", str(passwd[1]), "/etc/group"]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    arguments += ["--size", str(view.SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    arguments += ["--dir", "/var", "--dir", "/home"]
    for place in (Path("/tmp"), Path("/var/tmp")):  # noqa: S108
        if any(directory.is_relative_to(place) for directory in read_only):
            # a link would hide what is shown below it; the holder clears this one between runs
            arguments += ["--size", str(view.SHARED_MEMORY_BYTES), "--tmpfs", str(place)]
        else:
            arguments += ["--symlink", str(view.BOX / RUN / "tmp"), str(place)]
    for directory in read_only:
        arguments += ["--ro-bind", str(directory), str(directory)]
    arguments += ["--ro-bind", str(INSIDE), str(view.HOLDER)]
    arguments += ["--bind", str(box), str(view.BOX), "--remount-ro", "/"]
    arguments += ["--chdir", str(view.BOX / RUN / "work")]
    if system_calls is not None:
        arguments += ["--seccomp", str(system_calls)]
    return [*arguments, "--"]


def _file(content: bytes) -> int:
    """A file without a name that holds these bytes; returns a descriptor of it."""
    descriptor = os.memfd_create("rgrid")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
