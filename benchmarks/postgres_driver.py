"""Which driver for PostgreSQL: durable transactions a second of psycopg with threads, psycopg async, asyncpg.

A transaction inserts one row, reads it back and commits, as the smallest of RGrid's operations do; so many
are under way at once. The drivers take turns, and of each the best turn counts. The table says how many times
as fast as psycopg with threads each is.

    python -m benchmarks.postgres_driver [--seconds 2] [--turns 3] [--database-url URL]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import asyncpg
import psycopg
import uvloop

CONCURRENT = (1, 8, 64)
INSERT = "INSERT INTO driver_rows (id, value) VALUES (%s, %s)"
SELECT = "SELECT value FROM driver_rows WHERE id = %s"
_numbers = itertools.count()


async def threads(url: str, concurrent: int, seconds: float) -> float:
    """Psycopg, blocking, in threads that an event loop waits for: how the server does it."""
    local = threading.local()
    opened: list[psycopg.Connection] = []

    def transact(number: int) -> None:
        if not hasattr(local, "connection"):
            local.connection = psycopg.connect(url)
            opened.append(local.connection)
        with local.connection.transaction(), local.connection.cursor() as cursor:
            cursor.execute(INSERT, [number, "value"])
            assert cursor.execute(SELECT, [number]).fetchone() == ("value",)

    with ThreadPoolExecutor(concurrent) as pool:
        loop = asyncio.get_running_loop()
        rate = await _rate(concurrent, seconds, lambda n: loop.run_in_executor(pool, transact, n))
    for connection in opened:
        connection.close()
    return rate


async def psycopg_async(url: str, concurrent: int, seconds: float) -> float:
    """Psycopg on the event loop."""
    free: asyncio.Queue[psycopg.AsyncConnection] = asyncio.Queue()
    connections = [await psycopg.AsyncConnection.connect(url) for _ in range(concurrent)]
    for connection in connections:
        free.put_nowait(connection)

    async def transact(number: int) -> None:
        connection = await free.get()
        async with connection.transaction(), connection.cursor() as cursor:
            await cursor.execute(INSERT, [number, "value"])
            await cursor.execute(SELECT, [number])
            assert await cursor.fetchone() == ("value",)
        free.put_nowait(connection)

    rate = await _rate(concurrent, seconds, transact)
    for connection in connections:
        await connection.close()
    return rate


async def asyncpg_loop(url: str, concurrent: int, seconds: float) -> float:
    """Asyncpg, which speaks the protocol itself, on the event loop."""
    insert, select = INSERT.replace("%s", "$1", 1).replace("%s", "$2"), SELECT.replace("%s", "$1")
    async with asyncpg.create_pool(url, min_size=concurrent, max_size=concurrent) as pool:

        async def transact(number: int) -> None:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(insert, number, "value")
                assert await connection.fetchval(select, number) == "value"

        return await _rate(concurrent, seconds, transact)


async def _rate(concurrent: int, seconds: float, transact: Callable[[int], Awaitable[None]]) -> float:
    loop = asyncio.get_running_loop()

    async def work(until: float) -> int:
        done = 0
        while loop.time() < until:
            await transact(next(_numbers))
            done += 1
        return done

    async def measure(length: float) -> int:
        until = loop.time() + length
        return sum(await asyncio.gather(*[work(until) for _ in range(concurrent)]))

    await measure(min(0.5, seconds))
    began = time.perf_counter()
    return await measure(seconds) / (time.perf_counter() - began)


DRIVERS = {"psycopg, threads": threads, "psycopg, async": psycopg_async, "asyncpg": asyncpg_loop}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2, help="of each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--database-url")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        url = arguments.database_url
        if url is None:
            from tests.postgres import PostgresCluster

            url = stack.enter_context(PostgresCluster()).create_database()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS driver_rows")
            connection.execute("CREATE TABLE driver_rows (id bigint PRIMARY KEY, value text NOT NULL)")
        print("| driver | " + " | ".join(f"{count} at once" for count in CONCURRENT) + " |")
        print("|---|" + "---:|" * len(CONCURRENT))
        rates: defaultdict[tuple[str, int], float] = defaultdict(float)
        for _, (name, driver), count in itertools.product(
            range(arguments.turns), DRIVERS.items(), CONCURRENT
        ):
            rate = uvloop.run(driver(url, count, arguments.seconds))
            rates[name, count] = max(rates[name, count], rate)
        first = next(iter(DRIVERS))
        for name in DRIVERS:
            cells = [
                f"{rates[name, count]:,.0f}/s ({rates[name, count] / rates[first, count]:.2f})"
                for count in CONCURRENT
            ]
            print(f"| {name} | " + " | ".join(cells) + " |")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP TABLE driver_rows")


if __name__ == "__main__":
    main()
