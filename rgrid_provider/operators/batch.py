"""One script over many inputs; another try runs only what has not completed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rgrid import calls
from rgrid.client import Client
from rgrid.exceptions import ConfigurationError, InvalidRequest, TooLarge
from rgrid.models import Batch, BatchResult
from rgrid.streams import folder_by_input
from rgrid_provider._compat import AirflowException, AirflowFailException
from rgrid_provider.attribution import run_key
from rgrid_provider.done import Done, Written
from rgrid_provider.links.rgrid import RGridBatchLink
from rgrid_provider.lives import Step, next_step, says_its_life
from rgrid_provider.operators.base import GridOperator
from rgrid_provider.results import (
    MAX_RESULT_BYTES_IN_XCOM,
    outcomes_of,
    reference_to_batch,
    values_of,
)
from rgrid_provider.sources import batch_items
from rgrid_provider.tasklog import TaskLog
from rgrid_provider.triggers.rgrid import RGridBatchTrigger

RETRY_OF = "airflow_retry_of"
"""In a batch's metadata: the batch of an earlier try, of which it runs what had not completed."""
MAX_LOGS_SHOWN = 100
"""So many executions' logs are in the task's log; those that failed come first."""

Item = Mapping[str, Any]


class RGridBatchOperator(GridOperator):
    """Runs one script over many inputs.

    Args, beside those of :class:`rgrid_provider.operators.rgrid.RGridRunOperator`:
        inputs: a glob, or a list of paths, of arguments, or of lists of arguments; each is one execution,
            whose arguments are the item's own and then ``args``.
        parallelism: how many run at once; as many as there is room for when None.
        fail_on: ``any`` (one failure fails the task), ``all``, or a fraction of failures that is too much.
        max_result_bytes: results that are more as JSON stay on the grid, and XCom gets a reference to them.

    Pushes ``batch_id`` as soon as it is submitted, then ``return_value`` (the last line of each execution's
    stdout, in order of the inputs; None for one that failed) and ``cost_micros``, all tries together. With
    ``output_dir`` the outputs of each go to a folder of its own, called as its input.

    A try after one that failed runs only what had not completed, and takes the other results from before.
    """

    template_fields: Sequence[str] = (
        "script",
        "args",
        "env_vars",
        "requirements",
        "runtime",
        "inputs",
        "output_dir",
        "user_metadata",
    )
    operator_extra_links = (RGridBatchLink(),)
    work_id_key = "batch_id"

    def __init__(
        self,
        *,
        inputs: str | Sequence[Any],
        parallelism: int | None = None,
        fail_on: str | float = "any",
        max_result_bytes: int = MAX_RESULT_BYTES_IN_XCOM,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inputs = inputs
        self.parallelism = parallelism
        self.fail_on = fail_on
        self.max_result_bytes = max_result_bytes
        if not (fail_on in {"any", "all"} or (isinstance(fail_on, float) and 0 < fail_on <= 1)):
            raise ValueError(f"fail_on is 'any', 'all' or a fraction above 0 and up to 1, not {fail_on!r}")

    def execute(self, context: Any) -> Any:
        """Submit, or attach to what an earlier try submitted; then wait."""
        self._begin(context)
        with self._ended_by_timeout():
            batch = self._submit_once(context)
            self._keep(context, batch.batch_id)
            if not self.wait_for_completion:
                return batch.batch_id
            if self.deferrable and not batch.is_terminal:
                self._defer(
                    RGridBatchTrigger(
                        rgrid_conn_id=self.rgrid_conn_id,
                        batch_id=batch.batch_id,
                        poll_interval=self.poll_interval,
                    ),
                    "execute_complete",
                )
            batch = self._watch(batch)
        return self._take(context, batch)

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Take the results of a batch that the triggerer has waited for."""
        if event.get("error"):
            raise AirflowException(f"waiting for {event['batch_id']} failed: {event['error']}")
        return self._take(context, self.hook.client.batch(event["batch_id"]))

    def _held_by(self, client: Client, run_key: str) -> Batch | None:
        found = client.send(calls.lookup_batches([], run_keys=[run_key]))
        return next(iter(found.values()), None)

    def _cancel(self, client: Client, work_id: str) -> None:
        client.cancel_batch(work_id)

    def _end_and_free(self, client: Client, work_id: str) -> None:
        client.cancel_batch(work_id)
        client.wait_batch(work_id)
        client.acknowledge_batch(work_id)

    def _submit_once(self, context: Any) -> Batch:
        """Upload what is missing, and submit or attach."""
        client = self.hook.client
        try:
            body = self._body(context)
            planned = batch_items(self.inputs, body.pop("args"))
            hashes = client.upload({name: path for _, item in planned for name, path in item.files.items()})
            items: list[Item] = [
                {
                    "args": list(item.args),
                    "inputs": {name: hashes[name] for name in item.files},
                    "input_file": called,
                }
                for called, item in planned
            ]
            batch = self._current(context, body, items)
        except (ConfigurationError, InvalidRequest, TooLarge) as error:
            raise AirflowFailException(str(error)) from error
        what = "attached to" if batch.attached else "submitted"
        self.log.info("%s %s with %d executions", what, batch.batch_id, batch.total)
        return batch

    def _current(self, context: Any, template: Mapping[str, Any], items: Sequence[Item]) -> Batch:
        """The batch that this try waits for, found along the chain that earlier tries left, or begun."""
        client = self.hook.client
        chain: list[Batch] = []
        to_run, batch = items, self._submit(context, template, items)
        while batch.attached:
            step = next_step(
                template["user_metadata"],
                batch.user_metadata,
                is_terminal=batch.is_terminal,
                succeeded=batch.is_terminal,
            )
            if step is Step.REPLACE:
                client.cancel_batch(batch.batch_id)
                batch = client.wait_batch(batch.batch_id)
            if not batch.is_terminal:
                break
            chain.append(batch)
            left = [one.batch_index for one in client.batch_executions(batch.batch_id) if not one.succeeded]
            if self._is_too_much(len(left), len(items)) or (left and batch.status == "canceled"):
                to_run = [to_run[index] for index in left]
                self.log.info(
                    "%s of an earlier try %s; running its %d that have not completed again",
                    batch.batch_id,
                    batch.status,
                    len(to_run),
                )
                batch = self._submit(context, template, to_run, retry_of=batch.batch_id)
            elif step is Step.ATTACH:
                break
            else:
                self.log.info("%s is of before this task was cleared; running all again", batch.batch_id)
                for one in chain:
                    client.acknowledge_batch(one.batch_id)
                chain, to_run, batch = [], items, self._submit(context, template, items)
        return batch

    def _submit(
        self, context: Any, template: Mapping[str, Any], items: Sequence[Item], *, retry_of: str | None = None
    ) -> Batch:
        key, metadata = run_key(context["ti"]), dict(template["user_metadata"])
        if retry_of is not None:
            # each try finds the same way from the first batch to the one that was submitted last
            key, metadata[RETRY_OF] = f"{key}/after/{retry_of}", retry_of
        options: dict[str, Any] = {
            "parallelism": self.parallelism,
            "run_key": key,
            "user_metadata": metadata,
        }
        return self._submit_in_place(key, lambda: self.hook.client.submit_batch(template, items, **options))

    def _watch(self, batch: Batch) -> Batch:
        client, told = self.hook.client, -1
        while True:
            if batch.counts.finished != told:
                told = batch.counts.finished
                self.log.info("%d of %d ended, %d failed", told, batch.total, batch.counts.failed)
            if batch.is_terminal:
                return batch
            batch = client.batch(batch.batch_id, min(5.0, self.poll_interval))

    def _take(self, context: Any, batch: Batch) -> Any:
        client = self.hook.client
        chain = self._with_earlier_tries(batch)
        outcomes = outcomes_of(client, chain)
        failed = [result for result in outcomes if not result.succeeded]
        cost_micros = sum(one.total_cost_micros for one in chain)
        context["ti"].xcom_push(key="cost_micros", value=cost_micros)
        self._show(sorted(outcomes, key=lambda result: result.succeeded))
        self.log.info(
            "%s: %d of %d completed for %d micro-euro",
            batch.batch_id,
            len(outcomes) - len(failed),
            len(outcomes),
            cost_micros,
        )
        self._tell(
            context,
            Done(
                kind="batch",
                id=batch.batch_id,
                server=self.hook.settings.server.url,
                status=batch.status,
                cost_micros=cost_micros,
                executions=len(outcomes),
                read=self._files_read(),
                written=() if self.output_dir is None else (Written("", Path(self.output_dir)),),
            ),
        )
        if self._is_too_much(len(failed), len(outcomes)):
            # the next try finds it, and runs what failed again
            told = "; ".join(f"{item.input_file}: {item.error or item.status}" for item in failed[:10])
            raise AirflowException(f"{len(failed)} of {len(outcomes)} of {batch.batch_id} failed: {told}")
        if self.output_dir is not None:
            self._fetch(chain, outcomes, Path(self.output_dir))
        values = values_of(client, outcomes)
        size_bytes = len(json.dumps(values))
        if not says_its_life(batch.user_metadata):
            # else not acknowledged: should this worker die before Airflow knows, the next try takes it again
            for one in chain:
                client.acknowledge_batch(one.batch_id)
        if size_bytes > self.max_result_bytes:
            return reference_to_batch(chain, size_bytes, self.rgrid_conn_id)
        return values

    def _files_read(self) -> tuple[Path, ...]:
        """The input files that this worker has."""
        try:
            planned = batch_items(self.inputs, ())
        except ConfigurationError:
            # they are on the worker that submitted
            return ()
        return tuple(dict.fromkeys(path for _, item in planned for path in item.files.values()))

    def _with_earlier_tries(self, batch: Batch) -> list[Batch]:
        """A batch and those whose rest it runs, the first one first."""
        chain = [batch]
        while (earlier := chain[0].user_metadata.get(RETRY_OF)) is not None:
            chain.insert(0, self.hook.client.batch(str(earlier)))
        return chain

    def _show(self, outcomes: Sequence[BatchResult]) -> None:
        for result in outcomes[:MAX_LOGS_SHOWN]:
            self.log.info("%s (%s): %s", result.input_file, result.execution_id, result.status)
            task_log = TaskLog(self.log.info)
            for entry in self.hook.client.logs(result.execution_id):
                task_log.add(entry)
            task_log.end()
        if len(outcomes) > MAX_LOGS_SHOWN:
            self.log.info("the logs of %d more are on the grid", len(outcomes) - MAX_LOGS_SHOWN)

    def _fetch(self, chain: Sequence[Batch], outcomes: Sequence[BatchResult], directory: Path) -> None:
        client = self.hook.client
        if len(chain) == 1:
            _exhaust(client.batch_outputs(chain[0].batch_id, directory))
            return
        # of what was run again only the last outputs count
        for result in outcomes:
            client.download(result.execution_id, directory / folder_by_input(result))

    def _is_too_much(self, failed: int, total: int) -> bool:
        if self.fail_on == "any":
            return failed > 0
        if self.fail_on == "all":
            return failed == total
        return failed >= float(self.fail_on) * total and failed > 0


def _exhaust(results: Iterator[BatchResult]) -> None:
    for _ in results:
        pass
