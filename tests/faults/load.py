"""Submitters: threads that ask under run keys until they are answered, and watch until the end."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from rgrid import Client
from rgrid.exceptions import RateLimited, ServerError, TransportError
from rgrid.submissions import execution_body
from tests.faults.history import Recorder, Work
from tests.faults.scale import DEADLINE_SECONDS

T = TypeVar("T")

SCRIPT = """
import hashlib, os, sys, time

name, journal = sys.argv[1:3]
lines, pause_ms, output_bytes = map(int, sys.argv[3:6])


def append(descriptor, line):
    os.write(descriptor, (line + "\\n").encode())


def note(what):
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    append(descriptor, f"{what} {os.environ['RGRID_EXECUTION_ID']} {os.environ['RGRID_ATTEMPT']} {name}")
    os.close(descriptor)


note("began")
for n in range(lines):
    append(1, f"{name} {n}")
    time.sleep(pause_ms / 1000)
if os.path.exists("in.bin"):
    append(1, hashlib.sha256(open("in.bin", "rb").read()).hexdigest())
open("mark", "w").write(name)
if output_bytes:
    pattern = hashlib.sha256(name.encode()).digest()
    open("large", "wb").write((pattern * (output_bytes // 32 + 1))[:output_bytes])
note("ended")
"""
"""Notes outside of the grid that it began and ended, prints lines, reads its input, leaves files."""

WATCH_SECONDS = 20.0
CALL_TIMEOUT_SECONDS = 60.0


class Caller:
    """One thread's clients; it asks until it is answered, wherever the servers are by then.

    With several servers it goes from one to the next with each call.
    """

    def __init__(
        self, addresses: Callable[[], Sequence[str]], api_key: str, is_abandoned: Callable[[], bool]
    ) -> None:
        self._addresses = addresses
        self._api_key = api_key
        self._is_abandoned = is_abandoned
        self._next = 0
        self._clients: dict[str, Client] = {}
        self._deadline = time.monotonic() + DEADLINE_SECONDS

    def ask(self, call: Callable[[Client], T], *, at: int | None = None) -> T:
        """The answer of a call that is safe to repeat, which is made to a server first that may be named."""
        self._next = self._next if at is None else at
        while True:
            addresses = self._addresses()
            address = addresses[self._next % len(addresses)]
            self._next += 1
            try:
                return call(self._client(address))
            except (TransportError, ServerError, RateLimited):
                if time.monotonic() > self._deadline or self._is_abandoned():
                    raise
                self._let_go(address)
                time.sleep(0.02)

    def close(self) -> None:
        """Let go of its connections."""
        for address in list(self._clients):
            self._let_go(address)

    def _client(self, address: str) -> Client:
        if address not in self._clients:
            self._clients[address] = Client(address, self._api_key, timeout_seconds=CALL_TIMEOUT_SECONDS)
        return self._clients[address]

    def _let_go(self, address: str) -> None:
        client = self._clients.pop(address, None)
        if client is not None:
            client.close()


def ask_at_once(callers: Sequence[Caller], call: Callable[[Client], T]) -> list[T]:
    """The answers of one call that several make in the same moment, each to another server."""
    start = threading.Barrier(len(callers))

    def ask(number: int) -> T:
        start.wait()
        return callers[number].ask(call, at=number)

    if len(callers) == 1:
        return [callers[0].ask(call)]
    with ThreadPoolExecutor(len(callers)) as threads:
        return list(threads.map(ask, range(len(callers))))


class Load:
    """So many executions, some in a batch, some with files, submitted by several threads at once.

    Args:
        addresses: where the servers are now.
        api_key: their key.
        directory: for what the submitters keep; ``journal`` in it is what the scripts write.
        recorder: takes down what is asked and seen.
        seed: what chance is drawn from.
    """

    def __init__(
        self,
        addresses: Callable[[], Sequence[str]],
        api_key: str,
        directory: Path,
        recorder: Recorder,
        seed: int,
    ) -> None:
        self.journal = directory / "journal"
        self.failures: list[BaseException] = []
        self._addresses = addresses
        self._api_key = api_key
        self._directory = directory
        self._recorder = recorder
        self._seed = seed
        self._threads: list[threading.Thread] = []
        self._abandoned = threading.Event()
        self._pauses_ms: Sequence[int] = ()
        self._with_files = True
        self._at_once = 1

    def start(
        self,
        executions: int,
        *,
        threads: int = 4,
        batched: int = 0,
        name: str = "work",
        pauses_ms: Sequence[int] = (0, 5, 20, 60),
        with_files: bool = True,
        at_once: int = 1,
        canceled: int = 0,
    ) -> Load:
        """Begin to submit.

        Args:
            executions: how many.
            threads: how many submit at once.
            batched: so many of the executions are one batch's.
            name: what all of their names begin with.
            pauses_ms: how long a script may rest after each line.
            with_files: whether some have input files, and some leave large ones.
            at_once: so often each is submitted in the same moment, to another server each time.
            canceled: so many more are in a batch that is canceled as soon as it is taken.
        """
        self._pauses_ms = pauses_ms
        self._with_files = with_files
        self._at_once = at_once
        if batched:
            self._begin(f"{name}-batch", partial(self._submit_batch, f"{name}-batch", batched))
        if canceled:
            dropped = f"{name}-canceled"
            self._begin(dropped, partial(self._submit_batch, dropped, canceled, is_canceled=True))
        for number in range(threads):
            names = [f"{name}-{n}" for n in range(number, executions - batched, threads)]
            observer = f"{name}-thread-{number}"
            self._begin(observer, partial(self._submit, observer, names))
        return self

    @property
    def is_over(self) -> bool:
        """Whether every submitter has its results."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def begun(self) -> int:
        """How many attempts have begun, by the scripts' own notes."""
        return self._noted(b"began ")

    @property
    def ended(self) -> int:
        """How many attempts have come to their end, by the scripts' own notes."""
        return self._noted(b"ended ")

    def wait_until_acknowledged(self, run_keys: int) -> None:
        """Wait until so many run keys have their answer, or all is over."""
        self._wait_until(lambda: self._recorder.acknowledged_count >= run_keys)

    def wait_until_begun(self, attempts: int) -> None:
        """Wait until so many attempts have begun, or all is over."""
        self._wait_until(lambda: self.begun >= attempts)

    def wait_until_ended(self, attempts: int) -> None:
        """Wait until so many attempts have come to their end, or all is over."""
        self._wait_until(lambda: self.ended >= attempts)

    def join(self) -> None:
        """Wait until every submitter has its results; raises what one of them met."""
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive(), f"{thread.name} waits still"
        if self.failures:
            raise self.failures[0]

    def _noted(self, what: bytes) -> int:
        return self.journal.read_bytes().count(what) if self.journal.exists() else 0

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not is_so() and not self.is_over:
            assert time.monotonic() < deadline, f"{self.begun} have begun, {self.ended} have ended"
            time.sleep(0.01)

    def abandon(self) -> None:
        """Let no submitter ask again: the test is over, and nobody answers any more."""
        self._abandoned.set()

    def _begin(self, name: str, work: Callable[[random.Random], None]) -> None:
        def run() -> None:
            try:
                work(random.Random(f"{self._seed} {name}"))
            except BaseException as error:
                self.failures.append(error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _caller(self) -> Caller:
        return Caller(self._addresses, self._api_key, self._abandoned.is_set)

    def _submit(self, observer: str, names: Sequence[str], chance: random.Random) -> None:
        callers = [self._caller() for _ in range(self._at_once)]
        caller = callers[0]
        submitted: list[tuple[str, Work]] = []
        for name in names:
            submitted.append(self._submit_one(callers, name, chance))
            self._look(caller, observer, chance.choice(submitted)[0], 0)
        for execution_id, work in submitted:
            while not self._look(caller, observer, execution_id, WATCH_SECONDS):
                pass
            self._fetch(caller, work, execution_id)
        for one in callers:
            one.close()

    def _submit_one(self, callers: Sequence[Caller], name: str, chance: random.Random) -> tuple[str, Work]:
        inputs = self._files(name, chance)
        hashes = {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in inputs.items()}
        args, work = self._work(name, name, chance, hashes.get("in.bin"))
        self._recorder.asks(work)
        if inputs:
            callers[0].ask(lambda client: client.upload(inputs))

        def submit(client: Client) -> str:
            return client.submit(SCRIPT, args=args, inputs=hashes, run_key=name, cpus=0.5).execution_id

        for execution_id in ask_at_once(callers, submit):
            self._recorder.is_acknowledged(name, execution_id)
        return execution_id, work

    def _submit_batch(
        self, run_key: str, count: int, chance: random.Random, *, is_canceled: bool = False
    ) -> None:
        caller = self._caller()
        items = [self._work(f"{run_key}-{n}", run_key, chance, None) for n in range(count)]
        self._recorder.asks(*(work for _, work in items))
        bodies = [{"args": args} for args, _ in items]
        batch = caller.ask(
            lambda client: client.submit_batch(
                execution_body(SCRIPT, cpus=0.5), bodies, parallelism=3, run_key=run_key
            )
        )
        self._recorder.is_acknowledged(run_key, batch.batch_id)
        if is_canceled:
            caller.ask(lambda client: client.cancel_batch(batch.batch_id))
        while not caller.ask(lambda client: client.batch(batch.batch_id, WATCH_SECONDS)).is_terminal:
            pass
        caller.close()

    def _look(self, caller: Caller, observer: str, execution_id: str, wait_seconds: float) -> bool:
        found = caller.ask(lambda client: client.get(execution_id, wait_seconds))
        self._recorder.sees(observer, execution_id, found.status, found.attempt)
        return found.is_terminal

    def _fetch(self, caller: Caller, work: Work, execution_id: str) -> None:
        """Download what it left, as its submitter would, and see that it is all there."""
        found = caller.ask(lambda client: client.get(execution_id))
        if not found.succeeded:
            return
        target = self._directory / "fetched" / work.name
        caller.ask(lambda client: client.download(execution_id, target))
        fetched = {
            str(path.relative_to(target)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in target.rglob("*")
            if path.is_file()
        }
        assert fetched == dict(work.outputs), f"{work.name} was fetched as {fetched}"
        lines = caller.ask(lambda client: [entry.text for entry in client.logs(execution_id)])
        assert tuple(lines[-len(work.lines) :]) == work.lines, f"the log of {work.name} reads {lines}"

    def _files(self, name: str, chance: random.Random) -> dict[str, Path]:
        """Sometimes an input, sometimes one that is too large for the database."""
        if not self._with_files or chance.random() > 0.3:
            return {}
        path = self._directory / "inputs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chance.randbytes(chance.choice([100, 300_000])))
        return {"in.bin": path}

    def _work(
        self, name: str, run_key: str, chance: random.Random, input_sha256: str | None
    ) -> tuple[list[str], Work]:
        count, pause_ms = chance.randint(1, 8), chance.choice(self._pauses_ms)
        output_bytes = chance.choice([0, 0, 0, 200_000]) if self._with_files else 0
        lines = [f"{name} {n}" for n in range(count)] + ([input_sha256] if input_sha256 else [])
        outputs = {"mark": hashlib.sha256(name.encode()).hexdigest()}
        if output_bytes:
            pattern = hashlib.sha256(name.encode()).digest()
            large = (pattern * (output_bytes // 32 + 1))[:output_bytes]
            outputs["large"] = hashlib.sha256(large).hexdigest()
        args = [name, str(self.journal), str(count), str(pause_ms), str(output_bytes)]
        return args, Work(name, run_key, tuple(lines), outputs)
