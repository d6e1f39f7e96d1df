"""Texts that come from scripts and callers, as every database can keep them."""

from __future__ import annotations

NUL = "\0"


def without_nul(text: str) -> str:
    """The text with a replacement character for each NUL, which PostgreSQL keeps in no text."""
    return text.replace(NUL, "\N{REPLACEMENT CHARACTER}")
