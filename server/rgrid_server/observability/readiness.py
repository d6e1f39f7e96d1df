"""Whether a server takes work, and if not, why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

from sqlalchemy.exc import IntegrityError

from rgrid_server.blobs.base import BlobStore
from rgrid_server.clock import now_ms
from rgrid_server.store.database import Database, StorageError
from rgrid_server.store.tenants import replace_setting

PROBE_SETTING = "readiness_probe"
KNOWN_SECONDS = 1.0
"""So long a finding is taken to be what it was: asking costs a commit, and needs no key."""
COMMIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a server is not ready: a stable code, and a sentence with the way out."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found; ready where there is no reason against it. Warnings do not count."""

    reasons: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()


class Readiness:
    """Looks whether work could be taken in: a transaction committed, a blob kept.

    Args:
        database: has to commit within ``COMMIT_SECONDS``.
        blobs: has to say that it has room.
        is_draining: whether the server is about to stop.
        has_runner: whether any runner was heard of lately; to have none is only a warning, since what is
            submitted waits for one.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        is_draining: Callable[[], bool],
        has_runner: Callable[[], Awaitable[bool]],
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._is_draining = is_draining
        self._has_runner = has_runner
        self._looking = asyncio.Lock()
        self._known = Finding()
        self._known_until = 0.0

    async def look(self) -> Finding:
        """Reasons and warnings as of the last second; draining shows at once."""
        async with self._looking:
            if self._known_until < monotonic():
                self._known = await self._look()
                self._known_until = monotonic() + KNOWN_SECONDS
            found = self._known
        if self._is_draining():
            draining = Reason("draining", "the server is stopping; ask another one, or this one again later")
            return Finding((draining, *found.reasons), found.warnings)
        return found

    async def _look(self) -> Finding:
        database = await self._database_reason()
        reasons = [reason for reason in (database, await self._blobs_reason()) if reason is not None]
        warnings = []
        if database is None and not await self._has_runner():
            warnings.append(
                Reason(
                    "no_runner", "no runner was heard of in the last minute; what is submitted waits for one"
                )
            )
        return Finding(tuple(reasons), tuple(warnings))

    async def _database_reason(self) -> Reason | None:
        now = str(now_ms())
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await self._database.write(lambda c: replace_setting(c, PROBE_SETTING, now))
        except TimeoutError:
            message = (
                f"the database has not committed within {COMMIT_SECONDS:g} s; look at its disk and its load"
            )
            return Reason("database", message)
        except StorageError as error:
            return Reason("database", str(error))
        except IntegrityError:
            # another process wrote the very first probe in this moment: it can be written
            return None
        except Exception as error:  # whatever it is, no work can be taken while it lasts
            return Reason("database", f"the database cannot be written ({type(error).__name__})")
        return None

    async def _blobs_reason(self) -> Reason | None:
        problem = await self._blobs.problem()
        return Reason("blobs", problem) if problem else None
