"""Whether a script may start warm, and what it imports first, by its source alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from rgrid_server.runner.sandbox.base import ImportStatement, Warmth

NEVER_EARLY = frozenset(
    {"__future__", "__main__", "antigravity", "sitecustomize", "usercustomize", "idlelib"}
)
"""These do something when they are imported, or are something else in each script."""
WATCHING = (b"addaudithook", b"setprofile", b"settrace", b"monitoring", b"Profile")
"""Where one of these stands in a script, it may watch its interpreter to the end."""
_SOURCES_KEPT = 256


def find_warmth(
    source: bytes, names: Iterable[str], variables: Mapping[str, str], packages: frozenset[str]
) -> Warmth:
    """How a script may start warm.

    Args:
        source: the script.
        names: its own name and those of its inputs.
        variables: what every run of its environment has.
        packages: the top-level modules that its environment has beside the standard library.
    """
    statements, cold_reason, watches = _read(source)
    beside = frozenset(name.partition("/")[0].partition(".")[0] for name in names)
    return Warmth(
        imports=tuple(_leading(statements, packages | sys.stdlib_module_names, beside)),
        variables=dict(variables),
        names=beside,
        cold_reason=cold_reason,
        watches=watches,
    )


def _leading(
    statements: Iterable[ImportStatement], known: frozenset[str], beside: frozenset[str]
) -> Iterator[ImportStatement]:
    """The imports before the first that may run the user's own code."""
    for statement in statements:
        if statement.package in beside or statement.package not in known:
            return
        if statement.package not in NEVER_EARLY:
            yield statement


@lru_cache(_SOURCES_KEPT)
def _read(source: bytes) -> tuple[tuple[ImportStatement, ...], str | None, bool]:
    """A script's first imports, why it cannot start warm, if so, and whether it watches the
    interpreter itself."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # the script's own interpreter says what it thinks of it
        return (), None, False
    statements = tuple(_first_imports(tree))
    reason = "it calls hash(), and warm starts share a seed" if _asks_for_hashes(tree) else None
    return statements, reason, _imports_gc(tree) or any(word in source for word in WATCHING)


def _first_imports(tree: ast.Module) -> Iterator[ImportStatement]:
    for index, node in enumerate(tree.body):
        if index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        imports = _imports_of(node)
        if imports is None:
            return
        yield from imports


def _imports_of(node: ast.stmt) -> list[ImportStatement] | None:
    """The imports that a statement makes and does nothing beside; None where it does something."""
    if isinstance(node, ast.Import):
        return [ImportStatement(alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
        return [ImportStatement(node.module, tuple(alias.name for alias in node.names))]
    if (
        isinstance(node, ast.Try)
        and not node.orelse
        and not node.finalbody
        and all(map(_only_passes, node.handlers))
    ):
        # `try: import orjson` and `except ImportError: pass`
        found = [_imports_of(inner) for inner in node.body]
        return None if None in found else [one for part in found for one in part or ()]
    return None


def _only_passes(handler: ast.ExceptHandler) -> bool:
    return len(handler.body) == 1 and isinstance(handler.body[0], ast.Pass)


def _asks_for_hashes(tree: ast.AST) -> bool:
    """Whether a script calls ``hash`` other than to say what its own objects' hashes are."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef) and node.name == "__hash__":
            continue
        if isinstance(node, ast.Name) and node.id == "hash":
            return True
        waiting.extend(ast.iter_child_nodes(node))
    return False


def _imports_gc(tree: ast.AST) -> bool:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return any(
        "gc" in {getattr(node, "module", None), *(alias.name for alias in node.names)} for node in imports
    )


def find_packages(environment: Path) -> frozenset[str]:
    """The top-level modules that are installed in an environment."""
    return frozenset(
        entry.name.partition(".")[0]
        for site in environment.glob("lib/python3.*/site-packages")
        for entry in site.iterdir()
        if not entry.name.endswith((".dist-info", ".pth")) and not entry.name.startswith("__")
    )
