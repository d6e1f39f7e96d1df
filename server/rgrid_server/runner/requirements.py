"""What a script asks for: its runtime, its requirements file and its PEP 723 block."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from rgrid_server.domain.attempts import Specification
from rgrid_server.domain.runtimes import Kind
from rgrid_server.runner.interpreters import Interpreter, choose
from rgrid_server.runner.uv import Rejected

# from PEP 723 itself, "Reference Implementation"
_SCRIPT_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")

# pip's options that read another file; paths of the runner's machine are none of a script's business
_OTHER_FILE = re.compile(r"(?m)^[ \t]*(?:-[rce]|--(?:requirement|constraint|editable)(?![a-z-])).*$")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a specification asks for, before it is resolved."""

    interpreter: Interpreter
    requirements: str

    @property
    def text_key(self) -> str:
        """Equal for equal texts."""
        return digest([self.interpreter.path, self.interpreter.version, self.requirements])


def find_wanted(specification: Specification, interpreters: Mapping[str, Interpreter]) -> Wanted:
    """What a specification asks for, from its requirements and its PEP 723 block.

    Raises:
        Rejected: the runtime is not here, or the block cannot be read.
    """
    interpreter = choose(specification.runtime, dict(interpreters))
    if interpreter is None:
        raise Rejected(
            "runtime_unavailable",
            f"the runtime {specification.runtime!r} is not on this machine; "
            f"there is {', '.join(sorted(interpreters))}",
        )
    if interpreter.kind is Kind.NODE:
        if (specification.requirements_content or "").strip():
            raise Rejected(
                "requirements_invalid",
                f"requirements are Python's, and {interpreter.runtime} is none; send modules as inputs",
            )
        return Wanted(interpreter, "")
    block = script_metadata(specification.script_content)
    requires_python = block.get("requires-python")
    if requires_python is not None:
        _check_python(str(requires_python), interpreter)
    dependencies = block.get("dependencies", [])
    if not isinstance(dependencies, list) or not all(isinstance(item, str) for item in dependencies):
        raise Rejected("requirements_invalid", "the script's PEP 723 block: dependencies is no list of texts")
    parts = [*dependencies, specification.requirements_content or ""]
    requirements = "\n".join(part for part in parts if part.strip())
    if (line := _OTHER_FILE.search(requirements)) is not None:
        raise Rejected(
            "requirements_invalid",
            f"the requirements name another file ({line.group(0).strip()!r}), which does not travel with "
            "them; write out what it says",
        )
    return Wanted(interpreter, requirements)


def script_metadata(script: str) -> dict[str, object]:
    """The TOML of a script's PEP 723 block; empty where it has none.

    Raises:
        Rejected: there are several, or it is not TOML.
    """
    normal = script.replace("\r\n", "\n")
    blocks = [match for match in _SCRIPT_BLOCK.finditer(normal) if match.group("type") == "script"]
    if len(blocks) > 1:
        raise Rejected("requirements_invalid", "the script has several PEP 723 blocks; keep one")
    if not blocks:
        return {}
    content = "".join(
        line[2:] if line.startswith("# ") else line[1:]
        for line in blocks[0].group("content").splitlines(keepends=True)
    )
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise Rejected("requirements_invalid", f"the script's PEP 723 block is not TOML: {error}") from None


def _check_python(requires_python: str, interpreter: Interpreter) -> None:
    try:
        allowed = SpecifierSet(requires_python)
    except InvalidSpecifier:
        raise Rejected(
            "requirements_invalid", f"requires-python {requires_python!r} is not a version specifier"
        ) from None
    if interpreter.version not in allowed:
        raise Rejected(
            "runtime_unavailable",
            f"the script requires Python {requires_python}, and {interpreter.runtime} is "
            f"{interpreter.version}; ask for another runtime",
        )


def digest(parts: list[str]) -> str:
    """A name for parts that is equal only where all of them are."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
