"""The pages: HTML that needs nothing from elsewhere and runs no script."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from rgrid.client import Client
from rgrid.exceptions import ApiError, Forbidden, NotFound, RGridError, Unauthorized
from rgrid_provider.plugins.chart import draw
from rgrid_provider.plugins.statement import GROUP_BY, PERIODS_DAYS, build_statement, find_period

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self'; "
        "frame-ancestors 'self'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(default=True),
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class Page:
    """An answer to a browser."""

    html: str
    status: int = 200


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks: which DAGs they may read (all, for the empty name), and how the server is reached."""

    may_read: Callable[[str], bool]
    connect: Callable[[], Client]


def cost_page(visitor: Visitor, query: dict[str, str], root: str, today: datetime.date | None = None) -> Page:
    """Spend by day as a chart, by DAG and by task as tables."""
    now = today or datetime.datetime.now(datetime.UTC).date()
    period = find_period(query.get("days"), query.get("since"), query.get("until"), now)
    try:
        client = visitor.connect()
        breakdown = client.cost_breakdown(
            GROUP_BY, since=period.first_day.isoformat(), until=period.last_day.isoformat()
        )
    except (RGridError, ValueError) as error:
        return _problem(error, root)
    except Exception as error:
        if "conn" not in str(error).lower():
            raise
        return _problem(error, root)
    statement = build_statement(breakdown, visitor.may_read)
    return _page(
        "cost.html",
        root=root,
        statement=statement,
        chart=draw(statement.days),
        period=period,
        periods=PERIODS_DAYS,
    )


def execution_page(visitor: Visitor, execution_id: str, root: str) -> Page:
    """An execution: how it stands, what it cost, and what it printed."""
    try:
        execution = visitor.connect().get(execution_id)
    except (RGridError, ValueError) as error:
        return _problem(error, root)
    if not _may_see(visitor, execution.user_metadata):
        return _problem(NotFound("Execution not found", status=404), root)
    return _page("execution.html", root=root, execution=execution)


def batch_page(visitor: Visitor, batch_id: str, root: str) -> Page:
    """A batch: its counts, its cost, and its executions."""
    try:
        client = visitor.connect()
        batch = client.batch(batch_id)
        if not _may_see(visitor, batch.user_metadata):
            return _problem(NotFound("Batch not found", status=404), root)
        executions = list(client.batch_executions(batch_id))
    except (RGridError, ValueError) as error:
        return _problem(error, root)
    return _page("batch.html", root=root, batch=batch, executions=executions)


def euros(micros: int | None) -> str:
    """An amount to the last micro."""
    if micros is None:
        return "–"
    whole, fraction = divmod(abs(micros), 1_000_000)
    return f"{'−' if micros < 0 else ''}€{whole:,}.{fraction:06d}"


def duration(seconds: float | None) -> str:
    """A duration as people say it."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


_templates.filters["euros"] = euros
_templates.filters["duration"] = duration


def _may_see(visitor: Visitor, user_metadata: dict[str, Any]) -> bool:
    return visitor.may_read(str(user_metadata.get("dag_id") or ""))


def _problem(error: Exception, root: str) -> Page:
    if isinstance(error, NotFound):
        title, status = "Not found", 404
    elif isinstance(error, Unauthorized | Forbidden):
        title, status = "The RGrid server does not take the connection's key", 502
    elif isinstance(error, ApiError):
        title, status = "The RGrid server refused", 502
    elif isinstance(error, RGridError):
        title, status = "The RGrid server cannot be reached", 502
    else:
        title, status = "No RGrid connection", 503
    return Page(
        _templates.get_template("problem.html").render(root=root, title=title, text=str(error)), status
    )


def _page(template: str, **content: Any) -> Page:
    return Page(_templates.get_template(template).render(**content))
