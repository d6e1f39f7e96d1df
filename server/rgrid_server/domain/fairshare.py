"""Who is next among those that wait: fair shares between tenants, then between each tenant's batches.

Stride scheduling (Waldspurger and Weihl, "Stride Scheduling: Deterministic Proportional-Share Resource
Management", MIT/LCS/TM-528, 1995) on two levels. Each contender has a *pass*, which grows by the cost of
what it is given; the one with the least pass is next. Whoever comes, or comes back, begins at the pass that
was served last: nobody saves up a claim by staying away, and nobody who comes waits for those who were
served before.

The cost of an execution is its vCPUs times how long such ones took lately, so that who submits long ones and
who submits short ones get the same of the machines. What is charged is never set right afterwards; the mean
learns instead, which evens out what was foreseen wrongly in the charges that follow.

Among contenders that never run out, what any two were charged differs by no more than the dearest single
charge of theirs: between tenants, and between the batches of a tenant.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from typing import NamedTuple

DEFAULT_DURATION_MS = 1_000
"""What an execution is taken to last before anything has ended."""
LEAST_DURATION_MS = 50
"""What an execution is taken to last at least: starting one is work too, and a pass has to grow."""
WEIGHT_OF_NEWEST = 0.3
"""The weight of the newest duration in the running mean."""
MAX_REMEMBERED = 10_000
"""So many tenants, and so many flows, are remembered; the one that was silent longest is forgotten first."""


class Flow(NamedTuple):
    """Executions that share a place in the queue: a tenant's batch, or its executions of no batch."""

    tenant_id: str
    batch_id: str
    """Empty for executions of no batch."""


class Passes:
    """One level: the passes of its contenders, and the pass that was served last."""

    def __init__(self) -> None:
        self._served = 0
        self._by_name: dict[str, int] = {}
        self._tidy_at = MAX_REMEMBERED

    def __len__(self) -> int:
        return len(self._by_name)

    def of(self, name: str) -> int:
        """A contender's pass; what it did not use while it was away is gone."""
        return max(self._by_name.get(name, self._served), self._served)

    def least(self, names: Iterable[str]) -> str:
        """The contender that is next; the first named among equals."""
        return min(names, key=self.of)

    def serve(self, name: str, cost: int) -> None:
        """Charge a contender that was chosen."""
        self._served = self.of(name)
        self._by_name[name] = self._served + cost
        if len(self._by_name) >= self._tidy_at:
            self._tidy()

    def refund(self, name: str, cost: int) -> None:
        """Take a charge back."""
        if name in self._by_name:
            self._by_name[name] -= cost

    def _tidy(self) -> None:
        """Forget whoever is not ahead of what was served last: it would begin there anyhow."""
        self._by_name = {name: at for name, at in self._by_name.items() if at > self._served}
        self._tidy_at = max(MAX_REMEMBERED, 2 * len(self._by_name))


class Durations:
    """How long executions took lately: by flow, else as others of the tenant, else as others at all."""

    def __init__(self) -> None:
        self._mean_ms: dict[tuple[str, ...], float] = {}

    def __len__(self) -> int:
        return len(self._mean_ms)

    def learn(self, flow: Flow, duration_ms: int) -> None:
        """Take in how long one took."""
        for name in _names(flow):
            before = self._mean_ms.pop(name, float(duration_ms))
            # put last, so that the first is the one that was silent longest
            self._mean_ms[name] = before + WEIGHT_OF_NEWEST * (duration_ms - before)
        while len(self._mean_ms) > MAX_REMEMBERED:
            del self._mean_ms[next(iter(self._mean_ms))]

    def expected_ms(self, flow: Flow) -> float:
        """How long the next one is taken to last."""
        known = (mean for name in _names(flow) if (mean := self._mean_ms.get(name)) is not None)
        return max(next(known, DEFAULT_DURATION_MS), LEAST_DURATION_MS)


class FairShare:
    """What each tenant and each flow was given; deterministic, and without a clock.

    Everything it remembers may be forgotten at any time: all begin as equals then. Claims may share it from
    several threads.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._durations = Durations()
        self._tenants = Passes()
        self._flows: dict[str, Passes] = {}

    def next_tenant(self, tenants: Iterable[str]) -> str:
        """Who is next; among equals whoever is named first, so name the longest waiting first."""
        with self._lock:
            return self._tenants.least(tenants)

    def next_batch(self, tenant_id: str, batch_ids: Iterable[str]) -> str:
        """Which of a tenant's flows is next; among equals the first named."""
        with self._lock:
            return self._flows.get(tenant_id, _NOBODY).least(batch_ids)

    def give(self, flow: Flow, cpus_milli: int) -> int:
        """Charge a flow for one execution, as far as its cost can be foreseen; returns the cost."""
        with self._lock:
            cost = max(1, round(cpus_milli * self._durations.expected_ms(flow)))
            self._tenants.serve(flow.tenant_id, cost)
            # put last, so that the first is the one that was silent longest
            passes = self._flows.pop(flow.tenant_id, None) or Passes()
            passes.serve(flow.batch_id, cost)
            self._flows[flow.tenant_id] = passes
            if len(self._flows) > MAX_REMEMBERED:
                del self._flows[next(iter(self._flows))]
            return cost

    def refund(self, flow: Flow, cost: int) -> None:
        """Take back what was charged for an execution that was not given after all."""
        with self._lock:
            self._tenants.refund(flow.tenant_id, cost)
            if flow.tenant_id in self._flows:
                self._flows[flow.tenant_id].refund(flow.batch_id, cost)

    def learn(self, flow: Flow, duration_ms: int) -> None:
        """Take in how long an execution of a flow took."""
        with self._lock:
            self._durations.learn(flow, duration_ms)


_NOBODY = Passes()


def _names(flow: Flow) -> tuple[tuple[str, ...], ...]:
    """What a duration is learnt for, the most particular first."""
    return (flow, (flow.tenant_id,), ())
