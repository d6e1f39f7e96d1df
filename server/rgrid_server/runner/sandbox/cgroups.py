"""Limits of memory, processors and processes by control groups, version 1 or 2, where they may be written."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
MAX_PROCESSES = 4096
SLACK_MIB = 64
_MIB = 1024 * 1024
_CONTROLLERS = ("memory", "pids", "cpu")


@dataclass(frozen=True, slots=True)
class Available:
    """Where groups can be made.

    Attributes:
        version: 1 or 2.
        parents: for each controller, the directory below which groups are made.
        missing: why a controller is not there, by its name.
    """

    version: int
    parents: Mapping[str, Path]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """What is limited and how, in words."""
        parts = []
        if self.parents:
            parts.append(f"cgroup v{self.version} limits {', '.join(sorted(self.parents))}")
        if self.missing:
            parts.append(
                "; ".join(f"no {name} limit by cgroup: {why}" for name, why in sorted(self.missing.items()))
            )
        return "; ".join(parts)


class Group:
    """The control group of one holder.

    Args:
        version: of the hierarchy, 1 or 2.
        directories: where it stands, for each controller.
        is_own: whether it was made here, and is to be removed here.
    """

    def __init__(self, version: int, directories: Mapping[str, Path], *, is_own: bool) -> None:
        self._version = version
        self._directories = directories
        self._is_own = is_own
        self._limits: tuple[int, int] | None = None
        self._kills = 0
        self._resting_bytes: int | None = None

    @classmethod
    def make(cls, available: Available) -> Group:
        """A new one."""
        name = f"rgrid-{os.getpid()}-{secrets.token_hex(4)}"
        directories: dict[str, Path] = {}
        for controller, parent in available.parents.items():
            with contextlib.suppress(OSError):
                (parent / name).mkdir(exist_ok=True)
                directories[controller] = parent / name
        made = cls(available.version, directories, is_own=True)
        made._write("pids", "pids.max", MAX_PROCESSES)
        return made

    @classmethod
    def of(cls, pid: int, root: Path = ROOT) -> Group:
        """The one that a process is in, which whoever started it has made."""
        paths = _paths(Path(f"/proc/{pid}/cgroup").read_text())
        if any(controller in paths for controller in _CONTROLLERS):
            places = {name: root / name / paths[name].lstrip("/") for name in _CONTROLLERS if name in paths}
            return cls(1, places, is_own=False)
        place = root / paths.get("", "/").lstrip("/")
        return cls(2, dict.fromkeys(_CONTROLLERS, place), is_own=False)

    @property
    def can_limit(self) -> bool:
        """Whether its limits are this process's to set."""
        name = "memory.max" if self._version == 2 else "memory.limit_in_bytes"
        place = self._directories.get("memory")
        return place is not None and os.access(place / name, os.W_OK)

    @property
    def entrances(self) -> list[Path]:
        """The files into which a process writes its number to enter."""
        return sorted({directory / "cgroup.procs" for directory in self._directories.values()})

    async def limit(self, memory_mib: int, cpus_milli: int) -> None:
        """Limit what all of it may use together.

        What the holder itself has at rest is not counted against its scripts.
        """
        if self._limits == (memory_mib, cpus_milli):
            return
        self._limits = (memory_mib, cpus_milli)
        if self._resting_bytes is None:
            self._resting_bytes = self._used_bytes()
        # beyond what the holder's watch allows, which ends the whole run: the kernel ends one process of it
        memory_bytes = outer_memory_bytes(memory_mib) + self._resting_bytes
        quota = quota_us(cpus_milli)
        if self._version == 2:
            self._write("memory", "memory.max", memory_bytes)
            self._write("memory", "memory.swap.max", 0)
            self._write("cpu", "cpu.max", f"{quota} {PERIOD_US}")
        else:
            self._write("memory", "memory.limit_in_bytes", memory_bytes)
            self._write("cpu", "cpu.cfs_period_us", PERIOD_US)
            self._write("cpu", "cpu.cfs_quota_us", quota)

    def was_out_of_memory(self) -> bool:
        """Whether the kernel ended a process in it for want of memory since this was asked last."""
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        before, self._kills = self._kills, _field(self._read("memory", name), "oom_kill")
        return self._kills > before

    def remove(self) -> None:
        """Remove it; nothing runs in it any more."""
        if not self._is_own:
            return
        for directory in set(self._directories.values()):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def _used_bytes(self) -> int:
        name = "memory.current" if self._version == 2 else "memory.usage_in_bytes"
        text = self._read("memory", name).strip()
        return int(text) if text.isdigit() else 0

    def _read(self, controller: str, name: str) -> str:
        directory = self._directories.get(controller)
        if directory is None:
            return ""
        try:
            return (directory / name).read_text()
        except OSError:
            return ""

    def _write(self, controller: str, name: str, value: int | str) -> None:
        directory = self._directories.get(controller)
        if directory is not None:
            with contextlib.suppress(OSError):
                (directory / name).write_text(str(value))


def outer_memory_bytes(memory_mib: int) -> int:
    """What the kernel is to allow, a little beyond what a holder's watch does."""
    return (memory_mib + max(SLACK_MIB, memory_mib // 4)) * _MIB


def quota_us(cpus_milli: int) -> int:
    """So many microseconds of every PERIOD_US."""
    return max(1000, cpus_milli * PERIOD_US // 1000)


def find(root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> Available:
    """Where this process may make groups; what is not to be had is told, and never an error."""
    try:
        paths = _paths(own.read_text())
    except OSError as error:
        return Available(2, {}, dict.fromkeys(_CONTROLLERS, str(error)))
    has_v1 = any(controller in paths for controller in _CONTROLLERS)
    found = _find_v1(root, paths) if has_v1 else _find_v2(root, paths.get("", "/"))
    for parent in set(found.parents.values()):
        _remove_forsaken(parent)
    return found


def _paths(text: str) -> dict[str, str]:
    """Where a process stands, by controller, from its /proc/PID/cgroup; in version 2 the name is empty."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _remove_forsaken(parent: Path) -> None:
    """Remove the groups that runners which were killed have left; one with processes in it stays."""
    for group in parent.glob("rgrid-[0-9]*-*"):
        if not Path("/proc", group.name.split("-")[1]).exists():
            with contextlib.suppress(OSError):
                group.rmdir()


def _find_v1(root: Path, paths: Mapping[str, str]) -> Available:
    parents: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for controller in _CONTROLLERS:
        if controller not in paths:
            missing[controller] = "the kernel has none"
            continue
        # inside of a container the own path may not be there; then the mount's top is what is its own
        candidates = [root / controller / paths[controller].lstrip("/"), root / controller]
        usable = [path for path in candidates if _can_make_groups(path)]
        if usable:
            parents[controller] = usable[0]
        else:
            missing[controller] = f"{candidates[0]} cannot be written"
    return Available(1, parents, missing)


def _find_v2(root: Path, path: str) -> Available:
    own = root / path.lstrip("/")
    if not _can_make_groups(own):
        return Available(
            2, {}, dict.fromkeys(_CONTROLLERS, f"{own} cannot be written; delegate it to the runner")
        )
    _enable(own)
    try:
        enabled = set((own / "cgroup.subtree_control").read_text().split())
    except OSError:
        enabled = set()
    parents = {controller: own for controller in _CONTROLLERS if controller in enabled}
    missing = {
        controller: f"{own} does not pass it on" for controller in _CONTROLLERS if controller not in enabled
    }
    return Available(2, parents, missing)


def _enable(own: Path) -> None:
    """Pass controllers on to groups below; a group that does so holds no process itself, so we move down."""
    wanted = " ".join(f"+{controller}" for controller in _CONTROLLERS)
    with contextlib.suppress(OSError):
        (own / "cgroup.subtree_control").write_text(wanted)
        return
    with contextlib.suppress(OSError):
        leaf = own / "rgrid-runner"
        leaf.mkdir(exist_ok=True)
        for pid in (own / "cgroup.procs").read_text().split():
            (leaf / "cgroup.procs").write_text(pid)
        (own / "cgroup.subtree_control").write_text(wanted)


def _can_make_groups(directory: Path) -> bool:
    probe = directory / f"rgrid-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        word, _, value = line.partition(" ")
        if word == name and value.strip().isdigit():
            return int(value)
    return 0
