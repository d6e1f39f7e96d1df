"""The check finds what it is for: each history with one flaw is caught by the rule that is meant for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.history import (
    History,
    Left,
    LogLine,
    Ran,
    Recorder,
    StoredAttempt,
    StoredBatch,
    StoredCharge,
    StoredEvent,
    StoredExecution,
    StoredUsage,
    Sums,
    Truth,
    Work,
)
from tests.faults.model import check, possible_states

LINES = ("one 0", "one 1")


def good() -> tuple[History, Truth]:
    """One execution that was lost once and one in a batch, both as they should be."""
    recorder = Recorder()
    recorder.asks(Work("one", "one", LINES, {"mark": "aa"}), Work("two", "batch", ("two 0",), {}))
    recorder.is_acknowledged("one", "exec_1")
    recorder.is_acknowledged("batch", "batch_1")
    recorder.sees("observer", "exec_1", "running", 1)
    recorder.sees("observer", "exec_1", "queued", 1)
    recorder.sees("observer", "exec_1", "completed", 2)
    recorder.sees("observer", "exec_1", "completed", 2)
    recorder.is_disrupted("a runner was killed")
    feed_1 = [("queued", 0), ("running", 1), ("queued", 1), ("running", 2), ("completed", 2)]
    feed_2 = [("queued", 0), ("running", 1), ("completed", 1)]
    one = StoredExecution(
        execution_id="exec_1",
        name="one",
        run_key="one",
        batch_id=None,
        status="completed",
        attempt=2,
        retry_count=1,
        max_retries=2,
        error_code=None,
        stdout="one 0\none 1\n",
        outputs={"mark": "aa"},
        log=(LogLine(1, 1, "one 0"), LogLine(2, 2, "one 0"), LogLine(3, 2, "one 1")),
        charge_nanos=7,
    )
    two = replace(
        one,
        execution_id="exec_2",
        name="two",
        run_key=None,
        batch_id="batch_1",
        attempt=1,
        retry_count=0,
        stdout="two 0\n",
        outputs={},
        log=(LogLine(1, 1, "two 0"),),
        charge_nanos=5,
    )
    truth = Truth(
        executions=(one, two),
        attempts=(
            StoredAttempt("exec_1", 1, "grid_fault"),
            StoredAttempt("exec_1", 2, "exited"),
            StoredAttempt("exec_2", 1, "exited"),
        ),
        usages=(
            StoredUsage("exec_1", 1, is_final=False, duration_ms=0, due_nanos=0),
            StoredUsage("exec_1", 2, is_final=True, duration_ms=70, due_nanos=7),
            StoredUsage("exec_2", 1, is_final=True, duration_ms=50, due_nanos=5),
        ),
        charges=(StoredCharge("exec_1", 2, 7), StoredCharge("exec_2", 1, 5)),
        events=tuple(
            StoredEvent(n, *event)
            for n, event in enumerate(
                [("exec_1", *step) for step in feed_1] + [("exec_2", *step) for step in feed_2]
            )
        ),
        batches=(StoredBatch("batch_1", "batch", {"completed": 1, "failed": 0}, 5, is_complete=True),),
        sums=Sums(daily_nanos=12, monthly_nanos=12, daily_executions=2),
        ran=(Ran("exec_1", 1, "one", 1, 0), Ran("exec_1", 2, "one", 1, 1), Ran("exec_2", 1, "two", 1, 1)),
    )
    return recorder.history(), truth


def rules_broken(history: History, truth: Truth) -> set[str]:
    """Which rules find something."""
    return {violation.rule for violation in check(history, truth)}


def test_a_good_history_passes() -> None:
    assert check(*good()) == []


def first(truth: Truth, **changes: object) -> Truth:
    """The truth with another first execution."""
    return replace(truth, executions=(replace(truth.executions[0], **changes), *truth.executions[1:]))  # type: ignore[arg-type]


def without_last_line(truth: Truth) -> Truth:
    return first(truth, log=truth.executions[0].log[:-1])


def with_a_line_twice(truth: Truth) -> Truth:
    log = truth.executions[0].log
    return first(truth, log=(*log, replace(log[-1], sequence=4)))


def with_lines_exchanged(truth: Truth) -> Truth:
    log = truth.executions[0].log
    return first(truth, log=(log[0], replace(log[2], sequence=2), replace(log[1], sequence=3)))


def with_a_gap_in_the_log(truth: Truth) -> Truth:
    log = truth.executions[0].log
    return first(truth, log=(log[0], log[1], replace(log[2], sequence=4)))


def with_attempts_logs_mixed(truth: Truth) -> Truth:
    log = truth.executions[0].log
    return first(truth, log=(log[0], log[1], log[2], LogLine(4, 1, "one 1")))


def with_an_event(truth: Truth, status: str, attempt: int) -> Truth:
    event = StoredEvent(100, "exec_1", status, attempt)
    return replace(truth, events=(*truth.events, event))


def without_event(truth: Truth, index: int) -> Truth:
    return replace(truth, events=truth.events[:index] + truth.events[index + 1 :])


def with_batch(truth: Truth, **changes: object) -> Truth:
    return replace(truth, batches=(replace(truth.batches[0], **changes),))  # type: ignore[arg-type]


def with_sums(truth: Truth, **changes: int) -> Truth:
    return replace(truth, sums=replace(truth.sums, **changes))


def with_ran(truth: Truth, **changes: object) -> Truth:
    return replace(truth, ran=(*truth.ran[:-1], replace(truth.ran[-1], **changes)))  # type: ignore[arg-type]


def with_usage(truth: Truth, **changes: object) -> Truth:
    return replace(truth, usages=(*truth.usages[:-1], replace(truth.usages[-1], **changes)))  # type: ignore[arg-type]


FLAWS: list[tuple[str, str, Callable[[Truth], Truth]]] = [
    ("acknowledged once", "lost", lambda t: replace(t, executions=t.executions[1:])),
    (
        "acknowledged once",
        "there twice",
        lambda t: replace(t, executions=(*t.executions, replace(t.executions[0], execution_id="exec_9"))),
    ),
    ("acknowledged once", "a lost batch", lambda t: replace(t, batches=())),
    ("known", "nobody's name", lambda t: first(t, name="nobody's")),
    ("known", "another run key", lambda t: first(t, run_key="another")),
    ("known", "has run and is not there", lambda t: with_ran(t, execution_id="exec_9")),
    ("terminal once", "still running", lambda t: first(t, status="running")),
    ("terminal once", "ended twice", lambda t: with_an_event(t, "completed", 2)),
    ("terminal once", "another end", lambda t: first(t, status="failed", error_code="exit_code")),
    (
        "terminal once",
        "an open attempt",
        lambda t: replace(t, attempts=(*t.attempts, StoredAttempt("exec_1", 3, None))),
    ),
    ("state machine", "ended before it ran", lambda t: without_event(t, 6)),
    ("state machine", "attempt 2 without attempt 1", lambda t: without_event(t, 1)),
    ("state machine", "runs after its end", lambda t: with_an_event(t, "running", 3)),
    ("state machine", "a fault that is not counted", lambda t: first(t, retry_count=2)),
    ("state machine", "no events", lambda t: replace(t, events=t.events[:5])),
    ("state machine", "another attempt in its row", lambda t: first(t, attempt=1)),
    ("whole", "another output", lambda t: first(t, stdout="one 0\n")),
    ("whole", "no file", lambda t: first(t, outputs={})),
    ("whole", "another file", lambda t: first(t, outputs={"mark": "bb"})),
    ("whole", "the last line is missing", without_last_line),
    ("whole", "a line twice", with_a_line_twice),
    ("whole", "lines exchanged", with_lines_exchanged),
    ("whole", "a gap", with_a_gap_in_the_log),
    ("whole", "attempts mixed", with_attempts_logs_mixed),
    ("whole", "failed without a fault", lambda t: first(t, status="failed", error_code="exit_code")),
    ("whole", "given up too early", lambda t: first(t, status="failed", error_code="attempts_exhausted")),
    ("run once", "an attempt twice", lambda t: with_ran(t, times_begun=2)),
    ("run once", "not to its end", lambda t: with_ran(t, times_ended=0)),
    ("run once", "an attempt that was never given", lambda t: with_ran(t, attempt=2)),
    ("run once", "more attempts than faults", lambda t: first(t, attempt=3)),
    ("money", "charged twice", lambda t: replace(t, charges=(*t.charges, t.charges[0]))),
    ("money", "not charged", lambda t: replace(t, charges=t.charges[:1])),
    ("money", "another price", lambda t: with_usage(t, due_nanos=6)),
    ("money", "a negative duration", lambda t: with_usage(t, duration_ms=-1)),
    ("money", "no usage", lambda t: replace(t, usages=t.usages[:-1])),
    ("money", "two final usages", lambda t: replace(t, usages=(*t.usages, replace(t.usages[1], attempt=3)))),
    (
        "money",
        "charged for no attempt",
        lambda t: replace(t, attempts=t.attempts[:-1]),
    ),
    ("money", "the execution's sum", lambda t: first(t, charge_nanos=8)),
    ("money", "the day's sum", lambda t: with_sums(t, daily_nanos=11)),
    ("money", "the month's sum", lambda t: with_sums(t, monthly_nanos=13)),
    ("money", "the day's count", lambda t: with_sums(t, daily_executions=3)),
    ("batches", "a count", lambda t: with_batch(t, counts={"completed": 1, "queued": 1})),
    ("batches", "its sum", lambda t: with_batch(t, charge_nanos=4)),
    ("batches", "not complete", lambda t: with_batch(t, is_complete=False)),
    ("left", "a process", lambda t: replace(t, left=Left(processes=("python script.py (7)",)))),
    ("left", "a workspace", lambda t: replace(t, left=Left(workspaces=("exec_1-1",)))),
    ("left", "half an upload", lambda t: replace(t, left=Left(uploads=("incoming/1",)))),
    ("left", "a blob", lambda t: replace(t, left=Left(unknown_blobs=("ab/cd",)))),
    ("left", "no blob", lambda t: replace(t, left=Left(lacking_blobs=("ab",)))),
]


@pytest.mark.parametrize(
    ("rule", "flaw"), [(rule, flaw) for rule, _, flaw in FLAWS], ids=[f"{r}: {n}" for r, n, _ in FLAWS]
)
def test_a_flaw_in_what_there_is_is_found(rule: str, flaw: Callable[[Truth], Truth]) -> None:
    history, truth = good()
    assert rule in rules_broken(history, flaw(truth))


def test_two_ids_under_one_run_key_are_found() -> None:
    history, truth = good()
    both = {**history.acknowledged, "one": frozenset({"exec_1", "exec_2"})}
    assert "acknowledged once" in rules_broken(replace(history, acknowledged=both), truth)


def test_an_unanswered_submission_may_be_there_and_may_be_missing() -> None:
    history, truth = good()
    unanswered = {key: ids for key, ids in history.acknowledged.items() if key != "one"}
    assert check(replace(history, acknowledged=unanswered), truth) == []
    more = {**history.works, "three": Work("three", "three", (), {})}
    assert check(replace(history, works=more), truth) == []


def test_an_observer_who_sees_an_older_attempt_is_found() -> None:
    recorder = Recorder()
    recorder.sees("observer", "exec_1", "running", 2)
    recorder.sees("observer", "exec_1", "running", 1)
    assert rules_broken(recorder.history(), Truth()) == {"observed"}


def test_an_observer_who_sees_an_end_undone_is_found() -> None:
    recorder = Recorder()
    recorder.sees("observer", "exec_1", "completed", 1)
    recorder.sees("observer", "exec_1", "running", 2)
    assert rules_broken(recorder.history(), Truth()) == {"observed"}


def test_attempts_are_given_up_only_after_as_many_faults() -> None:
    feed = [("queued", 0)]
    for attempt in (1, 2, 3):
        feed += [("running", attempt), ("queued", attempt)]
    feed[-1] = ("failed", 3)
    events = [StoredEvent(n, "exec_1", *event) for n, event in enumerate(feed)]
    assert {state.retry_count for state in possible_states(events, max_retries=2)} >= {2}
    # a script's own failure may come at any attempt, a fourth attempt after three faults may not
    again = [*events[:-1], StoredEvent(7, "exec_1", "queued", 3), StoredEvent(8, "exec_1", "running", 4)]
    faults = [state.retry_count for state in possible_states(again, max_retries=2)]
    assert faults
    assert max(faults) == 2
