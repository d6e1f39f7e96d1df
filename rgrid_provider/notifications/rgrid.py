"""A notifier that says how a run or a task ended and what it cost on the grid, to a chat's webhook."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from rgrid.client import Client
from rgrid_provider._compat import BaseHook, BaseNotifier
from rgrid_provider.hooks.rgrid import RGridHook, address_of

SEND_SECONDS = 30.0
ENDED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
DEFAULT_MESSAGE = (
    "{{ rgrid.subject }}: {{ rgrid.outcome }}, {{ rgrid.cost_display }} for {{ rgrid.executions }}"
    " execution{{ '' if rgrid.executions == 1 else 's' }} on RGrid"
    "{% if rgrid.failed %} ({{ rgrid.failed }} failed){% endif %}"
    "{% if rgrid.has_budget %}. {{ rgrid.budget_message }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a message can say, as ``rgrid`` in its template.

    Attributes:
        subject: the DAG's id, or DAG and task where a task's callback asks.
        outcome: the state of the run or task, as Airflow has it.
        executions: how many have ended on the grid.
        failed: how many of these failed.
        cost_micros: what all of them cost so far, in micro-euro.
        cost_display: the same in words.
        has_budget: whether there is a monthly limit.
        budget_percent: how much of it is used.
        budget_message: the same in words.
    """

    subject: str
    outcome: str
    executions: int
    failed: int
    cost_micros: int
    cost_display: str
    has_budget: bool
    budget_percent: float
    budget_message: str


class RGridNotifier(BaseNotifier):
    """Posts ``{"text": ...}``, as Slack, Mattermost, Teams and many others take it, about what was spent.

    For ``on_success_callback`` and ``on_failure_callback`` of a DAG, where it sums the whole run, or of a
    task, where it sums that task; with ``budget_percent`` it speaks only once so much of the month's budget
    is used.

    Args:
        webhook_conn_id: an HTTP connection: its host is the webhook's address, with or without a scheme, and
            its password, where it has one, is appended to it as the secret part of the path. Extra's
            ``headers`` are sent too.
        message: a template; beside Airflow's context it has ``rgrid`` (see :class:`Facts`).
        budget_percent: say nothing below it.
        rgrid_conn_id: the RGrid connection.
    """

    template_fields: Sequence[str] = ("webhook_conn_id", "rgrid_conn_id")

    def __init__(
        self,
        *,
        webhook_conn_id: str,
        message: str = DEFAULT_MESSAGE,
        budget_percent: float | None = None,
        rgrid_conn_id: str = RGridHook.default_conn_name,
    ) -> None:
        super().__init__()
        self.webhook_conn_id = webhook_conn_id
        self.message = message
        self.budget_percent = budget_percent
        self.rgrid_conn_id = rgrid_conn_id

    def notify(self, context: Any) -> None:
        """Look up what was spent, and send it.

        Raises:
            rgrid.exceptions.RGridError: the server does not say.
            requests.RequestException: the webhook does not take it.
        """
        facts = find_facts(RGridHook(self.rgrid_conn_id).client, context)
        if self.budget_percent is not None and not (
            facts.has_budget and facts.budget_percent >= self.budget_percent
        ):
            return
        template = self.get_template_env(dag=context.get("dag")).from_string(self.message)
        text = template.render({**context, "rgrid": facts})
        url, headers = webhook_of(BaseHook.get_connection(self.webhook_conn_id))
        requests.post(url, json={"text": text}, headers=headers, timeout=SEND_SECONDS).raise_for_status()


def find_facts(client: Client, context: Mapping[str, Any]) -> Facts:
    """What the run of a context has cost, or its task where the context is of a task's callback."""
    # Airflow 3 tells a DAG's callback no more than dag, run_id and reason where the run had no task
    run = context.get("dag_run")
    dag_id = context["dag"].dag_id if run is None else run.dag_id
    run_id = context["run_id"] if run is None else run.run_id
    task_instance = None if "reason" in context else context.get("ti")
    filters = {"dag": dag_id, "run": run_id}
    if task_instance is not None:
        filters["task"] = task_instance.task_id
    since = _day_of(getattr(run, "start_date", None))
    found = client.cost_breakdown("dag", since=since, filters=filters)
    budget = client.budget()
    return Facts(
        subject=dag_id if task_instance is None else f"{dag_id}.{task_instance.task_id}",
        outcome=_outcome(context, run if task_instance is None else task_instance),
        executions=found.total_executions,
        failed=sum(group.failed for group in found.groups),
        cost_micros=found.total_cost_micros,
        cost_display=found.total_cost_display,
        has_budget=budget.has_limit,
        budget_percent=budget.usage_percent,
        budget_message=budget.message,
    )


def _outcome(context: Mapping[str, Any], ended: Any) -> str:
    """How it ended: the state, or where that is not written yet when the callback is called, why it was."""
    state = getattr(ended, "state", None)
    text = str(getattr(state, "value", state))
    if text in ENDED_STATES:
        return text
    return "failed" if context.get("exception") else str(context.get("reason") or "ended")


def webhook_of(connection: Any) -> tuple[str, dict[str, str]]:
    """Where to post, and with which headers.

    Raises:
        ValueError: the connection has no host.
    """
    url = address_of(connection, "the webhook's address").rstrip("/")
    if connection.password:
        url = f"{url}/{connection.password.lstrip('/')}"
    return url, dict(connection.extra_dejson.get("headers") or {})


def _day_of(instant: datetime.datetime | None) -> str | None:
    return None if instant is None else instant.astimezone(datetime.UTC).date().isoformat()
