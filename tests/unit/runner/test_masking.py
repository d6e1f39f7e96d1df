"""Masking: whatever the secrets and however the stream is cut, what is shown holds none of them."""

from __future__ import annotations

import itertools
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.runner.masking import MASK, Masker

SECRETS = st.lists(st.text("abc*", min_size=4, max_size=7), min_size=1, max_size=3)


def masked(secrets: list[str], pieces: list[bytes]) -> bytes:
    """What is shown of a stream that comes in pieces."""
    masker = Masker(secrets)
    return b"".join([*map(masker.feed, pieces), masker.end()])


def spelled_out(secrets: list[str], text: bytes) -> bytes:
    """The same by looking at every byte of the whole: the runs that secrets cover are shown as masks."""
    covers = [
        (at, at + len(secret))
        for secret in map(str.encode, secrets)
        for at in range(len(text))
        if text.startswith(secret, at)
    ]
    runs: list[list[int]] = []
    for start, end in sorted(covers, key=lambda cover: (cover[0], -cover[1])):
        if runs and start < runs[-1][1]:
            runs[-1][1] = max(runs[-1][1], end)
        else:
            runs.append([start, end])
    shown, position = b"", 0
    for start, end in runs:
        shown, position = shown + text[position:start] + MASK, end
    return shown + text[position:]


@given(SECRETS, st.lists(st.text("abc*", max_size=9), max_size=12))
def test_it_masks_what_a_look_at_the_whole_would_mask(secrets: list[str], pieces: list[str]) -> None:
    cut = [piece.encode() for piece in pieces]
    assert masked(secrets, cut) == spelled_out(secrets, b"".join(cut))


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_what_holds_no_secret_stays_as_it_is(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges) if start < end]
    whole = b"".join(pieces)
    assert masked(["not in there: é"], pieces) == whole


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("the key", "the ***"),
        (json.dumps({"a": 'p"s\ns é'}), '{"a": "***"}'),
        (repr('p"s\ns é'), "'***'"),
        ("?key=" + quote('p"s\ns é', safe=""), "?key=***"),
    ],
)
def test_other_spellings_are_masked_too(printed: str, shown: str) -> None:
    secret = "key" if printed == "the key" else 'p"s\ns é'
    assert masked([secret], [printed.encode()]) == shown.encode()


def test_each_line_of_one_with_several_is_masked() -> None:
    key = "-----BEGIN-----\nMIIEvQIBADANBg\nx\n-----END-----\n"
    printed = "\n".join(f"| {line}" for line in key.splitlines()).encode()
    assert masked([key], [printed]) == b"| ***\n| ***\n| x\n| ***"


def test_a_line_that_cannot_be_a_secret_is_not_held_back() -> None:
    masker = Masker(["hunter22"])
    assert masker.feed(b"Password? ") == b"Password? "


def test_without_secrets_nothing_is_looked_at() -> None:
    masker = Masker([])
    assert (masker.feed(b"all"), masker.end()) == (b"all", b"")
