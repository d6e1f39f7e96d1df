"""``rgrid doctor``."""

from __future__ import annotations

import platform

import click

from rgrid import config
from rgrid._version import __version__
from rgrid.cli.connect import connect
from rgrid.cli.failures import FAILED
from rgrid.exceptions import RGridError


@click.command(help="Say what is in force here: server, key, runtimes, sandbox, limits.")
def command() -> int:
    """Look at everything."""
    _tell("rgrid", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    found = config.resolve()
    _tell(
        "server",
        f"{found.api_url} (from {found.source})" if found.api_url else "one of your own, on this machine",
    )
    if found.api_url and not found.api_key:
        _tell("key", f"none; set {config.KEY_VARIABLE}, or run `rgrid init`")
    try:
        with connect(may_start=True) as client:
            health = client.health()
            _tell("health", f"{health.status}, version {health.version}")
            who = client.whoami()
            _tell("key", f"{who.key_prefix}..., tenant {who.tenant_name}, scopes {', '.join(who.scopes)}")
            limits = client.limits()
            _tell(
                "engine",
                f"{limits.engine}, sandbox {', '.join(limits.sandboxes) or 'none: no runner is here'}",
            )
            for reason in limits.sandbox_reasons:
                _tell("sandbox", reason)
            runtimes = [
                f"{item.name} ({item.version}){', the default' if item.default else ''}"
                for item in client.runtimes()
            ]
            _tell("runtimes", "; ".join(runtimes) or "none yet: no runner has registered")
            _tell(
                "limits",
                f"{limits.max_timeout_seconds} s, {limits.max_cpus:g} vCPU, {limits.max_memory_mib} MiB, "
                f"scripts of {limits.max_script_bytes} bytes, files of {limits.max_blob_bytes} bytes, "
                f"{limits.max_batch_items} items a call",
            )
            _tell("budget", client.budget().message)
    except RGridError as error:
        _tell("problem", str(error))
        return FAILED
    return 0


def _tell(name: str, text: str) -> None:
    click.echo(f"{name + ':':<10} {text}")
