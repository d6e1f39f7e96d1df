"""Credentials for a registry of images, which travel as a secret and are none of the script's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from rgrid_server.domain.sealing import MIN_CHARS

REGISTRY_AUTH = "RGRID_REGISTRY_AUTH"
"""The secret that has them, as ``USER:PASSWORD``."""


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """Who fetches an image."""

    username: str
    password: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Equal for equal credentials, and tells nothing of them."""
        return hashlib.sha256(f"{self.username}\0{self.password}".encode()).hexdigest()


def find_login(secrets: Mapping[str, str]) -> RegistryLogin | None:
    """The credentials among an execution's secrets; None where there are none.

    >>> find_login({"RGRID_REGISTRY_AUTH": "me:a:b"})
    RegistryLogin(username='me')
    """
    if REGISTRY_AUTH not in secrets:
        return None
    username, _, password = secrets[REGISTRY_AUTH].partition(":")
    return RegistryLogin(username, password)


def of_the_script(secrets: Mapping[str, str]) -> dict[str, str]:
    """The secrets that are the script's own."""
    return {name: value for name, value in secrets.items() if name != REGISTRY_AUTH}


def to_mask(secrets: Mapping[str, str]) -> list[str]:
    """What must not be shown: every value, and the password within the credentials, if it can be masked."""
    login = find_login(secrets)
    passwords = [] if login is None or len(login.password) < MIN_CHARS else [login.password]
    return [*secrets.values(), *passwords]
