"""System calls that no script needs and that reach beyond it, as a filter program for the kernel.

The filter is classic BPF (linux/filter.h, linux/seccomp.h): it refuses these calls with EPERM and lets the
others pass. It is for x86-64 and AArch64; a call made by the convention of another machine ends the process,
because its numbers would mean other calls.
"""

from __future__ import annotations

import platform
import struct

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_IF_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_EPERM = 1
_ENOSYS = 38

_NUMBER_AT = 0
_ARCHITECTURE_AT = 4
_FIRST_ARGUMENT_AT = 16
_SECOND_ARGUMENT_AT = 24

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
clone(2) cannot be given CLONE_NEWTIME."""
_X32_BIT = 0x40000000
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (number on x86-64, number on AArch64); -1 where there is none
_DENIED: dict[str, tuple[int, int]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "create_module": (174, -1),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_IOCTL = {"x86_64": 16, "aarch64": 29}


class UnknownMachine(Exception):
    """There is no filter for this machine's system calls."""


def make_filter(machine: str | None = None) -> bytes:
    """The filter program, as struct sock_filter items, for prctl(PR_SET_SECCOMP) and bwrap's ``--seccomp``.

    Raises:
        UnknownMachine: there is none for this machine.

    >>> len(make_filter("x86_64")) % 8
    0
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise UnknownMachine(f"no filter of system calls is known for {machine}")
    column = 0 if machine == "x86_64" else 1
    program = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_IF_EQUAL, _ARCHITECTURES[machine], matched=1),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        # x32 calls are the same calls under other numbers
        program += [_step(_IF_AT_LEAST, _X32_BIT, missed=1), _step(_RETURN, _ERRNO | _ENOSYS)]
    # clone3 hands its flags over in memory, which no filter reads; C libraries fall back to clone
    program += [_step(_IF_EQUAL, _CLONE3, missed=1), _step(_RETURN, _ERRNO | _ENOSYS)]
    program += [
        _step(_IF_EQUAL, _CLONE[machine], missed=4),
        _step(_LOAD, _FIRST_ARGUMENT_AT),
        _step(_IF_ANY_BIT, _NEW_NAMESPACES, missed=1),
        _step(_RETURN, _ERRNO | _EPERM),
        _step(_RETURN, _ALLOW),
        # a terminal's input queue is its user's keyboard
        _step(_IF_EQUAL, _IOCTL[machine], missed=5),
        _step(_LOAD, _SECOND_ARGUMENT_AT),
        _step(_IF_EQUAL, _TIOCSTI, matched=1),
        _step(_IF_EQUAL, _TIOCLINUX, missed=1),
        _step(_RETURN, _ERRNO | _EPERM),
        _step(_RETURN, _ALLOW),
    ]
    for number in sorted(numbers[column] for numbers in _DENIED.values() if numbers[column] >= 0):
        program += [_step(_IF_EQUAL, number, missed=1), _step(_RETURN, _ERRNO | _EPERM)]
    program.append(_step(_RETURN, _ALLOW))
    return b"".join(program)


def _step(code: int, operand: int, *, matched: int = 0, missed: int = 0) -> bytes:
    """One struct sock_filter: what to do with what, and how many steps to skip where it is so, or not."""
    return struct.pack("=HBBI", code, matched, missed, operand)
