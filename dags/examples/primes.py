"""Functions on the grid: primes below some limits, each counted by a call of its own, then put together.

Needs the connection `rgrid_default`. Each function runs in an environment of its own, without Airflow.
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import DAG, task

with DAG(
    dag_id="primes",
    description="Counts primes with @task.rgrid, mapped over limits",
    start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    schedule=None,
    catchup=False,
    # a retry attaches to the call that its first try began
    default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=5)},
    tags=["rgrid", "example"],
    doc_md=__doc__,
) as dag:

    @task.rgrid(deferrable=True)
    def count_primes(limit: int) -> dict[str, int]:
        """How many primes there are below a limit, by the sieve of Eratosthenes."""
        is_prime = bytearray([1]) * limit
        is_prime[:2] = bytes(min(limit, 2))
        for number in range(2, int(limit**0.5) + 1):
            if is_prime[number]:
                is_prime[number * number :: number] = bytes(len(range(number * number, limit, number)))
        print(f"{sum(is_prime)} primes below {limit}")
        return {"limit": limit, "primes": sum(is_prime)}

    @task.rgrid(multiple_outputs=True)
    def put_together(counts: list[dict[str, int]], run_id: str | None = None) -> dict[str, object]:
        """The counts by their limits, and the run that counted."""
        return {"by_limit": {str(one["limit"]): one["primes"] for one in counts}, "counted_in": run_id}

    @task.rgrid
    def tell_if_wrong(by_limit: dict[str, int]) -> None:
        """Skip what is right."""
        from airflow.exceptions import AirflowSkipException

        if by_limit == {"10": 4, "1000": 168, "100000": 9592}:
            raise AirflowSkipException("the primes are all there")

    together = put_together(count_primes.expand(limit=[10, 1_000, 100_000]))
    tell_if_wrong(together["by_limit"])
