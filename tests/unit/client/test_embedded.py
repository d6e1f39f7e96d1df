"""The server of one's own: whom its key is given to, and a home that cannot hold its data."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rgrid.cli import embedded
from rgrid.exceptions import ConfigurationError

RGRID = b'{"status": "ok (db: connected)", "version": "1", "timestamp": "now"}'


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that answers everything with one text."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """A lock as a server holds it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory of a server that was started before; starting one gives the address ``new``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "_start", lambda _directory: "new")
    found = embedded.data_dir()
    found.mkdir(parents=True)
    (found / "admin.key").write_text("sk_admin\n")
    return found


@pytest.mark.parametrize("answer", [b"hello", b"{}", b'"ok"', RGRID], ids=["text", "empty", "word", "rgrid"])
def test_who_has_the_port_of_a_server_that_is_gone_gets_no_key(directory: Path, answer: bytes) -> None:
    with answering(answer) as url:
        (directory / "address").write_text(url)
        (directory / "server.lock").touch()
        assert embedded.ensure() == ("new", "sk_admin")


def test_a_server_that_holds_its_directory_and_answers_as_rgrid_is_used_again(directory: Path) -> None:
    with answering(RGRID) as url, held(directory / "server.lock"):
        (directory / "address").write_text(url)
        assert embedded.ensure() == (url, "sk_admin")


def test_a_server_that_stops_is_waited_for_and_another_is_started(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(b"hello") as url, held(directory / "server.lock") as _:
        (directory / "address").write_text(url)
        holds = iter([True, True, False])
        monkeypatch.setattr(embedded, "_is_held", lambda _lock: next(holds))
        assert embedded.ensure() == ("new", "sk_admin")


def test_a_home_that_is_no_directory_is_an_error_that_names_it_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.write_text("a file")
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(ConfigurationError, match=rf"{home}.*RGRID_API_URL"):
        embedded.ensure()


def test_a_lock_that_cannot_be_made_is_an_error_that_names_it(directory: Path) -> None:
    (directory / "start.lock").mkdir()
    with pytest.raises(ConfigurationError, match=r"start\.lock: Is a directory"):
        embedded.ensure()
