"""What a script left, on its way to the server: found, sent ahead where large, given up where it must be.

The script has run by then and what it did is done, so nothing that goes wrong here may run it again: what
cannot be collected is told as the execution's own error, beside its exit code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from rgrid_server.domain.attempts import Assignment, Report
from rgrid_server.runner.connection import Connection, Dismissed, Gone, NoRoom
from rgrid_server.runner.workspace import FoundFile, OutputLimit, Workspace

log = logging.getLogger(__name__)

INLINE_BLOB_BYTES = 64 * 1024
INLINE_TOTAL_BYTES = 16 * 1024 * 1024
UPLOADS_AT_ONCE = 8
MAX_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Collected:
    """The outputs that are taken, or why none are."""

    files: list[FoundFile] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)
    uploaded: list[FoundFile] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A report, the small outputs that travel with it, and the large ones that went before."""

    report: Report
    blobs: list[bytes] = field(default_factory=list)
    uploaded: list[FoundFile] = field(default_factory=list)

    def without_outputs(self, code: str, message: str) -> Finished:
        """The same without its files; whatever else was to be said of its end stays."""
        report = replace(
            self.report, artifacts=[], bytes_out=0, metadata=with_passed_over(self.report.metadata, [message])
        )
        if report.exit_code == 0 and report.error_code is None:
            report = replace(report, error_code=code, error_message=message)
        return Finished(report)


class Outputs:
    """Collects what scripts left."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def collect(self, assignment: Assignment, workspace: Workspace) -> Collected:
        """Find the outputs of a script that has exited, and send the large ones ahead.

        Raises:
            Gone: the attempt is another runner's now.
            Dismissed: the server does not want this runner.
        """
        files: Sequence[FoundFile] = ()
        try:
            find = partial(
                workspace.find_outputs,
                assignment.outputs,
                max_files=assignment.output_limit_files,
                max_bytes=assignment.output_limit_bytes,
                keep_bytes=INLINE_BLOB_BYTES,
            )
            # a thread takes longer than to look at a few small files
            found = find() if workspace.is_small() else await asyncio.to_thread(find)
            files = found.files
            blobs, uploaded = await self._send(assignment, files)
        except OutputLimit as error:
            return _lost("output_limit", str(error))
        except NoRoom as error:
            # on a disk that runner and server share, the files themselves take the room of the report
            await asyncio.to_thread(workspace.remove)
            return _lost("storage_full", no_room_for([item.name for item in files], error))
        except (Gone, Dismissed):
            raise
        except Exception as error:
            log.exception("outputs of %s attempt %d", assignment.execution_id, assignment.attempt)
            return _lost(
                "outputs_lost",
                f"the script has ended, but what it left could not be collected ({error or repr(error)}); "
                "run it again under a new run key, or without changing the rights of its working directory",
            )
        return Collected(found.files, blobs, uploaded, found.passed_over)

    async def upload(self, assignment: Assignment, files: Sequence[FoundFile]) -> None:
        """Send files, several at once.

        Raises:
            NoRoom: the server's disk stays full.
        """
        waiting = iter(files)

        async def upload() -> None:
            for item in waiting:
                await self._connection.put_blob(assignment, item.sha256, item.path)

        try:
            async with asyncio.TaskGroup() as uploads:
                for _ in range(min(UPLOADS_AT_ONCE, len(files))):
                    uploads.create_task(upload())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _send(
        self, assignment: Assignment, files: Sequence[FoundFile]
    ) -> tuple[list[bytes], list[FoundFile]]:
        """Upload the large outputs; returns the small ones' bytes, for the report, and the large ones."""
        small: dict[str, FoundFile] = {}
        large: dict[str, FoundFile] = {}
        small_bytes = 0
        for item in files:
            if item.sha256 in small or item.sha256 in large:
                continue
            if item.size_bytes <= INLINE_BLOB_BYTES and small_bytes + item.size_bytes <= INLINE_TOTAL_BYTES:
                small[item.sha256] = item
                small_bytes += item.size_bytes
            else:
                large[item.sha256] = item
        if large:
            missing = set(await self._connection.missing_blobs(assignment, list(large)))
            await self.upload(assignment, [item for item in large.values() if item.sha256 in missing])
        return [await _content_of(item) for item in small.values()], list(large.values())


async def _content_of(file: FoundFile) -> bytes:
    return await asyncio.to_thread(file.path.read_bytes) if file.content is None else file.content


def no_room_for(names: Sequence[str], error: Exception) -> str:
    """Why outputs were given up, by name, with the way out."""
    shown = ", ".join(repr(name[:80]) for name in names[:MAX_NAMES_SHOWN])
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return (
        f"the server's disk has no room for what the script left ({shown}{more}): {error}; "
        "make room there, write less, or name those to keep in outputs, and run it again"
    )


def with_passed_over(metadata: dict[str, object], passed_over: Sequence[str]) -> dict[str, object]:
    """Metadata of an execution with what of its outputs was not taken, and why."""
    known = metadata.get("passed_over", [])
    listed = [*(known if isinstance(known, list) else []), *passed_over]
    return {**metadata, "passed_over": listed} if listed else metadata


def _lost(code: str, message: str) -> Collected:
    return Collected(passed_over=[message], error_code=code, error_message=message)
