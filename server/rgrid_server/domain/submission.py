"""What may be submitted: limits, validation, and the fingerprint that tells equal work."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from rgrid_server.domain.attempts import Specification
from rgrid_server.domain.caching import Caching
from rgrid_server.domain.filenames import why_not_a_name
from rgrid_server.domain.retries import RetryPolicy, find_policy_problems
from rgrid_server.domain.runtimes import Kind, parse_runtime

_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may ask for."""

    max_timeout_seconds: int = 3600
    max_cpus_milli: int = 64_000
    max_memory_mib: int = 262_144
    max_script_bytes: int = 1024 * 1024
    max_requirements_bytes: int = 256 * 1024
    max_args_bytes: int = 128 * 1024
    max_env_bytes: int = 128 * 1024
    max_metadata_bytes: int = 32 * 1024
    max_input_files: int = 10_000
    max_blob_bytes: int = 16 * 1024**3
    max_batch_items: int = 10_000


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a submission: where, what and the way out."""

    location: tuple[str, ...]
    message: str
    code: str = "invalid"
    too_large: bool = False
    part: Literal["body", "query", "path", "header"] = "body"
    """Of the request, in which it stands."""


_NOTHING: Mapping[str, Any] = {}


class Submission(NamedTuple):
    """One execution as asked for; ``inputs`` maps a name to its blob, or to None while it is to come.

    A tuple, for there are thousands a second: a frozen dataclass sets its fields one by one.
    """

    script_content: str
    runtime: str
    script_name: str = "script.py"
    requirements_content: str | None = None
    args: tuple[str, ...] = ()
    env_vars: Mapping[str, str] = _NOTHING
    inputs: Mapping[str, str | None] = _NOTHING
    outputs: tuple[str, ...] | None = None
    timeout_seconds: int = 300
    cpus_milli: int = 1000
    memory_mib: int = 2048
    priority: int = 0
    user_metadata: Mapping[str, object] = _NOTHING
    run_key: str | None = None
    batch_id: str | None = None
    retry_policy: RetryPolicy | None = None
    secrets: Mapping[str, str] = _NOTHING
    """Names to what :mod:`sealing` makes of their values."""
    cache: str = "off"
    """What :class:`caching.Caching` says."""
    trace_parent: str | None = None

    @property
    def specification(self) -> Specification:
        """The part that the items of a batch share."""
        return Specification(
            script_content=self.script_content,
            script_name=self.script_name,
            runtime=self.runtime,
            requirements_content=self.requirements_content or None,
        )


def find_problems(submission: Submission, limits: Limits) -> list[Problem]:
    """Everything that is wrong with a submission, each with its place in the request."""
    return [*_script_problems(submission, limits), *find_item_problems(submission, limits)]


def find_item_problems(submission: Submission, limits: Limits) -> list[Problem]:
    """What is wrong beside the script and its runtime, which the items of a batch share."""
    return [
        *_resource_problems(submission, limits),
        *_name_problems(submission),
        *_cache_problems(submission),
        *find_part_problems(submission, submission.script_name, limits),
    ]


_CACHINGS = frozenset(Caching)


def _cache_problems(submission: Submission) -> list[Problem]:
    cache = submission.cache
    if cache not in _CACHINGS:
        return [Problem(("cache",), f"cache is {_shown(cache)}; it is one of {', '.join(Caching)}")]
    if submission.secrets and cache != Caching.OFF:
        message = (
            "a run with secrets is not cached, for what they open is not looked at; leave out one of both"
        )
        return [Problem(("cache",), message)]
    return []


class Parts(Protocol):
    """What each item of a batch may have of its own."""

    @property
    def args(self) -> Sequence[str]: ...
    @property
    def env_vars(self) -> Mapping[str, str]: ...
    @property
    def inputs(self) -> Mapping[str, str | None]: ...
    @property
    def user_metadata(self) -> Mapping[str, object]: ...


def find_part_problems(parts: Parts, script_name: str, limits: Limits) -> list[Problem]:
    """What is wrong with what an item has of its own."""
    problems = _value_problems(parts, limits)
    if parts.inputs:
        problems += _input_problems(parts.inputs, script_name, limits)
    return problems


def _input_problems(inputs: Mapping[str, str | None], script_name: str, limits: Limits) -> list[Problem]:
    problems: list[Problem] = []
    if len(inputs) > limits.max_input_files:
        problems.append(
            Problem(
                ("input_files",),
                f"{len(inputs)} input files; at most {limits.max_input_files} are allowed, "
                "pack them into an archive",
            )
        )
    for name in inputs:
        if why := why_not_a_name(name):
            problems.append(Problem(("input_files",), f"the name {_shown(name)} {why}"))
        elif name == script_name:
            problems.append(Problem(("input_files",), f"the name {_shown(name)} is the script's own"))
    for name in inputs:
        for folder in _folders_of(name):
            if folder in inputs:
                problems.append(
                    Problem(("input_files",), f"{_shown(folder)} is a file, and the folder of {_shown(name)}")
                )
    return problems + [
        Problem(("inputs", name), f"{_shown(sha256)} is not a SHA-256 in lower-case hex")
        for name, sha256 in inputs.items()
        if sha256 is not None and not is_sha256(sha256)
    ]


def _folders_of(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def is_sha256(text: str) -> bool:
    """Whether a text is 64 lower-case hex digits."""
    return _SHA256.fullmatch(text) is not None


def specification_id(tenant_id: str, specification: Specification) -> str:
    """A name for a specification from its content, separate for each tenant."""
    # as Python writes a tuple of texts, which says where each ends; JSON would take ten times as long
    exact = repr((tenant_id, *specification.wire().values()))
    return hashlib.sha256(exact.encode(errors="surrogatepass")).hexdigest()


def fingerprint(submission: Submission) -> str:
    """Equal for submissions that ask for the same work.

    Metadata, priority, timeout and retry policy say how and for whom, not what, so a retried request that
    carries, say, another try number still finds the execution that its run key holds. Of secrets the names
    count: their values change while the work stays the same.
    """
    return _digest(
        [
            submission.specification.wire(),
            list(submission.args),
            dict(submission.env_vars),
            dict(submission.inputs),
            list(submission.outputs) if submission.outputs is not None else None,
            *([sorted(submission.secrets)] if submission.secrets else []),
        ]
    )


def _script_problems(submission: Submission, limits: Limits) -> list[Problem]:
    problems: list[Problem] = []
    size_bytes = len(submission.script_content.encode(errors="surrogatepass"))
    if not submission.script_content.strip():
        problems.append(Problem(("script_content",), "the script is empty; send the source of a script"))
    if size_bytes > limits.max_script_bytes:
        problems.append(
            Problem(
                ("script_content",),
                f"the script is {size_bytes} bytes; at most {limits.max_script_bytes} are allowed, "
                "carry data as input files",
                code="script_too_large",
                too_large=True,
            )
        )
    if "\0" in submission.script_content:
        at = submission.script_content.index("\0")
        problems.append(
            Problem(
                ("script_content",), f"the script has a NUL byte at character {at}; it is not Python source"
            )
        )
    if why := why_not_a_name(submission.script_name):
        problems.append(Problem(("script_name",), f"the name {_shown(submission.script_name)} {why}"))
    requirements = submission.requirements_content or ""
    if len(requirements.encode(errors="surrogatepass")) > limits.max_requirements_bytes:
        problems.append(
            Problem(
                ("requirements_content",),
                f"requirements are longer than {limits.max_requirements_bytes} bytes",
                too_large=True,
            )
        )
    if "\0" in requirements:
        problems.append(Problem(("requirements_content",), "requirements have a NUL byte"))
    runtime = parse_runtime(submission.runtime)
    if runtime is not None and runtime.kind is Kind.DOCKER and requirements.strip():
        problems.append(
            Problem(
                ("requirements_content",),
                "an image has its packages in it; install them when it is built, and leave out requirements",
            )
        )
    if runtime is None:
        problems.append(
            Problem(
                ("runtime",),
                f"{_shown(submission.runtime)} is not a runtime; "
                "name one as python:3.11, GET /runtimes lists them",
            )
        )
    return problems


def _resource_problems(submission: Submission, limits: Limits) -> list[Problem]:
    problems: list[Problem] = []
    bounds = (
        ("timeout_seconds", submission.timeout_seconds, 1, limits.max_timeout_seconds, "seconds"),
        ("cpus", submission.cpus_milli, 100, limits.max_cpus_milli, "thousandths of a vCPU"),
        ("memory_mib", submission.memory_mib, 16, limits.max_memory_mib, "MiB"),
        ("priority", submission.priority, -100, 100, "steps"),
    )
    for name, value, least, most, unit in bounds:
        if not least <= value <= most:
            problems.append(Problem((name,), f"{name} is {value}; it must be from {least} to {most} {unit}"))
    if submission.retry_policy is not None:
        problems += [
            Problem(("retry_policy", name), message)
            for name, message in find_policy_problems(submission.retry_policy)
        ]
    return problems


def _value_problems(parts: Parts, limits: Limits) -> list[Problem]:
    problems: list[Problem] = []
    for position, arg in enumerate(parts.args):
        if "\0" in arg:
            problems.append(Problem(("args", str(position)), "an argument cannot hold a NUL byte"))
    for name, value in parts.env_vars.items():
        if _ENV_NAME.fullmatch(name) is None:
            problems.append(
                Problem(("env_vars", name), f"{_shown(name)} is not the name of an environment variable")
            )
        if "\0" in value:
            problems.append(Problem(("env_vars", name), f"the value of {name} holds a NUL byte"))
    sized: list[tuple[str, object, int]] = []
    # JSON writes a character in 12 bytes at most, so most texts need not be written to be known as short
    if parts.args and 16 * len(parts.args) + 12 * sum(map(len, parts.args)) > limits.max_args_bytes:
        sized.append(("args", parts.args, limits.max_args_bytes))
    if parts.env_vars:
        sized.append(("env_vars", parts.env_vars, limits.max_env_bytes))
    if parts.user_metadata:
        sized.append(("user_metadata", parts.user_metadata, limits.max_metadata_bytes))
    for field_name, content, most in sized:
        size_bytes = len(json.dumps(content, default=str))
        if size_bytes > most:
            problems.append(
                Problem(
                    (field_name,), f"{field_name} is {size_bytes} bytes of JSON; at most {most} are allowed"
                )
            )
    return problems


def _name_problems(submission: Submission) -> list[Problem]:
    if submission.run_key is None and submission.batch_id is None:
        return []
    return [
        Problem((field_name,), f"{field_name} must be 1 to 512 printable characters")
        for field_name, text in (("run_key", submission.run_key), ("batch_id", submission.batch_id))
        if text is not None and not (0 < len(text) <= 512 and text.isprintable())
    ]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _digest(content: object) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
