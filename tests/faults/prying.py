"""A tenant's script that leaves its mark wherever it can, and looks everywhere for anybody else's.

It runs on the grid as it stands here. Its last line says whose marks it has found, and where.
"""

import contextlib
import ctypes
import json
import os
import re
import socket
import sys
import tempfile
import time

OWN = sys.argv[1]
MARK = re.compile(rb"mark-of-[0-9a-f]{8}-[0-9a-f]{12}")
PLACES = (".", "~", tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm", "/run", "/rgrid", "/mnt", "/srv")
FIRST_BYTES = 4096
IPC_CREAT = 0o1000


def leave_marks() -> list[object]:
    """Files, shared memory, sockets, processes and an environment variable with this run's mark."""
    kept: list[object] = []
    packages = [path for path in sys.path if path.endswith("site-packages")]
    for place in (*PLACES, *packages, sys.prefix):
        with contextlib.suppress(OSError), open(os.path.join(os.path.expanduser(place), OWN), "w") as file:
            file.write(OWN)
    with contextlib.suppress(OSError):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0" + OWN)
        listener.listen()
        kept.append(listener)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        segment = libc.shmget(int(OWN[-7:], 16), 4096, IPC_CREAT | 0o666)
        if segment >= 0:
            libc.shmat.restype = ctypes.c_void_p
            address = libc.shmat(segment, None, 0)
            ctypes.memmove(address, OWN.encode(), len(OWN))
    with contextlib.suppress(OSError):
        if os.fork() == 0:
            # outlives the script if it can, and says whose it is
            os.setsid()
            os.environ["OWN"] = OWN
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", OWN])
    os.environ["OWN"] = OWN
    return kept


def seen() -> dict[str, str]:
    """Marks that are not this run's, by where they were found."""
    found: dict[str, str] = {}

    def look(where: str, what: bytes) -> None:
        for mark in MARK.findall(what):
            if mark.decode() != OWN:
                found[mark.decode()] = where

    for place in PLACES:
        for directory, _, names in os.walk(os.path.expanduser(place)):
            for name in names:
                path = os.path.join(directory, name)
                look(path, os.fsencode(name))
                with contextlib.suppress(OSError):
                    look(path, head(path))
    for name in os.listdir("/proc"):
        if name.isdigit():
            for file in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    look(f"/proc/{name}/{file}", head(f"/proc/{name}/{file}"))
    for path in ("/proc/net/unix", "/proc/sysvipc/shm"):
        with contextlib.suppress(OSError):
            look(path, head(path, 1 << 20))
    look("the environment", repr(dict(os.environ)).encode())
    return found


def head(path: str, size: int = FIRST_BYTES) -> bytes:
    """The first bytes of a file that may be anything."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


kept = leave_marks()
before = seen()
time.sleep(float(sys.argv[2]))
print(OWN)
print(json.dumps(before | seen()))
