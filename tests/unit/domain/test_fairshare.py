"""Fair shares against their stated bound, by generated contenders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.domain import fairshare
from rgrid_server.domain.fairshare import LEAST_DURATION_MS, FairShare, Flow, Passes

CPUS_MILLI = st.integers(100, 8_000)


def serve(share: FairShare, flows: list[Flow], cpus_milli: dict[Flow, int]) -> tuple[Flow, int]:
    """Give the next execution; returns whose and what it cost."""
    tenant_id = share.next_tenant(dict.fromkeys(flow.tenant_id for flow in flows))
    of_tenant = [flow.batch_id for flow in flows if flow.tenant_id == tenant_id]
    flow = Flow(tenant_id, share.next_batch(tenant_id, of_tenant))
    return flow, share.give(flow, cpus_milli[flow])


@given(st.lists(CPUS_MILLI, min_size=2, max_size=6), st.integers(1, 150))
def test_tenants_that_never_run_out_are_charged_within_one_execution_of_each_other(
    sizes: list[int], rounds: int
) -> None:
    share = FairShare()
    cpus_milli = {Flow(f"t{index}", ""): size for index, size in enumerate(sizes)}
    charged = dict.fromkeys(cpus_milli, 0)
    dearest = 0
    for _ in range(rounds):
        flow, cost = serve(share, list(cpus_milli), cpus_milli)
        charged[flow] += cost
        dearest = max(dearest, cost)
        assert max(charged.values()) - min(charged.values()) <= dearest


@given(
    st.lists(st.lists(CPUS_MILLI, min_size=1, max_size=4), min_size=2, max_size=4),
    st.integers(1, 200),
)
def test_the_bound_holds_on_both_levels_at_once(sizes: list[list[int]], rounds: int) -> None:
    share = FairShare()
    cpus_milli = {
        Flow(f"t{tenant}", f"b{batch}"): size
        for tenant, batches in enumerate(sizes)
        for batch, size in enumerate(batches)
    }
    charged = dict.fromkeys(cpus_milli, 0)
    dearest = 0
    for _ in range(rounds):
        flow, cost = serve(share, list(cpus_milli), cpus_milli)
        charged[flow] += cost
        dearest = max(dearest, cost)
        of_tenant = [
            [charged[Flow(f"t{tenant}", f"b{batch}")] for batch in range(len(batches))]
            for tenant, batches in enumerate(sizes)
        ]
        sums = [sum(batches) for batches in of_tenant]
        assert max(sums) - min(sums) <= dearest
        assert all(max(batches) - min(batches) <= dearest for batches in of_tenant)


@given(st.lists(st.integers(1, 600_000), min_size=2, max_size=5), st.integers(1, 8))
def test_long_and_short_executions_get_the_same_of_the_machines(durations_ms: list[int], slots: int) -> None:
    """The sums of what really ran differ by no more than what every slot can hold at once, and one more."""
    share = FairShare()
    flows = [Flow(f"t{index}", "") for index in range(len(durations_ms))]
    lasts = {flow: max(one, LEAST_DURATION_MS) for flow, one in zip(flows, durations_ms, strict=True)}
    for flow in flows:
        share.learn(flow, lasts[flow])
    ran = dict.fromkeys(flows, 0)
    running: list[tuple[int, Flow]] = []
    now = 0
    for _ in range(200):
        while len(running) < slots:
            flow, _ = serve(share, flows, dict.fromkeys(flows, 1000))
            running.append((now + lasts[flow], flow))
        running.sort()
        now, flow = running.pop(0)
        ran[flow] += lasts[flow]
        share.learn(flow, lasts[flow])
        assert max(ran.values()) - min(ran.values()) <= (slots + 1) * max(lasts.values())


@given(st.lists(st.integers(0, 3_600_000), min_size=1, max_size=200), st.integers(0, 3_600_000))
def test_what_was_foreseen_wrongly_evens_out(durations_ms: list[int], first_ms: int) -> None:
    """Charges of one after another differ from the truth by a bound that does not grow with their number."""
    share, flow = FairShare(), Flow("t", "b")
    share.learn(flow, first_ms)
    charged = 0
    for duration_ms in durations_ms:
        charged += share.give(flow, 1000)
        share.learn(flow, duration_ms)
    ran = 1000 * sum(durations_ms)
    longest = max([first_ms, *durations_ms])
    floor = 1000 * LEAST_DURATION_MS * len(durations_ms)
    rounding = len(durations_ms)
    assert -1000 * longest / fairshare.WEIGHT_OF_NEWEST - floor <= charged - ran + rounding
    assert charged - ran - rounding <= 1000 * longest / fairshare.WEIGHT_OF_NEWEST + floor


def test_who_comes_is_next_and_not_ahead_by_history() -> None:
    share = FairShare()
    old, new = Flow("old", ""), Flow("new", "")
    cpus_milli = {old: 1000, new: 1000}
    for _ in range(10_000):
        serve(share, [old], cpus_milli)
    served = [serve(share, [old, new], cpus_milli)[0] for _ in range(10)]
    assert served[0] == new
    assert served.count(new) == served.count(old) == 5


def test_who_comes_back_has_saved_up_nothing() -> None:
    share = FairShare()
    stayed, away = Flow("stayed", ""), Flow("away", "")
    cpus_milli = {stayed: 1000, away: 1000}
    serve(share, [stayed, away], cpus_milli)
    for _ in range(500):
        serve(share, [stayed], cpus_milli)
    served = [serve(share, [stayed, away], cpus_milli)[0] for _ in range(20)]
    assert abs(served.count(away) - served.count(stayed)) <= 1


def test_an_interactive_execution_is_next_beside_a_batch_that_was_served_ten_thousand_times() -> None:
    share = FairShare()
    batch, interactive = Flow("t", "batch_1"), Flow("t", "")
    cpus_milli = {batch: 4000, interactive: 1000}
    for _ in range(10_000):
        serve(share, [batch], cpus_milli)
    assert serve(share, [batch, interactive], cpus_milli)[0] == interactive


def test_equals_are_served_in_the_order_in_which_they_are_named() -> None:
    share = FairShare()
    flows = [Flow(name, "") for name in ("third", "first", "second")]
    assert [serve(share, flows, dict.fromkeys(flows, 1000))[0] for _ in flows] == flows


def test_a_charge_that_came_to_nothing_is_given_back() -> None:
    share = FairShare()
    flows = [Flow("a", ""), Flow("b", "")]
    cpus_milli = dict.fromkeys(flows, 1000)
    flow, cost = serve(share, flows, cpus_milli)
    assert flow == flows[0]
    share.refund(flow, cost)
    assert serve(share, flows, cpus_milli)[0] == flows[0]


def test_a_flow_that_is_new_is_taken_to_be_like_its_tenants_others() -> None:
    share = FairShare()
    share.learn(Flow("slow", "old"), 60_000)
    assert share.give(Flow("slow", "new"), 1000) == 60_000_000


def test_executions_that_take_no_time_do_not_take_every_turn() -> None:
    share = FairShare()
    quick, slow = Flow("quick", ""), Flow("slow", "")
    for _ in range(100):
        share.learn(quick, 0)
        share.learn(slow, LEAST_DURATION_MS)
    served = [serve(share, [quick, slow], {quick: 1000, slow: 1000})[0] for _ in range(20)]
    assert served.count(slow) == 10


def test_what_is_remembered_of_finished_flows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairshare, "MAX_REMEMBERED", 50)
    passes = Passes()
    durations = fairshare.Durations()
    for index in range(5_000):
        # each one comes, is served twice, and does not come back
        name = passes.least([f"b{index}"])
        passes.serve(name, 10)
        passes.serve(name, 10)
        durations.learn(Flow(f"t{index}", f"b{index}"), 5)
    assert len(passes) <= 100
    assert len(durations) <= 50


def test_forgetting_changes_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"t{index}" for index in range(40)]

    def served(limit: int) -> list[str]:
        monkeypatch.setattr(fairshare, "MAX_REMEMBERED", limit)
        passes, order = Passes(), []
        for index in range(400):
            name = passes.least(names[index % 30 : index % 30 + 10])
            passes.serve(name, 7 + 5 * (index % 3))
            order.append(name)
        return order

    assert served(4) == served(10_000)
