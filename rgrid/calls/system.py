"""Calls about the server and who asks it: secrets, runtimes, limits, identity, health."""

from __future__ import annotations

from rgrid import models
from rgrid.calls.base import Call, quoted, read_many, read_message, read_one


def secrets() -> Call[list[models.KeptSecret]]:
    """What is kept, by name."""
    return Call("GET", "/secrets", read_many(lambda: models.KeptSecret))


def put_secret(name: str, value: str) -> Call[str]:
    """Keep a secret; returns what the server says of it."""
    return Call("PUT", f"/secrets/{quoted(name)}", read_message, json={"value": value})


def remove_secret(name: str) -> Call[str]:
    """Keep a secret no more; returns what the server says of it."""
    return Call("DELETE", f"/secrets/{quoted(name)}", read_message)


def runtimes() -> Call[list[models.Runtime]]:
    """What scripts can run with."""
    return Call("GET", "/runtimes", read_many(lambda: models.Runtime))


def limits() -> Call[models.Limits]:
    """What may be asked for."""
    return Call("GET", "/limits", read_one(lambda: models.Limits))


def whoami() -> Call[models.Identity]:
    """Whose key this is."""
    return Call("GET", "/whoami", read_one(lambda: models.Identity))


def health() -> Call[models.Health]:
    """Whether the server is well."""
    return Call("GET", "/health", read_one(lambda: models.Health))
