"""RGridNotifier against a real server and a webhook that notes what it gets."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.dag import DAG

from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.notifications.rgrid import RGridNotifier
from rgrid_provider.operators.rgrid import RGridRunOperator
from tests.webhook import Post, Webhook

ContextOf = Callable[..., dict[str, Any]]


@pytest.fixture
def posts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Post]]:
    """What a webhook has got. The connection ``chat`` names it."""
    with Webhook() as webhook:
        monkeypatch.setenv("AIRFLOW_CONN_CHAT", webhook.connection("T0/secret"))
        monkeypatch.setenv("AIRFLOW_CONN_BROKEN", webhook.connection("broken"))
        yield webhook.posts


@pytest.fixture
def ended(context_of: ContextOf) -> dict[str, Any]:
    """The context of a DAG's callback, whose run had two executions on the grid, one of which failed."""
    for task_id, script in (("good", "sum(range(10**6))"), ("bad", "raise SystemExit(3)")):
        operator = RGridRunOperator(task_id=task_id, script=script, deferrable=False)
        context = context_of(operator)
        try:
            operator.execute(context)
        except Exception:
            assert task_id == "bad"
    task_instance = context["ti"]
    run = SimpleNamespace(
        dag_id=task_instance.dag_id,
        run_id=task_instance.run_id,
        state="failed",
        start_date=datetime.datetime.now(datetime.UTC),
    )
    return {
        "dag": DAG("tests", schedule=None),
        "run_id": run.run_id,
        "dag_run": run,
        "ti": task_instance,
        "reason": "task_failure",
    }


def test_a_runs_end_and_cost_are_told(posts: list[Post], ended: dict[str, Any]) -> None:
    RGridNotifier(webhook_conn_id="chat").notify(ended)
    ((path, room, body),) = posts
    assert (path, room) == ("/hooks/T0/secret", "grid")
    assert body["text"].startswith("tests: failed, €0.")
    assert "for 2 executions on RGrid (1 failed)" in body["text"]


def test_a_tasks_callback_tells_of_the_task(posts: list[Post], ended: dict[str, Any]) -> None:
    del ended["reason"]
    ended["ti"].task_id, ended["ti"].state = "good", "success"
    RGridNotifier(webhook_conn_id="chat")(ended)
    ((_, _, body),) = posts
    assert body["text"].startswith("tests.good: success, €0.")
    assert "for 1 execution on RGrid" in body["text"]


def test_a_callback_that_knows_little_is_enough(posts: list[Post], ended: dict[str, Any]) -> None:
    del ended["dag_run"], ended["ti"]
    RGridNotifier(webhook_conn_id="chat").notify(ended)
    assert posts[0][2]["text"].startswith("tests: task_failure, €0.")


def test_a_message_of_ones_own_knows_run_and_cost(posts: list[Post], ended: dict[str, Any]) -> None:
    message = "{{ run_id }} {{ rgrid.executions }} {{ rgrid.cost_micros >= 0 }}"
    RGridNotifier(webhook_conn_id="chat", message=message).notify(ended)
    assert posts[0][2] == {"text": f"{ended['run_id']} 2 True"}


def test_below_its_part_of_the_budget_it_is_silent(posts: list[Post], ended: dict[str, Any]) -> None:
    client = RGridHook().client
    RGridNotifier(webhook_conn_id="chat", budget_percent=0).notify(ended)
    try:
        client.set_budget(1000)
        RGridNotifier(webhook_conn_id="chat", budget_percent=50).notify(ended)
        assert posts == []
        RGridNotifier(webhook_conn_id="chat", budget_percent=0).notify(ended)
    finally:
        client.remove_budget()
    assert len(posts) == 1


def test_a_webhook_that_refuses_is_an_error(posts: list[Post], ended: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="500"):
        RGridNotifier(webhook_conn_id="broken").notify(ended)
