"""The pages of the reference that are written from the code."""

from __future__ import annotations

import pytest

from scripts.reference import PAGES, REFERENCE


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_the_code_says(name: str) -> None:
    assert (REFERENCE / name).read_text() == PAGES[name](), "run scripts/reference.py"
