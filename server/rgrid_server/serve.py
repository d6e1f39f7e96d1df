"""Running the server as a process: socket, address, signals, drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from types import FrameType

import uvicorn
import uvloop
from starlette.types import ASGIApp

from rgrid_server.api.gate import Gate
from rgrid_server.api.metrics_port import MetricsPort
from rgrid_server.app import ServerState, make_asgi, open_server
from rgrid_server.config import Settings
from rgrid_server.corked import CorkedProtocol
from rgrid_server.engines.local import LocalEngine
from rgrid_server.proxies import BehindProxies
from rgrid_server.running import ADDRESS_FILE, LOCK_FILE, METRICS_ADDRESS_FILE, PID_FILE, CannotStart
from rgrid_server.storage import make_data_directory

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 10.0
CANCELING_SECONDS = 1
"""So long those have to end that were not done when the server was to stop."""
GARBAGE_THRESHOLD = 5_000


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises:
        rgrid_server.running.CannotStart: the port or the data directory is in use.
        rgrid_server.store.database.StorageError: the data cannot be used.
    """
    settings = settings.model_copy(update={"data_dir": settings.data_dir.expanduser().resolve()})
    try:
        make_data_directory(settings.data_dir)
    except OSError as error:
        raise CannotStart(
            f"the data directory {settings.data_dir} cannot be made: {error.strerror}"
        ) from None
    with ExitStack() as stack:
        stack.enter_context(_lock(settings.data_dir))
        listener = stack.enter_context(_listen(settings.host, settings.port))
        metrics_listener = None
        if settings.metrics_port is not None:
            metrics_listener = stack.enter_context(_listen(settings.metrics_host, settings.metrics_port))
        uvloop.run(_serve(settings, listener, metrics_listener))
    return 0


async def _serve(
    settings: Settings, listener: socket.socket, metrics_listener: socket.socket | None = None
) -> None:
    gate = Gate()
    server = _Server(_config(settings, gate), gate)
    # it answers from here on, if only that it is starting
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with open_server(settings) as state:
            # told to stop while it was starting: nothing is opened that would have to be closed at once
            if not server.should_exit and not serving.done():
                await _serve_opened(settings, state, server, serving, _url_of(listener), metrics_listener)
    finally:
        server.should_exit = True
        await serving


async def _serve_opened(
    settings: Settings,
    state: ServerState,
    server: _Server,
    serving: asyncio.Task[None],
    url: str,
    metrics_listener: socket.socket | None,
) -> None:
    address = settings.data_dir / ADDRESS_FILE
    engine = LocalEngine(
        url=url,
        data_dir=settings.data_dir,
        slots=settings.slots if settings.slots is not None else (os.cpu_count() or 1),
        sandbox=settings.sandbox,
        network=settings.network,
        runner_key=state.runner_key,
        options=_runner_options(settings),
    )
    server.open(state)
    _write(address, url)
    _write(settings.data_dir / PID_FILE, str(os.getpid()))
    tasks = []
    if engine.slots > 0 and settings.engine == "local":
        tasks.append(asyncio.create_task(engine.keep_running()))
    if settings.idle_exit_seconds is not None:
        tasks.append(asyncio.create_task(_stop_when_idle(state, server, settings.idle_exit_seconds)))
    if metrics_listener is not None:
        beside = _Beside(_config(settings, MetricsPort(state.services.scrape)))
        tasks.append(asyncio.create_task(beside.serve(sockets=[metrics_listener])))
        _write(settings.data_dir / METRICS_ADDRESS_FILE, _url_of(metrics_listener))
    # what is loaded stays loaded: looking through it for garbage held answers up for 40 ms now and then
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)
    log.info("RGrid serves at %s", url)
    try:
        await asyncio.shield(serving)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name in (ADDRESS_FILE, METRICS_ADDRESS_FILE, PID_FILE):
            (settings.data_dir / name).unlink(missing_ok=True)
        if not await state.is_carrying():
            await engine.stop_runner()


def _config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        interface="asgi3",
        # seen to by the one below
        proxy_headers=False,
        http=CorkedProtocol,
        log_level="debug" if settings.log_level == "debug" else "warning",
        # its lines are made as all others are
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=CANCELING_SECONDS,
        timeout_keep_alive=75,
        ws_max_size=1024 * 1024,
    )
    config.app = BehindProxies(app, config.forwarded_allow_ips)
    return config


def _runner_options(settings: Settings) -> list[str]:
    """How the runner logs, traces and looks at its disk: as its server does."""
    options = ["--log-format", settings.log_format, "--log-level", settings.log_level]
    options += ["--min-free-bytes", str(settings.min_free_bytes)]
    options += ["--max-environments-bytes", str(settings.max_environments_bytes)]
    if settings.environments_dir is not None:
        options += ["--environments-dir", str(settings.environments_dir.resolve())]
    if settings.tracing is not None:
        options.append("--tracing" if settings.tracing else "--no-tracing")
    return options


class _Server(uvicorn.Server):
    """Drains at the first signal: long waits end, so that their callers hear before the connection does.

    While what is being answered goes on, new requests hear that the server stops; then it stops listening.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self._gate = gate
        self._state: ServerState | None = None

    def open(self, state: ServerState) -> None:
        """Let requests in."""
        self._state = state
        self._gate.open(make_asgi(state))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take in nothing more from here on."""
        self._begin_to_drain()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is being answered, then stop taking connections."""
        self._begin_to_drain()
        deadline = monotonic() + SHUTDOWN_SECONDS
        while (open_ := set(self.server_state.tasks)) and not self.force_exit:
            left = deadline - monotonic()
            if left <= 0:
                break
            await asyncio.wait(open_, timeout=min(left, 0.1))
        await super().shutdown(sockets)

    def _begin_to_drain(self) -> None:
        self._gate.close()
        if self._state is not None:
            self._state.drain()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT without raising them again afterwards: a drained server exits with 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


class _Beside(uvicorn.Server):
    """Serves beside the server that hears the signals, until it is canceled."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


async def _stop_when_idle(state: ServerState, server: uvicorn.Server, idle_seconds: float) -> None:
    while True:
        await asyncio.sleep(min(1.0, idle_seconds / 4))
        idle_for = monotonic() - state.services.last_asked
        if idle_for >= idle_seconds and not await state.is_busy():
            log.info("nothing was asked for %.0f s; stopping", idle_for)
            server.should_exit = True
            return


@contextmanager
def _lock(data_dir: Path) -> Iterator[None]:
    descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CannotStart(
            f"another server uses the data directory {data_dir}; stop it, or give another --data-dir"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise CannotStart(f"the host {host} is not known; give the address of this machine") from None
    # the protocol is named, for only then are answers sent without waiting for more (TCP_NODELAY)
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CannotStart(
                    f"port {port} on {host} is in use; give another with --port, or --port 0 for a free one"
                ) from None
            raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}") from None
        listener.listen(2048)
        yield listener


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - the runner beside the server reaches it at home
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text + "\n")
    with suppress(OSError):
        temporary.chmod(0o644)
    temporary.replace(path)
