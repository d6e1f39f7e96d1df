"""Who is next among those that wait: fair shares between tenants, then between each tenant's batches.

Stride scheduling (Waldspurger and Weihl, "Stride Scheduling: Deterministic Proportional-Share Resource
Management", MIT 1995) on two levels. Each contender has a *pass*, which grows by the cost of what it is
given; the one with the least pass is next. Whoever comes, or comes back, begins at the pass that was served
last: nobody saves up a claim by staying away, and nobody who comes waits for those who were served before.
The cost of an execution is its vCPUs times how long such ones took lately; when it has ended, the pass is
set right by what it really took.

Among contenders that never run out, the shares of any two differ by no more than the cost of one execution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

DEFAULT_DURATION_MS = 1_000
"""What an execution is taken to last before anything is known of its like."""
DURATION_MEMORY = 0.3
"""The weight of the newest duration in the running mean."""
MAX_REMEMBERED = 10_000


class Flow(NamedTuple):
    """Executions that share a place in the queue: a tenant's batch, or its executions of no batch."""

    tenant_id: str
    batch_id: str
    """Empty for executions of no batch."""


@dataclass(slots=True)
class _Passes:
    """One level: the passes of its contenders, and the pass that was served last."""

    served: int = 0
    by_name: dict[str, int] = field(default_factory=dict)

    def least(self, names: Iterable[str]) -> str:
        """The contender that is next; the first named among equals."""
        return min(names, key=self.now_of)

    def now_of(self, name: str) -> int:
        return max(self.by_name.get(name, self.served), self.served)

    def serve(self, name: str, cost: int) -> None:
        self.served = self.now_of(name)
        if len(self.by_name) >= MAX_REMEMBERED:
            # those who are behind what was served last would begin there anyhow
            self.by_name = {one: at for one, at in self.by_name.items() if at > self.served}
        self.by_name[name] = self.served + cost

    def correct(self, name: str, difference: int) -> None:
        if name in self.by_name:
            self.by_name[name] += difference


class FairShare:
    """Remembers what each flow was given; deterministic, and without a clock."""

    def __init__(self) -> None:
        self._tenants = _Passes()
        self._flows: dict[str, _Passes] = {}
        self._durations_ms: dict[Flow, float] = {}

    def next(self, contenders: Sequence[Flow]) -> Flow:
        """Who is next; among equals whoever is named first, so name the longest waiting first."""
        tenant_id = self._tenants.least(flow.tenant_id for flow in contenders)
        passes = self._flows.setdefault(tenant_id, _Passes())
        batch_id = passes.least(flow.batch_id for flow in contenders if flow.tenant_id == tenant_id)
        return Flow(tenant_id, batch_id)

    def give(self, flow: Flow, cpus_milli: int) -> int:
        """Charge a flow for one execution as far as it can be foreseen; returns the cost."""
        cost = round(cpus_milli * self._durations_ms.get(flow, DEFAULT_DURATION_MS))
        self._tenants.serve(flow.tenant_id, cost)
        self._flows.setdefault(flow.tenant_id, _Passes()).serve(flow.batch_id, cost)
        return cost

    def settle(self, flow: Flow, cost: int, cpus_milli: int, duration_ms: int) -> None:
        """Set right what was charged, now that it is known how long the execution took."""
        difference = cpus_milli * duration_ms - cost
        self._tenants.correct(flow.tenant_id, difference)
        if flow.tenant_id in self._flows:
            self._flows[flow.tenant_id].correct(flow.batch_id, difference)
        before = self._durations_ms.get(flow, float(duration_ms))
        if len(self._durations_ms) >= MAX_REMEMBERED:
            self._durations_ms.clear()
        self._durations_ms[flow] = before + DURATION_MEMORY * (duration_ms - before)
