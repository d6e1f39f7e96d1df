"""What Linux says of a process and its children, and lets its parent do about them.

It is the runner's as well as the holder's.
"""

from __future__ import annotations

import ctypes
import os

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
PIDFD_OPEN = 434

libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """From now on what loses its parent below this process becomes its child."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_subreaper() -> bool:
    """Whether this process is one."""
    answer = ctypes.c_int(0)
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def is_first_in_namespace() -> bool:
    """Whether this process is number 1, which all others around it end with."""
    return os.getpid() == 1


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def set_dumpable(value: bool) -> None:
    """Whether others of this user may trace this process and write into its memory."""
    libc.prctl(PR_SET_DUMPABLE, int(value), 0, 0, 0)


def open_pidfd(pid: int) -> int:
    """A descriptor that is readable when a process has ended; negative where the kernel has none."""
    descriptor: int = libc.syscall(PIDFD_OPEN, pid, 0)
    return descriptor


def descendants() -> list[int]:
    """Everything below this process, parents first."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        children = children_of(waiting.pop())
        found.extend(children)
        waiting.extend(children)
    return found


def children_of(pid: int) -> list[int]:
    """The direct children of a process, of all its threads."""
    children: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return children
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children.extend(int(child) for child in file.read().split())
        except OSError:
            continue
    return children


def kill(pid: int, number: int) -> None:
    """Signal a process that may be gone, or that may have become another user's."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return
