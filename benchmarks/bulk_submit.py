"""Bulk submit: executions a second, durable, from the request's first byte to its answer.

`bulk_submit.py [--items 10000] [--chunk 10000] [--rounds 5] [--metadata]` sends batches of tiny items: one
request where they fit a chunk, else an open batch with chunks appended and then closed. The reference is what
the database takes on this machine to insert the very same rows and to commit them, without a server: SQLite
with `executemany`, PostgreSQL (`--database-url`) with `COPY`. Beside them stands how long others waited
meanwhile (a health call every few milliseconds), and how much memory the server took at most.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
import psycopg

from tests.live import LiveServer

TARGET_PER_SECOND = 20_000
TABLES = ("executions", "events")
MIB = 1024 * 1024


class Connection:
    """One kept connection."""

    def __init__(self, server: LiveServer) -> None:
        self._headers = {**server.headers, "Content-Type": "application/json"}
        self._http = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=600)

    def send(self, method: str, path: str, body: bytes | None = None) -> dict[str, object]:
        """One call that is answered with 200."""
        self._http.request(method, f"/api/v1{path}", body=body, headers=self._headers)
        answer = self._http.getresponse()
        content = answer.read()
        assert answer.status == 200, content[:500]
        found: dict[str, object] = json.loads(content)
        return found


class Bystander(threading.Thread):
    """Asks for the server's health again and again, and keeps how long each answer took."""

    def __init__(self, server: LiveServer) -> None:
        super().__init__(daemon=True)
        self._connection = Connection(server)
        self._over = threading.Event()
        self.waits_ms: list[float] = []

    def run(self) -> None:
        """Ask until it is over."""
        while not self._over.wait(0.005):
            started = time.perf_counter()
            self._connection.send("GET", "/health")
            self.waits_ms.append((time.perf_counter() - started) * 1000)

    def stop(self) -> tuple[float, float]:
        """The median and the longest wait, in milliseconds."""
        self._over.set()
        self.join()
        return statistics.median(self.waits_ms), max(self.waits_ms)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--chunk", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--metadata", action="store_true", help="give each item metadata of its own")
    parser.add_argument("--database-url", help="measure on this database in place of SQLite")
    asked = parser.parse_args()
    options = ["--slots", "0", *(["--database-url", asked.database_url] if asked.database_url else [])]
    with LiveServer(options=options) as server:
        process = psutil.Process(server.pid)
        before_bytes = process.memory_info().rss
        rates: list[float] = []
        bystander = Bystander(server)
        bystander.start()
        peak_bytes = before_bytes
        for _ in range(asked.rounds):
            taken, peak = submit(server, process, asked.items, asked.chunk, with_metadata=asked.metadata)
            rates.append(asked.items / taken)
            peak_bytes = max(peak_bytes, peak)
        median_ms, longest_ms = bystander.stop()
        floor = statistics.median(
            copies_per_second(asked.database_url)
            if asked.database_url
            else inserts_per_second(server.data_dir / "rgrid.sqlite")
            for _ in range(asked.rounds)
        )
    rate = statistics.median(rates)
    heads = "items | in requests of | executions/s | target | bare inserts/s | ratio"
    print(f"| {heads} | bystander median / longest ms | memory MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {asked.items} | {min(asked.chunk, asked.items)} | {rate:.0f} | "
        f"{TARGET_PER_SECOND} | {floor:.0f} | {rate / floor:.2f} | {median_ms:.1f} / {longest_ms:.0f} | "
        f"{before_bytes / MIB:.0f} → {peak_bytes / MIB:.0f} |"
    )


def submit(
    server: LiveServer, process: psutil.Process, items: int, chunk: int, *, with_metadata: bool
) -> tuple[float, int]:
    """Submit a batch; returns seconds from first byte to last answer, and the server's peak memory."""
    template = {"script_content": "import sys\nprint(sys.argv[1])"}
    bodies = [
        [
            {"args": [str(index)], **({"user_metadata": {"shard": index}} if with_metadata else {})}
            for index in range(first, min(first + chunk, items))
        ]
        for first in range(0, items, chunk)
    ]
    connection = Connection(server)
    head = {"template": template, "closed": len(bodies) == 1}
    begun = json.dumps({**head, "items": bodies[0]}).encode()
    peak_bytes = 0
    seconds = 0.0

    def timed(path: str, body: bytes | None) -> dict[str, object]:
        nonlocal seconds, peak_bytes
        started = time.perf_counter()
        answer = connection.send("POST", path, body)
        seconds += time.perf_counter() - started
        peak_bytes = max(peak_bytes, process.memory_info().rss)
        return answer

    batch = timed("/batches", begun)
    path = f"/batches/{batch['batch_id']}"
    sent = len(bodies[0])
    for body in bodies[1:]:
        timed(f"{path}/items", json.dumps({"items": body, "first_index": sent}).encode())
        sent += len(body)
    if len(bodies) > 1:
        batch = timed(f"{path}/close", None)
    assert batch["total"] == items, batch
    return seconds, peak_bytes


def inserts_per_second(source: Path) -> float:
    """What SQLite alone does with at most 10,000 of the rows that are in a database."""
    with tempfile.TemporaryDirectory() as directory, sqlite3.connect(source) as given:
        made = [sql for (sql,) in given.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        bare = sqlite3.connect(Path(directory) / "bare.sqlite", isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-65536"):
            bare.execute(f"PRAGMA {pragma}")
        for sql in made:
            if "sqlite_sequence" not in sql:
                bare.execute(sql)
        rows = {name: given.execute(f"SELECT * FROM {name} LIMIT 10000").fetchall() for name in TABLES}
        started = time.perf_counter()
        bare.execute("BEGIN IMMEDIATE")
        for name, values in rows.items():
            bare.executemany(f"INSERT INTO {name} VALUES ({','.join('?' * len(values[0]))})", values)
        bare.execute("COMMIT")
        seconds = time.perf_counter() - started
        bare.close()
    return len(rows["executions"]) / seconds


def copies_per_second(url: str) -> float:
    """What PostgreSQL alone does with at most 10,000 of the rows that are in a database, indexes and all."""
    with psycopg.connect(url) as connection:
        seconds = 0.0
        for name in TABLES:
            connection.execute(f"CREATE TABLE bare_{name} (LIKE {name} INCLUDING ALL)".encode())
        connection.commit()
        for name in TABLES:
            query = f"COPY (SELECT * FROM {name} LIMIT 10000) TO STDOUT (FORMAT binary)"
            with connection.cursor() as cursor, cursor.copy(query.encode()) as out:
                content = b"".join(bytes(block) for block in out)
            started = time.perf_counter()
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY bare_{name} FROM STDIN (FORMAT binary)".encode()) as into,
            ):
                into.write(content)
            seconds += time.perf_counter() - started
        started = time.perf_counter()
        connection.commit()
        seconds += time.perf_counter() - started
        found = connection.execute("SELECT count(*) FROM bare_executions").fetchone()
        assert found is not None
        for name in TABLES:
            connection.execute(f"DROP TABLE bare_{name}".encode())
    return int(found[0]) / seconds


if __name__ == "__main__":
    main()
