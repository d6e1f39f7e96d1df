"""Whatever happens in whatever order: what is referred to is there, and what is not is gone in the end.

Generated histories of uploads, submissions, runs, stored references, open batches, crashes and jumps of the
clock run against the services on a real database, and against a model that knows only what was promised.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr
from sqlalchemy import func, select

from rgrid_server import storage
from rgrid_server.billing.pricebook import PriceBook
from rgrid_server.blobs.base import INLINE_MAX_BYTES
from rgrid_server.blobs.directory import DirectoryBlobStore
from rgrid_server.config import Settings
from rgrid_server.domain.attempts import Outcome, OutputFile, Report
from rgrid_server.domain.choosing import Chooser
from rgrid_server.domain.prices import DEFAULT_PRICES
from rgrid_server.domain.retention import DAY_MS, KEEP_UNUSED_MS, RetentionTimes
from rgrid_server.domain.signing import Signer
from rgrid_server.domain.submission import Limits, Submission
from rgrid_server.errors import Invalid
from rgrid_server.scheduler.batches import Batches, BatchItem, BatchSubmission
from rgrid_server.scheduler.claims import AttemptLimits, Claims
from rgrid_server.scheduler.executions import Executions
from rgrid_server.scheduler.files import Files
from rgrid_server.scheduler.intake import INPUTS_DUE_MS
from rgrid_server.scheduler.leases import Leases
from rgrid_server.scheduler.offers import ClaimRequest
from rgrid_server.scheduler.partials import PartialUploads
from rgrid_server.scheduler.reports import Reports, Verdict
from rgrid_server.scheduler.retention import Retention
from rgrid_server.scheduler.uploads import UNUSED_MARGIN_MS, Uploads
from rgrid_server.scheduler.wakeups import Wakeups
from rgrid_server.store import spend
from rgrid_server.store.database import Database
from rgrid_server.store.tables import (
    artifacts,
    batches,
    blobs,
    charges,
    events,
    executions,
    input_cache,
    tenant_blobs,
)
from rgrid_server.tenancy import Tenancy

T = TypeVar("T")

ROUNDS = int(os.environ.get("RGRID_SOAK_ROUNDS", "1"))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""A history is not shrunk: that takes longer than reading it."""
HOUR_MS = 3_600_000
TIMES = RetentionTimes(log_ms=7 * DAY_MS, output_ms=30 * DAY_MS)
CONTENTS = [bytes([number]) * (INLINE_MAX_BYTES + 1000 if number % 2 else 100) for number in range(4)]
HASHES = [hashlib.sha256(content).hexdigest() for content in CONTENTS]
RUNNER = {
    "runner_id": "runner_1",
    "incarnation": "1",
    "hostname": "host",
    "slots": 1,
    "runtimes": [{"name": "python:3.11", "version": "3.11.7"}],
    "sandbox": "bubblewrap",
    "version": "1",
}


class Clock:
    """In the place of ``time`` in rgrid_server.clock: it stands still until it is moved."""

    def __init__(self) -> None:
        # the files' own times are the machine's
        self.now_ms = Path("/proc/self").stat().st_ctime_ns // 1_000_000

    def time_ns(self) -> int:
        return self.now_ms * 1_000_000


class Grid:
    """The services over one database and one directory, with a runner that is played."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database = database
        self.directory = directory
        self.store = DirectoryBlobStore(directory)
        self._open()

    def _open(self) -> None:
        wakeups, signer, limits, chooser = Wakeups(), Signer("secret"), Limits(), Chooser()
        self.executions = Executions(self.database, wakeups, limits)
        self.batches = Batches(self.database, wakeups, limits)
        self.uploads = Uploads(self.database, self.store, wakeups, 1 << 30)
        self.files = Files(self.database, self.store, TIMES)
        book = PriceBook()
        self.leases = Leases(self.database, wakeups, Claims(signer, AttemptLimits(), chooser), book, "local")
        self.reports = Reports(self.database, wakeups, signer, book, "local", chooser)
        self.retention = Retention(self.database, self.store, TIMES)

    async def begin(self) -> list[str]:
        """Make two tenants, and a runner that is known."""
        await self.database.write(lambda c: spend.insert_prices(c, DEFAULT_PRICES))
        await self.leases.register(RUNNER)
        tenancy = Tenancy(self.database)
        return [await tenancy.add_tenant(name) for name in ("one", "two")]

    async def upload(self, tenant_id: str, content: bytes) -> None:
        await self.uploads.add(tenant_id, [await self.uploads.receive(chunks_of(content), None)])

    async def run_next(self, outputs: list[bytes]) -> str | None:
        """Claim what is next and end it with outputs; returns its id."""
        offer = ClaimRequest("runner_1", 1000, 1, 0)
        claimed = await self.leases.claim(offer, is_here)
        if not claimed.attempts:
            return None
        (attempt,) = claimed.attempts
        received = [await self.uploads.receive(chunks_of(content), None) for content in outputs]
        report = Report(
            execution_id=attempt.execution_id,
            attempt=attempt.attempt,
            token=attempt.token,
            outcome=Outcome.EXITED,
            exit_code=0,
            duration_ms=1000,
            stdout="printed",
            artifacts=[
                OutputFile(item.sha256, item.sha256, item.size_bytes, "text/plain") for item in received
            ],
        )
        async with self.uploads.taking(received):
            by_hash = {item.sha256: item for item in received}
            verdicts = await self.reports.end_attempts([report], by_hash, {})
        assert verdicts == [Verdict.ACCEPTED]
        return attempt.execution_id

    async def content(self, tenant_id: str, sha256: str) -> bytes:
        """A tenant's blob.

        Raises:
            NotFound, FileNotFoundError: it is not there.
        """
        stored = await self.files.open_blob(tenant_id, sha256)
        return b"".join([chunk async for chunk in stored.read()])

    def files_there(self) -> list[str]:
        return [path.name for path in self.directory.rglob("*") if path.is_file()]

    async def count(self, table: Any) -> int:
        query = select(func.count()).select_from(table)
        return int(await self.database.read(lambda c: c.execute(query).scalar_one()))


async def chunks_of(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def is_here() -> bool:
    return False


@dataclass
class Unfinished:
    """An execution that was submitted and has not ended; some of its files may be still to come."""

    tenant_id: str
    inputs: dict[str, str | None]
    due_ms: int | None = None


@dataclass
class Model:
    """What was promised: whose blobs must be there until when."""

    promised_until: dict[tuple[str, str], int] = field(default_factory=dict)
    unfinished: dict[str, Unfinished] = field(default_factory=dict)
    open_batches: dict[str, tuple[str, str]] = field(default_factory=dict)
    stored: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    ended: int = 0

    def promise(self, tenant_id: str, sha256: str, until_ms: int) -> None:
        pair = (tenant_id, sha256)
        self.promised_until[pair] = max(until_ms, self.promised_until.get(pair, 0))

    def must_be_there(self, now_ms: int) -> set[tuple[str, str]]:
        by_time = {pair for pair, until_ms in self.promised_until.items() if until_ms > now_ms}
        by_execution = {
            (item.tenant_id, sha256)
            for item in self.unfinished.values()
            for sha256 in item.inputs.values()
            if sha256
        }
        return by_time | by_execution | set(self.open_batches.values())


some_blobs = st.lists(st.integers(0, len(HASHES) - 1), max_size=3, unique=True)
blob_numbers = st.integers(0, len(HASHES) - 1)
tenant_numbers = st.integers(0, 1)


class Histories(RuleBasedStateMachine):
    """What may happen, and what then must be so."""

    open_database: ClassVar[Callable[[Path], Database]]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.temporary = tempfile.TemporaryDirectory(prefix="rgrid-histories-")
        self.clock = Clock()
        self.patched = patch("rgrid_server.clock.time", self.clock)
        self.patched.start()
        self.model = Model()

    @initialize()
    def begin(self) -> None:
        directory = Path(self.temporary.name)

        async def open_() -> None:
            self.grid = Grid(type(self).open_database(directory), directory / "blobs")
            self.tenants = await self.grid.begin()

        self.do(open_())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(tenant=tenant_numbers, blob=blob_numbers, times=st.integers(1, 3))
    def upload(self, tenant: int, blob: int, times: int) -> None:
        async def at_once() -> None:
            await asyncio.gather(
                *(self.grid.upload(self.tenants[tenant], CONTENTS[blob]) for _ in range(times))
            )

        self.do(at_once())
        self.model.promise(self.tenants[tenant], HASHES[blob], self.clock.now_ms + KEEP_UNUSED_MS)

    @rule(blob=blob_numbers)
    def crash_after_an_upload(self, blob: int) -> None:
        """Its file is there, and no row says so."""
        self.do(self.grid.uploads.receive(chunks_of(CONTENTS[blob]), None))

    @rule(tenant=tenant_numbers, blobs_=some_blobs)
    def ask_what_is_missing(self, tenant: int, blobs_: list[int]) -> None:
        tenant_id, asked = self.tenants[tenant], [HASHES[number] for number in blobs_]
        missing = self.do(self.grid.uploads.missing(tenant_id, asked))
        must = self.model.must_be_there(self.clock.now_ms)
        assert not [sha256 for sha256 in missing if (tenant_id, sha256) in must]
        for sha256 in set(asked) - set(missing):
            self.model.promise(tenant_id, sha256, self.clock.now_ms + UNUSED_MARGIN_MS)

    @rule(tenant=tenant_numbers, blobs_=some_blobs, awaited=st.integers(0, 2))
    def submit(self, tenant: int, blobs_: list[int], awaited: int) -> None:
        tenant_id = self.tenants[tenant]
        inputs: dict[str, str | None] = {f"f{number}": HASHES[number] for number in blobs_}
        inputs |= {f"awaited{number}": None for number in range(awaited)}
        must = self.model.must_be_there(self.clock.now_ms)
        submission = Submission("print(1)", "python:3.11", inputs=inputs)
        try:
            submitted = self.do(self.grid.executions.submit(tenant_id, submission))
        except Invalid:
            assert not all((tenant_id, HASHES[number]) in must for number in blobs_)
            return
        due_ms = self.clock.now_ms + INPUTS_DUE_MS if awaited else None
        self.model.unfinished[submitted.row["execution_id"]] = Unfinished(tenant_id, inputs, due_ms)

    @precondition(lambda self: any(item.due_ms for item in self.model.unfinished.values()))
    @rule(data=st.data(), blob=blob_numbers)
    def a_file_arrives(self, data: st.DataObject, blob: int) -> None:
        waiting = sorted(key for key, item in self.model.unfinished.items() if item.due_ms is not None)
        execution_id = data.draw(st.sampled_from(waiting))
        item = self.model.unfinished[execution_id]
        name = next(name for name, sha256 in item.inputs.items() if sha256 is None)

        async def put() -> None:
            received = await self.grid.uploads.receive(chunks_of(CONTENTS[blob]), None)
            await self.grid.uploads.put_input(execution_id, name, received)

        self.do(put())
        item.inputs[name] = HASHES[blob]
        if all(item.inputs.values()):
            item.due_ms = None

    @rule(outputs=some_blobs)
    def run_one(self, outputs: list[int]) -> None:
        execution_id = self.do(self.grid.run_next([CONTENTS[number] for number in outputs]))
        if execution_id is None:
            assert all(item.due_ms is not None for item in self.model.unfinished.values())
            return
        item = self.model.unfinished.pop(execution_id)
        self.model.ended += 1
        until_ms = self.clock.now_ms + TIMES.output_ms
        for sha256 in [*item.inputs.values(), *(HASHES[number] for number in outputs)]:
            assert sha256 is not None
            self.model.promise(item.tenant_id, sha256, until_ms)

    @rule(tenant=tenant_numbers, blob=blob_numbers)
    def open_a_batch(self, tenant: int, blob: int) -> None:
        tenant_id = self.tenants[tenant]
        was_there = (tenant_id, HASHES[blob]) in self.model.must_be_there(self.clock.now_ms)
        template = Submission("print(2)", "python:3.11", inputs={"shared": HASHES[blob]})
        batch = self.do(self.grid.batches.submit(tenant_id, BatchSubmission(template, [], closed=False)))
        if was_there:
            self.model.open_batches[batch.row["batch_id"]] = (tenant_id, HASHES[blob])

    @precondition(lambda self: self.model.open_batches)
    @rule(data=st.data(), closes=st.booleans())
    def append_to_a_batch(self, data: st.DataObject, closes: bool) -> None:
        batch_id = data.draw(st.sampled_from(sorted(self.model.open_batches)))
        tenant_id, sha256 = self.model.open_batches[batch_id]

        async def append() -> str:
            template = await self.grid.batches.template(tenant_id, batch_id)
            await self.grid.batches.append(tenant_id, batch_id, [BatchItem.of(template)])
            rows = await self.grid.batches.executions(tenant_id, batch_id, limit=None, after=-1, status=None)
            if closes:
                await self.grid.batches.close(tenant_id, batch_id)
            return str(rows[-1]["execution_id"])

        self.model.unfinished[self.do(append())] = Unfinished(tenant_id, {"shared": sha256})
        if closes:
            del self.model.open_batches[batch_id]

    @rule(tenant=tenant_numbers, blob=blob_numbers)
    def store_a_reference(self, tenant: int, blob: int) -> None:
        tenant_id, sha256 = self.tenants[tenant], HASHES[blob]
        was_there = (tenant_id, sha256) in self.model.must_be_there(self.clock.now_ms)
        stored = self.do(self.grid.files.store_cached_inputs(tenant_id, sha256, {"a": f"blobs/{sha256}"}))
        if stored and was_there:
            self.model.promise(tenant_id, sha256, self.clock.now_ms + TIMES.output_ms)
            self.model.stored[tenant_id, sha256] = (sha256, self.clock.now_ms + TIMES.output_ms)

    @rule(tenant=tenant_numbers, blob=blob_numbers)
    def look_a_reference_up(self, tenant: int, blob: int) -> None:
        tenant_id = self.tenants[tenant]
        found = self.do(self.grid.files.cached_inputs(tenant_id, HASHES[blob]))
        _, until_ms = self.model.stored.get((tenant_id, HASHES[blob]), ("", 0))
        if until_ms > self.clock.now_ms:
            assert found == {"a": f"blobs/{HASHES[blob]}"}
        if found is not None:
            assert self.do(self.grid.files.resolve(tenant_id, found["a"])) == HASHES[blob]

    @rule(hours=st.sampled_from([0.5, 2, 11, 13, 25, 24 * 6, 24 * 8, 24 * 29, 24 * 31]))
    def time_passes(self, hours: float) -> None:
        self.clock.now_ms += round(hours * HOUR_MS)

    @rule()
    def the_sweep_comes_by(self) -> None:
        self.let_go()

    def let_go(self) -> None:
        self.do(self.grid.executions.expire_inputs(self.clock.now_ms))
        overdue = [
            key
            for key, item in self.model.unfinished.items()
            if item.due_ms is not None and item.due_ms <= self.clock.now_ms
        ]
        for key in overdue:
            del self.model.unfinished[key]
        self.do(self.grid.retention.let_go())

    @invariant()
    def what_was_promised_is_there(self) -> None:
        for tenant_id, sha256 in self.model.must_be_there(self.clock.now_ms):
            assert self.do(self.grid.content(tenant_id, sha256)) == CONTENTS[HASHES.index(sha256)]

    def teardown(self) -> None:
        try:
            if hasattr(self, "grid"):
                self.end()
                self.do(self.grid.database.close())
        finally:
            self.patched.stop()
            self.loop.close()
            self.temporary.cleanup()

    def end(self) -> None:
        """Finish all that is begun, and let the time of all of it pass: only what was paid for is left."""
        for batch_id, (tenant_id, _) in self.model.open_batches.items():
            self.do(self.grid.batches.close(tenant_id, batch_id))
        self.close_batches_without_a_promise()
        while self.do(self.grid.run_next([])) is not None:
            self.model.ended += 1
        for days in (1, 40, 3, 1):
            self.clock.now_ms += days * DAY_MS
            self.let_go()
        for table in (blobs, tenant_blobs, artifacts, input_cache):
            assert self.do(self.grid.count(table)) == 0, table.name
        assert self.do(self.grid.count(events)) <= 1
        assert self.grid.files_there() == []
        assert self.do(self.grid.count(charges)) == self.model.ended
        heads = select(func.count()).select_from(executions).where(executions.c.stdout.is_not(None))
        assert self.do(self.grid.database.read(lambda c: c.execute(heads).scalar_one())) == 0

    def close_batches_without_a_promise(self) -> None:
        query = select(batches.c.tenant_id, batches.c.batch_id).where(~batches.c.closed)
        for tenant_id, batch_id in self.do(self.grid.database.read(lambda c: c.execute(query).all())):
            self.do(self.grid.batches.close(tenant_id, batch_id))


@pytest.fixture(params=["sqlite", "postgres"])
def open_database(request: pytest.FixtureRequest) -> Callable[[Path], Database]:
    """Makes a fresh database of each kind."""

    def open_(directory: Path) -> Database:
        url = None
        if request.param == "postgres":
            url = SecretStr(request.getfixturevalue("postgres").create_database())
        found = Settings(data_dir=directory, database_url=url, database_connections=6)  # type: ignore[call-arg]
        storage.migrate(found)
        return storage.open_database(found)

    return open_


def test_an_upload_in_parts_that_does_not_go_on_is_let_go(
    open_database: Callable[[Path], Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("rgrid_server.clock.time", clock)
    sha256 = hashlib.sha256(CONTENTS[1]).hexdigest()

    async def check() -> None:
        (tmp_path / "data").mkdir()
        grid = Grid(open_database(tmp_path / "data"), tmp_path / "blobs")
        tenant_id, _ = await grid.begin()
        partials = PartialUploads(grid.uploads, grid.store, 1 << 30, 1 << 30)
        await partials.append(tenant_id, sha256, 0, chunks_of(CONTENTS[1][:100]), is_last=False)
        clock.now_ms += TIMES.upload_ms - HOUR_MS
        await grid.retention.let_go()
        assert (await partials.state(tenant_id, sha256)).offset == 100
        clock.now_ms += 2 * HOUR_MS
        await grid.retention.let_go()
        assert (await partials.state(tenant_id, sha256)).offset == 0
        await grid.database.close()

    asyncio.run(check())


def test_nothing_referred_to_is_missing_and_nothing_else_stays(
    open_database: Callable[[Path], Database],
) -> None:
    kind = type("HistoriesOfOneKind", (Histories,), {"open_database": staticmethod(open_database)})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=8 * ROUNDS,
            stateful_step_count=30,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
