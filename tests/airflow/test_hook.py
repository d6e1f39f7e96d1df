"""The connection as a client."""

from __future__ import annotations

import json
import re

import pytest
from airflow.providers.common.compat.sdk import Connection

from rgrid_provider.hooks.rgrid import ConnectionSettings, RGridHook
from tests.live import ROOT, LiveServer


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "grid.example.org"}, "https://grid.example.org"),
        ({"host": "grid.example.org", "schema": "http", "port": 8000}, "http://grid.example.org:8000"),
        ({"host": "http://grid.example.org:8000"}, "http://grid.example.org:8000"),
        ({"host": "http://grid.example.org", "port": 81}, "http://grid.example.org:81"),
        ({"host": "https://example.org/grid", "port": 444}, "https://example.org:444/grid"),
        ({"host": "https://example.org/api/v1"}, "https://example.org/api/v1"),
    ],
)
def test_host_scheme_and_port_make_the_address(fields: dict[str, object], url: str) -> None:
    connection = Connection(conn_id="c", conn_type="rgrid", password="sk_x", **fields)
    assert ConnectionSettings.from_connection(connection).server.url == url


@pytest.mark.parametrize(
    ("extra", "verify"),
    [
        ({}, True),
        ({"verify": False}, False),
        ({"verify": "false"}, False),
        ({"verify": "/ca.pem"}, "/ca.pem"),
    ],
)
def test_the_extra_says_how_tls_is_verified(extra: dict[str, object], verify: object) -> None:
    connection = Connection(conn_id="c", conn_type="rgrid", host="x", extra=json.dumps(extra))
    assert ConnectionSettings.from_connection(connection).verify == verify


def test_a_connection_without_a_host_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="'nowhere' has no host"):
        ConnectionSettings.from_connection(Connection(conn_id="nowhere", conn_type="rgrid"))


def test_an_extra_that_cannot_be_read_is_named_in_the_error() -> None:
    connection = Connection(conn_id="c", conn_type="rgrid", host="x", extra=json.dumps({"timeout": "soon"}))
    with pytest.raises(ValueError, match="extra of the connection 'c'"):
        ConnectionSettings.from_connection(connection)


def test_a_working_connection_says_whose_key_it_has(server: LiveServer) -> None:
    works, message = RGridHook().test_connection()
    assert works
    assert "tenant default" in message


def test_a_wrong_key_fails_the_test(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"conn_type": "rgrid", "host": server.url, "password": "sk_nobody_has_this"}
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps(wrong))
    works, message = RGridHook("wrong").test_connection()
    assert not works
    assert "not known" in message


def test_a_server_that_is_not_there_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"conn_type": "rgrid", "host": "http://127.0.0.1:9", "password": "sk_x"}
    monkeypatch.setenv("AIRFLOW_CONN_GONE", json.dumps(gone))
    works, message = RGridHook("gone").test_connection()
    assert not works
    assert "is the server running there?" in message


def test_every_form_on_the_connections_page_is_the_same_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "reference" / "airflow-connection.md").read_text()
    forms = re.findall(r"^export AIRFLOW_CONN_RGRID_DEFAULT='(.*)'$", page, re.MULTILINE)
    assert [form[0] for form in forms] == ["{", "r"]
    for form in forms:
        monkeypatch.setenv("AIRFLOW_CONN_OF_THE_PAGE", form)
        settings = RGridHook("of_the_page").settings
        server = settings.server
        assert (server.url, server.api_key) == ("https://rgrid.example.com:8443", "sk_live_1")
        assert server.timeout_seconds == 60
        assert settings.verify == "/etc/ssl/company.pem"
