"""Which ready executions a runner gets: priority first, then fair shares, then age, as far as they fit.

What it costs grows with the number of tenants and batches that wait, not with the number of executions: a
loose index scan steps from one flow to the next, and of each flow only the oldest are looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from rgrid_server.domain.fairshare import FairShare, Flow
from rgrid_server.store import batches as batch_store
from rgrid_server.store import queue, tenants
from rgrid_server.store.database import Row

MAX_FLOWS_A_CLAIM = 256
"""So many flows of a priority contend in one claim; where there are more, each claim begins further on."""
LOOKAHEAD = 8
"""So many of a flow are looked at for one that fits."""
RESERVE_AFTER_MS = 30_000
"""An execution that has waited so long for room is waited for: the runner is given nothing else."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a runner has free, and whether it carries nothing at all."""

    slots: int
    cpus_milli: int
    memory_mib: int | None
    is_idle: bool


class Chooser:
    """Chooses from the queue, and remembers whom it has served."""

    def __init__(self, share: FairShare) -> None:
        self.share = share
        self._begin_after: dict[int, Flow] = {}

    def choose(self, connection: Connection, room: Room, now_ms: int) -> list[Row]:
        """Ready executions for a runner, at most as many as it has slots."""
        choice = _Choice(connection, room, now_ms)
        rank = queue.next_rank(connection, None)
        while rank is not None and not choice.is_full:
            self._choose_of_rank(connection, rank, choice)
            rank = queue.next_rank(connection, rank)
        return choice.rows

    def _choose_of_rank(self, connection: Connection, rank: int, choice: _Choice) -> None:
        heads = {flow: choice.heads_of(rank, flow) for flow in self._contenders(connection, rank)}
        batch_store.hold_limited(connection, [(flow.tenant_id, flow.batch_id) for flow in choice.oldest])
        waiting = sorted((sequence, flow) for flow, sequence in choice.oldest.items() if flow in heads)
        contenders = [flow for _, flow in waiting]
        while contenders and not choice.is_full:
            flow = self.share.next(contenders)
            row = next(heads[flow], None)
            if row is None:
                contenders.remove(flow)
            elif choice.take(row):
                self.share.give(flow, row["cpus_milli"])

    def _contenders(self, connection: Connection, rank: int) -> list[Flow]:
        after = self._begin_after.pop(rank, Flow("", ""))
        flows = queue.flows_of_rank(connection, rank, after, MAX_FLOWS_A_CLAIM)
        if len(flows) == MAX_FLOWS_A_CLAIM:
            self._begin_after[rank] = flows[-1]
        elif after.tenant_id:
            known = set(flows)
            first = queue.flows_of_rank(connection, rank, Flow("", ""), MAX_FLOWS_A_CLAIM - len(flows))
            flows += [flow for flow in first if flow not in known]
        return flows


class _Choice:
    """What was chosen so far, and what room is left."""

    def __init__(self, connection: Connection, room: Room, now_ms: int) -> None:
        self.rows: list[Row] = []
        self.oldest: dict[Flow, int] = {}
        self._connection = connection
        self._now_ms = now_ms
        self._is_idle = room.is_idle
        self._slots, self._cpus_milli, self._memory_mib = room.slots, room.cpus_milli, room.memory_mib
        self._is_reserved = False
        self._of_batch: Counter[Flow] = Counter()
        self._batch_room: dict[Flow, int | None] = {}
        limits = tenants.running_limits(connection)
        running = queue.running_by_tenant(connection) if limits else {}
        self._tenant_room = {one: limit - running.get(one, 0) for one, limit in limits.items()}

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be given."""
        return self._slots <= 0 or self._is_reserved

    def heads_of(self, rank: int, flow: Flow) -> Iterator[Row]:
        """The executions of a flow that may run now, the oldest first; the first page is read now."""
        page = queue.heads(self._connection, rank, flow, -1, self._now_ms, min(self._slots, LOOKAHEAD))
        if page:
            self.oldest[flow] = page[0]["sequence"]
        return self._heads(rank, flow, page)

    def _heads(self, rank: int, flow: Flow, page: list[Row]) -> Iterator[Row]:
        while page:
            for row in page:
                if not self._may_run(flow):
                    return
                yield row
            page = queue.heads(
                self._connection, rank, flow, page[-1]["sequence"], self._now_ms, max(self._slots, LOOKAHEAD)
            )
            if not self._took_any(flow):
                # of so many none fits; looking through the rest of a long flow would hold the claim up
                return

    def take(self, row: Row) -> bool:
        """Take an execution if it fits what is left."""
        flow = Flow(row["tenant_id"], row["flow"])
        fits = row["cpus_milli"] <= self._cpus_milli and (
            self._memory_mib is None or row["memory_mib"] <= self._memory_mib
        )
        # an idle runner takes one that asks for more than it has rather than leave it waiting for ever
        if not fits and not (self._is_idle and not self.rows):
            self._is_reserved = self._now_ms - row["ready_at_ms"] > RESERVE_AFTER_MS
            return False
        self.rows.append(row)
        self._slots -= 1
        self._cpus_milli -= row["cpus_milli"]
        if self._memory_mib is not None:
            self._memory_mib -= row["memory_mib"]
        self._of_batch[flow] += 1
        if flow.tenant_id in self._tenant_room:
            self._tenant_room[flow.tenant_id] -= 1
        return True

    def _may_run(self, flow: Flow) -> bool:
        if self._tenant_room.get(flow.tenant_id, 1) <= 0:
            return False
        if not flow.batch_id:
            return True
        if flow not in self._batch_room:
            self._batch_room[flow] = batch_store.room_in_batch(
                self._connection, flow.tenant_id, flow.batch_id
            )
        room = self._batch_room[flow]
        return room is None or self._of_batch[flow] < room

    def _took_any(self, flow: Flow) -> bool:
        return self._of_batch[flow] > 0
