"""Metrics, readiness and logs of a real server and its runner."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import signal
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.airflow_home import free_port
from tests.integration.conftest import Api
from tests.live import PYTHON, LiveServer

SECRET = "hunter2-in-an-environment-variable"
SCRIPT = "print('words of the script itself'); open('out.txt', 'w').write('x' * 10)"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that logs every request as JSON, and answers metrics on a port of their own."""
    data = tmp_path_factory.mktemp("watched")
    options = ["--slots", "2", "--log-format", "json", "--access-log", "--metrics-port", "0"]
    with LiveServer(data, options=options) as server:
        yield server.wait_for_runner()


@pytest.fixture(scope="module")
def watched_api(watched: LiveServer) -> Api:
    return Api(watched.api, watched.api_key)


def scrape(server: LiveServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels, from the port for metrics."""
    address = (server.data_dir / "metrics-address").read_text().strip()
    text = requests.get(f"{address}/metrics", timeout=30).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: dict[Any, float], name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_metrics_count_what_has_happened(watched: LiveServer, watched_api: Api) -> None:
    before = scrape(watched)
    done = watched_api.run(SCRIPT)
    failed = watched_api.run("raise SystemExit(3)")
    assert (done["status"], failed["status"]) == ("completed", "failed")
    watched_api.post("/blobs/missing", {"hashes": ["a" * 64]})
    watched_api.get(f"/input-cache/{'b' * 64}")
    after = scrape(watched)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("rgrid_executions_submitted_total") == 2
    assert grown("rgrid_submit_duration_seconds_count") == 2
    assert grown("rgrid_attempts_claimed_total") == 2
    assert grown("rgrid_queue_wait_seconds_count") == 2
    assert grown("rgrid_attempts_ended_total", outcome="exited") == 2
    assert grown("rgrid_reports_total", verdict="accepted") == 2
    assert grown("rgrid_script_duration_seconds_count") == 2
    assert grown("rgrid_output_bytes_total") == 10
    assert (
        grown("rgrid_environments_total", result="warm") + grown("rgrid_environments_total", result="built")
        == 2
    )
    assert grown("rgrid_blobs_asked_total", result="missing") == 1
    assert grown("rgrid_input_cache_lookups_total", result="miss") == 1
    assert grown("rgrid_charges_nanoeuros_total") > 0
    assert grown("rgrid_commit_duration_seconds_count") >= 6
    route = {"method": "POST", "route": "/executions", "status": "200"}
    assert grown("rgrid_http_request_duration_seconds_count", **route) == 2
    waited = {"method": "GET", "route": "/executions/{execution_id}?wait", "status": "200"}
    assert grown("rgrid_http_request_duration_seconds_count", **waited) >= 2
    assert value(after, "rgrid_queue_depth", priority="normal") == 0
    assert value(after, "rgrid_attempts_running") == 0
    assert value(after, "rgrid_runners") == 1
    assert value(after, "rgrid_runner_slots") == 2
    assert value(after, "rgrid_ready") == 1


def test_no_label_is_an_id(watched: LiveServer, watched_api: Api) -> None:
    execution = watched_api.run("print(1)")
    watched_api.get(f"/executions/{execution['execution_id']}/artifacts")
    watched_api.get("/no/such/path")
    watched_api.call("BREW", "/executions")
    labels = {text for _, pairs in scrape(watched) for _, text in pairs}
    assert not any(re.search("_[0-9a-f]{16}", text) for text in labels), labels
    assert {"(unmatched)", "/executions/{execution_id}/artifacts"} <= labels
    assert "BREW" not in labels


def test_what_waits_is_seen_in_the_queue(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "0", "--metrics-port", "0"]) as server:
        api = Api(server.api, server.api_key)
        api.submit("print(1)")
        api.submit("print(1)", priority=10)
        api.post("/batches", {"template": {"script_content": "print(1)"}, "items": [{}, {}, {}]})
        samples = scrape(server)
    assert value(samples, "rgrid_queue_depth", priority="normal") == 4
    assert value(samples, "rgrid_queue_depth", priority="high") == 1
    assert value(samples, "rgrid_executions_submitted_total") == 5


def test_metrics_want_an_administrators_key_on_the_apis_own_port(
    api: Api, anonymous: Api, tenant: Api, live_server: LiveServer
) -> None:
    assert anonymous.get("/metrics").status_code == 401
    assert tenant.get("/metrics").status_code == 403
    answer = api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "rgrid_build_info" in answer.text
    wanted = {"Accept": "application/openmetrics-text; version=1.0.0", **live_server.headers}
    open_metrics = requests.get(f"{live_server.url}/metrics", headers=wanted, timeout=30)
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")


def test_the_port_for_metrics_answers_nothing_else(watched: LiveServer) -> None:
    address = (watched.data_dir / "metrics-address").read_text().strip()
    assert requests.get(f"{address}/api/v1/executions", timeout=30).status_code == 404
    assert requests.post(f"{address}/metrics", timeout=30).status_code == 405


def test_a_server_without_an_option_has_no_port_for_metrics(live_server: LiveServer) -> None:
    assert not (live_server.data_dir / "metrics-address").exists()


def test_ready_says_so_without_a_key(live_server: LiveServer) -> None:
    for path in ("/ready", "/api/v1/ready", "/readyz"):
        answer = requests.get(f"{live_server.url}{path}", timeout=30)
        assert answer.status_code == 200
        assert answer.json()["status"] == "ready"


def test_not_ready_says_why_and_when_to_ask_again(tmp_path: Path) -> None:
    env = {"RGRID_MIN_FREE_BYTES": str(2**62)}
    with LiveServer(tmp_path / "data", options=["--slots", "0"], env=env) as server:
        answer = requests.get(f"{server.url}/ready", timeout=30)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        (reason,) = answer.json()["detail"]["reasons"]
        assert reason["code"] == "blobs"
        assert "make room" in reason["message"]
        # what can be taken is taken all the same
        Api(server.api, server.api_key).submit()


def test_while_it_drains_what_was_begun_is_finished_and_new_work_is_refused(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        data = b"x" * 200_000
        upload = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
        upload.putrequest("PUT", f"/api/v1/blobs/{_sha256(data)}")
        upload.putheader("Authorization", f"Bearer {server.api_key}")
        upload.putheader("Content-Length", str(len(data)))
        upload.endheaders(data[:100_000])
        _until_received(server)
        process = server._process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        refused = _until_refused(server)
        assert refused.headers["retry-after"] == "5"
        assert refused.json()["detail"]["error"] == "draining"
        ready = requests.get(f"{server.url}/ready", timeout=30)
        assert ready.status_code == 503
        assert ready.json()["detail"]["error"] == "draining"
        upload.send(data[100_000:])
        assert upload.getresponse().status == 201
        assert process.wait(timeout=60) == 0
        server._process = None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _until_received(server: LiveServer) -> None:
    """Wait until the beginning of an upload stands on the server's disk."""
    incoming = server.data_dir / "blobs" / "incoming"
    for _ in range(10_000):
        with contextlib.suppress(OSError):
            if any(file.stat().st_size for file in incoming.iterdir()):
                return
        requests.get(f"{server.url}/health", timeout=30)
    raise AssertionError("the upload has not begun")


def _until_refused(server: LiveServer) -> requests.Response:
    """Submit until the signal has arrived."""
    for _ in range(10_000):
        body = {"script_content": "print(1)"}
        answer = requests.post(f"{server.api}/executions", json=body, headers=server.headers, timeout=30)
        if answer.status_code != 200:
            return answer
    raise AssertionError("nothing was refused")


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes], sqlite3.Connection]]:
    """A server that waits for its database, which another connection holds; its address, and both."""
    held = sqlite3.connect(tmp_path / "rgrid.sqlite", isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    port = free_port()
    command = [str(PYTHON), "-m", "rgrid_server", "--port", str(port), "--data-dir", str(tmp_path)]
    process = subprocess.Popen([*command, "--slots", "0"], stderr=subprocess.PIPE)
    try:
        yield f"http://127.0.0.1:{port}", process, held
    finally:
        held.close()
        process.kill()
        process.communicate()


def _first_answer(url: str) -> requests.Response:
    for _ in range(2000):
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(url, timeout=30)
        time.sleep(0.02)
    raise AssertionError("it never answers")


def test_while_it_starts_it_says_so_and_when_to_ask_again(
    starting: tuple[str, subprocess.Popen[bytes], sqlite3.Connection],
) -> None:
    url, process, held = starting
    for path in ("/health", "/ready", "/api/v1/executions"):
        answer = _first_answer(f"{url}{path}")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert answer.json()["detail"]["error"] == "starting"
    held.execute("ROLLBACK")
    while requests.get(f"{url}/health", timeout=30).status_code == 503:
        assert process.poll() is None
    assert requests.get(f"{url}/ready", timeout=30).status_code == 200


def test_one_that_is_told_to_stop_while_it_starts_stops(
    starting: tuple[str, subprocess.Popen[bytes], sqlite3.Connection],
) -> None:
    url, process, held = starting
    assert _first_answer(f"{url}/health").status_code == 503
    process.send_signal(signal.SIGTERM)
    held.execute("ROLLBACK")
    assert process.wait(timeout=60) == 0


def test_every_request_leaves_a_line_with_its_id_tenant_and_route(watched: LiveServer) -> None:
    request_id = uuid.uuid4().hex
    headers = {**watched.headers, "X-Request-Id": request_id}
    for path in ("/executions", "/runtimes", "/executions/exec_unknown"):
        answer = requests.get(f"{watched.api}{path}", headers=headers, timeout=30)
        assert answer.headers["x-request-id"] == request_id
    found = [line for line in log_lines(watched.log) if line.get("request_id") == request_id]
    assert [(line["route"], line["status"]) for line in found] == [
        ("/executions", 200),
        ("/runtimes", 200),
        ("/executions/{execution_id}", 404),
    ]
    for line in found:
        assert line["level"] == "info"
        assert line["logger"] == "rgrid_server.access"
        assert line["tenant_id"].startswith("tenant_")
        assert line["duration_ms"] >= 0


@pytest.mark.parametrize("given", ["a b", "x" * 129, "ü", "<script>"])
def test_a_request_id_that_is_not_sane_is_replaced(watched: LiveServer, given: str) -> None:
    headers = {"X-Request-Id": given.encode()}
    answer = requests.get(f"{watched.url}/health", headers=headers, timeout=30)
    assert answer.headers["x-request-id"] != given
    assert answer.headers["x-request-id"].isalnum()


def test_nothing_that_opens_or_is_private_is_logged(watched: LiveServer, watched_api: Api) -> None:
    done = watched_api.run(SCRIPT, env_vars={"SECRET": SECRET}, timeout_seconds=60)
    requests.get(next(iter(done["download_urls"].values())), timeout=30).raise_for_status()
    requests.get(f"{watched.api}/executions", headers={"Authorization": "Bearer sk_wrong_wrong"}, timeout=30)
    watched_api.post("/executions", {"script_content": SCRIPT, "env_vars": {"SECRET": [SECRET]}})
    written = watched.log + (watched.data_dir / "runner.log").read_text()
    runner_key = (watched.data_dir / "runner.key").read_text().strip()
    for secret in (
        watched.api_key,
        runner_key,
        "sk_wrong_wrong",
        SECRET,
        "words of the script",
        "signature=",
    ):
        assert secret not in written, secret
    assert log_lines(written)


def test_the_runners_lines_are_json_too(watched: LiveServer) -> None:
    lines = log_lines((watched.data_dir / "runner.log").read_text())
    assert any(line["logger"].startswith("rgrid_server.runner") for line in lines)


def log_lines(written: str) -> list[dict[str, Any]]:
    """Every line as what it says; each has to be JSON."""
    lines = [json.loads(line) for line in written.splitlines()]
    assert all({"timestamp", "level", "event", "logger"} <= set(line) for line in lines)
    return lines
