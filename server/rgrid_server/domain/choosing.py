"""Which of those that wait a runner gets: priority first, then fair shares, then age, as far as they fit.

A slot does not stay free while one of those that are looked at fits, but for one reason: an execution that
has been passed over for want of room for :data:`HOLD_AFTER_MS` is waited for, by one runner that could carry
it, so that many small ones do not keep a large one waiting for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import NamedTuple, Protocol

from rgrid_server.domain.fairshare import FairShare, Flow
from rgrid_server.domain.runtimes import Offer, is_offered

LOOKAHEAD = 8
"""So many of a flow that do not fit are looked at in a claim."""
MAX_PASSED_OVER = 64
"""So many that do not fit are looked at in a claim in all."""
LOOKAHEAD_LEFT = 32
"""So many of a flow that are left to other runners are looked past in a claim."""
MAX_LEFT = 512
"""After so many in all, a flow is left at the first of them."""
LEAST_CPUS_MILLI = 100
"""What an execution asks for at least: with less left than this a runner is full."""
HOLD_AFTER_MS = 30_000
"""So long an execution is passed over before a runner is cleared for it."""
HOLDER_SILENT_MS = 60_000
"""A runner that was not heard of for so long holds its room for nobody."""
MAX_WAITS = 1_000


class Candidate(NamedTuple):
    """An execution that may be claimed."""

    execution_id: str
    sequence: int
    flow: Flow
    cpus_milli: int
    memory_mib: int
    runtime: str


class Capacity(NamedTuple):
    """What there is of a machine; memory is None where its runner does not say."""

    cpus_milli: int
    memory_mib: int | None

    def holds(self, candidate: Candidate) -> bool:
        """Whether an execution fits."""
        has_memory = self.memory_mib is None or candidate.memory_mib <= self.memory_mib
        return has_memory and candidate.cpus_milli <= self.cpus_milli

    def without(self, candidate: Candidate) -> Capacity:
        """What an execution leaves of it."""
        memory_mib = None if self.memory_mib is None else self.memory_mib - candidate.memory_mib
        return Capacity(self.cpus_milli - candidate.cpus_milli, memory_mib)


class Machine(NamedTuple):
    """All that a runner has, free or not."""

    capacity: Capacity
    runtimes: tuple[Offer, ...]

    def runs(self, runtime: str) -> bool:
        """Whether it has a runtime."""
        return is_offered(self.runtimes, runtime)


@dataclass(frozen=True, slots=True)
class Room:
    """What a runner offers.

    Attributes:
        slots: so many more it takes.
        free: what of it is free.
        machine: all that it has.
        is_idle: whether it carries nothing.
        others: those of the other runners that were heard of lately and are given work.
    """

    runner_id: str
    slots: int
    free: Capacity
    machine: Machine
    is_idle: bool
    others: Sequence[Machine] = ()

    @property
    def is_like_others(self) -> bool:
        """Whether no other runner has a runtime that this one lacks."""
        here = set(self.machine.runtimes)
        return all(here.issuperset(other.runtimes) for other in self.others)

    def leaves(self, runtime: str) -> bool:
        """Whether what asks for a runtime is left to other runners: it is there and not here."""
        return not self.machine.runs(runtime) and any(other.runs(runtime) for other in self.others)


class Queue(Protocol):
    """What waits, as far as a choice needs to see it; asked for no more than it comes to."""

    def ranks(self) -> Iterator[int]:
        """The priorities of which something waits, the most urgent first."""

    def tenants(self, rank: int) -> Sequence[str]:
        """Tenants of which something of a rank waits, the longest waiting first."""

    def flows(self, rank: int, tenant_id: str) -> Sequence[str]:
        """A tenant's flows of which something of a rank waits: no batch first, then the longest waiting."""

    def heads(self, rank: int, flow: Flow) -> Iterator[Candidate]:
        """The executions of a flow, the oldest first."""

    def tenant_room(self, tenant_id: str) -> int | None:
        """How many more a tenant may run at once; None without a limit."""

    def flow_room(self, flow: Flow) -> int | None:
        """How many more of a batch may run at once; None without a limit."""


@dataclass(slots=True)
class _Wait:
    since_ms: int
    holder: str | None = None
    heard_ms: int = 0


class Waits:
    """Who waits for room, since when, and which runner holds its room for whom."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_execution: dict[str, _Wait] = {}

    def is_held(self, candidate: Candidate, runner_id: str, now_ms: int) -> bool:
        """Note that one was passed over; says whether the runner is to be cleared for it."""
        with self._lock:
            return self._is_held(candidate, runner_id, now_ms)

    def forget(self, candidate: Candidate) -> None:
        """One has found room."""
        with self._lock:
            self._by_execution.pop(candidate.execution_id, None)

    def _is_held(self, candidate: Candidate, runner_id: str, now_ms: int) -> bool:
        wait = self._by_execution.get(candidate.execution_id)
        if wait is None:
            if len(self._by_execution) >= MAX_WAITS:
                del self._by_execution[next(iter(self._by_execution))]
            self._by_execution[candidate.execution_id] = _Wait(now_ms)
            return False
        if now_ms - wait.since_ms < HOLD_AFTER_MS:
            return False
        if wait.holder not in {None, runner_id} and now_ms - wait.heard_ms < HOLDER_SILENT_MS:
            return False
        wait.holder, wait.heard_ms = runner_id, now_ms
        return True


@dataclass(slots=True)
class Choice:
    """What a runner gets.

    Attributes:
        taken: in the order in which they were chosen.
        costs: what each of them was charged.
        lacks_room: whether something was passed over that more room would have taken.
    """

    taken: list[Candidate] = field(default_factory=list)
    costs: list[int] = field(default_factory=list)
    lacks_room: bool = False


class Chooser:
    """Chooses, and remembers whom it has served; all of its memory may be lost at any time."""

    def __init__(self) -> None:
        self._share = FairShare()
        self._waits = Waits()

    def choose(self, queue: Queue, room: Room, now_ms: int) -> Choice:
        """Executions for a runner, charged at once; :meth:`undo` it when it comes to nothing."""
        choosing = _Choosing(queue, room, self._waits, self._share, now_ms)
        for rank in queue.ranks():
            choosing.of_rank(rank)
            if choosing.is_full():
                break
        choosing.choice.lacks_room |= choosing.has_no_cpu
        return choosing.choice

    def undo(self, choice: Choice) -> None:
        """Take back the charges of a choice whose transaction was undone."""
        for candidate, cost in zip(choice.taken, choice.costs, strict=True):
            self._share.refund(candidate.flow, cost)

    def learn(self, flow: Flow, duration_ms: int) -> None:
        """Take in how long an execution of a flow took."""
        self._share.learn(flow, duration_ms)


class _Choosing:
    """One choice while it is made."""

    def __init__(self, queue: Queue, room: Room, waits: Waits, share: FairShare, now_ms: int) -> None:
        self.choice = Choice()
        self._queue = queue
        self._room = room
        self._waits = waits
        self._share = share
        self._now_ms = now_ms
        self._slots = room.slots
        self._free = room.free
        self._passed_over = 0
        # there are few runtimes among many executions
        self._leaves = cache(room.leaves)
        self._left = 0
        self._is_held = False
        self._tenant_room: dict[str, int | None] = {}
        self._flow_room: dict[Flow, int | None] = {}
        self._of_tenant: Counter[str] = Counter()
        self._of_flow: Counter[Flow] = Counter()

    @property
    def has_no_cpu(self) -> bool:
        """Whether no execution fits, whatever it asks for."""
        return self._free.cpus_milli < LEAST_CPUS_MILLI and not self._may_exceed

    def is_full(self) -> bool:
        """Whether nothing more can be given."""
        is_at_its_end = self._is_held or self._passed_over >= MAX_PASSED_OVER
        return self._slots <= 0 or is_at_its_end or self.has_no_cpu

    def of_rank(self, rank: int) -> None:
        """Give what fits of one priority."""
        tenants = list(self._queue.tenants(rank))
        lines: dict[str, _Lines] = {}
        while tenants and not self.is_full():
            tenant_id = self._share.next_tenant(tenants)
            if tenant_id not in lines:
                lines[tenant_id] = _Lines(self._queue, rank, tenant_id, self._heads)
            if not self._gives_one(lines[tenant_id]):
                tenants.remove(tenant_id)

    @property
    def _may_exceed(self) -> bool:
        # an idle runner takes one that asks for more than any has rather than leave it waiting for ever
        return self._room.is_idle and not self.choice.taken

    def _gives_one(self, lines: _Lines) -> bool:
        """Give a tenant one execution, of whichever of its flows is next; False when none of it can be."""
        while lines.batch_ids and not self.is_full() and not self._is_tenant_full(lines.tenant_id):
            flow = Flow(lines.tenant_id, self._share.next_batch(lines.tenant_id, lines.batch_ids))
            if not self._is_flow_full(flow):
                for candidate in lines.heads(flow):
                    if self._takes(candidate):
                        return True
                    if self.is_full():
                        return False
            lines.end(flow)
        return False

    def _heads(self, rank: int, flow: Flow) -> Iterator[Candidate]:
        """The executions of a flow but for those that are left to other runners; ends after enough of these.

        What is left costs the others nothing of what is looked at for them: they are not to wait for it.
        """
        left = 0
        for candidate in self._queue.heads(rank, flow):
            if not self._leaves(candidate.runtime):
                yield candidate
                continue
            left += 1
            self._left += 1
            if left >= LOOKAHEAD_LEFT or self._left > MAX_LEFT:
                return

    def _takes(self, candidate: Candidate) -> bool:
        if not self._free.holds(candidate):
            is_too_large = not self._room.machine.capacity.holds(candidate)
            if is_too_large and any(
                other.capacity.holds(candidate) and other.runs(candidate.runtime)
                for other in self._room.others
            ):
                # its place is elsewhere
                self._passed_over += 1
                return False
            if not (is_too_large and self._may_exceed):
                self._passed_over += 1
                self.choice.lacks_room = True
                self._is_held = self._waits.is_held(candidate, self._room.runner_id, self._now_ms)
                return False
        self.choice.taken.append(candidate)
        self.choice.costs.append(self._share.give(candidate.flow, candidate.cpus_milli))
        self._waits.forget(candidate)
        self._slots -= 1
        self._free = self._free.without(candidate)
        self._of_tenant[candidate.flow.tenant_id] += 1
        self._of_flow[candidate.flow] += 1
        return True

    def _is_tenant_full(self, tenant_id: str) -> bool:
        if tenant_id not in self._tenant_room:
            self._tenant_room[tenant_id] = self._queue.tenant_room(tenant_id)
        room = self._tenant_room[tenant_id]
        return room is not None and self._of_tenant[tenant_id] >= room

    def _is_flow_full(self, flow: Flow) -> bool:
        if flow not in self._flow_room:
            self._flow_room[flow] = self._queue.flow_room(flow)
        room = self._flow_room[flow]
        return room is not None and self._of_flow[flow] >= room


class _Lines:
    """A tenant's flows while executions are taken from their heads.

    Args:
        heads: the executions of a flow, the oldest first, as far as they are for this runner.
    """

    def __init__(
        self,
        queue: Queue,
        rank: int,
        tenant_id: str,
        heads: Callable[[int, Flow], Iterator[Candidate]],
    ) -> None:
        self.tenant_id = tenant_id
        self.batch_ids = list(queue.flows(rank, tenant_id))
        self._rank = rank
        self._heads_of = heads
        self._heads: dict[Flow, Iterator[Candidate]] = {}
        self._seen: Counter[Flow] = Counter()

    def heads(self, flow: Flow) -> Iterator[Candidate]:
        """The next ones of a flow, none of which was seen before; ends after enough that did not fit."""
        if flow not in self._heads:
            self._heads[flow] = self._heads_of(self._rank, flow)
        for candidate in self._heads[flow]:
            # whoever asks stops at the first that fits, so these are the ones that did not
            yield candidate
            self._seen[flow] += 1
            if self._seen[flow] >= LOOKAHEAD:
                return

    def end(self, flow: Flow) -> None:
        """Take a flow out: nothing more of it can be given."""
        self.batch_ids.remove(flow.batch_id)
