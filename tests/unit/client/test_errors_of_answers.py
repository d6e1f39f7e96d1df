"""What is said of answers that are errors, and the exit code that follows."""

from __future__ import annotations

import json

import pytest

from rgrid import calls
from rgrid.cli.failures import NOT_ALLOWED, UNREACHABLE, USAGE, exit_code_of
from rgrid.exceptions import RGridError, Unavailable
from rgrid.transport.base import Server, api_error

SERVER = Server("http://grid.example:8000/api/v1", "sk_x")


def error_of(status: int, body: bytes, kind: str = "application/json") -> RGridError:
    """The error that an answer to a look at an execution is."""
    return api_error(SERVER, calls.get_execution("exec_1"), status, {"content-type": kind}, body)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxys_page_names_the_address_and_what_to_do_and_is_69(status: int) -> None:
    error = error_of(status, b"<html>Bad Gateway</html>", "text/html")
    assert isinstance(error, Unavailable)
    assert error.status == status, "what is tried again is told by it"
    assert f"http://grid.example:8000 answered GET /executions/exec_1 with status {status}" in str(error)
    assert "try again later" in str(error)
    assert exit_code_of(error) == UNREACHABLE


@pytest.mark.parametrize(
    ("status", "code"), [(400, USAGE), (413, USAGE), (422, USAGE), (401, NOT_ALLOWED), (404, 1), (409, 1)]
)
def test_what_the_server_refuses_as_wrong_is_usage(status: int, code: int) -> None:
    error = error_of(status, json.dumps({"detail": {"error": "x", "message": "no"}}).encode())
    assert exit_code_of(error) == code


def test_where_json_is_invalid_is_not_shown_as_a_number() -> None:
    problem = {"type": "json_invalid", "loc": ["body", 422], "msg": "JSON decode error"}
    told = str(error_of(422, json.dumps({"detail": [problem]}).encode()))
    assert "422" not in told
    assert "no JSON" in told


def test_a_wrong_field_is_named() -> None:
    problem = {"type": "value_error", "loc": ["body", "cpus"], "msg": "too many"}
    assert str(error_of(422, json.dumps({"detail": [problem]}).encode())) == "cpus: too many"
