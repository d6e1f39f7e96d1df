"""Sealed secrets: only their tenant's, only under their name, only with a key that is there."""

from __future__ import annotations

import base64
import os

import pytest

from rgrid_server.domain.sealing import Sealer, Unreadable, find_problems


def key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def test_a_secret_comes_back_and_is_sealed_anew_each_time() -> None:
    sealer = Sealer([key()])
    one, two = (sealer.seal("t", "NAME", "hunter22 é\n") for _ in range(2))
    assert sealer.open("t", "NAME", one) == sealer.open("t", "NAME", two) == "hunter22 é\n"
    assert one != two
    assert "hunter22" not in one + two


@pytest.mark.parametrize(("tenant", "name"), [("u", "NAME"), ("t", "OTHER")])
def test_it_opens_for_nothing_else(tenant: str, name: str) -> None:
    sealer = Sealer([key()])
    with pytest.raises(Unreadable, match="sealed for something else"):
        sealer.open(tenant, name, sealer.seal("t", "NAME", "hunter22"))


def test_keys_rotate() -> None:
    old, new = key(), key()
    sealed = Sealer([old]).seal("t", "NAME", "hunter22")
    both = Sealer([new, old])
    assert both.open("t", "NAME", sealed) == "hunter22"
    anew = both.seal_anew(sealed)
    assert Sealer([new]).open("t", "NAME", anew) == "hunter22"
    for unreadable in (sealed, "sealed:rubbish", anew[:-2] + "AA"):
        with pytest.raises(Unreadable, match="no key of this server opens"):
            Sealer([new]).open("t", "NAME", unreadable)
    with pytest.raises(Unreadable):
        Sealer([new]).seal_anew(sealed)


@pytest.mark.parametrize("keys", [[], ["short"], [key(), "not a key" * 5]])
def test_what_is_no_row_of_keys_is_refused(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="key"):
        Sealer(keys)


def test_no_message_holds_a_value() -> None:
    problems = find_problems({"A": "abc", "B": "nul\0here", "C": "x" * 70_000, "no name": "hunter22"})
    assert [problem.location[1] for problem in problems] == ["A", "B", "C", "no name"]
    told = " ".join(problem.message for problem in problems)
    assert not any(value in told for value in ("abc", "nul", "xxx", "hunter22"))
    assert len(find_problems({f"N{n}": "hunter22" for n in range(101)})) == 1
