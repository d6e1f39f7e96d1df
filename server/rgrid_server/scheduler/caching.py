"""Answering a run with the result of an earlier one, and keeping results for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from rgrid_server.billing.pricebook import PriceBook
from rgrid_server.domain.attempts import Outcome, OutputFile, Report
from rgrid_server.domain.caching import UNPINNED_MS, Caching, changes, is_pinned, key_of, parts_of
from rgrid_server.domain.execution import Status
from rgrid_server.domain.money import nanos_to_micros
from rgrid_server.scheduler.endings import Ended, Left, end_attempt
from rgrid_server.store import blobs as blob_rows
from rgrid_server.store import executions as store
from rgrid_server.store import logs
from rgrid_server.store import results_cache as results
from rgrid_server.store.database import Row


@dataclass(frozen=True, slots=True)
class ResultCache:
    """How runs are answered from it.

    Attributes:
        book, engine: what usage is charged by; an answer uses nothing.
        kept_ms: how long a result counts: no longer than its log is kept, of which it is a part.
    """

    book: PriceBook
    engine: str
    kept_ms: int

    def serve(self, connection: Connection, execution: Row, now: int) -> Ended | None:
        """End an attempt that has just begun with an earlier run's result; None where there is none.

        Args:
            connection: in the transaction of the claim.
            execution: its row, with the number of the attempt.
            now: the time, in milliseconds since the epoch.
        """
        if execution["cache"] in {None, Caching.OFF}:
            return None
        tenant_id = execution["tenant_id"]
        entry = results.find_result(connection, tenant_id, key_of(_parts(execution)), now)
        source = None if entry is None else store.get_execution(connection, tenant_id, entry["execution_id"])
        if entry is None or source is None or source["stdout"] is None:
            return None
        files = [
            OutputFile(row["filename"], row["sha256"], row["size_bytes"], row["content_type"], row["mode"])
            for row in blob_rows.list_artifacts(connection, source["execution_id"], "output")
        ]
        hashes = sorted({item.sha256 for item in files})
        sizes = blob_rows.lock_owned_sizes(connection, tenant_id, hashes)
        if len(sizes) < len(hashes) or len(files) != entry["output_count"]:
            return None
        if not logs.copy_log(
            connection, source["execution_id"], execution["execution_id"], execution["attempt"]
        ):
            return None
        report = Report(
            execution_id=execution["execution_id"],
            attempt=execution["attempt"],
            token="",
            outcome=Outcome.EXITED,
            exit_code=0,
            stdout=_text(source["stdout"]),
            stderr=_text(source["stderr"]),
            output_truncated=bool(source["output_truncated"]),
            last_sequence=source["last_sequence"] or 0,
            artifacts=files,
            metadata={
                "cache": {
                    "hit": True,
                    "execution_id": source["execution_id"],
                    "saved_micros": nanos_to_micros(source["charge_nanos"]),
                    "saved_seconds": (source["duration_ms"] or 0) / 1000,
                }
            },
        )
        return end_attempt(connection, self.book, self.engine, execution, report, Left(files, sizes), {}, now)

    def explain(self, connection: Connection, execution: Row) -> dict[str, Any]:
        """Why a run that allowed it was not answered: for its metadata, nothing where it did not."""
        if execution["cache"] in {None, Caching.OFF}:
            return {}
        parts = _parts(execution)
        latest = results.latest_of_script(connection, execution["tenant_id"], execution["script_name"])
        if latest is None:
            why = ["no earlier result of a script of this name"]
        else:
            why = changes(latest["parts"], parts) or ["the earlier result counts no more"]
        return {"cache": {"hit": False, "because": why}}

    def keep(self, connection: Connection, execution: Row, ended: Ended, left: Left, now: int) -> None:
        """Let a run that ended well, and allowed it, answer later ones."""
        if execution["cache"] != Caching.READ_WRITE or ended.done.after.status is not Status.COMPLETED:
            return
        parts = _parts(execution)
        pinned = is_pinned(execution["script_content"], execution["requirements_content"])
        results.put_result(
            connection,
            {
                "tenant_id": execution["tenant_id"],
                "cache_key": key_of(parts),
                "execution_id": execution["execution_id"],
                "script_name": execution["script_name"],
                "parts": parts,
                "output_count": len(left.files),
                "created_at_ms": now,
                "expires_at_ms": now + (self.kept_ms if pinned else min(self.kept_ms, UNPINNED_MS)),
            },
        )


def _parts(execution: Row) -> dict[str, str]:
    return parts_of(
        script_content=execution["script_content"],
        script_name=execution["script_name"],
        args=list(execution["args"]),
        runtime=execution["runtime"],
        requirements_content=execution["requirements_content"],
        inputs=execution["inputs"],
        env_vars=execution["env_vars"],
        outputs=execution["outputs"],
    )


def _text(stored: bytes | None) -> str:
    return (stored or b"").decode(errors="replace")
