"""A script's bytes are what its own coding line says (PEP 263)."""

from __future__ import annotations

import pytest

from rgrid_server.runner.sources import source_bytes
from rgrid_server.runner.uv import Rejected


def test_a_script_is_utf8() -> None:
    assert source_bytes("print('ü')") == "print('ü')".encode()


@pytest.mark.parametrize(
    "head", ["# -*- coding: latin-1 -*-\n", "#!/usr/bin/python\n# vim: set fileencoding=latin-1 :\n"]
)
def test_a_declared_encoding_is_kept(head: str) -> None:
    assert source_bytes(f"{head}print('ü')") == f"{head}print('ü')".encode("latin-1")


@pytest.mark.parametrize(
    "head", ["x = 1\n# coding: latin-1\n", "\n\n# coding: latin-1\n", "'''\n# coding: latin-1'''\n"]
)
def test_a_coding_line_counts_where_python_looks_for_it(head: str) -> None:
    assert source_bytes(f"{head}'ü'") == f"{head}'ü'".encode()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("# coding: no-such-codec\n", "no-such-codec"),
        ("# coding: latin-1\nprint('€')", "latin-1"),
        ("print('\ud800')", "not valid Unicode"),
    ],
)
def test_a_script_that_cannot_be_written_so_is_rejected(script: str, why: str) -> None:
    with pytest.raises(Rejected, match=why) as rejected:
        source_bytes(script)
    assert rejected.value.code == "script_encoding"
