"""What a holder has the kernel refuse to itself, and so to every script that it starts."""

from __future__ import annotations

import ctypes
import os
import struct

from .processes import libc

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_RESTRICT_SELF = 446
SCOPE_ABSTRACT_UNIX_SOCKET = 1


def set_call_filter(program: bytes) -> None:
    """Have the kernel refuse what a filter refuses, for this process and all that it starts (seccomp(2))."""
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: so many instructions of eight bytes, and where they are
    filter_ = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(filter_), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the system call filter cannot be set")


def keep_to_own_sockets() -> None:
    """Let nothing here connect to abstract sockets of others (landlock(7)), where the kernel can do that.

    Linux can from 6.12 on. These sockets belong to the network, and have no file that could be hidden.
    """
    # struct landlock_ruleset_attr: no access to files or ports is ruled on, only what is scoped
    attributes = ctypes.create_string_buffer(struct.pack("QQQ", 0, 0, SCOPE_ABSTRACT_UNIX_SOCKET))
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, attributes, 24, 0)
    if ruleset >= 0:
        libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)
