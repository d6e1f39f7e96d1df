"""A task that ends while its submission is on the way: what came of it is found by its run key, and ended.

A proxy keeps back the server's answer, so the signal comes when the work is there and the task does not know.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowTaskTimeout

import rgrid_provider.operators.base as base
from rgrid.client import Client
from rgrid.models import Execution
from rgrid_provider.operators.rgrid import RGridBatchOperator, RGridRunOperator
from tests.airflow.dag_runs import MAJOR
from tests.faults.proxy import Proxy
from tests.live import LiveServer

ContextOf = Callable[..., dict[str, Any]]

SLEEPER = "import time\ntime.sleep(60)"


class Terminated(BaseException):
    """What 2.11 raises behind a task's on_kill, where it is; or the end of a process."""


@pytest.fixture
def proxy(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Stands between the operators and the server."""
    address = urlsplit(server.url)
    with Proxy(lambda: (str(address.hostname), int(address.port or 0))) as proxy:
        connection = {"conn_type": "rgrid", "host": proxy.url, "password": server.api_key}
        monkeypatch.setenv("AIRFLOW_CONN_RGRID_DEFAULT", json.dumps(connection))
        yield proxy


@pytest.fixture
def client(server: LiveServer) -> Iterator[Client]:
    """Asks the server itself."""
    with Client(server.url, server.api_key) as client:
        yield client


@pytest.fixture(params=["run", "batch"])
def operator(request: pytest.FixtureRequest) -> Any:
    """An operator of each kind, whose work goes on for long."""
    if request.param == "run":
        return RGridRunOperator(task_id="task", script=SLEEPER, deferrable=False)
    return RGridBatchOperator(task_id="task", script=SLEEPER, inputs=["1", "2"], deferrable=False)


@contextmanager
def signaled_when_kept_back(proxy: Proxy, handler: Callable[[], None]) -> Iterator[None]:
    """Call something as a signal's handler does, once the next answer is there and is kept back."""
    proxy.hold_next()
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: handler())

    def send() -> None:
        assert proxy.held.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def executions_of(client: Client, context: dict[str, Any]) -> list[Execution]:
    """What the grid has of a task's run."""
    return client.list(metadata={"run_id": context["ti"].run_id})


def ends_of(client: Client, context: dict[str, Any]) -> set[str]:
    """How all of it ended."""
    found = executions_of(client, context)
    return {client.wait(one.execution_id, timeout_seconds=30).status for one in found}


def test_a_timeout_while_it_submits_cancels_what_came_of_it(
    context_of: ContextOf, proxy: Proxy, client: Client, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_out() -> None:
        raise AirflowTaskTimeout("its time is over")

    context = context_of(operator)
    with signaled_when_kept_back(proxy, time_out), pytest.raises(AirflowTaskTimeout):
        operator.execute(context)
    assert ends_of(client, context) == {"canceled"}
    # Airflow says that next, and nobody is asked any more
    monkeypatch.setattr(base, "is_still_wanted", None)
    operator.on_kill()


def test_a_users_kill_while_it_submits_cancels_what_came_of_it(
    context_of: ContextOf, proxy: Proxy, client: Client, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "is_still_wanted", lambda _ti: False)
    context = context_of(operator)

    def kill() -> None:
        operator.on_kill()
        assert ends_of(client, context) == {"canceled"}
        if MAJOR == 2:
            raise Terminated
        # 3.x lets the task go on for some seconds; an answer that comes by then finds it ended
        proxy.release()

    with signaled_when_kept_back(proxy, kill), pytest.raises((AirflowException, Terminated)) as ended:
        operator.execute(context)
    assert MAJOR == 2 or "was ended while it submitted" in str(ended.value)


def test_a_worker_that_is_shut_down_while_it_submits_leaves_it_to_the_next_try(
    context_of: ContextOf, proxy: Proxy, client: Client, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "is_still_wanted", lambda _ti: True)
    context = context_of(operator)

    def shut_down() -> None:
        operator.on_kill()
        raise Terminated

    with signaled_when_kept_back(proxy, shut_down), pytest.raises(Terminated):
        operator.execute(context)
    left = executions_of(client, context)
    assert [one.cancel_requested_at for one in left] == [None] * len(left)
    operator.wait_for_completion = False
    again = context_of(operator, try_number=2)
    operator.execute(again)
    assert {one.execution_id for one in executions_of(client, again)} == {one.execution_id for one in left}
    for one in left:
        client.cancel(one.execution_id)
