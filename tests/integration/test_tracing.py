"""One trace from the client through the server to the script, as a collector receives it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.conftest import Api
from tests.live import PYTHON, LiveServer
from tests.otlp import Collector, ReceivedSpan

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SCRIPT = "import os, pathlib\nprint(os.environ['TRACEPARENT'])\npathlib.Path('out.txt').write_text('x')\n"
OF_A_RUN = {
    *("POST /executions", "commit", "queued", "attempt"),
    *("inputs", "environment", "script", "outputs", "report"),
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Where the spans arrive."""
    with Collector() as found:
        yield found


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server and a runner that send spans soon after they are over."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with LiveServer(tmp_path_factory.mktemp("traced"), options=["--slots", "2"], env=env) as server:
        yield server.wait_for_runner()


def post(server: LiveServer, path: str, body: dict[str, Any], trace_parent: str) -> dict[str, Any]:
    """Submit under a trace of the caller's."""
    headers = {**server.headers, "traceparent": trace_parent}
    answer = requests.post(f"{server.api}{path}", json=body, headers=headers, timeout=60)
    answer.raise_for_status()
    made: dict[str, Any] = answer.json()
    return made


def of_trace(collector: Collector, trace_id: str, names: set[str]) -> dict[str, ReceivedSpan]:
    """The spans of a trace by name, once all of the names are there; each is there once."""
    spans = collector.wait_for(
        lambda found: names <= {span.name for span in found if span.trace_id == trace_id}
    )
    mine = [span for span in spans if span.trace_id == trace_id]
    assert len({span.name for span in mine}) == len(mine), mine
    return {span.name: span for span in mine}


def test_one_run_is_one_trace_from_client_to_script(
    collector: Collector, traced: LiveServer, tmp_path: Path
) -> None:
    (tmp_path / "traced.py").write_text(SCRIPT)
    env = {
        **os.environ,
        "RGRID_API_URL": traced.url,
        "RGRID_API_KEY": traced.api_key,
        "TRACEPARENT": f"00-{TRACE}-{CALLER}-01",
    }
    command = [str(PYTHON.parent / "rgrid"), "run", "-v", "traced.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=True
    )
    assert f"rgrid: trace {TRACE}" in done.stderr
    spans = of_trace(collector, TRACE, OF_A_RUN)
    submit, attempt, script = spans["POST /executions"], spans["attempt"], spans["script"]
    assert submit.parent_id == CALLER
    for name in ("commit", "queued", "attempt"):
        assert spans[name].parent_id == submit.span_id, name
        assert spans[name].service == "rgrid-server"
    for name in ("inputs", "environment", "script", "outputs", "report"):
        assert spans[name].parent_id == attempt.span_id, name
        assert spans[name].service == "rgrid-runner"
    assert done.stdout.strip() == f"00-{TRACE}-{script.span_id}-01"
    assert len({span.span_id for span in spans.values()}) == len(spans)
    assert not any(span.is_error for span in spans.values())
    assert all(span.start_ns <= span.end_ns for span in spans.values())
    assert submit.start_ns <= spans["commit"].start_ns <= spans["commit"].end_ns <= submit.end_ns
    assert spans["queued"].end_ns == attempt.start_ns
    assert spans["inputs"].end_ns <= script.start_ns <= script.end_ns <= spans["report"].start_ns
    assert attempt.attributes["rgrid.outcome"] == "exited"
    assert re.fullmatch("exec_[0-9a-f]{32}", attempt.attributes["rgrid.execution_id"])
    assert submit.attributes["http.route"] == "/executions"


def test_without_a_caller_the_server_begins_the_trace(collector: Collector, traced: LiveServer) -> None:
    done = Api(traced.api, traced.api_key).run(SCRIPT)
    _, trace_id, span_id, flags = done["stdout"].strip().split("-")
    spans = of_trace(collector, trace_id, OF_A_RUN)
    assert spans["POST /executions"].parent_id == ""
    assert (spans["script"].span_id, flags) == (span_id, "01")


def test_what_its_caller_does_not_record_is_carried_and_not_sent(
    collector: Collector, traced: LiveServer
) -> None:
    trace_id = "a" * 32
    taken = post(traced, "/executions", {"script_content": SCRIPT}, f"00-{trace_id}-{CALLER}-00")
    api = Api(traced.api, traced.api_key)
    _, seen, _, flags = api.wait(taken["execution_id"])["stdout"].strip().split("-")
    assert (seen, flags) == (trace_id, "00")
    # spans are sent in order, so by when those of a later run are here those of this one would be
    later = api.run(SCRIPT)["stdout"].split("-")[1]
    of_trace(collector, later, OF_A_RUN)
    assert not [span for span in collector.wait_for(bool) if span.trace_id == trace_id]


def test_every_execution_of_a_batch_belongs_to_its_submission(
    collector: Collector, traced: LiveServer
) -> None:
    trace_id = "b" * 32
    body = {"template": {"script_content": SCRIPT}, "items": [{}, {}, {}]}
    post(traced, "/batches", body, f"00-{trace_id}-{CALLER}-01")
    spans = collector.wait_for(
        lambda found: (
            sum(span.trace_id == trace_id and span.name in {"attempt", "report"} for span in found) == 6
        )
    )
    mine = [span for span in spans if span.trace_id == trace_id]
    (submit,) = [span for span in mine if span.name == "POST /batches"]
    attempts = [span for span in mine if span.name == "attempt"]
    assert [span.parent_id for span in attempts] == [submit.span_id] * 3
    assert len({span.span_id for span in attempts}) == 3


def test_a_failure_is_seen_in_its_trace(collector: Collector, traced: LiveServer) -> None:
    trace_id = "c" * 32
    body = {"script_content": "print(1)", "requirements_content": "-r another-file"}
    post(traced, "/executions", body, f"00-{trace_id}-{CALLER}-01")
    spans = of_trace(collector, trace_id, {"attempt", "environment", "report"})
    assert {name for name, span in spans.items() if span.is_error} == {"attempt", "environment"}
    assert spans["attempt"].attributes["rgrid.outcome"] == "rejected"


def test_a_trace_is_carried_to_the_script_where_no_spans_are_sent(live_server: LiveServer) -> None:
    trace_parent = f"00-{TRACE}-{CALLER}-01"
    taken = post(live_server, "/executions", {"script_content": SCRIPT}, trace_parent)
    done = Api(live_server.api, live_server.api_key).wait(taken["execution_id"])
    assert done["stdout"].strip() == trace_parent


def test_a_script_of_no_trace_has_none(api: Api) -> None:
    assert api.run("import os; print('TRACEPARENT' in os.environ)")["stdout"] == "False\n"


def test_nothing_that_makes_or_sends_spans_is_loaded_where_nobody_asks() -> None:
    code = (
        "import sys, rgrid_server.serve, rgrid_server.runner.__main__\n"
        "from rgrid_server.observability.tracing import make_tracing\n"
        "assert not make_tracing('x', None).is_on\n"
        # FastAPI loads the API by itself where it is installed
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter', 'google.protobuf')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
