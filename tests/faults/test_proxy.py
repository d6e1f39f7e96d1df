"""The proxy does to a connection what its plan says, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Fault, Kind, Proxy, no_faults, seeded

REQUEST = b"q" * 4096
ANSWER = b"a" * 4096


class Echo:
    """Answers every whole request, and keeps what it has received."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.received: list[bytes] = []
        self.ended = threading.Semaphore(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            held = b""
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(65536):
                    held += data
                    if len(held) % len(REQUEST) == 0:
                        connection.sendall(ANSWER)
            self.received.append(held)
            self.ended.release()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def ask(proxy: Proxy) -> bytes:
    """One exchange; what was answered until the connection ended or the answer was whole."""
    answer = b""
    address = ("127.0.0.1", proxy.port)
    with socket.create_connection(address, timeout=60) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(REQUEST)
        while len(answer) < len(ANSWER) and (data := connection.recv(65536)):
            answer += data
    return answer


def exchange(echo: Echo, fault: Fault) -> tuple[bytes, bytes]:
    """What the server received and what the client was answered, under a fault."""
    with Proxy(lambda: echo.address, lambda: fault) as proxy:
        answer = ask(proxy)
    assert echo.ended.acquire(timeout=60)
    return echo.received[-1], answer


def test_without_a_fault_everything_passes(echo: Echo) -> None:
    assert exchange(echo, Fault()) == (REQUEST, ANSWER)


def test_a_cut_before_forwarding_lets_nothing_through(echo: Echo) -> None:
    assert exchange(echo, Fault(Kind.CUT_BEFORE)) == (b"", b"")


@pytest.mark.parametrize("kind", [Kind.CUT_REQUEST, Kind.CUT_UPLOAD])
def test_a_cut_request_ends_after_so_many_bytes(echo: Echo, kind: Kind) -> None:
    received, answer = exchange(echo, Fault(kind, after_bytes=1000))
    # a reset may overtake the last of it
    assert len(received) <= 1000
    assert answer == b""


def test_a_lost_answer_is_one_that_the_server_has_given(echo: Echo) -> None:
    assert exchange(echo, Fault(Kind.LOSE_ANSWER)) == (REQUEST, b"")


def test_a_cut_answer_ends_after_so_many_bytes(echo: Echo) -> None:
    received, answer = exchange(echo, Fault(Kind.CUT_ANSWER, after_bytes=1000))
    assert received == REQUEST
    assert len(answer) <= 1000


def test_a_delay_delays_only(echo: Echo) -> None:
    assert exchange(echo, Fault(Kind.DELAY, seconds=0.05)) == (REQUEST, ANSWER)


def test_a_black_hole_lets_nothing_through(echo: Echo) -> None:
    assert exchange(echo, Fault(Kind.BLACKHOLE, seconds=0.05)) == (b"", b"")


def test_each_exchange_of_a_connection_has_a_fault_of_its_own(echo: Echo) -> None:
    faults = iter([Fault(), Fault(), Fault(Kind.LOSE_ANSWER)])
    with Proxy(lambda: echo.address, lambda: next(faults)) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as connection:
            for _ in range(2):
                connection.sendall(REQUEST)
                answer = b""
                while len(answer) < len(ANSWER):
                    answer += connection.recv(65536)
                assert answer == ANSWER
            connection.sendall(REQUEST)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(65536) == b""
        assert proxy.dealt == {Kind.NONE: 2, Kind.LOSE_ANSWER: 1}


def test_an_isolated_proxy_lets_nobody_through_until_it_is_joined(echo: Echo) -> None:
    with Proxy(lambda: echo.address, no_faults) as proxy:
        assert ask(proxy) == ANSWER
        proxy.isolate()
        assert ask(proxy) == b""
        proxy.join()
        assert ask(proxy) == ANSWER


def test_the_same_seed_gives_the_same_faults() -> None:
    plan, again, other = seeded(1, 0.3), seeded(1, 0.3), seeded(2, 0.3)
    faults = [plan() for _ in range(200)]
    assert faults == [again() for _ in range(200)]
    assert faults != [other() for _ in range(200)]
    assert {fault.kind for fault in faults} == set(Kind)
