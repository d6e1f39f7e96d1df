"""From a request's body to what the domain calls a submission."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from rgrid_server.api.schemas import (
    BatchBody,
    BatchItemFields,
    RetryPolicyBody,
    SubmitBody,
    SubmitTemplate,
)
from rgrid_server.domain.retries import RetryPolicy
from rgrid_server.domain.submission import Problem, Submission
from rgrid_server.errors import Invalid
from rgrid_server.scheduler.batch_items import BatchItem
from rgrid_server.scheduler.batches import BatchSubmission
from rgrid_server.scheduler.executions import Executions
from rgrid_server.scheduler.files import Files
from rgrid_server.scheduler.secrets import Secrets

T = TypeVar("T")

MAX_SHOWN = 100
"""So many names are told that all have the same wrong with them."""


async def execution_submission(
    tenant_id: str,
    body: SubmitBody,
    executions: Executions,
    files: Files,
    secrets: Secrets,
    trace_parent: str | None = None,
) -> Submission:
    """One execution as asked for.

    Raises:
        Invalid: its runtime is not offered, a name stands twice, or a reference names nothing.
    """
    inputs: dict[str, str | None] = dict(body.inputs)
    if body.cached_input_refs:
        inputs |= await _resolved(tenant_id, body.cached_input_refs, files)
    if body.input_files:
        _check_names(body)
        for name in body.input_files:
            inputs.setdefault(name, None)
    return await template_submission(
        tenant_id,
        body,
        executions,
        secrets,
        inputs=inputs,
        run_key=body.run_key,
        batch_id=body.batch_id,
        trace_parent=trace_parent,
    )


async def template_submission(
    tenant_id: str,
    body: SubmitTemplate,
    executions: Executions,
    secrets: Secrets,
    *,
    inputs: Mapping[str, str | None] | None = None,
    run_key: str | None = None,
    batch_id: str | None = None,
    trace_parent: str | None = None,
) -> Submission:
    """What a body asks for; ``inputs`` in place of its own where files are still to come."""
    # a model's attributes are found four times as fast where it keeps them
    asked = vars(body)
    chosen = await executions.choose(asked["runtime"], asked["requirements_content"] or None)
    return Submission(
        script_content=asked["script_content"],
        runtime=chosen.runtime,
        script_name=asked["script_name"],
        requirements_content=chosen.requirements,
        args=tuple(asked["args"]),
        env_vars=asked["env_vars"],
        inputs=dict(asked["inputs"]) if inputs is None else inputs,
        outputs=tuple(asked["outputs"]) if asked["outputs"] is not None else None,
        timeout_seconds=asked["timeout_seconds"],
        cpus_milli=round(asked["cpus"] * 1000),
        memory_mib=asked["memory_mib"],
        priority=asked["priority"],
        user_metadata=asked["user_metadata"],
        retry_policy=None if asked["retry_policy"] is None else _policy(asked["retry_policy"]),
        cache=asked["cache"],
        secrets=await secrets.references(tenant_id, asked["secrets"]) if asked["secrets"] else {},
        run_key=run_key,
        batch_id=batch_id,
        trace_parent=trace_parent,
    )


def batch_submission(body: BatchBody, template: Submission) -> BatchSubmission:
    """A batch as asked for, of a template that was read from it."""
    if body.priority is not None:
        template = template._replace(priority=body.priority)
    if body.user_metadata:
        template = template._replace(user_metadata={**body.user_metadata, **template.user_metadata})
    return BatchSubmission(
        template=template,
        items=batch_items(template, body.items),
        parallelism=body.parallelism,
        run_key=body.run_key,
        user_metadata=body.user_metadata,
        closed=body.closed,
    )


def batch_items(template: Submission, items: Sequence[BatchItemFields]) -> list[BatchItem]:
    """A template with each item's own parts: lists in place of its lists, maps laid over its maps."""
    return [
        BatchItem(
            template,
            item.get("args", template.args),
            _laid_over(template.env_vars, item.get("env_vars")),
            _laid_over(template.inputs, item.get("inputs")),
            _laid_over(template.user_metadata, item.get("user_metadata")),
            item.get("input_file"),
        )
        for item in items
    ]


def _laid_over(lower: Mapping[str, T], upper: Mapping[str, T] | None) -> Mapping[str, T]:
    return {**lower, **upper} if upper else lower


def _policy(body: RetryPolicyBody) -> RetryPolicy:
    return RetryPolicy(
        max_retries=body.max_retries,
        on=tuple(dict.fromkeys(body.on)),
        exit_codes=None if body.exit_codes is None else tuple(dict.fromkeys(body.exit_codes)),
        backoff_seconds=body.backoff_seconds,
        backoff_factor=body.backoff_factor,
        max_backoff_seconds=body.max_backoff_seconds,
    )


def _check_names(body: SubmitBody) -> None:
    twice = sorted(name for name, times in Counter(body.input_files).items() if times > 1)
    both = sorted(body.inputs.keys() & set(body.input_files))
    if twice:
        why, names = "stands more than once; give each file its own", twice
    else:
        why, names = "stands in inputs and in input_files; leave it out of one of them", both
    if names:
        shown = names[:MAX_SHOWN]
        raise Invalid([Problem(("input_files",), f"the name {name!r} {why}") for name in shown])


async def _resolved(tenant_id: str, references: Mapping[str, str], files: Files) -> dict[str, str | None]:
    inputs: dict[str, str | None] = {}
    problems: list[Problem] = []
    for name, reference in references.items():
        inputs[name] = await files.resolve(tenant_id, reference)
        if inputs[name] is None:
            problems.append(
                Problem(
                    ("cached_input_refs", name),
                    f"the reference {reference[:120]!r} names no file here; upload it as one of input_files",
                    code="reference_unknown",
                )
            )
    if problems:
        raise Invalid(problems)
    return inputs
