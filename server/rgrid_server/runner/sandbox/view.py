"""What a script that is shut in sees of the machine: its programs and libraries, and who it is itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rgrid_server.runner.interpreters import installation
from rgrid_server.runner.sandbox.holders import BASE_PYTHON, RUN, Kind

BOX = Path("/rgrid")
HOLDER = Path("/rgrid-holder")
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


def user() -> tuple[int, int]:
    """The numbers of the user and the group that scripts run as."""
    return (USER_ID, USER_ID) if os.getuid() == 0 else (os.getuid(), os.getgid())


def programs() -> Iterator[Path]:
    """The directories of the machine's programs and libraries."""
    return (path for path in map(Path, _PROGRAMS) if path.is_dir() and not path.is_symlink())


def links() -> Iterator[tuple[Path, Path]]:
    """What stands for one of them, and where it leads."""
    return ((path, path.readlink()) for path in map(Path, _PROGRAMS) if path.is_symlink())


def read_only(kind: Kind) -> list[Path]:
    """What is shown beside the machine's own programs, outer directories first."""
    wanted = {*kind.read_only, *(installation(kind.python) if kind.python == BASE_PYTHON else ())}
    return sorted(path for path in wanted if not path.is_relative_to("/usr"))


def settings() -> Iterator[Path]:
    etc = Path("/etc")
    yield from (etc / name for name in _SETTINGS if (etc / name).exists())
    yield from sorted(etc.glob("python3*"))


def passwd() -> bytes:
    """Its /etc/passwd."""
    uid, gid = user()
    return (
        f"{USER}:x:{uid}:{gid}::{BOX / RUN / 'home'}:/bin/sh\n"
        "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
    ).encode()


def group() -> bytes:
    """Its /etc/group."""
    _, gid = user()
    return f"{USER}:x:{gid}:\nnogroup:x:65534:\n".encode()
