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
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

import uvicorn
import uvloop

from rgrid_server.app import ServerState, make_asgi, open_server
from rgrid_server.config import Settings
from rgrid_server.corked import CorkedProtocol
from rgrid_server.engines.local import LocalEngine

log = logging.getLogger(__name__)

ADDRESS_FILE = "address"
PID_FILE = "server.pid"
LOCK_FILE = "server.lock"
SHUTDOWN_SECONDS = 10
GARBAGE_THRESHOLD = 5_000


class CannotStart(Exception):
    """The server cannot start; the message says why and what to do."""


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises:
        CannotStart: the port or the data directory is in use.
        rgrid_server.store.database.StorageError: the data cannot be used.
    """
    settings = settings.model_copy(update={"data_dir": settings.data_dir.expanduser().resolve()})
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(
            f"the data directory {settings.data_dir} cannot be made: {error.strerror}"
        ) from None
    with _lock(settings.data_dir), _listen(settings.host, settings.port) as listener:
        uvloop.run(_serve(settings, listener))
    return 0


async def _serve(settings: Settings, listener: socket.socket) -> None:
    async with open_server(settings) as state:
        app = make_asgi(state)
        config = uvicorn.Config(
            app,
            http=CorkedProtocol,
            log_level=settings.log_level,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            timeout_keep_alive=75,
            ws_max_size=1024 * 1024,
        )
        server = _Server(config, state)
        url = _url_of(listener)
        address = settings.data_dir / ADDRESS_FILE
        engine = LocalEngine(
            url=url,
            data_dir=settings.data_dir,
            slots=settings.slots if settings.slots is not None else (os.cpu_count() or 1),
            sandbox=settings.sandbox,
            runner_key=state.runner_key,
        )
        _write(address, url)
        _write(settings.data_dir / PID_FILE, str(os.getpid()))
        tasks = []
        if engine.slots > 0 and settings.engine == "local":
            tasks.append(asyncio.create_task(engine.keep_running()))
        if settings.idle_exit_seconds is not None:
            tasks.append(asyncio.create_task(_stop_when_idle(state, server, settings.idle_exit_seconds)))
        # what is loaded stays loaded: looking through it for garbage held answers up for 40 ms now and then
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)
        log.info("RGrid serves at %s", url)
        try:
            await server.serve(sockets=[listener])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            address.unlink(missing_ok=True)
            (settings.data_dir / PID_FILE).unlink(missing_ok=True)
            if not await state.is_carrying():
                await engine.stop_runner()


class _Server(uvicorn.Server):
    """Drains at the first signal: long waits end, so that their callers hear before the connection does."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self._state = state

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking connections and finish what is being answered."""
        self._state.drain()
        await super().shutdown(sockets)

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
