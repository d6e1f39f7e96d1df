"""The state machine of an execution: every transition is one function here, and nothing else sets a status.

States and the functions that lead between them::

    queued ──claim──► running ──end──► completed | failed | canceled
      ▲  │               │
      │  ├─request_cancel─► canceled (at once)
      │  ├─expire_inputs──► failed
      │  └─receive_inputs─► queued, now ready to be claimed
      │                  │
      └──release, fault──┘  (a fault: with backoff, and only so many times; so does a failure of
                             the script, as often as its submitter's policy says)

A transition takes the state and what happened, and returns the new state, or raises :class:`Refused`. The
attempt number is the fencing token (Kleppmann, "How to do distributed locking", 2016): whatever comes under
an older number than the state's is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from rgrid_server.domain.attempts import Outcome
from rgrid_server.domain.retries import RetryPolicy

DEFAULT_MAX_RETRIES = 2
"""A fault of the grid is tried again twice; a script's own failure never, unless its submitter asks."""

RETRY_BACKOFF_BASE_MS = 500
RETRY_BACKOFF_MAX_MS = 60_000


class Status(StrEnum):
    """The five status words of the wire."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELED})


class RefusedReason(StrEnum):
    """Why a transition was refused; the runner is told in these words."""

    STALE = "stale"
    DUPLICATE = "duplicate"
    NOT_READY = "not_ready"
    NOT_FINISHED = "not_finished"


class Refused(Exception):
    """The event does not apply to the state; nothing changes."""

    def __init__(self, reason: RefusedReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class State:
    """What the transitions need to know of an execution, and all that they change.

    ``ready_at_ms`` is None while inputs are still to come; ``attempt`` is 0 before the first claim.
    ``retry_count`` and ``max_retries`` are those of the grid's faults, ``script_retry_count`` and
    ``retry_policy`` those of the script's own failures; neither uses up the other.
    """

    status: Status
    created_at_ms: int
    ready_at_ms: int | None
    attempt: int = 0
    retry_count: int = 0
    max_retries: int = DEFAULT_MAX_RETRIES
    script_retry_count: int = 0
    retry_policy: RetryPolicy | None = None
    started_at_ms: int | None = None
    completed_at_ms: int | None = None
    duration_ms: int | None = None
    cancel_requested_at_ms: int | None = None
    acknowledged_at_ms: int | None = None
    exit_code: int | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, as reported under its number."""

    outcome: Outcome
    exit_code: int | None
    duration_ms: int
    error_code: str | None = None
    error_message: str | None = None


def submit(
    now_ms: int,
    *,
    inputs_are_here: bool,
    max_retries: int = DEFAULT_MAX_RETRIES,
    retry_policy: RetryPolicy | None = None,
) -> State:
    """Begin: ready at once, or held back until every file has arrived."""
    return State(
        status=Status.QUEUED,
        created_at_ms=now_ms,
        ready_at_ms=now_ms if inputs_are_here else None,
        max_retries=max_retries,
        retry_policy=retry_policy,
    )


def receive_inputs(state: State, now_ms: int) -> State:
    """The last missing input has arrived: runners may see it."""
    if state.status is not Status.QUEUED or state.ready_at_ms is not None:
        raise Refused(RefusedReason.DUPLICATE)
    return replace(state, ready_at_ms=now_ms)


def expire_inputs(state: State, now_ms: int, missing: list[str]) -> State:
    """The inputs did not come in time; the message names them."""
    if state.status is not Status.QUEUED or state.ready_at_ms is not None:
        raise Refused(RefusedReason.DUPLICATE)
    names = ", ".join(missing)
    return _finish(
        state,
        now_ms,
        Status.FAILED,
        error_code="inputs_missing",
        error_message=f"these input files did not arrive in time: {names}; submit again and upload them",
    )


def claim(state: State, now_ms: int) -> State:
    """A runner takes it, under the next attempt number."""
    if state.status is not Status.QUEUED or state.ready_at_ms is None or state.ready_at_ms > now_ms:
        raise Refused(RefusedReason.NOT_READY)
    return replace(state, status=Status.RUNNING, attempt=state.attempt + 1, started_at_ms=now_ms)


def release(state: State, attempt: int, now_ms: int) -> State:
    """A runner hands an attempt back that it will not finish; that is nobody's fault and costs no retry."""
    _check_attempt(state, attempt)
    if state.cancel_requested_at_ms is not None:
        return _canceled(state, now_ms)
    return replace(state, status=Status.QUEUED, ready_at_ms=now_ms, started_at_ms=None)


def expire_lease(state: State, attempt: int, now_ms: int) -> State:
    """The runner has not been heard of: a fault of the grid."""
    _check_attempt(state, attempt)
    return _fault(state, now_ms, "the runner that carried it was lost")


def end(state: State, attempt: int, ending: Ending, now_ms: int) -> State:
    """The attempt's own report: the end of the execution, unless it is tried again."""
    _check_attempt(state, attempt)
    if ending.outcome is Outcome.GRID_FAULT:
        return _fault(state, now_ms, ending.error_message or "the grid failed to carry it")
    finished = replace(state, duration_ms=ending.duration_ms)
    if ending.outcome is Outcome.EXITED and ending.exit_code == 0 and ending.error_code is None:
        return _finish(finished, now_ms, Status.COMPLETED, exit_code=0)
    if ending.outcome is Outcome.CANCELED:
        return _canceled(finished, now_ms, ending.exit_code)
    error_code = ending.error_code or _DEFAULT_ERROR_CODES[ending.outcome]
    if _is_tried_again(state, error_code, ending.exit_code):
        return _script_retry(state, now_ms)
    return _finish(
        finished,
        now_ms,
        Status.FAILED,
        exit_code=ending.exit_code,
        error_code=error_code,
        error_message=ending.error_message or f"the script ended with exit code {ending.exit_code}",
    )


def request_cancel(state: State, now_ms: int) -> State:
    """The submitter wants it stopped: at once if it is queued, by its runner if it is running."""
    if state.status.is_terminal or state.cancel_requested_at_ms is not None:
        return state
    if state.status is Status.QUEUED:
        return _canceled(replace(state, cancel_requested_at_ms=now_ms), now_ms)
    return replace(state, cancel_requested_at_ms=now_ms)


def acknowledge(state: State, now_ms: int) -> State:
    """The caller has taken the result: its run key is free again."""
    if not state.status.is_terminal:
        raise Refused(RefusedReason.NOT_FINISHED)
    if state.acknowledged_at_ms is not None:
        return state
    return replace(state, acknowledged_at_ms=now_ms)


def is_charged(outcome: Outcome) -> bool:
    """A fault of the grid costs the submitter nothing, nor does what was never started."""
    return outcome not in {Outcome.GRID_FAULT, Outcome.REJECTED}


def retry_backoff_ms(retry_count: int) -> int:
    """Exponential backoff before the attempt that follows ``retry_count`` faults (1, 2, …)."""
    return min(RETRY_BACKOFF_MAX_MS, int(RETRY_BACKOFF_BASE_MS * 2 ** (retry_count - 1)))


_DEFAULT_ERROR_CODES = {
    Outcome.EXITED: "exit_code",
    Outcome.SIGNALED: "signal",
    Outcome.TIMED_OUT: "timed_out",
    Outcome.OUT_OF_MEMORY: "out_of_memory",
    Outcome.REJECTED: "rejected",
}


def _check_attempt(state: State, attempt: int) -> None:
    if attempt != state.attempt:
        raise Refused(RefusedReason.STALE)
    if state.status is not Status.RUNNING:
        raise Refused(RefusedReason.DUPLICATE if state.status.is_terminal else RefusedReason.STALE)


def _fault(state: State, now_ms: int, message: str) -> State:
    if state.cancel_requested_at_ms is not None:
        return _canceled(state, now_ms)
    if state.retry_count >= state.max_retries:
        return _finish(
            state,
            now_ms,
            Status.FAILED,
            error_code="attempts_exhausted",
            error_message=f"given up after {state.attempt} attempts: {message}",
        )
    retry_count = state.retry_count + 1
    return replace(
        state,
        status=Status.QUEUED,
        retry_count=retry_count,
        ready_at_ms=now_ms + retry_backoff_ms(retry_count),
        started_at_ms=None,
    )


def _is_tried_again(state: State, error_code: str, exit_code: int | None) -> bool:
    policy = state.retry_policy
    if policy is None or state.cancel_requested_at_ms is not None:
        return False
    return state.script_retry_count < policy.max_retries and policy.covers(error_code, exit_code)


def _script_retry(state: State, now_ms: int) -> State:
    assert state.retry_policy is not None
    count = state.script_retry_count + 1
    return replace(
        state,
        status=Status.QUEUED,
        script_retry_count=count,
        ready_at_ms=now_ms + state.retry_policy.backoff_ms(count),
        started_at_ms=None,
    )


def _canceled(state: State, now_ms: int, exit_code: int | None = None) -> State:
    return _finish(
        state,
        now_ms,
        Status.CANCELED,
        exit_code=exit_code,
        error_code="canceled",
        error_message="canceled by its submitter",
    )


def _finish(
    state: State,
    now_ms: int,
    status: Status,
    *,
    exit_code: int | None = None,
    error_code: str | None = None,
    error_message: str | None = None,
) -> State:
    return replace(
        state,
        status=status,
        completed_at_ms=max(now_ms, state.started_at_ms or state.created_at_ms),
        exit_code=exit_code,
        error_code=error_code,
        error_message=error_message,
    )
