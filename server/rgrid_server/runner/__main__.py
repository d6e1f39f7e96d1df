"""``python -m rgrid_server.runner``: carry attempts on this machine for a server."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path

from rgrid_server import __version__
from rgrid_server.domain.attempts import Specification
from rgrid_server.domain.runtimes import ANY_IMAGE, Offer
from rgrid_server.observability.logs import configure_logging
from rgrid_server.observability.tracing import Tracing, TracingUnavailable, make_tracing
from rgrid_server.runner.carrier import Carrier
from rgrid_server.runner.connection import Connection, Dismissed
from rgrid_server.runner.environments import MAX_ENVIRONMENTS_BYTES, Environments
from rgrid_server.runner.images import Images
from rgrid_server.runner.inputs import InputCache
from rgrid_server.runner.interpreters import find_interpreters
from rgrid_server.runner.leftovers import sweep
from rgrid_server.runner.machine import DEFAULT_MIN_FREE_BYTES, offered_memory_mib
from rgrid_server.runner.sandbox.base import Sandbox
from rgrid_server.runner.sandbox.choice import NAMES, Choice, Unavailable, choose
from rgrid_server.runner.sandbox.containers import DockerSandbox
from rgrid_server.runner.sandbox.inside.holder.processes import become_subreaper
from rgrid_server.runner.service import DRAIN_SECONDS, RunnerService
from rgrid_server.runner.uv import EnvironmentFault, Rejected

log = logging.getLogger(__name__)

ALREADY_RUNNING = 75
NOT_ALLOWED = 77


def main() -> int:
    """Run until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="rgrid-runner", description="Carry attempts on this machine.")
    parser.add_argument("--url", required=True, help="the server's address")
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--sandbox", choices=NAMES, default="auto", metavar="NAME")
    parser.add_argument("--network", choices=["host", "none"], default="host", help="what scripts may reach")
    parser.add_argument(
        "--min-free-bytes",
        type=int,
        default=DEFAULT_MIN_FREE_BYTES,
        metavar="N",
        help="take nothing while the disk has less room, or a small one less than a 20th of it",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=DRAIN_SECONDS,
        metavar="S",
        help="so long scripts may run on after SIGTERM before they are handed back; a second one hurries",
    )
    parser.add_argument(
        "--environments-dir",
        type=Path,
        metavar="DIR",
        help="where environments are kept; runners of one host and user may share it (runner/environments)",
    )
    parser.add_argument(
        "--max-environments-bytes",
        type=int,
        default=MAX_ENVIRONMENTS_BYTES,
        metavar="N",
        help="when environments take more, those are removed that were not used for longest",
    )
    parser.add_argument("--log-format", choices=["text", "json"], default="text")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    parser.add_argument(
        "--tracing",
        action=argparse.BooleanOptionalAction,
        help="send OpenTelemetry traces; by default when OTEL_EXPORTER_OTLP_ENDPOINT is set",
    )
    arguments = parser.parse_args()
    if arguments.slots < 1:
        parser.error(f"--slots {arguments.slots}: a runner needs at least one")
    configure_logging(arguments.log_format, arguments.log_level)
    try:
        tracing = make_tracing("rgrid-runner", arguments.tracing)
    except TracingUnavailable as error:
        parser.error(f"--tracing: {error}")
    data_dir: Path = arguments.data_dir.resolve()
    key = os.environ.pop("RGRID_RUNNER_KEY", "") or _read(data_dir / "runner.key")
    if not key:
        parser.error(f"no key: set RGRID_RUNNER_KEY, or write it to {data_dir / 'runner.key'}")
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = os.open(data_dir / "runner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.warning("another runner works in %s", data_dir)
        return ALREADY_RUNNING
    incarnation = secrets.token_hex(8)
    # at once: a server that ends asks who it is that it has to end
    _write_identity(lock, incarnation, arguments.url)
    # what a lost holder held becomes our child, and can be ended
    become_subreaper()
    try:
        has_network = arguments.network == "host"
        choice = choose(arguments.sandbox, data_dir / "runner" / "boxes", network=has_network)
    except Unavailable as error:
        parser.error(f"--sandbox {arguments.sandbox}: {error}")
    log.info("sandbox %s: %s", choice.sandbox.name, choice.reason)
    try:
        asyncio.run(_run(arguments, key, data_dir, incarnation, choice, tracing))
    except Dismissed as error:
        log.warning("the server does not take this runner: %s", error)
        return NOT_ALLOWED
    finally:
        tracing.close()
    return 0


async def _run(
    arguments: argparse.Namespace,
    key: str,
    data_dir: Path,
    incarnation: str,
    choice: Choice,
    tracing: Tracing,
) -> None:
    url: str = arguments.url
    slots: int = arguments.slots
    hostname = socket.gethostname()
    home = data_dir / "runner"
    work = home / "work"
    work.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    # nothing of an earlier incarnation is carried any more
    await asyncio.to_thread(sweep, work)
    await asyncio.to_thread(sweep, home / "boxes")
    await asyncio.to_thread(sweep, home / "containers")
    await asyncio.to_thread(sweep, home / "shelf")
    interpreters = await find_interpreters()
    runner_id = _runner_id(home / "id", hostname)
    connection = Connection(url, key, runner_id, incarnation, data_dir / "address")
    memory_mib = offered_memory_mib(slots)
    sandbox = choice.sandbox
    images = await asyncio.to_thread(_find_images, sandbox, home, network=arguments.network == "host")
    offers = [one.offer for one in interpreters.values()]
    if images is not None:
        offers.append(Offer(ANY_IMAGE, images.version))
    environments = Environments(
        (arguments.environments_dir or home / "environments").resolve(),
        interpreters,
        max_bytes=arguments.max_environments_bytes,
    )
    service = RunnerService(
        connection,
        Carrier(
            connection,
            environments,
            InputCache(home / "inputs", connection),
            sandbox,
            hostname,
            tracing,
            images,
        ),
        {
            "hostname": hostname,
            "slots": slots,
            "memory_mib": memory_mib,
            "runtimes": [asdict(offer) for offer in offers],
            "sandbox": sandbox.name,
            "sandbox_reason": choice.reason,
            "version": __version__,
        },
        slots,
        work,
        memory_mib=memory_mib,
        min_free_bytes=arguments.min_free_bytes,
        drain_seconds=arguments.drain_seconds,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    warming = asyncio.create_task(_warm(environments))
    try:
        await service.run()
    finally:
        warming.cancel()
        await asyncio.gather(warming, return_exceptions=True)
        await sandbox.close()
        if images is not None:
            await images.close()
            if images.sandbox is not sandbox:
                await images.sandbox.close()
        await environments.close()
        await connection.close()


def _find_images(sandbox: Sandbox, home: Path, *, network: bool) -> Images | None:
    """What runs images: the sandbox itself, or another beside it where there is a daemon."""
    try:
        if not isinstance(sandbox, DockerSandbox):
            sandbox = DockerSandbox(home / "containers", network=network)
        return Images(sandbox, home)
    except OSError as error:
        log.info("no images are run here: %s", error)
        return None


async def _warm(environments: Environments) -> None:
    """Make ready what the first script would have to wait for."""
    own = Specification("", "script.py", f"python:{sys.version_info[0]}.{sys.version_info[1]}", None)
    try:
        async with environments.use(own):
            pass
    except (EnvironmentFault, Rejected) as error:
        log.warning("no environment can be built: %s", error)


def _runner_id(path: Path, hostname: str) -> str:
    known = _read(path)
    if known:
        return known
    fresh = f"runner_{hostname[:60]}_{secrets.token_hex(8)}"
    path.write_text(fresh)
    return fresh


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _write_identity(lock: int, incarnation: str, url: str) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"pid": os.getpid(), "incarnation": incarnation, "url": url}).encode(), 0)


if __name__ == "__main__":
    sys.exit(main())
