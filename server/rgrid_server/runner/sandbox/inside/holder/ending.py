"""Ends a warm script's process where nobody could notice what its interpreter would still do.

At its end CPython takes every module apart, which takes longer than most scripts where there are thousands of
them: it is how the last objects' finalizers get to run. Where a script has come to its end by itself, and has
left nothing behind that has one, the process may as well end at once. Whatever is not certain goes CPython's
own way: a script that ended by an exception or by ``sys.exit()``, whose exit code nobody is told before the
end (the C stack says that it is one of these); threads; objects with a finalizer; extension modules that may
close something of their own.

This comes first to ``atexit``, and so is called last, when the script's threads and its own callbacks are
through. Every holder starts it once as a script, so it stands alone.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RUN_MAIN = b"Py_RunMain"
ENDED_BY_IT = (b"Py_FinalizeEx", b"_PyEval_EvalFrameDefault")
"""What it calls then: the end; where that is unnamed, as from Python 3.13 on, what the end calls here."""
DEEPEST_STACK = 128
RTLD_DL_SYMENT = 1
PROBE_EXIT_CODE = 7
HAS_GC = 1 << 14
"""Py_TPFLAGS_HAVE_GC: whether the collector knows a type's objects."""

SAFE_EXTENSIONS = frozenset(
    {
        "charset_normalizer",
        "markupsafe",
        "msgpack",
        "numpy",
        "orjson",
        "pandas",
        "pydantic_core",
        "regex",
        "scipy",
        "ujson",
        "yaml",
    }
)
"""Packages whose compiled parts only compute: they keep no file or connection that wants to be closed."""
UNSAFE_BUILTINS = frozenset({"_sqlite3", "_gdbm", "_dbm", "_tkinter", "readline"})
"""Those of the standard library that write something when their last object goes."""
SAFE_CALLBACKS = frozenset(
    {"weakref", "_weakrefset", "functools", "logging", "threading", "concurrent.futures.thread", "typing"}
)
"""Modules whose callbacks of weak references only keep their own books."""


class _SymbolInfo(ctypes.Structure):
    """``Dl_info`` of dladdr(3)."""

    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


class _Symbol(ctypes.Structure):
    """``Elf64_Sym`` of elf(5)."""

    _fields_ = [
        ("name", ctypes.c_uint32),
        ("info", ctypes.c_ubyte),
        ("other", ctypes.c_ubyte),
        ("section", ctypes.c_uint16),
        ("value", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
    ]


class Ending:
    """What is called last at the end of an interpreter; made before anything else can be."""

    def __init__(self) -> None:
        self._pid = 0
        self._loaded: set[str] = set()
        self._is_safe = False
        self._streams = (sys.stdout, sys.stderr)
        self._weakref_types: tuple[Any, ...] = ()
        # it keeps the interpreter lock: what C code does at its end finds everything as it was
        self._libc = ctypes.PyDLL(None)
        try:
            self._backtrace, self._dladdr = self._libc.backtrace, self._libc.dladdr1
        except AttributeError:
            # a C library that cannot look at its stack
            return
        if ctypes.sizeof(ctypes.c_void_p) != 8:
            return
        self._dladdr.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
        # the first look loads the library that unwinds
        self._stack()
        atexit.register(self._end)

    def probe(self) -> int:
        """Start an interpreter that runs this file as its script; its process number, for :meth:`heed`."""
        arguments = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
        return os.posix_spawn(sys.executable, arguments, os.environ)

    def heed(self, probe: int) -> None:
        """Wait for that; an interpreter that ended otherwise cannot be told how its scripts end."""
        _, status = os.waitpid(probe, 0)
        self._is_safe = os.WIFEXITED(status) and os.WEXITSTATUS(status) == PROBE_EXIT_CODE

    def forbid(self) -> None:
        """Leave no trace in this process: its script watches what is called."""
        atexit.unregister(self._end)

    def note_loaded(self, names: set[str]) -> None:
        """What scripts find imported: looked at once, for all of them."""
        self._is_safe = self._is_safe and _only_computes(names)
        self._loaded = names

    def allow(self, loaded: set[str] | None = None) -> None:
        """From here on this process may end so."""
        if loaded is not None:
            self._loaded, self._is_safe = loaded, True
        self._pid = os.getpid()

    def _end(self) -> None:
        try:
            if not self._is_safe or not _only_computes(set(sys.modules) - self._loaded) or _has_finalizers():
                # so that what hangs on a module from before the fork is found as well
                gc.unfreeze()
            elif self._pid == os.getpid() and self._is_unwatched() and self._came_to_its_end():
                for stream in self._streams:
                    stream.flush()
                self._libc.exit(0)
        except BaseException:
            # CPython's own end meets the same, and says so as it does
            return

    def _is_unwatched(self) -> bool:
        """Whether nothing waits for the steps of the end, and the streams are the interpreter's own."""
        return (
            (sys.stdout, sys.stderr) == self._streams
            and not (gc.callbacks or gc.get_debug())
            and not has_threads()
        )

    def _came_to_its_end(self) -> bool:
        """Whether the script ended by itself: neither by an exception nor by ``SystemExit``."""
        if hasattr(sys, "last_type"):
            return False
        names = (self._name_of(address) for address in reversed(self._stack()))
        if RUN_MAIN not in names:
            return False
        # what handles SystemExit would come first
        return next(filter(None, names), None) in ENDED_BY_IT

    def _stack(self) -> list[int]:
        """The return addresses of this thread's C functions, the innermost first."""
        addresses = (ctypes.c_void_p * DEEPEST_STACK)()
        count = self._backtrace(ctypes.byref(addresses), DEEPEST_STACK)
        return [address or 0 for address in addresses[:count]]

    def _name_of(self, address: int) -> bytes | None:
        """The exported function that an address lies within."""
        info, symbol = _SymbolInfo(), ctypes.POINTER(_Symbol)()
        found = self._dladdr(address - 1, ctypes.addressof(info), ctypes.addressof(symbol), RTLD_DL_SYMENT)
        if not found or not symbol or not info.address:
            return None
        name: bytes | None = info.name
        return name if address - 1 < info.address + symbol.contents.size else None


def has_threads() -> bool:
    """Whether this process has a thread beside the first."""
    return len(os.listdir("/proc/self/task")) > 1


def _only_computes(names: set[str]) -> bool:
    """Whether the compiled ones of these modules leave nothing to their end."""
    for name in names:
        if name in UNSAFE_BUILTINS:
            return False
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and file.endswith(".so") and "/lib-dynload/" not in file:
            package = file.rpartition("-packages/")[2].partition("/")[0].partition(".")[0]
            if package not in SAFE_EXTENSIONS:
                return False
    return True


def _has_finalizers() -> bool:
    """Whether something runs when the last objects go; those from before the fork are not among them."""
    objects = gc.get_objects()
    kinds = set(map(type, objects))
    ending = {kind for kind in kinds if hasattr(kind, "__del__")}
    references = {kind for kind in kinds if hasattr(kind, "__callback__")}
    for one in objects:
        kind = type(one)
        if kind in ending:
            # what reads and writes files, and is closed, has nothing left to do
            if kind.__module__ != "_io" or not one.closed:
                return True
        elif kind in references:
            if not _is_bookkeeping(one.__callback__):
                return True
        elif isinstance(one, type) and "__del__" in one.__dict__ and not one.__flags__ & HAS_GC:
            # its objects are not known to the collector
            return True
    return False


def _is_bookkeeping(callback: Any) -> bool:
    """Whether what is called when an object goes only strikes it off a list that goes as well."""
    module = getattr(callback, "__module__", None)
    # the registers of abstract base classes are written in C, and have no module
    return (
        callback is None or module in SAFE_CALLBACKS or (module is None and callback.__name__ == "_destroy")
    )


if __name__ == "__main__":
    # a probe: whether this interpreter's end is taken for another one's is seen by its exit code
    Ending().allow(set(sys.modules))
    raise SystemExit(PROBE_EXIT_CODE)
