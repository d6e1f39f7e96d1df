"""API keys: how they look, how they are kept, and what their scopes open."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from enum import StrEnum

KEY_PREFIX = "sk_"
MIN_KEY_CHARS = 8
SHOWN_PREFIX_CHARS = 10


class Scope(StrEnum):
    """What a key may do. ``admin`` opens all but ``runner``, which opens nothing else."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"
    RUNNER = "runner"


# looking a member up takes Python 3.11 longer than what is done with it
_ADMIN, _RUNNER = Scope.ADMIN, Scope.RUNNER


def hash_key(key: str) -> str:
    """SHA-256 of a key in hex.

    Keys are 256 random bits, so a fast hash is as safe as a slow one: there is nothing to guess.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def shown_prefix(key: str) -> str:
    """So much of a key as lists show."""
    return key[:SHOWN_PREFIX_CHARS]


def opens(held: Collection[Scope], wanted: Scope) -> bool:
    """Whether a key with these scopes may do what needs ``wanted``."""
    return wanted in held or (wanted is not _RUNNER and _ADMIN in held)


def parse_scopes(text: str) -> tuple[Scope, ...]:
    """Read ``submit,read``.

    Raises:
        ValueError: a word is not a scope; the message lists those that are.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        return tuple(Scope(word) for word in words)
    except ValueError as error:
        known = ", ".join(scope.value for scope in Scope)
        raise ValueError(f"{error}; the scopes are {known}") from None
