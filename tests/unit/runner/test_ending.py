"""A script's process ends at once where nobody can notice, and as CPython ends everywhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rgrid_server.runner.sandbox.holders import INSIDE

HOLDER = str(INSIDE / "holder")

HARNESS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import ending
end = ending.Ending()


class Old:
    '''Stands for what was there before the fork: only CPython's own end takes it apart.'''

    def __del__(self, write=__import__('os').write):
        write(1, b'taken apart\\n')


sys.old = Old()
import gc
{before}
gc.collect()
gc.freeze()
end.allow(set(sys.modules))
del gc
scope = {{'__name__': '__main__'}}
exec(compile({script!r}, 'script.py', 'exec'), scope)
"""


def ended(script: str, before: str = "") -> tuple[int, str]:
    """The exit code, and what was printed, of an interpreter that runs a script and then ends."""
    program = HARNESS.format(before=before, script=script)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", program, HOLDER]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=variables)
    return run.returncode, run.stdout


@pytest.mark.parametrize(
    ("script", "before"),
    [
        ("print('done')", ""),
        ("import json, csv, dataclasses; print('done')", ""),
        ("with open('/dev/null') as file: pass\nprint('done')", ""),
        ("import atexit\natexit.register(print, 'done')", ""),
        ("class A:\n    def __init__(self): self.me = self\na = A()\nprint('done')", ""),
        ("import weakref\nclass A: pass\na = A()\ns = weakref.WeakSet([a])\nprint('done')", "import weakref"),
    ],
)
def test_where_nobody_can_notice_it_ends_at_once(script: str, before: str) -> None:
    assert ended(script, before) == (0, "done\n")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("raise SystemExit", 0),
        ("raise SystemExit(3)", 3),
        ("import sys; sys.exit('no')", 1),
        ("1 / 0", 1),
        ("class A:\n    def __del__(self): pass\na = A()", 0),
        ("class A:\n    __slots__ = ()\n    def __del__(self): pass\na = A()", 0),
        ("f = open('/dev/null', 'w')", 0),
        ("def g():\n    yield\ng = g(); next(g)", 0),
        ("async def c(): pass\nc = c()", 0),
        ("import weakref\nclass A: pass\na = A()\nr = weakref.ref(a, print)", 0),
        ("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()", 0),
        ("import sqlite3", 0),
        ("import sys; sys.stdout = sys.stderr", 0),
        ("import gc; gc.callbacks.append(lambda *_: None)", 0),
        ("import os, sys\nif os.fork():\n    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))", 0),
    ],
)
def test_whatever_may_be_noticed_ends_as_cpython_ends(script: str, code: int) -> None:
    ended_with, printed = ended(script)
    assert ended_with == code
    assert "taken apart\n" in printed


def test_what_cannot_be_flushed_is_told_as_cpython_tells_it() -> None:
    code, _ = ended("import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nprint('lost')")
    assert code == 120


@pytest.mark.parametrize("command", ["true", "false"])
def test_an_interpreter_whose_probe_ends_otherwise_never_ends_at_once(command: str) -> None:
    program = (
        f"import os, sys; sys.path.insert(0, {HOLDER!r}); import ending\n"
        f"end = ending.Ending(); end.heed(os.posix_spawnp({command!r}, [{command!r}], {{}}))\n"
        "print(end._is_safe)"
    )
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert run.stdout == "False\n"


def test_an_interpreter_is_asked_whether_its_ends_can_be_told_apart() -> None:
    program = (
        f"import sys; sys.path.insert(0, {HOLDER!r}); import ending\n"
        "end = ending.Ending(); end.heed(end.probe()); print(end._is_safe)"
    )
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert run.stdout == "True\n"
