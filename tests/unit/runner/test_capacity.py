"""What a runner has room for, and whose turn it is, given what it carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgrid_server.domain.attempts import Specification
from rgrid_server.runner.attempt import Attempt
from rgrid_server.runner.capacity import MAX_ENDED_PER_SLOT, Capacity
from rgrid_server.runner.logstream import AttemptLog
from rgrid_server.runner.machine import DiskFloor
from tests.unit.runner.assignments import assignment


def attempt(cpus_milli: int = 1000, memory_mib: int = 100) -> Attempt:
    log = AttemptLog(1, 1, lambda: None, lambda: 0)
    asked = assignment(cpus_milli=cpus_milli, memory_mib=memory_mib)
    return Attempt(asked, Specification("", "script.py", "python:3.11", None), log)


def capacity(carried: list[Attempt], slots: int = 2, memory_mib: int | None = 1000) -> Capacity:
    return Capacity(carried, slots, memory_mib, DiskFloor(Path("/"), 0))


def test_an_idle_runner_offers_all_that_it_has() -> None:
    idle = capacity([])
    assert (idle.free_slots(), idle.free_cpus_milli(), idle.free_memory_mib()) == (2, 2000, 1000)


def test_what_is_claimed_is_not_offered_again() -> None:
    busy = capacity([attempt(cpus_milli=500, memory_mib=300)])
    assert (busy.free_slots(), busy.free_cpus_milli(), busy.free_memory_mib()) == (1, 1500, 700)


def test_memory_that_is_not_counted_is_not_offered() -> None:
    assert capacity([attempt()], memory_mib=None).free_memory_mib() is None


@pytest.mark.parametrize(
    ("carried", "turns"),
    [
        ([attempt(), attempt(), attempt()], [True, True, False]),
        ([attempt(2000), attempt(500)], [True, False]),
        ([attempt(500), attempt(2000), attempt(500)], [True, False, False]),
        ([attempt(memory_mib=600), attempt(memory_mib=600)], [True, False]),
        ([attempt(9000, 9000), attempt()], [True, False]),
    ],
    ids=["slots", "processors", "nobody overtakes", "memory", "too large for all of it runs alone"],
)
def test_turns_are_given_in_the_order_of_claims(carried: list[Attempt], turns: list[bool]) -> None:
    capacity(carried).give_turns()
    assert [one.holds_slot for one in carried] == turns


def test_whoever_ends_gives_its_turn_on() -> None:
    carried = [attempt(), attempt()]
    one_slot = capacity(carried, slots=1)
    one_slot.give_turns()
    carried[0].free_slot()
    one_slot.slot_freed(carried[0])
    assert [one.holds_slot for one in carried] == [False, True]


def test_a_runner_with_many_to_report_takes_nothing_more() -> None:
    carried = [attempt() for _ in range(2 * MAX_ENDED_PER_SLOT)]
    for one in carried:
        one.free_slot()
    assert capacity(carried[1:]).free_slots() == 2
    assert capacity(carried).free_slots() == 0


def test_a_runner_whose_disk_is_nearly_full_offers_no_slot() -> None:
    floor = DiskFloor(Path("/"), 0)
    floor.is_reached = True
    assert Capacity([], 2, None, floor).free_slots() == 0
