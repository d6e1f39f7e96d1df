"""Results that are too large for XCom: what stands in their place, and how they are fetched."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from rgrid.client import Client
from rgrid.models import Artifact, Batch, BatchResult
from rgrid_provider.functions import decode_result
from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.tasklog import last_line_value, printed_result

MAX_RESULT_BYTES_IN_XCOM = 1024 * 1024
KIND = "rgrid_result"
KIND_OF_BATCH = "rgrid_batch_results"


def reference_to(
    artifact: Artifact, execution_id: str, serializer: str, rgrid_conn_id: str
) -> dict[str, Any]:
    """What XCom gets for a result that stays on the grid."""
    return {
        "kind": KIND,
        "execution_id": execution_id,
        "filename": artifact.filename,
        "size_bytes": artifact.size_bytes,
        "sha256": artifact.sha256,
        "serializer": serializer,
        "rgrid_conn_id": rgrid_conn_id,
    }


def reference_to_batch(chain: Sequence[Batch], size_bytes: int, rgrid_conn_id: str) -> dict[str, Any]:
    """What XCom gets for the results of a batch, of all its tries, that stay on the grid."""
    return {
        "kind": KIND_OF_BATCH,
        "batch_ids": [batch.batch_id for batch in chain],
        "count": chain[0].total,
        "size_bytes": size_bytes,
        "rgrid_conn_id": rgrid_conn_id,
    }


def outcomes_of(client: Client, chain: Sequence[Batch]) -> list[BatchResult]:
    """What came of each input of a batch, in their order: of the last try that ran it.

    Args:
        client: whose batches they are.
        chain: the batch, and each that ran what had not completed of the one before.
    """
    outcomes: dict[int, BatchResult] = {}
    places: Sequence[int] = range(chain[0].total)
    for batch in chain:
        results = {item.batch_index: item for item in client.batch_results(batch.batch_id)}
        outcomes.update({place: results[index] for index, place in enumerate(places)})
        places = [place for index, place in enumerate(places) if not results[index].succeeded]
    return [outcomes[place] for place in range(len(outcomes))]


def values_of(client: Client, outcomes: Sequence[BatchResult]) -> list[Any]:
    """What each execution returns by printing it last; None for one that failed."""
    return [_value_of(client, result) if result.succeeded else None for result in outcomes]


def _value_of(client: Client, result: BatchResult) -> Any:
    if result.last_line_omitted:
        return printed_result(client, client.get(result.execution_id))
    return last_line_value(result.last_line or "")


def load_result(value: Any) -> Any:
    """A result of ``@task.rgrid`` or of a batch: fetched where XCom holds a reference, else as it is.

    References in lists and dicts are replaced by what they refer to, too.

    Raises:
        rgrid.exceptions.RGridError: the server refuses, or keeps the file no more.
        rgrid_provider.functions.CannotBeCarried: it cannot be read here.
    """
    if isinstance(value, Mapping) and value.get("kind") in (KIND, KIND_OF_BATCH):
        return _fetched(value)
    if isinstance(value, dict):
        return {name: load_result(one) for name, one in value.items()}
    if isinstance(value, list):
        return [load_result(one) for one in value]
    return value


def _fetched(value: Mapping[str, Any]) -> Any:
    client = RGridHook(value["rgrid_conn_id"]).client
    if value["kind"] == KIND_OF_BATCH:
        return values_of(client, outcomes_of(client, [client.batch(one) for one in value["batch_ids"]]))
    with tempfile.TemporaryDirectory(prefix="rgrid-result-") as directory:
        (path,) = client.download(value["execution_id"], directory, names=[value["filename"]])
        return decode_result(path.read_bytes(), value["serializer"])
