"""A script's text as the bytes that it was."""

from __future__ import annotations

import re

from rgrid_server.runner.uv import Rejected

_CODING = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-_.a-zA-Z0-9]+)")
_BLANK = re.compile(r"^[ \t\f]*(?:[#\r\n]|$)")


def source_bytes(script: str) -> bytes:
    """A script's bytes as its own coding line (PEP 263) says; UTF-8 where it has none.

    A script travels as text. Written back in the encoding that it declares, it is to Python what it was.

    Raises:
        Rejected: there is no such encoding, or it cannot say what the script says.
    """
    for line in script.split("\n", 2)[:2]:
        if (match := _CODING.match(line)) is not None:
            declared = match.group(1)
            try:
                return script.encode(declared)
            except (LookupError, UnicodeError) as error:
                raise Rejected(
                    "script_encoding",
                    f"the script's coding line says {declared}, and the script cannot be written so "
                    f"({error}); write utf-8 there",
                ) from None
        if _BLANK.match(line) is None:
            break
    try:
        return script.encode()
    except UnicodeEncodeError as error:
        raise Rejected("script_encoding", f"the script is not valid Unicode: {error}") from None
