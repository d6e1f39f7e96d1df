"""Secrets at rest: each is sealed with a key that is kept beside the data, never in them.

Fernet (https://cryptography.io/en/latest/fernet/): AES-128 in CBC with a random vector, and an
HMAC-SHA256 over all of it. Keys rotate: the first seals, and each opens what it has sealed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rgrid_server.domain.submission import Problem

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
"""A secret is called as the environment variable that brings it."""
MIN_CHARS = 4
"""What is shorter stands in every log by chance, and cannot be masked there."""
MAX_CHARS = 64 * 1024
MAX_SECRETS = 100

_SEALED = "sealed:"
_KEPT = "kept"


class Unreadable(Exception):
    """A sealed secret cannot be opened: its key is gone, or it is another's."""


class Sealer:
    """Seals and opens with a row of keys.

    Args:
        keys: Fernet keys (32 bytes in URL-safe base64), the newest first.

    Raises:
        ValueError: there is none, or one is no key.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("there is no key to seal secrets with")
        self._keys = tuple(keys)
        self._fernet: MultiFernet | None = None
        for number, key in enumerate(self._keys, 1):
            if re.fullmatch(r"[A-Za-z0-9_-]{43}=", key) is None:
                raise ValueError(f"key {number} of {len(keys)} is not 32 bytes in URL-safe base64")

    def seal(self, tenant_id: str, name: str, value: str) -> str:
        """A text from which only :meth:`open` brings the value back; a new one each time."""
        body = json.dumps([tenant_id, name, value]).encode()
        return _SEALED + self._with_keys().encrypt(body).decode()

    def open(self, tenant_id: str, name: str, sealed: str) -> str:
        """The value.

        Raises:
            Unreadable: no key opens it, or it was sealed for another tenant or under another name.
        """
        from cryptography.fernet import InvalidToken

        try:
            body = self._with_keys().decrypt(sealed.removeprefix(_SEALED).encode())
        except InvalidToken:
            raise Unreadable(f"no key of this server opens the secret {name}") from None
        owner, called, value = json.loads(body)
        if (owner, called) != (tenant_id, name):
            raise Unreadable(f"the secret {name} was sealed for something else")
        return str(value)

    def seal_anew(self, sealed: str) -> str:
        """The same under the newest key.

        Raises:
            Unreadable: no key opens it.
        """
        from cryptography.fernet import InvalidToken

        try:
            return _SEALED + self._with_keys().rotate(sealed.removeprefix(_SEALED).encode()).decode()
        except InvalidToken:
            raise Unreadable("no key of this server opens it") from None

    def _with_keys(self) -> MultiFernet:
        if self._fernet is None:
            # loaded by whoever has a secret: it takes 30 ms and 8 MiB
            from cryptography.fernet import Fernet, MultiFernet

            self._fernet = MultiFernet([Fernet(key) for key in self._keys])
        return self._fernet


def reference(sealer: Sealer, tenant_id: str, name: str, value: str | None) -> str:
    """What an execution holds of a secret: the sealed value, or that it is one that is kept on the server."""
    return _KEPT if value is None else sealer.seal(tenant_id, name, value)


def is_kept(reference: str) -> bool:
    """Whether a reference means a secret that is kept on the server, under its own name."""
    return reference == _KEPT


def find_problems(secrets: Mapping[str, str | None]) -> list[Problem]:
    """What is wrong with secrets as they were submitted; no message holds a value."""
    problems = []
    if len(secrets) > MAX_SECRETS:
        problems.append(Problem(("secrets",), f"{len(secrets)} secrets; at most {MAX_SECRETS} are allowed"))
    for name, value in secrets.items():
        if (why := why_not_a_name(name)) is not None:
            problems.append(Problem(("secrets", name[:80]), why))
        elif value is not None and (why := why_not_a_value(value)) is not None:
            problems.append(Problem(("secrets", name), f"the secret {name} {why}"))
    return problems


def why_not_a_name(name: str) -> str | None:
    """Why a secret cannot be called so; None where it can."""
    return None if NAME.fullmatch(name) else f"{name[:80]!r} is not the name of an environment variable"


def why_not_a_value(value: str) -> str | None:
    """Why a text cannot be a secret; None where it can."""
    if len(value) < MIN_CHARS:
        return f"has fewer than {MIN_CHARS} characters, which could not be masked in logs; take a longer one"
    if len(value) > MAX_CHARS:
        return f"has more than {MAX_CHARS} characters; put it into an input file"
    if "\0" in value:
        return "holds a NUL byte, which no environment variable can"
    return None
