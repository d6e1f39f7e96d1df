"""The composition root: the only place that knows every part."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from rgrid_server import __version__
from rgrid_server.api import (
    admin,
    batch_streams,
    batches,
    costs,
    errors,
    events,
    executions,
    files,
    logs,
    partials,
    runner,
    system,
)
from rgrid_server.api import (
    secrets as secret_routes,
)
from rgrid_server.api.lane import Lane
from rgrid_server.api.middleware import RequestIds
from rgrid_server.api.services import Services
from rgrid_server.api.urls import PREFIX
from rgrid_server.billing.costs import Costs
from rgrid_server.billing.pricebook import PriceBook
from rgrid_server.clock import new_key
from rgrid_server.config import Settings
from rgrid_server.domain.apikeys import Scope
from rgrid_server.domain.choosing import Chooser
from rgrid_server.domain.prices import DEFAULT_PRICES
from rgrid_server.domain.signing import Signer
from rgrid_server.observability.gauges import Scrape
from rgrid_server.observability.metrics import Metrics
from rgrid_server.observability.readiness import Readiness
from rgrid_server.observability.requests import RequestNotes
from rgrid_server.observability.tracing import make_tracing
from rgrid_server.observability.watching import Watching
from rgrid_server.presets import load_presets
from rgrid_server.scheduler.batches import Batches
from rgrid_server.scheduler.caching import ResultCache
from rgrid_server.scheduler.claims import Claims
from rgrid_server.scheduler.clockwatch import ClockWatch
from rgrid_server.scheduler.executions import Executions
from rgrid_server.scheduler.feed import Feed
from rgrid_server.scheduler.files import Files
from rgrid_server.scheduler.leases import Leases
from rgrid_server.scheduler.logs import Logs
from rgrid_server.scheduler.partials import PartialUploads
from rgrid_server.scheduler.reports import Reports
from rgrid_server.scheduler.results import Results
from rgrid_server.scheduler.retention import Retention
from rgrid_server.scheduler.secrets import Secrets
from rgrid_server.scheduler.sweeper import sweep
from rgrid_server.scheduler.uploads import Uploads
from rgrid_server.scheduler.wakeups import Wakeups
from rgrid_server.secretkeys import make_sealer
from rgrid_server.storage import (
    kind_of_database,
    make_data_directory,
    migrate,
    open_blobs,
    open_database,
    open_notifications,
    write_private,
)
from rgrid_server.store import spend
from rgrid_server.tenancy import Tenancy

log = logging.getLogger(__name__)

ADMIN_KEY_FILE = "admin.key"
RUNNER_KEY_FILE = "runner.key"
RUNNER_KEY_NAME = "local runner"


class ServerState:
    """A running server's parts, opened and closed together."""

    def __init__(
        self,
        settings: Settings,
        services: Services,
        wakeups: Wakeups,
        runner_key: str,
        retention: Retention,
    ) -> None:
        self.settings = settings
        self.services = services
        self.wakeups = wakeups
        self.runner_key = runner_key
        self.retention = retention

    def drain(self) -> None:
        """Give out no more work, and end every long wait."""
        self.services.leases.drain()
        self.wakeups.end_all()

    async def is_busy(self) -> bool:
        """Whether anything is queued or runs."""
        return await self.services.executions.any_unfinished()

    async def is_carrying(self) -> bool:
        """Whether a runner carries anything."""
        return await self.services.leases.any_open()


@asynccontextmanager
async def open_server(settings: Settings) -> AsyncIterator[ServerState]:
    """Open everything behind the API, on a data directory that is made where there is none.

    Raises:
        rgrid_server.store.database.StorageError: the data cannot be used by this version.
        rgrid_server.domain.runtimes.PresetInvalid: the presets are not written as they are to be.
        OSError: the directory cannot be written.
    """
    make_data_directory(settings.data_dir)
    await asyncio.to_thread(migrate, settings)
    async with AsyncExitStack() as stack:
        tracing = make_tracing("rgrid-server", settings.tracing, settings.tracing_ratio)
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        metrics = Metrics(kind_of_database(settings))
        observer = Watching(metrics, tracing)
        database = open_database(settings, observer.committed)
        stack.push_async_callback(database.close)
        await database.write(lambda c: spend.insert_prices(c, DEFAULT_PRICES))
        book = PriceBook()
        tenancy = Tenancy(database, allow_process_sandbox=settings.allow_process_sandbox)
        signer = Signer(await tenancy.secret("signing_secret", secrets.token_hex(32)))
        sealer = make_sealer(settings)
        runner_key = await _provide_keys(settings, tenancy)
        notifications = open_notifications(settings)
        wakeups = Wakeups(notifications.send if notifications is not None else None)
        if notifications is not None:
            listening = asyncio.create_task(notifications.run(wakeups.wake_here, wakeups.wake_all))
            stack.push_async_callback(_canceled(listening))
        blobs = open_blobs(settings)
        limits, engine = settings.limits, settings.engine
        chooser = Chooser()
        cache = ResultCache(book, engine, settings.retention.log_ms)
        executions_ = Executions(database, wakeups, limits, observer, load_presets(settings.presets_file))
        claims = Claims(signer, settings.attempt_limits, chooser, sealer=sealer, cache=cache)
        leases = Leases(
            *(database, wakeups, claims, book, engine, observer),
            allow_process_sandbox=settings.allow_process_sandbox,
        )

        async def has_runner() -> bool:
            return bool(wakeups.waiting().get("runner") or await executions_.present_runners())

        uploads = Uploads(database, blobs, wakeups, limits.max_blob_bytes, observer)
        readiness = Readiness(database, blobs, lambda: claims.draining, has_runner)
        services = Services(
            settings=settings,
            signer=signer,
            tenancy=tenancy,
            executions=executions_,
            batches=Batches(database, wakeups, limits, observer),
            uploads=uploads,
            partials=PartialUploads(uploads, blobs, limits.max_blob_bytes, settings.max_unfinished_bytes),
            files=Files(database, blobs, settings.retention),
            logs=Logs(database, wakeups, settings.retention),
            feed=Feed(database, wakeups),
            results=Results(database, wakeups),
            leases=leases,
            reports=Reports(database, wakeups, signer, book, engine, chooser, observer, cache),
            secrets=Secrets(database, sealer),
            costs=Costs(database, engine),
            observer=observer,
            notes=RequestNotes(metrics, is_logged=settings.access_log),
            tracing=tracing,
            readiness=readiness,
            scrape=Scrape(metrics, database, readiness, wakeups.waiting),
        )
        await services.leases.extend_all()
        cancellations = services.batches.cancellations
        await cancellations.end_begun()
        clock = ClockWatch(database, wakeups)
        await clock.begin()
        sweeping = asyncio.create_task(sweep(clock, services.executions, services.leases))
        stack.push_async_callback(_canceled(sweeping))
        stack.push_async_callback(_canceled(asyncio.create_task(cancellations.keep_up())))
        retention = Retention(database, blobs, settings.retention)
        stack.push_async_callback(_canceled(asyncio.create_task(retention.keep_up())))
        yield ServerState(settings, services, wakeups, runner_key, retention)


def make_asgi(state: ServerState) -> Lane:
    """All that answers over an opened server: the application, and the lane for hot calls before it."""
    return Lane(make_app(state), state.services)


def make_app(state: ServerState) -> FastAPI:
    """The HTTP application over an opened server."""
    app = FastAPI(
        title="RGrid",
        version=__version__,
        description="Run a Python script on a grid, and know to the last micro what it cost.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = state.services
    errors.install(app)
    app.add_middleware(RequestIds)
    if state.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=state.settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[
                *("X-Request-Id", "X-Next-Cursor", "X-Ignored-Fields"),
                *("Accept-Ranges", "Content-Range", "Upload-Offset", "Upload-Complete"),
            ],
        )
    app.include_router(system.open_routes)
    app.include_router(system.metrics_routes)
    app.include_router(system.open_routes, prefix=PREFIX, include_in_schema=False)
    app.include_router(system.metrics_routes, prefix=PREFIX, include_in_schema=False)
    for module in (
        system,
        executions,
        batches,
        batch_streams,
        events,
        files,
        partials,
        logs,
        costs,
        secret_routes,
        admin,
        runner,
    ):
        app.include_router(module.router, prefix=PREFIX)
    for extra in (files.signed_routes, runner.attempt_routes, logs.sockets):
        app.include_router(extra, prefix=PREFIX)
    return app


async def _provide_keys(settings: Settings, tenancy: Tenancy) -> str:
    """Make the first admin key and the local runner's key; returns the latter."""
    tenant_id = await tenancy.default_tenant()
    admin_file = settings.data_dir / ADMIN_KEY_FILE
    if settings.bootstrap_api_key is not None:
        chosen = settings.bootstrap_api_key.get_secret_value()
        await tenancy.provide_key(tenant_id, (Scope.ADMIN,), "bootstrap", chosen)
    elif not await tenancy.has_admin_key():
        key = new_key()
        # written down first: a key that opens everything must not be lost with a server that is killed here
        write_private(admin_file, f"{key}\n")
        if await tenancy.provide_first_key(tenant_id, key):
            print(f"The first API key, shown this once (and kept in {admin_file}): {key}", flush=True)  # noqa: T201
        else:
            admin_file.unlink()
    runner_file = settings.data_dir / RUNNER_KEY_FILE
    if runner_file.exists() and await tenancy.has_key(runner_file.read_text().strip()):
        return runner_file.read_text().strip()
    key = new_key()
    write_private(runner_file, f"{key}\n")
    await tenancy.issue_key(tenant_id, (Scope.RUNNER,), RUNNER_KEY_NAME, key=key)
    return key


def _canceled(task: asyncio.Task[Any]) -> Callable[[], Awaitable[None]]:
    async def cancel() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return cancel
