"""What the routes call; the composition root puts it together."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from starlette.requests import HTTPConnection

from rgrid_server.billing.costs import Costs
from rgrid_server.config import Settings
from rgrid_server.domain.signing import Signer
from rgrid_server.observability.gauges import Scrape
from rgrid_server.observability.readiness import Readiness
from rgrid_server.observability.requests import RequestNotes
from rgrid_server.observability.tracing import Tracing
from rgrid_server.scheduler.batches import Batches
from rgrid_server.scheduler.executions import Executions
from rgrid_server.scheduler.feed import Feed
from rgrid_server.scheduler.files import Files
from rgrid_server.scheduler.leases import Leases
from rgrid_server.scheduler.logs import Logs
from rgrid_server.scheduler.observer import Observer
from rgrid_server.scheduler.partials import PartialUploads
from rgrid_server.scheduler.reports import Reports
from rgrid_server.scheduler.results import Results
from rgrid_server.scheduler.secrets import Secrets
from rgrid_server.scheduler.uploads import Uploads
from rgrid_server.tenancy import Tenancy


@dataclass(slots=True)
class Services:
    """Everything behind the API, and when it was last asked for anything."""

    settings: Settings
    signer: Signer
    tenancy: Tenancy
    executions: Executions
    batches: Batches
    uploads: Uploads
    partials: PartialUploads
    files: Files
    logs: Logs
    feed: Feed
    results: Results
    leases: Leases
    reports: Reports
    secrets: Secrets
    costs: Costs
    observer: Observer
    notes: RequestNotes
    tracing: Tracing
    readiness: Readiness
    scrape: Scrape
    last_asked: float = field(default_factory=monotonic)


def services(connection: HTTPConnection) -> Services:
    """The services of the application that serves a request."""
    found: Services = connection.app.state.services
    return found
