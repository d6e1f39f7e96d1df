"""The state machine of an execution, by tables and by generated sequences of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rgrid_server.domain import execution as rules
from rgrid_server.domain.attempts import Outcome
from rgrid_server.domain.execution import Ending, Refused, RefusedReason, State, Status
from rgrid_server.domain.retries import CAUSES, RetryPolicy

OUTCOMES = st.sampled_from(list(Outcome))


def running() -> State:
    """An execution whose first attempt is carried."""
    return rules.claim(rules.submit(0, inputs_are_here=True), 10)


def ending(outcome: Outcome, exit_code: int | None = 0) -> Ending:
    """An ending after 5 ms."""
    return Ending(outcome=outcome, exit_code=exit_code, duration_ms=5)


@pytest.mark.parametrize(
    ("outcome", "exit_code", "status", "error_code"),
    [
        (Outcome.EXITED, 0, Status.COMPLETED, None),
        (Outcome.EXITED, 3, Status.FAILED, "exit_code"),
        (Outcome.SIGNALED, 139, Status.FAILED, "signal"),
        (Outcome.TIMED_OUT, 124, Status.FAILED, "timed_out"),
        (Outcome.OUT_OF_MEMORY, 137, Status.FAILED, "out_of_memory"),
        (Outcome.CANCELED, 143, Status.CANCELED, "canceled"),
        (Outcome.REJECTED, None, Status.FAILED, "rejected"),
    ],
)
def test_each_outcome_has_its_end(
    outcome: Outcome, exit_code: int | None, status: Status, error_code: str | None
) -> None:
    ended = rules.end(running(), 1, ending(outcome, exit_code), 20)
    assert (ended.status, ended.error_code, ended.exit_code) == (status, error_code, exit_code)
    assert ended.completed_at_ms == 20


def test_an_exit_of_0_with_an_error_is_a_failure() -> None:
    refused = Ending(Outcome.EXITED, 0, 5, error_code="output_limit", error_message="too much")
    ended = rules.end(running(), 1, refused, 20)
    assert (ended.status, ended.error_code, ended.exit_code) == (Status.FAILED, "output_limit", 0)


def test_a_fault_of_the_grid_is_tried_again_later_and_given_up_after_its_retries() -> None:
    state = rules.submit(0, inputs_are_here=True, max_retries=2)
    now = 0
    for attempt in (1, 2):
        state = rules.claim(state, now)
        state = rules.end(state, attempt, ending(Outcome.GRID_FAULT, None), now)
        assert state.status is Status.QUEUED
        assert state.ready_at_ms is not None
        assert state.ready_at_ms > now
        with pytest.raises(Refused):
            rules.claim(state, now)
        now = state.ready_at_ms
    state = rules.expire_lease(rules.claim(state, now), 3, now)
    assert (state.status, state.error_code) == (Status.FAILED, "attempts_exhausted")


def test_a_late_report_from_an_older_attempt_is_refused() -> None:
    again = rules.claim(rules.release(running(), 1, 20), 30)
    with pytest.raises(Refused) as refused:
        rules.end(again, 1, ending(Outcome.EXITED), 40)
    assert refused.value.reason is RefusedReason.STALE


def test_the_same_report_twice_is_a_duplicate() -> None:
    ended = rules.end(running(), 1, ending(Outcome.EXITED), 20)
    with pytest.raises(Refused) as refused:
        rules.end(ended, 1, ending(Outcome.EXITED), 30)
    assert refused.value.reason is RefusedReason.DUPLICATE


def test_a_handed_back_attempt_costs_no_retry() -> None:
    released = rules.release(running(), 1, 20)
    assert (released.status, released.retry_count, released.ready_at_ms) == (Status.QUEUED, 0, 20)


def test_what_is_to_be_canceled_is_not_queued_again() -> None:
    wanted = rules.request_cancel(running(), 20)
    assert rules.release(wanted, 1, 30).status is Status.CANCELED
    assert rules.expire_lease(wanted, 1, 30).status is Status.CANCELED


def test_missing_inputs_are_named() -> None:
    failed = rules.expire_inputs(rules.submit(0, inputs_are_here=False), 5, ["a.csv", "b.csv"])
    assert failed.status is Status.FAILED
    assert "a.csv, b.csv" in (failed.error_message or "")


def test_only_what_has_ended_can_be_acknowledged() -> None:
    with pytest.raises(Refused) as refused:
        rules.acknowledge(running(), 20)
    assert refused.value.reason is RefusedReason.NOT_FINISHED


FAILURES = [
    (Outcome.EXITED, 3, "exit_code"),
    (Outcome.SIGNALED, 139, "signal"),
    (Outcome.TIMED_OUT, 124, "timed_out"),
    (Outcome.OUT_OF_MEMORY, 137, "out_of_memory"),
]


def running_with(policy: RetryPolicy) -> State:
    """An execution with a policy, whose first attempt is carried."""
    return rules.claim(rules.submit(0, inputs_are_here=True, retry_policy=policy), 10)


@pytest.mark.parametrize(("outcome", "exit_code", "cause"), FAILURES)
@pytest.mark.parametrize("named", CAUSES)
def test_a_failure_is_tried_again_where_the_policy_names_it(
    outcome: Outcome, exit_code: int, cause: str, named: str
) -> None:
    ended = rules.end(
        running_with(RetryPolicy(1, on=(named,), backoff_seconds=2)), 1, ending(outcome, exit_code), 20
    )
    if cause == named:
        assert (ended.status, ended.ready_at_ms, ended.script_retry_count) == (Status.QUEUED, 2020, 1)
        assert (ended.exit_code, ended.error_code, ended.duration_ms) == (None, None, None)
    else:
        assert (ended.status, ended.error_code) == (Status.FAILED, cause)


def test_only_the_named_exit_codes_are_tried_again() -> None:
    state = running_with(RetryPolicy(1, exit_codes=(75,)))
    assert rules.end(state, 1, ending(Outcome.EXITED, 75), 20).status is Status.QUEUED
    assert rules.end(state, 1, ending(Outcome.EXITED, 74), 20).status is Status.FAILED
    assert rules.end(state, 1, ending(Outcome.SIGNALED, 139), 20).status is Status.QUEUED


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (ending(Outcome.EXITED, 0), Status.COMPLETED),
        (ending(Outcome.CANCELED, 143), Status.CANCELED),
        (ending(Outcome.REJECTED, None), Status.FAILED),
        (Ending(Outcome.EXITED, 0, 5, error_code="output_limit", error_message="too much"), Status.FAILED),
    ],
)
def test_what_is_no_failure_of_the_script_is_never_tried_again_by_policy(
    told: Ending, status: Status
) -> None:
    assert rules.end(running_with(RetryPolicy(20)), 1, told, 20).status is status


def test_the_last_attempt_decides() -> None:
    state = running_with(RetryPolicy(2, backoff_seconds=0))
    for attempt, exit_code in ((1, 3), (2, 4)):
        state = rules.claim(rules.end(state, attempt, ending(Outcome.EXITED, exit_code), 20), 20)
    failed = rules.end(state, 3, ending(Outcome.EXITED, 5), 30)
    assert (failed.status, failed.exit_code, failed.attempt) == (Status.FAILED, 5, 3)
    assert rules.end(state, 3, ending(Outcome.EXITED, 0), 30).status is Status.COMPLETED


def test_the_scripts_retries_and_the_grids_do_not_use_each_other_up() -> None:
    state = running_with(RetryPolicy(1, backoff_seconds=0))
    state = rules.claim(rules.end(state, 1, ending(Outcome.EXITED, 1), 20), 20)
    for attempt in (2, 3):
        state = rules.expire_lease(state, attempt, 30)
        state = rules.claim(state, state.ready_at_ms or 0)
    assert (state.retry_count, state.script_retry_count) == (2, 1)
    assert rules.expire_lease(state, 4, 10**6).error_code == "attempts_exhausted"
    assert rules.end(state, 4, ending(Outcome.EXITED, 1), 10**6).error_code == "exit_code"


def test_a_failure_of_what_is_to_be_canceled_is_not_tried_again() -> None:
    wanted = rules.request_cancel(running_with(RetryPolicy(5)), 15)
    assert rules.end(wanted, 1, ending(Outcome.EXITED, 1), 20).status is Status.FAILED


@given(
    st.floats(0, 86_400),
    st.floats(1, 100),
    st.floats(0, 86_400),
    st.integers(1, 20),
)
def test_a_policys_pauses_grow_up_to_the_longest(
    first: float, factor: float, most: float, retry: int
) -> None:
    policy = RetryPolicy(20, backoff_seconds=first, backoff_factor=factor, max_backoff_seconds=most)
    assert 0 <= policy.backoff_ms(retry) <= policy.backoff_ms(retry + 1) <= round(most * 1000)
    assert policy.backoff_ms(1) == round(min(first, most) * 1000)


@given(st.integers(min_value=1, max_value=100))
def test_backoff_grows_up_to_a_minute(retry_count: int) -> None:
    assert rules.retry_backoff_ms(retry_count) <= rules.retry_backoff_ms(retry_count + 1) <= 60_000


class Sequences(RuleBasedStateMachine):
    """Any events in any order: what is terminal stays, numbers only grow, one report ends an attempt."""

    @initialize(
        inputs_are_here=st.booleans(),
        max_retries=st.integers(0, 3),
        retry_policy=st.none()
        | st.builds(
            RetryPolicy,
            st.integers(0, 3),
            on=st.lists(st.sampled_from(CAUSES), min_size=1, unique=True).map(tuple),
            exit_codes=st.none() | st.just((1,)),
        ),
    )
    def begin(self, inputs_are_here: bool, max_retries: int, retry_policy: RetryPolicy | None) -> None:
        """Submit."""
        self.now = 0
        self.state = rules.submit(
            0, inputs_are_here=inputs_are_here, max_retries=max_retries, retry_policy=retry_policy
        )
        self.releases = 0
        self.ended_with: State | None = None
        self.highest_attempt = 0

    def _apply(self, event: object) -> None:
        self.now += 7
        before = self.state
        try:
            self.state = event()  # type: ignore[operator]
        except Refused:
            assert self.state == before
        if self.state.status.is_terminal and self.ended_with is None:
            self.ended_with = self.state

    @rule()
    def claim(self) -> None:
        """A runner asks."""
        self._apply(lambda: rules.claim(self.state, self.now))

    @rule()
    def claim_later(self) -> None:
        """A runner asks after any backoff."""
        self.now = max(self.now, self.state.ready_at_ms or 0)
        self._apply(lambda: rules.claim(self.state, self.now))

    @rule(offset=st.integers(-2, 1))
    def release(self, offset: int) -> None:
        """A runner hands back some attempt."""
        if offset == 0 and self.state.status is Status.RUNNING:
            self.releases += 1
        self._apply(lambda: rules.release(self.state, self.state.attempt + offset, self.now))

    @rule(offset=st.integers(-2, 1))
    def expire_lease(self, offset: int) -> None:
        """A lease of some attempt runs out."""
        self._apply(lambda: rules.expire_lease(self.state, self.state.attempt + offset, self.now))

    @rule(offset=st.integers(-2, 1), outcome=OUTCOMES, exit_code=st.sampled_from([0, 1, 139, None]))
    def end(self, offset: int, outcome: Outcome, exit_code: int | None) -> None:
        """Some attempt reports."""
        told = ending(outcome, exit_code)
        self._apply(lambda: rules.end(self.state, self.state.attempt + offset, told, self.now))

    @rule()
    def cancel(self) -> None:
        """The submitter wants it stopped."""
        self._apply(lambda: rules.request_cancel(self.state, self.now))

    @rule()
    def receive_inputs(self) -> None:
        """The last file arrives."""
        self._apply(lambda: rules.receive_inputs(self.state, self.now))

    @rule()
    def expire_inputs(self) -> None:
        """The files are overdue."""
        self._apply(lambda: rules.expire_inputs(self.state, self.now, ["x"]))

    @rule()
    def acknowledge(self) -> None:
        """The result is taken."""
        self._apply(lambda: rules.acknowledge(self.state, self.now))

    @precondition(lambda self: self.ended_with is not None)
    @invariant()
    def the_end_stays(self) -> None:
        """Nothing but the acknowledgement changes what is terminal."""
        assert self.ended_with is not None
        unchanged = ("status", "attempt", "exit_code", "error_code", "completed_at_ms", "duration_ms")
        assert all(getattr(self.state, name) == getattr(self.ended_with, name) for name in unchanged)

    @invariant()
    def numbers_only_grow(self) -> None:
        """An attempt's number is never used again."""
        assert self.state.attempt >= self.highest_attempt
        self.highest_attempt = self.state.attempt

    @invariant()
    def retries_are_bounded(self) -> None:
        """Faults and failures are tried again only so many times, and nothing else makes an attempt."""
        policy = self.state.retry_policy
        assert self.state.retry_count <= self.state.max_retries
        assert self.state.script_retry_count <= (policy.max_retries if policy else 0)
        retries = self.state.retry_count + self.state.script_retry_count
        assert self.state.attempt <= 1 + retries + self.releases

    @invariant()
    def times_are_in_order(self) -> None:
        """Created, started, completed."""
        times = [self.state.created_at_ms, self.state.started_at_ms, self.state.completed_at_ms]
        known = [at for at in times if at is not None]
        assert known == sorted(known)
        assert (self.state.completed_at_ms is not None) == self.state.status.is_terminal


TestSequences = Sequences.TestCase
