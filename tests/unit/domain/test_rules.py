"""The other rules: names, submissions, frames, prices, budgets, batches, keys, estimates, signatures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.domain import frames
from rgrid_server.domain.apikeys import Scope, hash_key, opens, parse_scopes
from rgrid_server.domain.batch import PACE_ENDS, Counts, End, batch_status, eta_seconds
from rgrid_server.domain.budget import Budget, BudgetStatus
from rgrid_server.domain.estimate import estimate
from rgrid_server.domain.execution import Status
from rgrid_server.domain.filenames import why_not_a_name
from rgrid_server.domain.prices import DEFAULT_PRICES, Price, Usage, charge_nanos, price_at, reserve
from rgrid_server.domain.signing import Signer
from rgrid_server.domain.submission import Limits, Submission, find_problems, fingerprint, specification_id

GOOD = Submission(script_content="print(1)", runtime="python:3.11")


@pytest.mark.parametrize("name", ["a", "a/b.csv", "ünï.txt", "-x", "a b", ".hidden", "x" * 255, "a/../b"[:1]])
def test_names_that_stay_inside_are_good(name: str) -> None:
    assert why_not_a_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "../a",
        "a/../b",
        "a//b",
        "./a",
        "a/",
        "a\nb",
        "a\0b",
        "a\\b",
        "x" * 256,
        "x/" * 600 + "x",
        "\ud800",
    ],
)
def test_names_that_do_not_are_bad(name: str) -> None:
    assert why_not_a_name(name)


@given(st.text(max_size=40))
def test_a_good_name_never_leads_out(name: str) -> None:
    if why_not_a_name(name) is None:
        parts = name.split("/")
        assert ".." not in parts
        assert not name.startswith("/")
        assert "\0" not in name


def test_a_plain_submission_has_no_problem() -> None:
    assert find_problems(GOOD, Limits()) == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"script_content": " "}, "script_content"),
        ({"script_content": "\0"}, "script_content"),
        ({"script_content": "x" * 2_000_000}, "script_content"),
        ({"runtime": "no runtime"}, "runtime"),
        ({"script_name": "../x.py"}, "script_name"),
        ({"requirements_content": "\0"}, "requirements_content"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": 3601}, "timeout_seconds"),
        ({"cpus_milli": 10**9}, "cpus"),
        ({"memory_mib": 0}, "memory_mib"),
        ({"priority": -101}, "priority"),
        ({"args": ("\0",)}, "args"),
        ({"env_vars": {"1A": ""}}, "env_vars"),
        ({"inputs": {"script.py": None}}, "input_files"),
        ({"inputs": {"a": "xyz"}}, "inputs"),
        ({"user_metadata": {"x": "y" * 50_000}}, "user_metadata"),
        ({"run_key": "a\nb"}, "run_key"),
    ],
)
def test_each_problem_is_found_at_its_place(changes: dict[str, object], place: str) -> None:
    problems = find_problems(GOOD._replace(**changes), Limits())  # type: ignore[arg-type]
    assert [problem.location[0] for problem in problems] == [place]


def test_the_fingerprint_tells_what_work_it_is_and_not_how_it_is_done() -> None:
    assert fingerprint(GOOD._replace(timeout_seconds=7, priority=3, user_metadata={"try": 2})) == fingerprint(
        GOOD
    )
    for changes in (
        {"script_content": "2"},
        {"args": ("a",)},
        {"env_vars": {"A": "b"}},
        {"inputs": {"x": None}},
    ):
        assert fingerprint(GOOD._replace(**changes)) != fingerprint(GOOD)  # type: ignore[arg-type]


def test_tenants_share_no_specification() -> None:
    assert specification_id("a", GOOD.specification) != specification_id("b", GOOD.specification)


@given(
    st.lists(st.binary(max_size=200), max_size=20),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
def test_a_frame_is_read_back_as_it_was(parts: list[bytes], header: dict[str, int]) -> None:
    header.pop("blobs", None)
    read, read_parts = frames.decode(frames.encode(header, parts))
    assert read_parts == parts
    assert {name: value for name, value in read.items() if name != "blobs"} == header


@given(st.binary(max_size=300))
def test_rubbish_is_no_frame(body: bytes) -> None:
    try:
        header, parts = frames.decode(body)
    except frames.FrameError:
        return
    assert frames.encode({k: v for k, v in header.items() if k != "blobs"}, parts)


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5), st.data())
def test_a_frame_that_was_cut_or_changed_is_refused(parts: list[bytes], data: st.DataObject) -> None:
    frame = frames.encode({}, parts)
    with pytest.raises(frames.FrameError):
        frames.decode(frame[: data.draw(st.integers(0, len(frame) - 1))])
    with pytest.raises(frames.FrameError):
        frames.decode(frame + b"x")


@given(st.integers(0, 10**9), st.integers(100, 64_000), st.integers(16, 262_144))
def test_a_longer_run_never_costs_less(duration_ms: int, cpus_milli: int, memory_mib: int) -> None:
    def cost(held_ms: int) -> int:
        vcpu_ms, mib_ms = reserve(held_ms, cpus_milli, memory_mib)
        return charge_nanos(Usage(held_ms, vcpu_ms, mib_ms), DEFAULT_PRICES[0])

    assert 0 <= cost(duration_ms) <= cost(duration_ms + 1000)


def test_a_clock_that_went_backwards_costs_nothing() -> None:
    assert reserve(-5, 1000, 1024) == (0, 0)


def test_a_machine_of_two_vcpus_and_four_gib_costs_six_thousandths_an_hour() -> None:
    vcpu_ms, mib_ms = reserve(3_600_000, 2000, 4096)
    assert charge_nanos(Usage(3_600_000, vcpu_ms, mib_ms), DEFAULT_PRICES[0]) == 6_000_000


def test_the_price_in_force_is_the_newest_that_has_begun() -> None:
    book = [Price("old", "local", 0, 1, 1), Price("new", "local", 100, 2, 2), Price("other", "ray", 50, 3, 3)]
    assert [price_at(book, "local", at).price_id for at in (0, 99, 100, 500)] == ["old", "old", "new", "new"]
    with pytest.raises(LookupError, match="ray"):
        price_at(book, "ray", 49)


@pytest.mark.parametrize(
    ("limit", "used", "status", "percent"),
    [
        (None, 5, BudgetStatus.UNLIMITED, 0.0),
        (100, 0, BudgetStatus.OK, 0.0),
        (100, 79, BudgetStatus.OK, 79.0),
        (100, 80, BudgetStatus.WARNING, 80.0),
        (100, 100, BudgetStatus.BLOCKED, 100.0),
        (100, 150, BudgetStatus.BLOCKED, 150.0),
        (0, 0, BudgetStatus.BLOCKED, 100.0),
    ],
)
def test_a_budget_says_how_it_stands(
    limit: int | None, used: int, status: BudgetStatus, percent: float
) -> None:
    budget = Budget(limit, used)
    assert (budget.status, budget.usage_percent) == (status, percent)
    assert budget.message


@pytest.mark.parametrize(
    ("counts", "closed", "status"),
    [
        (Counts(queued=2), True, Status.QUEUED),
        (Counts(queued=1, running=1), True, Status.RUNNING),
        (Counts(completed=1, queued=1), True, Status.RUNNING),
        (Counts(completed=2), True, Status.COMPLETED),
        (Counts(completed=2), False, Status.RUNNING),
        (Counts(completed=1, failed=1, canceled=1), True, Status.FAILED),
        (Counts(completed=1, canceled=1), True, Status.CANCELED),
        (Counts(), True, Status.COMPLETED),
    ],
)
def test_a_batch_is_as_its_executions_are(counts: Counts, closed: bool, status: Status) -> None:
    assert batch_status(counts, closed=closed) is status


def test_a_batch_is_ready_at_the_pace_so_far() -> None:
    assert eta_seconds(Counts(queued=10), [], 5000) is None
    assert eta_seconds(Counts(completed=2), [], 4000) == 0
    # two at a time, two seconds each: six more take six seconds
    ends = [End(1000, 3000), End(1000, 3000)]
    assert eta_seconds(Counts(queued=6, completed=2), ends, 3000) == 6


def test_what_a_batch_waited_before_its_latest_ends_says_nothing_of_its_pace() -> None:
    ends = [End(None, 3_600_000 + 1000 * n) for n in range(PACE_ENDS)]
    newest = ends[-1].ended_at_ms
    counts = Counts(queued=30, completed=2 * PACE_ENDS)
    assert eta_seconds(counts, ends, newest) == 30
    # nothing has ended since for as long again: it is at half the pace
    assert eta_seconds(counts, ends, newest + 1000 * (PACE_ENDS - 1)) == 60


def test_admin_opens_all_but_what_runners_do() -> None:
    assert opens([Scope.ADMIN], Scope.SUBMIT)
    assert opens([Scope.ADMIN], Scope.READ)
    assert not opens([Scope.ADMIN], Scope.RUNNER)
    assert not opens([Scope.RUNNER], Scope.READ)
    assert not opens([], Scope.READ)


def test_an_unknown_scope_is_named_beside_those_that_are() -> None:
    assert parse_scopes("submit, read") == (Scope.SUBMIT, Scope.READ)
    with pytest.raises(ValueError, match="submit, read, admin, runner"):
        parse_scopes("everything")


def test_a_key_is_kept_as_a_hash() -> None:
    assert hash_key("sk_a") != hash_key("sk_b")
    assert "sk_a" not in hash_key("sk_a")


def test_an_estimate_is_the_median_or_a_minute() -> None:
    price = DEFAULT_PRICES[0]
    assert estimate(2, "python:3.11", [], price, 1000, 1024).duration_ms == 60_000
    found = estimate(3, "python:3.11", [1, 5, 100], price, 1000, 1024)
    assert (found.duration_ms, found.total_duration_ms) == (5, 15)


@given(st.text(max_size=20), st.integers(0, 10**6), st.text(max_size=80))
def test_a_token_opens_its_attempt_and_no_other(execution_id: str, attempt: int, forged: str) -> None:
    signer = Signer("secret")
    token = signer.attempt_token(execution_id, attempt)
    assert signer.is_attempt_token(token, execution_id, attempt)
    assert not signer.is_attempt_token(token, execution_id, attempt + 1)
    assert not signer.is_attempt_token(token, execution_id + "x", attempt)
    assert not Signer("another").is_attempt_token(token, execution_id, attempt)
    assert forged == token or not signer.is_attempt_token(forged, execution_id, attempt)
