"""A dict of outputs taken apart: little stays together, what is large stands by itself, nothing is lost."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_provider.outputs import MAX_APART, take_apart

VALUES = st.one_of(st.integers(), st.text(max_size=60), st.lists(st.integers(0, 9), max_size=30), st.none())


def apart(
    value: Any, most_bytes: int, serializer: Any = json
) -> tuple[dict[str, Any], dict[str, str] | None, int]:
    """What the files hold by their names, which values have one, and how many bytes stay together."""

    def dumps(one: Any) -> bytes:
        text = serializer.dumps(one)
        return text.encode() if isinstance(text, str) else bytes(text)

    files: dict[str, bytes] = {}
    content, places = take_apart(
        value, dumps(value), most_bytes, "result", serializer, dumps, files.__setitem__
    )
    held = {name: serializer.loads(one) for name, one in {**files, "result": content}.items()}
    return held, places, len(content)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=20), st.integers(0, 300))
def test_what_is_put_together_again_is_what_it_was(value: dict[str, Any], most_bytes: int) -> None:
    held, places, _ = apart(value, most_bytes)
    assert places is not None
    assert set(held) == {"result", *places.values()}
    rest = held["result"]
    assert list(rest) == list(value)
    assert {key: held[places[key]] if key in places else one for key, one in rest.items()} == value


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=20), st.integers(0, 300))
def test_what_stays_together_is_small_and_no_more_than_needed_stands_apart(
    value: dict[str, Any], most_bytes: int
) -> None:
    _, places, _ = apart(value, most_bytes)
    assert places is not None
    sizes = {key: len(json.dumps({key: one})) for key, one in value.items()}
    left_bytes = sum(size for key, size in sizes.items() if key not in places)
    assert left_bytes <= most_bytes or not value
    if places:
        smallest = min(sizes[key] for key in places)
        assert left_bytes + smallest > most_bytes
        assert all(size <= smallest for key, size in sizes.items() if key not in places)


def test_a_small_dict_stays_as_it_is() -> None:
    assert apart({"a": 1, "b": [2]}, 100)[:2] == ({"result": {"a": 1, "b": [2]}}, {})


def test_what_xcom_does_not_carry_stands_apart_however_small_it_is() -> None:
    strict = SimpleNamespace(
        dumps=json.dumps, loads=json.loads, is_carried_by_xcom=lambda content: b"table" not in content
    )
    held, places, _ = apart({"a": 1, "b": "table"}, 1000, strict)
    assert places == {"b": "result-1"}
    assert held == {"result": {"a": 1, "b": None}, "result-1": "table"}


def test_more_large_values_than_a_task_should_have_stay_in_one_piece() -> None:
    value = {str(number): "x" * 50 for number in range(MAX_APART + 1)}
    assert apart(value, 0)[:2] == ({"result": value}, {})
    del value["0"]
    assert len(apart(value, 0)[1] or ()) == MAX_APART


@pytest.mark.parametrize("value", ["x" * 50, [1, 2], None])
def test_what_is_no_dict_has_no_outputs(value: Any) -> None:
    assert apart(value, 10)[:2] == ({"result": value}, None)


def test_keys_are_what_the_serializer_makes_of_them() -> None:
    assert apart({1: "x" * 50, 2: 0}, 20)[1] == {"1": "result-1"}
    assert apart({1: "x" * 50, 2: 0}, 20, pickle)[1] is None
