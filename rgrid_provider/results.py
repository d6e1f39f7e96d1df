"""Results that are too large for XCom: what stands in their place, and how they are fetched."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from rgrid.models import Artifact
from rgrid_provider.functions import decode_result
from rgrid_provider.hooks.rgrid import RGridHook

MAX_RESULT_BYTES_IN_XCOM = 1024 * 1024
KIND = "rgrid_result"


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


def load_result(value: Any) -> Any:
    """A result of ``@task.rgrid``: fetched from the grid where XCom holds a reference, else as it is.

    Raises:
        rgrid.exceptions.RGridError: the server refuses, or keeps the file no more.
        rgrid_provider.functions.CannotBeCarried: it cannot be read here.
    """
    if not _is_reference(value):
        return value
    client = RGridHook(value["rgrid_conn_id"]).client
    with tempfile.TemporaryDirectory(prefix="rgrid-result-") as directory:
        (path,) = client.download(value["execution_id"], directory, names=[value["filename"]])
        return decode_result(path.read_bytes(), value["serializer"])


def with_results(value: Any) -> Any:
    """A value with the results themselves in place of references to them, in lists and dicts too."""
    if _is_reference(value):
        return load_result(value)
    if isinstance(value, dict):
        return {name: with_results(one) for name, one in value.items()}
    if isinstance(value, list):
        return [with_results(one) for one in value]
    return value


def _is_reference(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("kind") == KIND
