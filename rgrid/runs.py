"""``rgrid.run``: a script from here to the grid and back, in one call."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgrid.aio import AsyncClient
from rgrid.client import Client
from rgrid.exceptions import ExecutionFailed
from rgrid.files import plan_inputs
from rgrid.models import Execution
from rgrid.submissions import read_script, requirements_beside


@dataclass(frozen=True, slots=True)
class Plan:
    """A script that is to be run: its source and options, and the files that go with it."""

    source: str
    files: Mapping[str, Path]
    options: dict[str, Any]


def plan(script: str | Path, args: tuple[object, ...], options: dict[str, Any]) -> Plan:
    """Read a script and find its files: arguments that name some, and requirements beside it.

    Args:
        script: a path, or the source itself where it has more than one line.
        args: the script's arguments; whatever they are, the script sees their texts.
        options: as for :func:`rgrid.submissions.execution_body`.

    Raises:
        rgrid.exceptions.ConfigurationError: the script or a file cannot be read.
    """
    options = {"run_key": f"run-{uuid.uuid4().hex}", **options}
    path: Path | None = None
    if isinstance(script, str) and "\n" in script:
        source = script
    else:
        path = Path(script)
        source = read_script(path)
        options.setdefault("script_name", path.name)
        if "requirements" not in options:
            options["requirements"] = requirements_beside(path, options.get("runtime"))
    planned = plan_inputs(
        [os.fspath(arg) if isinstance(arg, os.PathLike) else str(arg) for arg in args], Path(), path
    )
    return Plan(source, planned.files, options | {"args": planned.args})


def run(
    script: str | Path,
    *args: object,
    output_dir: str | Path | None = ".",
    check: bool = True,
    client: Client | None = None,
    **options: Any,
) -> Execution:
    """Run a script on the grid, wait for it, and fetch what it made.

    Args:
        script: a path, or the source itself where it has more than one line.
        args: the script's arguments; those that name existing files are carried along.
        output_dir: where outputs go; None leaves them on the grid.
        check: raise when the script does not complete.
        client: whom to ask; one found as ``rgrid.config`` says when None.
        options: as for :func:`rgrid.submissions.execution_body`, such as ``timeout_seconds``.

    Raises:
        rgrid.exceptions.ExecutionFailed: it did not complete, and ``check`` is set.
        rgrid.exceptions.RGridError: what else may go wrong.
    """
    planned = plan(script, args, options)
    own = client or Client()
    try:
        inputs = own.upload(planned.files)
        execution = own.submit(planned.source, inputs=inputs, **planned.options)
        execution = own.wait(execution.execution_id)
        if output_dir is not None:
            own.download(execution.execution_id, output_dir)
        own.acknowledge(execution.execution_id)
    finally:
        if client is None:
            own.close()
    return _checked(execution, check=check)


async def arun(
    script: str | Path,
    *args: object,
    output_dir: str | Path | None = ".",
    check: bool = True,
    client: AsyncClient | None = None,
    **options: Any,
) -> Execution:
    """The same as :func:`run`, awaited; many of them run at once."""
    planned = await asyncio.to_thread(plan, script, args, options)
    own = client or AsyncClient()
    try:
        inputs = await own.upload(planned.files)
        execution = await own.submit(planned.source, inputs=inputs, **planned.options)
        execution = await own.wait(execution.execution_id)
        if output_dir is not None:
            await own.download(execution.execution_id, output_dir)
        await own.acknowledge(execution.execution_id)
    finally:
        if client is None:
            await own.close()
    return _checked(execution, check=check)


def submit(script: str | Path, *args: object, client: Client | None = None, **options: Any) -> Execution:
    """Submit a script and return at once; the arguments are those of :func:`run`."""
    planned = plan(script, args, options)
    own = client or Client()
    try:
        return own.submit(planned.source, inputs=own.upload(planned.files), **planned.options)
    finally:
        if client is None:
            own.close()


def _checked(execution: Execution, *, check: bool) -> Execution:
    if check and not execution.succeeded:
        raise ExecutionFailed(execution)
    return execution
