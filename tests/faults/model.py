"""What must hold between a history and what there is in the end; the states are the domain's own.

The feed of an execution is read by a nondeterministic automaton: its states are sets of
``domain.execution.State``, its edges are the domain's transition functions. A feed that no run of the domain
could have written leaves the set empty.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from rgrid_server.domain import execution as rules
from rgrid_server.domain.attempts import Outcome
from rgrid_server.domain.execution import Ending, Refused, State, Status
from tests.faults.history import History, StoredEvent, StoredExecution, Truth, Work

EXHAUSTED = "attempts_exhausted"


@dataclass(frozen=True, slots=True)
class Violation:
    """What does not hold: the rule, the thing, and how it is broken."""

    rule: str
    thing: str
    how: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.thing}: {self.how}"


def check(history: History, truth: Truth) -> list[Violation]:
    """Everything that does not hold."""
    return [violation for rule in RULES for violation in rule(history, truth)]


def acknowledged_work_is_there_once(history: History, truth: Truth) -> Iterator[Violation]:
    """A run key leads to one id; what was acknowledged is there, and no work is there twice."""
    rule = "acknowledged once"
    by_name = Counter(item.name for item in truth.executions)
    for key, ids in history.acknowledged.items():
        if len(ids) != 1:
            yield Violation(rule, key, f"was answered with {sorted(ids)}")
    known = {item.execution_id for item in truth.executions} | {item.batch_id for item in truth.batches}
    for key, ids in history.acknowledged.items():
        for one in ids - known:
            yield Violation(rule, key, f"{one} was acknowledged and is lost")
    for work in history.works.values():
        there = by_name[work.name]
        if there > 1 or (there == 0 and work.run_key in history.acknowledged):
            yield Violation(rule, work.name, f"is there {there} times")


def nothing_unknown_is_there_or_has_run(history: History, truth: Truth) -> Iterator[Violation]:
    """Nothing is there or has run that nobody asked for; an unanswered submit is there under its key only."""
    rule = "known"
    key_of_batch = {item.batch_id: item.run_key for item in truth.batches}
    for item in truth.executions:
        work = history.works.get(item.name)
        key = item.run_key if item.batch_id is None else key_of_batch.get(item.batch_id)
        if work is None:
            yield Violation(rule, item.execution_id, f"nobody asked for {item.name!r}")
        elif key != work.run_key:
            yield Violation(rule, item.execution_id, f"has the run key {key!r}, not {work.run_key!r}")
    there = {item.execution_id: item.name for item in truth.executions}
    for ran in truth.ran:
        if there.get(ran.execution_id) != ran.name:
            yield Violation(rule, ran.execution_id, f"{ran.name!r} has run and is not there")


def everything_ends_once(_history: History, truth: Truth) -> Iterator[Violation]:
    """Each execution is terminal, by one event that says what its row says."""
    rule = "terminal once"
    ends: dict[str, list[StoredEvent]] = defaultdict(list)
    for event in truth.events:
        if Status(event.status).is_terminal:
            ends[event.execution_id].append(event)
    for item in truth.executions:
        found = ends[item.execution_id]
        if not Status(item.status).is_terminal:
            yield Violation(rule, item.execution_id, f"is {item.status} in the end")
        if len(found) != 1:
            yield Violation(rule, item.execution_id, f"has ended {len(found)} times")
        elif (found[0].status, found[0].attempt) != (item.status, item.attempt):
            yield Violation(rule, item.execution_id, f"is {item.status}, its last event is {found[0].status}")
    for attempt in truth.attempts:
        if attempt.outcome is None:
            yield Violation(rule, attempt.execution_id, f"attempt {attempt.attempt} is still open")


def transitions_are_the_domains(_history: History, truth: Truth) -> Iterator[Violation]:
    """The feed of each execution is one that the state machine can write, and leads to its row."""
    rule = "state machine"
    feeds: dict[str, list[StoredEvent]] = defaultdict(list)
    for event in sorted(truth.events, key=lambda event: event.sequence):
        feeds[event.execution_id].append(event)
    there = {item.execution_id: item for item in truth.executions}
    for execution_id in feeds.keys() - there.keys():
        yield Violation(rule, execution_id, "has events and is not there")
    for item in truth.executions:
        feed = feeds[item.execution_id]
        shown = " ".join(f"{event.status}/{event.attempt}" for event in feed)
        states = possible_states(feed, item.max_retries)
        if not states:
            yield Violation(rule, item.execution_id, f"no execution can go through {shown or 'no event'}")
        elif not any(
            (state.status, state.attempt, state.retry_count) == (item.status, item.attempt, item.retry_count)
            for state in states
        ):
            now = f"{item.status}/{item.attempt} after {item.retry_count} faults"
            yield Violation(rule, item.execution_id, f"is {now}, which {shown} does not lead to")


def observers_see_time_go_forward(history: History, _truth: Truth) -> Iterator[Violation]:
    """To each observer attempts never decrease, and what is terminal stays as it is."""
    rule = "observed"
    for observer, answers in history.seen.items():
        last: dict[str, tuple[str, int]] = {}
        for seen in answers:
            status, attempt = last.get(seen.execution_id, ("", 0))
            now = f"{seen.status}/{seen.attempt}"
            if seen.attempt < attempt:
                yield Violation(rule, seen.execution_id, f"{observer} saw attempt {attempt}, then {now}")
            if status in rules.TERMINAL and (status, attempt) != (seen.status, seen.attempt):
                yield Violation(rule, seen.execution_id, f"{observer} saw {status}/{attempt}, then {now}")
            last[seen.execution_id] = (seen.status, seen.attempt)


def results_are_whole(history: History, truth: Truth) -> Iterator[Violation]:
    """Work that was carried has all its output; work is given up only after as many faults as were made."""
    rule = "whole"
    for item in truth.executions:
        work = history.works.get(item.name)
        if work is None or item.status == Status.CANCELED:
            continue
        if item.status == Status.FAILED:
            if item.error_code != EXHAUSTED or item.attempt > len(history.disruptions):
                yield Violation(rule, item.execution_id, f"failed by {item.error_code}/{item.attempt}")
            continue
        if item.stdout != "".join(f"{line}\n" for line in work.lines):
            yield Violation(rule, item.execution_id, f"has the output {item.stdout[-200:]!r}")
        if dict(item.outputs) != dict(work.outputs):
            yield Violation(rule, item.execution_id, f"has the files {sorted(item.outputs)} or other bytes")
        yield from _check_log(rule, item, work)


def _check_log(rule: str, item: StoredExecution, work: Work) -> Iterator[Violation]:
    """Every line once and in order; an attempt that was lost has left the beginning of its log."""
    numbers = [line.sequence for line in item.log]
    if numbers != list(range(1, len(numbers) + 1)):
        yield Violation(rule, item.execution_id, f"has log entries {numbers[:50]}")
    by_attempt: dict[int, list[str]] = defaultdict(list)
    for line in item.log:
        by_attempt[line.attempt].append(line.text)
    if [line.attempt for line in item.log] != sorted(line.attempt for line in item.log):
        yield Violation(rule, item.execution_id, "has the logs of its attempts mixed")
    for attempt, lines in by_attempt.items():
        if tuple(lines) != work.lines[: len(lines)]:
            yield Violation(rule, item.execution_id, f"attempt {attempt} has logged {lines[-20:]}")
    if tuple(by_attempt[item.attempt]) != work.lines:
        yield Violation(
            rule, item.execution_id, f"its last attempt has logged {len(by_attempt[item.attempt])} lines"
        )


def attempts_run_once(history: History, truth: Truth) -> Iterator[Violation]:
    """No attempt begins twice, none beyond the last, and what completed has come to its end."""
    rule = "run once"
    ended = {(ran.execution_id, ran.attempt) for ran in truth.ran if ran.times_ended}
    last = {item.execution_id: item.attempt for item in truth.executions}
    for ran in truth.ran:
        if ran.times_begun != 1 or ran.times_ended > 1:
            yield Violation(rule, ran.execution_id, f"attempt {ran.attempt} began {ran.times_begun} times")
        if ran.attempt > last.get(ran.execution_id, ran.attempt):
            yield Violation(rule, ran.execution_id, f"attempt {ran.attempt} has run and was never given")
    for item in truth.executions:
        if item.status == Status.COMPLETED and item.name in history.works:
            if (item.execution_id, item.attempt) not in ended:
                yield Violation(rule, item.execution_id, "completed and has not come to its end")
            if item.attempt > 1 + len(history.disruptions):
                yield Violation(rule, item.execution_id, f"took {item.attempt} attempts without a reason")


def money_adds_up(_history: History, truth: Truth) -> Iterator[Violation]:
    """One usage and at most one charge an attempt, as the price book says; sums are those of their parts."""
    rule = "money"
    usages = Counter((item.execution_id, item.attempt) for item in truth.usages)
    charges = Counter((item.execution_id, item.attempt) for item in truth.charges)
    attempts = {(item.execution_id, item.attempt) for item in truth.attempts}
    for what, counted in (("usages", usages), ("charges", charges)):
        for (execution_id, attempt), count in counted.items():
            if count != 1:
                yield Violation(rule, execution_id, f"attempt {attempt} has {count} {what}")
        for execution_id, attempt in counted.keys() - attempts:
            yield Violation(rule, execution_id, f"attempt {attempt}, which has {what}, never was")
    for execution_id, attempt in attempts - usages.keys():
        yield Violation(rule, execution_id, f"attempt {attempt} has no usage")
    nanos = {(item.execution_id, item.attempt): item.nanos for item in truth.charges}
    for usage in truth.usages:
        charged = nanos.get((usage.execution_id, usage.attempt), 0)
        if usage.duration_ms < 0 or charged != usage.due_nanos:
            yield Violation(
                rule,
                usage.execution_id,
                f"attempt {usage.attempt} of {usage.duration_ms} ms cost {charged}, not {usage.due_nanos}",
            )
    of_execution = _sums((item.execution_id, item.nanos) for item in truth.charges)
    for item in truth.executions:
        if item.charge_nanos != of_execution[item.execution_id]:
            yield Violation(
                rule, item.execution_id, f"says {item.charge_nanos}, has {of_execution[item.execution_id]}"
            )
    total = sum(item.nanos for item in truth.charges)
    for name, said in (("spend_daily", truth.sums.daily_nanos), ("spend_monthly", truth.sums.monthly_nanos)):
        if said != total:
            yield Violation(rule, name, f"says {said}, the charges are {total}")
    finals = Counter(item.execution_id for item in truth.usages if item.is_final)
    for execution_id, count in finals.items():
        if count != 1:
            yield Violation(rule, execution_id, f"has {count} final usages")
    if truth.sums.daily_executions != len(finals):
        yield Violation(rule, "spend_daily", f"counts {truth.sums.daily_executions}, not {len(finals)} ends")


def batches_count_right(_history: History, truth: Truth) -> Iterator[Violation]:
    """The counters of a batch are counts, its sum is a sum, and it is complete with its last execution."""
    rule = "batches"
    counts: dict[str | None, Counter[str]] = defaultdict(Counter)
    for item in truth.executions:
        counts[item.batch_id][item.status] += 1
    charged = _sums((item.batch_id, item.charge_nanos) for item in truth.executions)
    for batch in truth.batches:
        said = {status: count for status, count in batch.counts.items() if count}
        if said != dict(counts[batch.batch_id]):
            yield Violation(rule, batch.batch_id, f"counts {said}, has {dict(counts[batch.batch_id])}")
        if batch.charge_nanos != charged[batch.batch_id]:
            yield Violation(rule, batch.batch_id, f"says {batch.charge_nanos}, has {charged[batch.batch_id]}")
        if not batch.is_complete:
            yield Violation(rule, batch.batch_id, "is not complete in the end")


def nothing_is_left(_history: History, truth: Truth) -> Iterator[Violation]:
    """No process, workspace, half upload or blob that nothing names; no named blob is missing."""
    left = truth.left
    for what, found in (
        ("an orphan process", left.processes),
        ("a workspace", left.workspaces),
        ("half an upload", left.uploads),
        ("a blob that nothing names", left.unknown_blobs),
        ("a name without its blob", left.lacking_blobs),
    ):
        for one in found:
            yield Violation("left", one, f"is {what}")


RULES: tuple[Callable[[History, Truth], Iterable[Violation]], ...] = (
    acknowledged_work_is_there_once,
    nothing_unknown_is_there_or_has_run,
    everything_ends_once,
    transitions_are_the_domains,
    observers_see_time_go_forward,
    results_are_whole,
    attempts_run_once,
    money_adds_up,
    batches_count_right,
    nothing_is_left,
)


def possible_states(feed: Iterable[StoredEvent], max_retries: int) -> frozenset[State]:
    """The states that an execution may be in after a feed; none when no execution can have it."""
    states: set[State] | None = None
    for event in feed:
        if states is None:
            begun = (rules.submit(0, inputs_are_here=here, max_retries=max_retries) for here in (True, False))
            reached: Iterable[State] = begun
        else:
            reached = (after for state in states for after in _next_states(state))
        states = {
            _timeless(after)
            for after in reached
            if (after.status, after.attempt) == (event.status, event.attempt)
        }
    return frozenset(states or ())


_NOW_MS = 1
"""When everything happens: which transitions there are does not depend on when, but for the backoff."""

_ENDINGS = tuple(
    Ending(outcome, code, 0)
    for outcome in Outcome
    for code in ((0, 1) if outcome is Outcome.EXITED else (1,))
)


def _next_states(state: State) -> Iterator[State]:
    """Where one change of status leads to, with changes before it that no event tells of."""
    for quiet in _quietly(state):
        for step in _steps(quiet):
            with suppress(Refused):
                after = step(quiet)
                if after.status is not quiet.status:
                    yield after


def _quietly(state: State) -> Iterator[State]:
    """The state itself, and those that it may be in without an event."""
    yield state
    with suppress(Refused):
        yield rules.receive_inputs(state, _NOW_MS)
    if state.status is Status.RUNNING:
        yield rules.request_cancel(state, _NOW_MS)


def _steps(state: State) -> Iterator[Callable[[State], State]]:
    number = state.attempt
    yield lambda one: rules.claim(one, _NOW_MS)
    yield lambda one: rules.request_cancel(one, _NOW_MS)
    yield lambda one: rules.expire_inputs(one, _NOW_MS, ["a file"])
    yield lambda one: rules.release(one, number, _NOW_MS)
    yield lambda one: rules.expire_lease(one, number, _NOW_MS)
    for ending in _ENDINGS:
        yield lambda one, ending=ending: rules.end(one, number, ending, _NOW_MS)  # type: ignore[misc]


def _timeless(state: State) -> State:
    """The state without what only depends on when and why, so that few states are told apart."""
    return replace(
        state,
        created_at_ms=0,
        ready_at_ms=None if state.ready_at_ms is None else 0,
        started_at_ms=None,
        completed_at_ms=None,
        duration_ms=None,
        exit_code=None,
        error_code=None,
        error_message=None,
    )


def _sums(parts: Iterable[tuple[str | None, int]]) -> Mapping[str | None, int]:
    sums: dict[str | None, int] = defaultdict(int)
    for name, amount in parts:
        sums[name] += amount
    return sums
