"""How long what executions leave is kept."""

from __future__ import annotations

from dataclasses import dataclass

DAY_MS = 86_400_000

KEEP_UNUSED_MS = DAY_MS
"""So long a blob is kept that nothing has used since it was given or asked for."""

DELETE_AFTER_MS = 3_600_000
"""So long after it was condemned a blob's bytes are still there, for who began to read them before."""

ORPHANED_AFTER_MS = 3_600_000
"""So old is a file that no row points to when it is taken for a leftover of a crash."""


@dataclass(frozen=True, slots=True)
class RetentionTimes:
    """How long after its end an execution's log and its files are kept, and an upload that does not go on."""

    log_ms: int = 7 * DAY_MS
    output_ms: int = 30 * DAY_MS
    upload_ms: int = DAY_MS

    def log_expires_at_ms(self, completed_at_ms: int | None) -> int | None:
        """When an execution's log goes; None while it has not ended."""
        return None if completed_at_ms is None else completed_at_ms + self.log_ms

    def outputs_expire_at_ms(self, completed_at_ms: int | None) -> int | None:
        """When an execution's files go, inputs too; None while it has not ended.

        >>> RetentionTimes(output_ms=1000).outputs_expire_at_ms(5)
        1005
        """
        return None if completed_at_ms is None else completed_at_ms + self.output_ms
