"""The runner's side of docs/reference/runner-protocol.md: each call once, tried again while it may help."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from rgrid_server.domain import frames
from rgrid_server.domain.attempts import Assignment, AttemptId, LogChunk, Report, Specification
from rgrid_server.runner.arriving import ArrivingFile
from rgrid_server.runner.departing import IN_PARTS_FROM_BYTES, UPLOAD_SECONDS, DepartingFile, chunks_of
from rgrid_server.runner.machine import ServerClock

log = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_MAX_SECONDS = 5.0
CALL_TIMEOUT_SECONDS = 60.0
BEYOND_THE_END = httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE
MAX_FULL_ANSWERS = 8
"""So often, over some ten seconds, a full disk of the server is borne before anything is given up for it."""


class Dismissed(Exception):
    """The server does not want this runner: its key opens nothing, or another one goes by its name."""


class Unregistered(Exception):
    """The server does not know this runner; it has to register again."""


class Refused(Exception):
    """The server does not take this request, and will not when it is repeated."""


class Gone(Exception):
    """The attempt is not this runner's any more."""


class NoRoom(Exception):
    """The server's disk stays full: what it was to keep is to be given up."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a claim brought."""

    attempts: list[tuple[Assignment, Specification]]
    cancel: list[AttemptId]
    drain: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """The server's times."""

    lease_ms: int
    heartbeat_ms: int


@dataclass(frozen=True, slots=True)
class SentChunk:
    """A log chunk of an attempt."""

    assignment: Assignment
    chunk: LogChunk


class Connection:
    """Calls the server, wherever it is now: after a failure the address file is read again."""

    def __init__(self, url: str, key: str, runner_id: str, incarnation: str, address_file: Path) -> None:
        self.clock = ServerClock()
        self._url = url
        self._identity = {"runner_id": runner_id, "incarnation": incarnation}
        self._address_file = address_file
        self._key = key
        self._answered_at = time.monotonic()
        self._client = httpx.AsyncClient(
            timeout=CALL_TIMEOUT_SECONDS,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
            trust_env=not _is_loopback(url),
        )

    async def close(self) -> None:
        """Let go of every connection."""
        await self._client.aclose()

    @property
    def seconds_unanswered(self) -> float:
        """How long ago the server answered last, or this connection was made."""
        return time.monotonic() - self._answered_at

    async def register(self, description: dict[str, Any]) -> Lease:
        """Introduce this runner; tried until the server answers."""
        while True:
            try:
                answer = await self._until_answered(
                    lambda: self._post_and_hear("register", {**self._identity, **description})
                )
                break
            except NoRoom as error:
                # there is nothing to give up: it waits for room
                log.warning("%s; this runner waits to be registered", error)
        return Lease(answer["lease_ms"], answer["heartbeat_ms"])

    async def claim(
        self,
        *,
        free_cpus_milli: int,
        free_slots: int,
        free_memory_mib: int | None,
        known: Iterable[AttemptId],
        wait_ms: int,
    ) -> Work:
        """Ask for work once.

        Args:
            free_cpus_milli: thousandths of a vCPU that are free.
            free_slots: how many attempts may come.
            free_memory_mib: memory that is free; None where that is not counted.
            known: what was received and has not ended; whatever else the server thinks this runner carries
                was lost on its way, and comes again.
            wait_ms: how long the server may hold the question.
        """
        answer = await self._post(
            "claim",
            {
                **self._identity,
                "free_cpus_milli": free_cpus_milli,
                "free_memory_mib": free_memory_mib,
                "free_slots": free_slots,
                "known": [asdict(item) for item in known],
                "wait_ms": wait_ms,
            },
        )
        specifications = {
            key: Specification(
                script_content=value["script_content"],
                script_name=value["script_name"],
                runtime=value["runtime"],
                requirements_content=value["requirements_content"],
            )
            for key, value in answer["specifications"].items()
        }
        assignments = [Assignment.from_wire(item) for item in answer["attempts"]]
        return Work(
            attempts=[(item, specifications[item.specification]) for item in assignments],
            cancel=[AttemptId(**item) for item in answer["cancel"]],
            drain=answer["drain"],
        )

    async def heartbeat(self, carried: Sequence[AttemptId]) -> tuple[list[AttemptId], list[AttemptId]]:
        """Keep leases; returns what to cancel and what is lost."""
        answer = await self._post_and_hear("heartbeat", self._carried(carried))
        return (
            [AttemptId(**item) for item in answer["cancel"]],
            [AttemptId(**item) for item in answer["lost"]],
        )

    async def release(self, handed_back: Sequence[AttemptId], *, ends: bool = False) -> None:
        """Hand attempts back; with ``ends`` also those that were given and did not arrive here."""
        await self._post("release", {**self._carried(handed_back), "ends": ends})

    async def send_logs(self, sent: Sequence[SentChunk]) -> list[str]:
        """Send log chunks; tried until the server answers.

        Raises:
            NoRoom: its disk stays full.
        """
        body = {
            "chunks": [
                {
                    "execution_id": item.assignment.execution_id,
                    "attempt": item.assignment.attempt,
                    "token": item.assignment.token,
                    "first_sequence": item.chunk.first_sequence,
                    "entries": item.chunk.entries,
                }
                for item in sent
            ]
        }
        answer = await self._until_answered(lambda: self._post("logs", body))
        results: list[str] = answer["results"]
        return results

    async def send_reports(self, reports: Sequence[Report], blobs: Sequence[bytes]) -> list[str]:
        """Send reports with their small outputs; tried until the server answers.

        Raises:
            NoRoom: its disk stays full.
        """
        frame = frames.encode({"reports": [report.to_wire() for report in reports]}, blobs)

        async def call() -> Any:
            headers = self._bearer(self._key) | {"Content-Type": frames.CONTENT_TYPE}
            return _read(await self._client.post(self._path("report"), content=frame, headers=headers))

        results: list[str] = (await self._until_answered(call))["results"]
        return results

    async def missing_blobs(self, assignment: Assignment, hashes: Sequence[str]) -> list[str]:
        """Which of an attempt's outputs are to be uploaded."""
        path = self._attempt_path(assignment, "missing")

        async def call() -> Any:
            answer = await self._client.post(
                path(), json={"hashes": list(hashes)}, headers=self._bearer(assignment.token)
            )
            return _read(answer)

        missing: list[str] = (await self._until_answered(call))["missing"]
        return missing

    async def put_blob(self, assignment: Assignment, sha256: str, file: Path) -> None:
        """Upload one of an attempt's outputs; a large one goes on where it was cut.

        Raises:
            NoRoom: the server's disk stays full.
        """
        path = self._attempt_path(assignment, sha256)
        size_bytes = (await asyncio.to_thread(file.stat)).st_size
        if size_bytes >= IN_PARTS_FROM_BYTES and await self._put_in_parts(
            assignment, sha256, file, size_bytes
        ):
            return

        async def call() -> Any:
            headers = self._bearer(assignment.token) | {"Content-Length": str(size_bytes)}
            chunks = chunks_of(file, 0, size_bytes)
            return _read(
                await self._client.put(path(), content=chunks, headers=headers, timeout=UPLOAD_SECONDS)
            )

        await self._until_answered(call)

    async def _put_in_parts(self, assignment: Assignment, sha256: str, file: Path, size_bytes: int) -> bool:
        """Upload in parts; False, with nothing left there, where the server does not take it so just now."""
        path = self._attempt_path(assignment, f"{sha256}/upload")
        headers, departing = self._bearer(assignment.token), DepartingFile(file, size_bytes)

        async def call() -> bool:
            answer = await departing.send_next(self._client, path(), headers)
            is_behind = answer.status_code == httpx.codes.CONFLICT
            try:
                state = answer.json()["detail"] if is_behind else _read(answer)
            except _Full as error:
                # what has come so far takes the room that it lacks; a whole one leaves nothing when it fails
                raise Refused(str(error)) from None
            departing.go_on_from(state["upload_offset"])
            return bool(state.get("complete"))

        try:
            while not await self._until_answered(call):
                continue
        except Refused as error:
            log.info("%s is sent whole: %s", sha256, error)
            with contextlib.suppress(httpx.TransportError):
                await self._client.delete(path(), headers=headers)
            return False
        return True

    async def get_blob(self, assignment: Assignment, sha256: str, target: Path) -> None:
        """Fetch one of an attempt's inputs into a file, verified; each try goes on where the last was cut.

        Raises:
            Gone: the attempt has no such input.
        """
        path = self._attempt_path(assignment, sha256)
        arriving = ArrivingFile(target, sha256)

        async def call() -> None:
            headers = self._bearer(assignment.token) | arriving.headers
            async with self._client.stream("GET", path(), headers=headers, timeout=UPLOAD_SECONDS) as answer:
                if not answer.is_success and answer.status_code != BEYOND_THE_END:
                    await answer.aread()
                    _read(answer)
                await arriving.take(answer)

        await self._until_answered(call)

    async def _until_answered(self, call: Callable[[], Awaitable[T]]) -> T:
        failures = full = 0
        while True:
            try:
                return await call()
            except (httpx.TransportError, _TryAgain) as error:
                failures += 1
                full = full + 1 if isinstance(error, _Full) else 0
                if full >= MAX_FULL_ANSWERS:
                    raise NoRoom(str(error)) from None
                if failures in {1, 10} or failures % 100 == 0:
                    log.warning("the server does not answer (%r); tried again", error)
                await self.back_off(failures)

    async def back_off(self, failures: int) -> None:
        """Wait before another try (exponential, with full jitter), and see whether the server has moved."""
        longest = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** min(failures, 10))
        await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 - no secret
        try:
            moved = (await asyncio.to_thread(self._address_file.read_text)).strip()
        except OSError:
            return
        if moved and moved != self._url:
            log.info("the server is at %s now", moved)
            self._url = moved

    async def _post(self, call: str, body: dict[str, Any]) -> Any:
        timeout = CALL_TIMEOUT_SECONDS + body.get("wait_ms", 0) / 1000
        answer = await self._client.post(
            self._path(call), json=body, headers=self._bearer(self._key), timeout=timeout
        )
        self._answered_at = time.monotonic()
        return _read(answer)

    async def _post_and_hear(self, call: str, body: dict[str, Any]) -> Any:
        """Send a call that is answered at once, with the server's time."""
        asked_at = time.monotonic()
        answer = await self._post(call, body)
        if "now_ms" in answer:
            self.clock.hear(answer["now_ms"], asked_at, time.monotonic())
        return answer

    def _carried(self, attempts: Sequence[AttemptId]) -> dict[str, Any]:
        return {**self._identity, "attempts": [asdict(item) for item in attempts]}

    def _path(self, call: str) -> str:
        return f"{self._url}/api/v1/runner/{call}"

    def _attempt_path(self, assignment: Assignment, blob: str) -> Callable[[], str]:
        # asked for anew by each try: the server may have moved
        return lambda: self._path(f"attempts/{assignment.execution_id}/{assignment.attempt}/blobs/{blob}")

    @staticmethod
    def _bearer(token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}


class _TryAgain(Exception):
    """The server could not answer just now."""


class _Full(_TryAgain):
    """Its disk is full; the message is its own."""


def is_passing(error: Exception) -> bool:
    """Whether a call that failed so may succeed later."""
    return isinstance(error, httpx.TransportError | _TryAgain)


def _read(answer: httpx.Response) -> Any:
    status = answer.status_code
    if status in {401, 403}:
        if "/runner/attempts/" in str(answer.request.url):
            raise Gone(answer.text)
        raise Dismissed(answer.text)
    if status == 404 and "/runner/attempts/" in str(answer.request.url):
        raise Gone(answer.text)
    if status == 409 and '"sandbox_too_weak"' in answer.text:
        raise Dismissed(answer.text)
    if status == 409:
        raise Unregistered(answer.text)
    if status == 503 and (why := _why_full(answer)) is not None:
        raise _Full(why)
    if status == 429 or status >= 500:
        raise _TryAgain(f"{status}: {answer.text[:200]}")
    if status >= 400:
        raise Refused(f"the server refused {answer.request.url.path}: {status} {answer.text[:500]}")
    try:
        return answer.json()
    except ValueError as error:
        raise _TryAgain(f"no JSON from {answer.request.url.path}") from error


def _why_full(answer: httpx.Response) -> str | None:
    try:
        detail = answer.json()["detail"]
        return str(detail["message"]) if detail["error"] == "storage_full" else None
    except (ValueError, KeyError, TypeError):
        return None


def _is_loopback(url: str) -> bool:
    return httpx.URL(url).host in {"127.0.0.1", "::1", "localhost"}
