"""Which sandboxes keep tenants apart."""

from __future__ import annotations

SHARING = frozenset({"process"})
"""Here scripts run as the runner's user, and can read whatever that user can."""


def why_not_shared(sandbox: str, tenants: int, *, is_allowed: bool) -> str | None:
    """Why a runner with a sandbox may not serve so many tenants; None where it may.

    >>> why_not_shared("process", 1, is_allowed=False) is None
    True
    >>> why_not_shared("bubblewrap", 2, is_allowed=False) is None
    True
    """
    if sandbox not in SHARING or tenants <= 1 or is_allowed:
        return None
    return (
        f"the sandbox {sandbox!r} does not keep {tenants} tenants apart; install bubblewrap on the "
        "runner's machine, or start the server with --allow-process-sandbox if the tenants trust each other"
    )
