"""Triggers without a triggerer."""

from __future__ import annotations

import asyncio
from typing import Any


def fired(trigger: Any) -> Any:
    """What a trigger fires, after a way through its own serialization."""
    _, arguments = trigger.serialize()
    again = type(trigger)(**arguments)

    async def wait() -> Any:
        return [event async for event in again.run()]

    (event,) = asyncio.run(wait())
    return event
