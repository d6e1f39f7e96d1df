"""The wire contract, each call once: what to send, and how to read the answer.

A call is a value. Which library carries it, and whether it waits or awaits, is the transport's affair. Each
is loaded when it is first used: a command needs one or two.
"""

from __future__ import annotations

from rgrid._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from rgrid.calls.base import Answer, Call, as_sent
    from rgrid.calls.batches import (
        acknowledge_batch,
        add_batch_items,
        batch_executions,
        batch_outputs,
        batch_results,
        cancel_batch,
        close_batch,
        get_batch,
        lookup_batches,
        retry_batch,
        submit_batch,
    )
    from rgrid.calls.costs import (
        cost,
        cost_breakdown,
        cost_export,
        estimate,
        get_budget,
        remove_budget,
        set_budget,
    )
    from rgrid.calls.executions import (
        acknowledge_execution,
        cancel_execution,
        get_execution,
        list_artifacts,
        list_executions,
        lookup_executions,
        retry_execution,
        submit_execution,
    )
    from rgrid.calls.following import (
        get_events,
        get_logs,
    )
    from rgrid.calls.system import (
        health,
        limits,
        put_secret,
        remove_secret,
        runtimes,
        secrets,
        whoami,
    )
    from rgrid.calls.transfers import (
        append_part,
        download_url,
        fetch,
        get_blob,
        get_upload,
        missing_blobs,
        put_blob,
        put_blobs,
        upload,
    )

_HOMES = {
    "Answer": "base",
    "Call": "base",
    "acknowledge_batch": "batches",
    "acknowledge_execution": "executions",
    "add_batch_items": "batches",
    "append_part": "transfers",
    "as_sent": "base",
    "batch_executions": "batches",
    "batch_outputs": "batches",
    "batch_results": "batches",
    "cancel_batch": "batches",
    "cancel_execution": "executions",
    "close_batch": "batches",
    "cost": "costs",
    "cost_breakdown": "costs",
    "cost_export": "costs",
    "download_url": "transfers",
    "estimate": "costs",
    "fetch": "transfers",
    "get_batch": "batches",
    "get_blob": "transfers",
    "get_budget": "costs",
    "get_events": "following",
    "get_execution": "executions",
    "get_logs": "following",
    "get_upload": "transfers",
    "health": "system",
    "limits": "system",
    "list_artifacts": "executions",
    "list_executions": "executions",
    "lookup_batches": "batches",
    "lookup_executions": "executions",
    "missing_blobs": "transfers",
    "put_blob": "transfers",
    "put_blobs": "transfers",
    "put_secret": "system",
    "remove_budget": "costs",
    "remove_secret": "system",
    "retry_batch": "batches",
    "retry_execution": "executions",
    "runtimes": "system",
    "secrets": "system",
    "set_budget": "costs",
    "submit_batch": "batches",
    "submit_execution": "executions",
    "upload": "transfers",
    "whoami": "system",
}

__all__ = [
    "Answer",
    "Call",
    "acknowledge_batch",
    "acknowledge_execution",
    "add_batch_items",
    "append_part",
    "as_sent",
    "batch_executions",
    "batch_outputs",
    "batch_results",
    "cancel_batch",
    "cancel_execution",
    "close_batch",
    "cost",
    "cost_breakdown",
    "cost_export",
    "download_url",
    "estimate",
    "fetch",
    "get_batch",
    "get_blob",
    "get_budget",
    "get_events",
    "get_execution",
    "get_logs",
    "get_upload",
    "health",
    "limits",
    "list_artifacts",
    "list_executions",
    "lookup_batches",
    "lookup_executions",
    "missing_blobs",
    "put_blob",
    "put_blobs",
    "put_secret",
    "remove_budget",
    "remove_secret",
    "retry_batch",
    "retry_execution",
    "runtimes",
    "secrets",
    "set_budget",
    "submit_batch",
    "submit_execution",
    "upload",
    "whoami",
]


def __getattr__(name: str) -> Any:
    from rgrid._lazy import load

    return load(globals(), _HOMES, name)
