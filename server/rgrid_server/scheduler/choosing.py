"""The queue as the choice sees it: seeks in the index of what is ready, as few as it takes.

What a claim costs grows with the number of tenants and of batches that wait, up to a bound, and not with the
number of executions: a loose index scan steps from one tenant, and from one flow, to the next, and of the
flows that are served only the oldest executions are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sqlalchemy.engine import Connection

from rgrid_server.domain.choosing import LOOKAHEAD, Candidate
from rgrid_server.domain.fairshare import Flow
from rgrid_server.store import batches, queue, tenants
from rgrid_server.store.database import Row

MAX_CONTENDERS = 256
"""So many tenants, and so many flows of a tenant, contend in one claim; where there are more they take turns
at it, all but the first one, which always does."""
MAX_PLACES = 10_000

Walk = Callable[[str | None, int], list[tuple[str, int]]]
"""The names behind one, None for all, up to so many, each with how old it is."""


class Places:
    """Whose turn it is to contend, of lists that are too long for one claim."""

    def __init__(self) -> None:
        self._first: dict[tuple[object, ...], str] = {}

    def names(self, place: tuple[object, ...], walk: Walk) -> list[str]:
        """The contenders of this claim, those first that are next among equals.

        That is whoever waits longest; of a list that is too long it is the next one in a circle. Each of them
        is that once in a round, and nobody is behind it then, so that each is served in every round.
        """
        found = walk(None, MAX_CONTENDERS)
        before = self._first.pop(place, None)
        if len(found) < MAX_CONTENDERS:
            return [name for name, _ in sorted(found, key=lambda item: item[1])]
        behind = walk(before, MAX_CONTENDERS - 1) if before is not None else []
        circle = list(dict([*behind, *found[1:]]))[: MAX_CONTENDERS - 1]
        self._first[place] = circle[0]
        if len(self._first) > MAX_PLACES:
            del self._first[next(iter(self._first))]
        return [found[0][0], *circle]


class StoredQueue:
    """What waits in the database, as one transaction sees it.

    Limits are read from rows that the transaction holds until its end, so that two processes that claim at
    once never exceed one together.

    Args:
        slots: how many may be taken.
        leaves: whether what asks for a runtime is left to other runners, which are to find it meanwhile, so
            that it is not held; None where nothing is.
    """

    def __init__(
        self,
        connection: Connection,
        places: Places,
        slots: int,
        now_ms: int,
        leaves: Callable[[str], bool] | None = None,
    ) -> None:
        self._connection = connection
        self._places = places
        self._page = max(1, min(slots, LOOKAHEAD))
        self._now_ms = now_ms
        self._leaves = leaves

    def ranks(self) -> Iterator[int]:
        """The priorities of which something waits, the most urgent first."""
        rank = queue.next_rank(self._connection, None)
        while rank is not None:
            yield rank
            rank = queue.next_rank(self._connection, rank)

    def tenants(self, rank: int) -> Sequence[str]:
        """Tenants of which something of a rank waits; how old a tenant is, its first flow says."""

        def walk(after: str | None, limit: int) -> list[tuple[str, int]]:
            return queue.tenants_of(self._connection, rank, after, limit)

        names = self._places.names((rank,), walk)
        tenants.hold_limited(self._connection, names)
        return names

    def flows(self, rank: int, tenant_id: str) -> Sequence[str]:
        """A tenant's flows of which something of a rank waits; its executions of no batch stand first."""

        def walk(after: str | None, limit: int) -> list[tuple[str, int]]:
            return queue.flows_of(self._connection, rank, tenant_id, after, limit)

        names = self._places.names((rank, tenant_id), walk)
        batches.hold_limited(self._connection, [(tenant_id, name) for name in names])
        # a stable sort: what somebody waits for is before batches that are no further behind
        return sorted(names, key=bool)

    def heads(self, rank: int, flow: Flow) -> Iterator[Candidate]:
        """The executions of a flow, the oldest first, in pages."""
        after, leaves = -1, self._leaves
        while page := queue.heads(
            self._connection, rank, flow, after, self._now_ms, self._page, are_held=leaves is None
        ):
            for row in page:
                if leaves is None or leaves(row["runtime"]) or self._holds(row):
                    yield Candidate(
                        row["execution_id"],
                        row["sequence"],
                        flow,
                        row["cpus_milli"],
                        row["memory_mib"],
                        row["runtime"],
                    )
            after = page[-1]["sequence"]

    def _holds(self, row: Row) -> bool:
        """Keep one from other claims; False where another has it."""
        return queue.hold_ready(self._connection, row["sequence"])

    def tenant_room(self, tenant_id: str) -> int | None:
        """How many more a tenant may run at once."""
        limit = tenants.lock_running_limit(self._connection, tenant_id)
        return None if limit is None else limit - queue.running_of(self._connection, tenant_id)

    def flow_room(self, flow: Flow) -> int | None:
        """How many more of a batch may run at once."""
        if not flow.batch_id:
            return None
        return batches.room_in_batch(self._connection, flow.tenant_id, flow.batch_id)
