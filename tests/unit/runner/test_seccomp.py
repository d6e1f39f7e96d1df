"""The filter of system calls, run as the kernel runs it."""

from __future__ import annotations

import struct

import pytest

from rgrid_server.runner.sandbox.seccomp import UnknownMachine, make_filter

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NUMBERS = {
    "x86_64": {"mount": 165, "ptrace": 101, "unshare": 272, "bpf": 321, "clone": 56, "ioctl": 16, "read": 0},
    "aarch64": {"mount": 40, "ptrace": 117, "unshare": 97, "bpf": 280, "clone": 220, "ioctl": 29, "read": 63},
}
CLONE3, IO_URING_SETUP = 435, 425


def decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter answers (linux/bpf_common.h, the few instructions that it uses)."""
    padded = [*arguments, *([0] * (6 - len(arguments)))]
    data = struct.pack("=iIQ6Q", number, architecture or MACHINES[machine], 0, *padded)
    program = list(struct.iter_unpack("=HBBI", make_filter(machine)))
    accumulator = at = 0
    while True:
        code, matched, missed, operand = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x06:
            return operand
        else:
            tests = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: accumulator & operand}
            at += matched if tests[code] else missed


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["mount", "ptrace", "unshare", "bpf"])
def test_what_reaches_beyond_is_refused(machine: str, name: str) -> None:
    assert decide(machine, NUMBERS[machine][name]) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_the_rest_passes(machine: str) -> None:
    assert decide(machine, NUMBERS[machine]["read"]) == ALLOW
    assert decide(machine, 1_000) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_and_processes_may_be_made_but_no_namespaces(machine: str) -> None:
    clone = NUMBERS[machine]["clone"]
    assert decide(machine, clone, 0x01200011) == ALLOW
    for namespace in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(machine, clone, namespace | 17) == EPERM
    assert decide(machine, CLONE3) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_no_keys_can_be_typed_into_a_terminal(machine: str) -> None:
    ioctl = NUMBERS[machine]["ioctl"]
    assert decide(machine, ioctl, 0, 0x5412) == EPERM
    assert decide(machine, ioctl, 0, 0x5401) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_io_uring_is_refused(machine: str) -> None:
    assert decide(machine, IO_URING_SETUP) == EPERM


def test_another_machines_calls_end_the_process() -> None:
    assert decide("x86_64", 0, architecture=0x40000003) == KILL


def test_calls_by_their_x32_numbers_are_refused() -> None:
    assert decide("x86_64", 0x40000000 | 165) == ENOSYS


def test_a_machine_without_a_filter_is_named() -> None:
    with pytest.raises(UnknownMachine, match="riscv64"):
        make_filter("riscv64")
