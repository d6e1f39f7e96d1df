"""What a task on the grid tells OpenLineage: its files, and what it cost.

Loaded only where OpenLineage asks, which is an extra of Airflow's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import attr
from airflow.providers.common.compat.openlineage.facet import (
    Dataset,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    RunFacet,
)
from airflow.providers.openlineage.extractors import OperatorLineage

from rgrid_provider.done import Done

RUN_FACET = "rgrid"
MAX_DATASETS = 1_000
_SCHEMA = "https://pypi.org/project/rgrid/#rgrid-run-facet"


@attr.define
class RGridRunFacet(RunFacet):  # type: ignore[misc]
    """What ran on the grid, and what it cost.

    Attributes:
        kind: ``execution`` or ``batch``.
        id: its id.
        server: the server's address.
        status: how it ended.
        cost_micros: in micro-euro.
        executions: how many it was.
    """

    kind: str = "execution"
    id: str = ""
    server: str = ""
    status: str = ""
    cost_micros: int = 0
    executions: int = 1

    @staticmethod
    def _get_schema() -> str:
        return _SCHEMA


def lineage_of(done: Done) -> OperatorLineage:
    """A piece of work in OpenLineage's words."""
    facet = RGridRunFacet(
        kind=done.kind,
        id=done.id,
        server=done.server,
        status=done.status,
        cost_micros=done.cost_micros,
        executions=done.executions,
    )
    return OperatorLineage(
        inputs=[Dataset(namespace="file", name=str(path.absolute())) for path in done.read[:MAX_DATASETS]],
        outputs=list(_outputs(done)),
        run_facets={RUN_FACET: facet},
    )


def _outputs(done: Done) -> Iterable[Any]:
    place = urlsplit(done.server)
    for file in done.written[:MAX_DATASETS]:
        facets: Mapping[str, Any] = {}
        if file.size_bytes is not None:
            facets = {"outputStatistics": OutputStatisticsOutputDatasetFacet(size=file.size_bytes)}
        if file.path is not None:
            yield OutputDataset(namespace="file", name=str(file.path.absolute()), outputFacets=dict(facets))
        else:
            yield OutputDataset(
                namespace=f"rgrid://{place.netloc}", name=f"{done.id}/{file.name}", outputFacets=dict(facets)
            )
