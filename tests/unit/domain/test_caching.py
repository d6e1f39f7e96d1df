"""What determines a result, and what people are told has changed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.domain.caching import changes, is_pinned, key_of, parts_of

BASE: dict[str, Any] = {
    "script_content": "print(1)",
    "script_name": "s.py",
    "args": ["a"],
    "runtime": "python:3.11",
    "requirements_content": None,
    "inputs": {"data.csv": "a" * 64},
    "env_vars": {"A": "1"},
    "outputs": None,
}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"script_content": "print(2)"}, ["script"]),
        ({"script_name": "t.py"}, ["script name"]),
        ({"args": ["b"]}, ["arguments"]),
        ({"args": ["a", ""]}, ["arguments"]),
        ({"runtime": "python:3.12"}, ["runtime"]),
        ({"requirements_content": "pandas"}, ["requirements"]),
        ({"requirements_content": ""}, []),
        ({"inputs": {"data.csv": "b" * 64}}, ["input data.csv"]),
        ({"inputs": {"other.csv": "a" * 64}}, ["input data.csv (gone)", "input other.csv (new)"]),
        ({"env_vars": {"A": "2"}}, ["variable A"]),
        ({"env_vars": {"A": "1", "B": "1"}}, ["variable B (new)"]),
        ({"outputs": ["*.csv"]}, ["outputs"]),
        ({}, []),
    ],
)
def test_each_part_counts_and_is_named(changed: dict[str, Any], told: list[str]) -> None:
    before, after = parts_of(**BASE), parts_of(**{**BASE, **changed})
    assert changes(before, after) == told
    assert (key_of(before) == key_of(after)) is (told == [])


@given(
    st.dictionaries(st.text(max_size=4), st.text(max_size=4)),
    st.dictionaries(st.text(max_size=4), st.text(max_size=4)),
)
def test_keys_are_equal_just_where_nothing_has_changed(one: dict[str, str], other: dict[str, str]) -> None:
    assert (key_of(one) == key_of(other)) is (changes(one, other) == []) is (one == other)


@pytest.mark.parametrize(
    ("requirements", "pinned"),
    [
        (None, True),
        ("# nothing\n\n", True),
        ("pandas==2.3.0\nnumpy == 1.26.4  # exact\n", True),
        ("pandas[excel]==2.3.0; python_version > '3'", True),
        ("tool @ https://example.com/tool-1.0.whl", True),
        ("pandas", False),
        ("pandas==2.3.*", False),
        ("pandas>=2,<3", False),
        ("pandas==2.3.0\nnumpy", False),
        ("-r other.txt", False),
    ],
)
def test_only_exact_versions_are_pinned(requirements: str | None, pinned: bool) -> None:
    assert is_pinned("print(1)", requirements) is pinned


def test_a_script_that_names_its_packages_itself_is_not() -> None:
    assert not is_pinned("# /// script\n# dependencies = ['pandas']\n# ///\n", None)
