"""Every metric that this server has, under the names that Prometheus' conventions ask for.

A process counts what it does itself; what all processes share (the queue, running attempts) is asked of the
database when it is scraped (:mod:`rgrid_server.observability.gauges`). No label has an id in it.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from rgrid_server import __version__
from rgrid_server.domain.attempts import Outcome
from rgrid_server.observability.tallies import Count, TallyVec

REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STORE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
WORK_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
OPERATIONS = (1, 2, 5, 10, 20, 50, 100, 200, 512)


disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The instruments, each documented by its own help text."""

    def __init__(self, database: str = "sqlite") -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Info("rgrid_build", "What runs here.", registry=registry).info(
            {"version": __version__, "database": database, "python": platform.python_version()}
        )

        self.requests = self._histogram(
            "rgrid_http_request_duration_seconds",
            "Requests by route; those that wait on purpose have ?wait behind it.",
            REQUEST_SECONDS,
            "method",
            "route",
            "status",
        )
        self.submits = self._histogram(
            "rgrid_submit_duration_seconds", "Storing a submission, until it is durable.", STORE_SECONDS
        ).of()
        self.claims = self._histogram(
            "rgrid_claim_duration_seconds", "Giving a runner attempts, until it is durable.", STORE_SECONDS
        ).of()
        self.commits = self._histogram(
            "rgrid_commit_duration_seconds", "Transactions, until they are durable.", STORE_SECONDS
        ).of()
        self.commit_operations = self._histogram(
            "rgrid_commit_operations", "Operations that one commit carried.", OPERATIONS
        ).of()
        self.queue_waits = self._histogram(
            "rgrid_queue_wait_seconds", "From being ready to being claimed.", WORK_SECONDS
        ).of()
        self.scripts = self._histogram(
            "rgrid_script_duration_seconds", "How long scripts ran.", WORK_SECONDS
        ).of()

        self.submitted = Count("rgrid_executions_submitted", "Executions stored.")
        registry.register(self.submitted)
        self.claimed = self._counter("rgrid_attempts_claimed", "Attempts given to runners.")
        self.ended = self._counter("rgrid_attempts_ended", "Attempts that have ended.", "outcome")
        self.retries = self._counter("rgrid_retries", "Attempts that are followed by another.", "cause")
        self.lost = self._counter("rgrid_attempts_lost", "Attempts whose runner was lost.", "cause")
        self.reports = self._counter(
            "rgrid_reports", "Reports of runners by what they were answered.", "verdict"
        )
        self.environments = self._counter(
            "rgrid_environments", "Environments that attempts used: found warm, or built.", "result"
        )
        self.result_cache = self._counter(
            "rgrid_result_cache_hits", "Executions that were answered with an earlier result."
        )
        self.input_cache = self._counter("rgrid_input_cache_lookups", "Looks for stored inputs.", "result")
        self.blobs = self._counter(
            "rgrid_blobs_asked", "Blobs that clients asked about: present already, or missing.", "result"
        )
        self.received = self._counter("rgrid_received_bytes", "Bytes of blobs that have arrived.")
        self.inputs = self._counter("rgrid_input_bytes", "Bytes of inputs that attempts were given.")
        self.outputs = self._counter("rgrid_output_bytes", "Bytes of outputs that attempts left.")
        self.charges = self._counter(
            "rgrid_charges_nanoeuros", "Charges of all tenants, in nano-euro; exact up to 9 million euro."
        )

        # what has not happened yet shows as 0, so that rates and alerts have something to begin with
        for counter, values in (
            (self.ended, tuple(Outcome)),
            (self.retries, ("grid_fault", "script")),
            (self.lost, ("lease_expired", "runner_restarted")),
            (self.environments, ("warm", "built")),
            (self.input_cache, ("hit", "miss")),
            (self.blobs, ("present", "missing")),
        ):
            for value in values:
                counter.labels(value)

        self.queue_depth = self._gauge("rgrid_queue_depth", "Executions that wait for a runner.", "priority")
        self.oldest_age = self._gauge(
            "rgrid_queue_oldest_age_seconds", "How long the oldest ready execution has waited.", "priority"
        )
        self.running = self._gauge("rgrid_attempts_running", "Attempts that runners carry.")
        self.runners = self._gauge("rgrid_runners", "Runners that were heard of in the last minute.")
        self.runner_slots = self._gauge("rgrid_runner_slots", "Slots of those runners.")
        self.events_lag = self._gauge(
            "rgrid_events_lag_seconds",
            "For how long events are held back from readers, behind a transaction that is still open.",
        )
        self.waiting = self._gauge(
            "rgrid_waiting_clients", "Requests that wait in this process, by what for.", "topic"
        )
        self.ready = self._gauge("rgrid_ready", "Whether /ready would answer 200.")

    def render(self, accept: str) -> tuple[bytes, str]:
        """All of it as text, in the form that an Accept header asks for, and that form's content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def set_labelled(self, gauge: Gauge, values: Mapping[str, float]) -> None:
        """Give a gauge of one label these series and no others."""
        gauge.clear()
        for label, value in values.items():
            gauge.labels(label).set(value)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> TallyVec:
        made = TallyVec(name, text, bounds, labels)
        self.registry.register(made)
        return made

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)
