"""What is read from a script's source before it starts."""

from __future__ import annotations

from textwrap import dedent

import pytest

from rgrid_server.runner.sandbox.base import ImportStatement
from rgrid_server.runner.warmth import find_warmth

PACKAGES = frozenset({"pandas", "numpy"})


def imports(source: str, *names: str) -> list[tuple[str, tuple[str, ...]]]:
    warmth = find_warmth(dedent(source).encode(), ["script.py", *names], {}, PACKAGES)
    return [(one.module, one.names) for one in warmth.imports]


def cold_reason(source: str) -> str | None:
    return find_warmth(dedent(source).encode(), ["script.py"], {}, PACKAGES).cold_reason


def test_the_first_imports_are_taken_in_their_order() -> None:
    source = '''
        """What it is."""
        from __future__ import annotations
        import pandas as pd, json
        from os import path, sep
        import xml.etree.ElementTree
    '''
    assert imports(source) == [
        ("pandas", ()),
        ("json", ()),
        ("os", ("path", "sep")),
        ("xml.etree.ElementTree", ()),
    ]


def test_nothing_is_taken_from_behind_other_statements() -> None:
    # it may set what the import looks at
    source = """
        import os
        os.environ["OMP_NUM_THREADS"] = "1"
        import numpy
    """
    assert imports(source) == [("os", ())]


def test_nothing_is_taken_from_behind_an_import_of_the_users_own() -> None:
    assert imports("import json\nimport mine\nimport numpy", "mine.py") == [("json", ())]


def test_imports_whose_failure_is_passed_over_are_taken_too() -> None:
    source = """
        try:
            import numpy as _
            from json import dumps
        except ImportError:
            pass
        import os
        try:
            import pandas
        except ImportError:
            pandas = None
        import csv
    """
    assert imports(source) == [("numpy", ()), ("json", ("dumps",)), ("os", ())]


def test_what_is_in_no_environment_ends_it() -> None:
    assert imports("import nonesuch\nimport json") == []


def test_a_file_beside_the_script_stands_before_a_module_of_its_name() -> None:
    assert imports("import json", "json/__init__.py") == []
    assert imports("import json", "json.py") == []


def test_a_relative_import_ends_it() -> None:
    assert imports("from . import x\nimport json") == []


@pytest.mark.parametrize("source", ["if True\n", "\0", "x = (" * 300])
def test_a_script_that_is_none_may_start_warm_and_says_so_itself(source: str) -> None:
    assert imports(source) == []
    assert cold_reason(source) is None


@pytest.mark.parametrize("source", ["print(hash('a'))", "x = map(hash, [])", "def f():\n    return hash(f)"])
def test_a_script_that_asks_for_hashes_starts_cold(source: str) -> None:
    assert cold_reason(source) == "it calls hash(), and warm starts share a seed"


def test_a_class_may_say_what_its_hash_is() -> None:
    assert cold_reason("class A:\n    def __hash__(self):\n        return hash(self.x)") is None


@pytest.mark.parametrize(
    "source",
    [
        "import gc",
        "def f():\n    from gc import collect",
        "import os, gc as g",
        "import sys\nsys.setprofile(print)",
    ],
)
def test_a_script_that_watches_its_interpreter_is_told_apart(source: str) -> None:
    assert find_warmth(source.encode(), ["script.py"], {}, PACKAGES).watches
    assert not find_warmth(b"import os", ["script.py"], {}, PACKAGES).watches


def test_an_import_says_which_package_it_is_of() -> None:
    assert ImportStatement("a.b.c").package == "a"
