"""The choice of what a runner gets, by generated queues and rooms; no database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.domain.choosing import (
    HOLD_AFTER_MS,
    HOLDER_SILENT_MS,
    LOOKAHEAD,
    LOOKAHEAD_LEFT,
    MAX_LEFT,
    MAX_PASSED_OVER,
    Candidate,
    Capacity,
    Choice,
    Chooser,
    Machine,
    Room,
    Waits,
)
from rgrid_server.domain.fairshare import Flow
from rgrid_server.domain.runtimes import Offer

PYTHON = (Offer("python:3.11", "3.11.7"),)
NODE = (*PYTHON, Offer("node:20", "20.11.1"))


@dataclass
class Waiting:
    """A queue in memory, with the limits that a database keeps."""

    candidates: list[tuple[int, Candidate]] = field(default_factory=list)
    tenant_limits: dict[str, int] = field(default_factory=dict)
    flow_limits: dict[Flow, int] = field(default_factory=dict)
    running: list[Candidate] = field(default_factory=list)

    def add(
        self,
        flow: Flow,
        *,
        rank: int = 0,
        cpus_milli: int = 1000,
        memory_mib: int = 64,
        runtime: str = "python:3.11",
    ) -> Candidate:
        sequence = len(self.candidates) + len(self.running) + 1
        one = Candidate(f"exec_{sequence}", sequence, flow, cpus_milli, memory_mib, runtime)
        self.candidates.append((rank, one))
        return one

    def take(self, choice: Choice) -> list[Candidate]:
        """Run what was chosen."""
        self.candidates = [(rank, one) for rank, one in self.candidates if one not in choice.taken]
        self.running += choice.taken
        return choice.taken

    def ranks(self) -> Iterator[int]:
        yield from sorted({rank for rank, _ in self.candidates})

    def tenants(self, rank: int) -> Sequence[str]:
        return list(dict.fromkeys(one.flow.tenant_id for at, one in self.candidates if at == rank))

    def flows(self, rank: int, tenant_id: str) -> Sequence[str]:
        flows = [one.flow for at, one in self.candidates if at == rank and one.flow.tenant_id == tenant_id]
        return list(dict.fromkeys(flow.batch_id for flow in flows))

    def heads(self, rank: int, flow: Flow) -> Iterator[Candidate]:
        yield from [one for at, one in self.candidates if at == rank and one.flow == flow]

    def tenant_room(self, tenant_id: str) -> int | None:
        limit = self.tenant_limits.get(tenant_id)
        running = sum(one.flow.tenant_id == tenant_id for one in self.running)
        return None if limit is None else limit - running

    def flow_room(self, flow: Flow) -> int | None:
        limit = self.flow_limits.get(flow)
        running = sum(one.flow == flow for one in self.running)
        return None if limit is None else limit - running


class Counted(Waiting):
    """Counts how many executions were looked at."""

    looked = 0

    def heads(self, rank: int, flow: Flow) -> Iterator[Candidate]:
        for one in super().heads(rank, flow):
            self.looked += 1
            yield one


def room(
    slots: int = 1,
    cpus_milli: int | None = None,
    memory_mib: int | None = 65_536,
    *,
    whole: Capacity | None = None,
    runner_id: str = "r1",
    is_idle: bool = False,
    others: Sequence[Machine] = (),
) -> Room:
    free = Capacity(slots * 1000 if cpus_milli is None else cpus_milli, memory_mib)
    return Room(runner_id, slots, free, Machine(whole or free, PYTHON), is_idle, others)


FLOWS = st.builds(Flow, st.sampled_from("abc"), st.sampled_from(["", "b1", "b2"]))
WAITING = st.lists(
    st.tuples(
        FLOWS, st.integers(-2, 2), st.sampled_from([100, 500, 1000, 4000]), st.sampled_from([16, 512, 9000])
    ),
    max_size=40,
)


def queue_of(items: list[tuple[Flow, int, int, int]]) -> Waiting:
    waiting = Waiting()
    for flow, rank, cpus_milli, memory_mib in items:
        waiting.add(flow, rank=rank, cpus_milli=cpus_milli, memory_mib=memory_mib)
    return waiting


@given(
    WAITING,
    st.integers(0, 12),
    st.integers(0, 12_000),
    st.integers(0, 20_000),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)),
    st.dictionaries(FLOWS.filter(lambda flow: bool(flow.batch_id)), st.integers(0, 5)),
)
def test_nothing_is_ever_exceeded_and_no_slot_stays_free_that_something_fits(
    items: list[tuple[Flow, int, int, int]],
    slots: int,
    cpus_milli: int,
    memory_mib: int,
    tenant_limits: dict[str, int],
    flow_limits: dict[Flow, int],
) -> None:
    waiting = queue_of(items)
    waiting.tenant_limits, waiting.flow_limits = tenant_limits, flow_limits
    whole = Capacity(64_000, 65_536)
    choice = Chooser().choose(waiting, room(slots, cpus_milli, memory_mib, whole=whole), 0)
    taken = waiting.take(choice)

    assert len(taken) <= slots
    assert sum(one.cpus_milli for one in taken) <= cpus_milli
    assert sum(one.memory_mib for one in taken) <= memory_mib
    of_tenant = Counter(one.flow.tenant_id for one in taken)
    of_flow = Counter(one.flow for one in taken)
    assert all(of_tenant[tenant] <= limit for tenant, limit in tenant_limits.items())
    assert all(of_flow[flow] <= limit for flow, limit in flow_limits.items())

    left = Capacity(
        cpus_milli - sum(one.cpus_milli for one in taken), memory_mib - sum(one.memory_mib for one in taken)
    )
    looked_at: Counter[tuple[int, Flow]] = Counter()
    if len(taken) < slots:
        for rank, one in waiting.candidates:
            looked_at[rank, one.flow] += 1
            if looked_at[rank, one.flow] > LOOKAHEAD:
                continue
            is_allowed = waiting.tenant_room(one.flow.tenant_id) != 0 and waiting.flow_room(one.flow) != 0
            assert not (is_allowed and left.holds(one)), f"{one} fits and was left"


@given(WAITING, st.integers(1, 12))
def test_priority_comes_first_and_age_within_a_flow(
    items: list[tuple[Flow, int, int, int]], slots: int
) -> None:
    waiting = queue_of([(flow, rank, 1000, 64) for flow, rank, _, _ in items])
    rank_of = {one.execution_id: rank for rank, one in waiting.candidates}
    taken = waiting.take(Chooser().choose(waiting, room(slots), 0))
    assert len(taken) == min(slots, len(items))
    for one in taken:
        for rank, other in waiting.candidates:
            assert rank_of[one.execution_id] <= rank
            if other.flow == one.flow and rank == rank_of[one.execution_id]:
                assert one.sequence < other.sequence


@given(st.integers(1, 4), st.lists(st.integers(1, 5), min_size=2, max_size=3), st.integers(1, 30))
def test_tenants_and_their_batches_share_whatever_is_free(
    slots: int, batches: list[int], claims: int
) -> None:
    waiting, chooser = Waiting(), Chooser()
    for tenant, count in enumerate(batches):
        for batch in range(count):
            for _ in range(200):
                waiting.add(Flow(f"t{tenant}", f"b{batch}"))
    given_to: Counter[Flow] = Counter()
    for _ in range(claims):
        given_to.update(one.flow for one in waiting.take(chooser.choose(waiting, room(slots), 0)))
    for tenant, count in enumerate(batches):
        of_batches = [given_to[Flow(f"t{tenant}", f"b{batch}")] for batch in range(count)]
        assert max(of_batches) - min(of_batches) <= 1
    of_tenants = [
        sum(n for flow, n in given_to.items() if flow.tenant_id == f"t{t}") for t in range(len(batches))
    ]
    assert sum(of_tenants) == slots * claims
    assert max(of_tenants) - min(of_tenants) <= 1


def test_an_interactive_execution_gets_the_next_free_slot_before_a_batch_of_100_000() -> None:
    waiting, chooser = Waiting(), Chooser()
    for _ in range(300):
        waiting.add(Flow("t", "batch"))
    for _ in range(100):
        waiting.take(chooser.choose(waiting, room(2), 0))
    mine = waiting.add(Flow("t", ""))
    assert waiting.take(chooser.choose(waiting, room(1), 0)) == [mine]


def test_a_limit_that_was_lowered_below_what_runs_gives_nothing() -> None:
    waiting = Waiting(tenant_limits={"t": 1})
    waiting.running = [waiting.add(Flow("t", "")) for _ in range(3)]
    assert Chooser().choose(waiting, room(4), 0).taken == []


def test_a_tenant_at_its_limit_does_not_hold_up_the_others() -> None:
    waiting = Waiting(tenant_limits={"a": 0})
    waiting.add(Flow("a", ""))
    other = waiting.add(Flow("b", ""))
    assert Chooser().choose(waiting, room(1), 0).taken == [other]


def test_a_choice_that_was_undone_changes_nobodys_turn() -> None:
    waiting, chooser = Waiting(), Chooser()
    first = waiting.add(Flow("a", ""))
    waiting.add(Flow("b", ""))
    undone = chooser.choose(waiting, room(1), 0)
    assert undone.taken == [first]
    chooser.undo(undone)
    assert chooser.choose(waiting, room(1), 0).taken == [first]


def test_a_large_one_that_waits_for_room_is_not_passed_over_for_ever() -> None:
    """Small ones come without end; within the stated time and one drain the large one runs."""
    waiting, chooser = Waiting(), Chooser()
    large = waiting.add(Flow("large", ""), cpus_milli=4000)
    whole = Capacity(4000, None)
    ends: list[tuple[int, Candidate]] = []
    for now in range(0, HOLD_AFTER_MS + 20_000, 500):
        ends = [(at, one) for at, one in ends if at > now]
        waiting.add(Flow("small", f"b{now}"))
        waiting.add(Flow("small", f"b{now}"))
        used = sum(one.cpus_milli for _, one in ends)
        offer = room(4 - len(ends), 4000 - used, None, whole=whole, is_idle=not ends)
        taken = waiting.take(chooser.choose(waiting, offer, now))
        # each lasts long enough that they never end together by themselves
        ends += [(now + 2_250, one) for one in taken]
        if large in taken:
            assert now <= HOLD_AFTER_MS + 3_000
            return
        assert used + sum(one.cpus_milli for one in taken) >= 1000
    raise AssertionError("never given")


def test_one_runner_is_cleared_for_a_large_one_and_the_others_go_on() -> None:
    waits = Waits()
    large = Candidate("exec_1", 1, Flow("t", ""), 4000, 64, "python:3.11")
    assert not waits.is_held(large, "r1", 0)
    assert not waits.is_held(large, "r2", HOLD_AFTER_MS - 1)
    assert waits.is_held(large, "r1", HOLD_AFTER_MS)
    assert not waits.is_held(large, "r2", HOLD_AFTER_MS + 1)
    # the first one is silent, so another takes its part
    assert waits.is_held(large, "r2", HOLD_AFTER_MS + HOLDER_SILENT_MS)


def test_one_that_asks_for_more_than_any_runner_has_is_given_to_an_idle_one() -> None:
    waiting = Waiting()
    huge = waiting.add(Flow("t", ""), cpus_milli=64_000)
    waiting.add(Flow("t", ""))
    smaller = [Machine(Capacity(2000, 1024), PYTHON)]
    assert Chooser().choose(waiting, room(4, is_idle=True, others=smaller), 0).taken == [huge]


def test_one_that_is_too_large_here_is_left_to_the_runner_that_has_the_room() -> None:
    waiting = Waiting()
    waiting.add(Flow("t", ""), memory_mib=100_000)
    small = waiting.add(Flow("t", ""))
    larger = [Machine(Capacity(4000, 200_000), PYTHON)]
    choice = Chooser().choose(waiting, room(4, is_idle=True, others=larger), 0)
    assert choice.taken == [small]
    assert not choice.lacks_room


def test_what_a_runner_cannot_run_is_left_to_one_that_can() -> None:
    waiting, chooser = Waiting(), Chooser()
    # more than are looked at of one flow otherwise, and they stand before what can be run here
    scripts = [waiting.add(Flow("t", ""), runtime="node:20") for _ in range(LOOKAHEAD_LEFT - 1)]
    behind = waiting.add(Flow("t", ""))
    node = [Machine(Capacity(4000, None), NODE)]
    choice = chooser.choose(waiting, room(4, is_idle=True, others=node), 0)
    assert waiting.take(choice) == [behind]
    assert not choice.lacks_room
    there = Room("r2", 4, Capacity(4000, None), node[0], is_idle=True)
    assert waiting.take(chooser.choose(waiting, there, 0)) == scripts[:4]


def test_a_queue_for_another_runner_holds_up_nobody_else() -> None:
    """However long it is, and in however many batches, and a claim looks at no more than so many."""

    waiting, chooser = Counted(), Chooser()
    for batch in range(40):
        for _ in range(3 * LOOKAHEAD_LEFT):
            waiting.add(Flow("a", f"b{batch}"), rank=-1, runtime="node:20")
    mine = [waiting.add(Flow("b", "")), waiting.add(Flow("a", "")), waiting.add(Flow("b", "b"))]
    node = [Machine(Capacity(4000, None), NODE)]
    assert set(chooser.choose(waiting, room(4, others=node), 0).taken) == set(mine)
    assert waiting.looked <= MAX_LEFT + 40 + len(mine)


def test_what_nobody_runs_is_given_to_any_runner_which_says_why_not() -> None:
    waiting = Waiting()
    lost = waiting.add(Flow("t", ""), runtime="node:18")
    assert Chooser().choose(waiting, room(4, others=[Machine(Capacity(4000, None), NODE)]), 0).taken == [lost]


def test_what_is_too_large_for_those_that_run_it_is_theirs_all_the_same() -> None:
    """One of them takes it when it is idle; who has the room lacks the runtime, and would only refuse it."""
    waiting = Waiting()
    large = waiting.add(Flow("t", ""), cpus_milli=8000, runtime="node:20")
    big = Capacity(16_000, None)
    small = Machine(Capacity(4000, None), NODE)
    plain = Machine(big, PYTHON)
    assert Chooser().choose(waiting, Room("r1", 16, big, plain, is_idle=True, others=[small]), 0).taken == []
    there = Room("r2", 4, small.capacity, small, is_idle=True, others=[plain])
    assert Chooser().choose(waiting, there, 0).taken == [large]


@given(st.lists(st.sampled_from(["python:3.11", "node:20", "python:3.9"]), max_size=30))
def test_two_runners_that_differ_leave_nothing_waiting_and_take_nothing_that_is_the_others(
    runtimes: list[str],
) -> None:
    waiting, chooser = Waiting(), Chooser()
    for runtime in runtimes:
        waiting.add(Flow("t", ""), runtime=runtime)
    capacity = Capacity(4000, None)
    machines = [Machine(capacity, PYTHON), Machine(capacity, NODE)]
    for _ in runtimes:
        for mine, other in (machines, machines[::-1]):
            offer = Room(str(len(mine.runtimes)), 1, capacity, mine, is_idle=True, others=[other])
            for one in waiting.take(chooser.choose(waiting, offer, 0)):
                assert one.runtime != "node:20" or mine is machines[1]
    assert waiting.candidates == []


def test_a_runner_that_does_not_say_what_memory_it_has_is_not_limited_by_it() -> None:
    waiting = Waiting()
    one = waiting.add(Flow("t", ""), memory_mib=200_000)
    assert Chooser().choose(waiting, room(1, memory_mib=None), 0).taken == [one]


def test_it_says_when_more_room_would_have_taken_more() -> None:
    waiting = Waiting()
    waiting.add(Flow("t", ""), cpus_milli=2000)
    whole = Capacity(4000, None)
    assert Chooser().choose(waiting, room(3, 1000, None, whole=whole), 0).lacks_room
    assert Chooser().choose(waiting, room(3, 0, None, whole=whole), 0).lacks_room
    assert not Chooser().choose(waiting, room(4, 4000, None, whole=whole), 0).lacks_room


def test_looking_for_one_that_fits_ends_after_so_many() -> None:
    """What a claim costs does not grow with a queue of what does not fit."""

    waiting = Counted()
    for batch in range(100):
        for _ in range(20):
            waiting.add(Flow("t", f"b{batch}"), cpus_milli=4000)
    whole = Capacity(4000, None)
    assert Chooser().choose(waiting, room(1, 1000, None, whole=whole), 0).taken == []
    assert waiting.looked <= MAX_PASSED_OVER
