"""What requests may hold. Unknown fields are passed over, and named in the answer's X-Ignored-Fields."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from typing_extensions import TypedDict

from rgrid_server.domain.retries import CAUSES

Text = Annotated[str, Field(strict=True)]
MAX_SECONDS = 100 * 366 * 86_400
"""A hundred years: longer than that nothing here is promised."""
Number = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
"""A number that every database keeps."""


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="allow")

    @property
    def ignored_fields(self) -> list[str]:
        """The names that mean nothing here, those in it included: ``retry_policy.name``."""
        names = list(self.model_extra or ())
        for name in self.model_fields_set:
            if isinstance(value := self.__dict__.get(name), Body):
                names += [f"{name}.{ignored}" for ignored in value.ignored_fields]
        return sorted(names)


class RetryPolicyBody(Body):
    """When a script that has failed is run again."""

    max_retries: int = Field(description="0 to 20")
    on: list[Text] = Field(default_factory=lambda: list(CAUSES), description="which failures; all by default")
    exit_codes: list[int] | None = Field(None, description="only these, of what ends by an exit code")
    backoff_seconds: float = 1.0
    backoff_factor: float = 2.0
    max_backoff_seconds: float = 300.0


class SubmitItem(Body):
    """The parts of a submission that each item of a batch may have of its own."""

    args: list[Text] = Field(default_factory=list, description="the script's arguments")
    env_vars: dict[str, Text] = Field(default_factory=dict)
    inputs: dict[str, Text] = Field(default_factory=dict, description="names to SHA-256 of uploaded blobs")
    user_metadata: dict[str, Any] = Field(default_factory=dict)
    input_file: Text | None = Field(None, description="what a batch calls this item by")


class BatchItemFields(TypedDict, total=False):
    """An item of a batch, as a plain dictionary of what was given: there may be ten thousand of them."""

    args: list[Text]
    env_vars: dict[str, Text]
    inputs: dict[str, Text]
    user_metadata: dict[str, Any]
    input_file: Text | None


class SubmitTemplate(SubmitItem):
    """What the items of a batch share."""

    script_content: Text
    runtime: Text | None = Field(None, description="python:3.11 where it is not given")
    timeout_seconds: int = 300
    requirements_content: Text | None = None
    script_name: Text = "script.py"
    cpus: float = 1.0
    memory_mib: int = 2048
    priority: int = 0
    outputs: list[Text] | None = Field(None, description="globs of files to keep; all by default")
    retry_policy: RetryPolicyBody | None = Field(None, description="a failed script is not retried without")
    cache: Text = Field(
        "off", description="off, read or read_write: whether an earlier result may stand for it"
    )
    secrets: dict[str, Text | None] = Field(
        default_factory=dict, description="environment variables, never read back; null for one kept here"
    )

    @field_validator("env_vars", "inputs", "user_metadata", "args", "secrets", mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any, info: Any) -> Any:
        if value is None:
            return [] if info.field_name == "args" else {}
        return value


class SubmitBody(SubmitTemplate):
    """One execution."""

    input_files: list[Text] = Field(default_factory=list, description="names of files that will be uploaded")
    cached_input_refs: dict[str, Text] = Field(default_factory=dict, description="names to references")
    batch_id: Text | None = None
    run_key: Text | None = None

    @field_validator("input_files", "cached_input_refs", mode="before")
    @classmethod
    def _null_is_none(cls, value: Any, info: Any) -> Any:
        if value is None:
            return [] if info.field_name == "input_files" else {}
        return value


class SecretBody(Body):
    """A secret to keep."""

    value: Text


class BatchBody(Body):
    """Many executions of one script."""

    template: SubmitTemplate
    items: list[BatchItemFields] = Field(default_factory=list)
    parallelism: Number | None = None
    priority: int | None = None
    run_key: Text | None = None
    user_metadata: dict[str, Any] = Field(default_factory=dict)
    closed: bool = True


class ItemsBody(Body):
    """More items of a batch."""

    items: list[BatchItemFields]
    first_index: int | None = Field(
        None,
        ge=0,
        le=2**31 - 1,
        description="the index that the first one is to get, which makes appending safe to repeat",
    )


class RetryBatchBody(Body):
    """Which of a batch to run again."""

    failed_only: bool = False


class HashesBody(Body):
    """SHA-256 in hex."""

    hashes: list[Text] = Field(max_length=100_000)


def _each_once(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


class IdsBody(Body):
    """What is looked at by its ids, and by the run keys that it holds; what stands twice counts once."""

    ids: Annotated[list[Text], AfterValidator(_each_once)] = Field(max_length=1000)
    run_keys: Annotated[list[Text], AfterValidator(_each_once)] = Field(
        default_factory=list,
        max_length=1000,
        description="what holds one of these is answered too, behind what is asked for by its id",
    )


class LookupBody(IdsBody):
    """Executions by id."""

    log_sequence: bool = False
    """Whether each is to say how far its log has come."""


class DownloadUrlBody(Body):
    """An artifact by its ``file_path``."""

    s3_key: str | None = None


class LimitBody(Body):
    """A monthly limit in euros."""

    monthly_limit_euros: Decimal = Field(ge=0, le=1_000_000_000, allow_inf_nan=False)


class InputCacheBody(Body):
    """References under a hash of inputs."""

    input_hash: Text
    file_references: Any


class TenantBody(Body):
    """A tenant to make."""

    name: Text = Field(min_length=1, max_length=200)


class TenantLimitsBody(Body):
    """What a tenant may do."""

    max_running: int | None = Field(
        ge=0, le=2**31 - 1, description="so many at once, 0 for nothing for now, null for no limit"
    )


class KeyBody(Body):
    """A key to make."""

    tenant_id: Text | None = None
    scopes: list[Text] = Field(default_factory=lambda: ["submit", "read"])
    name: Text = ""
    expires_in_seconds: int | None = Field(None, ge=1, le=MAX_SECONDS)


class RotateBody(Body):
    """How long the old key stays beside the new one."""

    overlap_seconds: int = Field(3600, ge=0, le=MAX_SECONDS)


class AttemptRef(Body):
    """An attempt by its number."""

    execution_id: str
    attempt: Number


class RegisterBody(Body):
    """What a runner says of itself."""

    runner_id: str = Field(min_length=1, max_length=200)
    hostname: str
    slots: int = Field(ge=0, le=2**31 - 1)
    memory_mib: int | None = Field(None, ge=0, le=2**31 - 1)
    runtimes: list[dict[str, str]]
    sandbox: str
    sandbox_reason: str = ""
    version: str
    incarnation: str = ""


class ClaimBody(Body):
    """A runner's offer."""

    runner_id: str
    free_cpus_milli: Number
    free_slots: int = Field(ge=0, le=10_000)
    free_memory_mib: Number | None = None
    incarnation: str = ""
    wait_ms: int = Field(ge=0, le=60_000)
    known: list[AttemptRef] | None = None


class CarriedBody(Body):
    """Attempts of a runner."""

    runner_id: str
    incarnation: str = ""
    attempts: list[AttemptRef]


class ReleaseBody(CarriedBody):
    """Attempts that a runner hands back; all that it has, when it ends."""

    ends: bool = False


class ChunkBody(Body):
    """A log chunk of an attempt."""

    execution_id: str
    attempt: Number
    token: str
    first_sequence: int = Field(ge=1, le=2**62)
    entries: list[tuple[int, int, str, int]]


class ChunksBody(Body):
    """Log chunks."""

    chunks: list[ChunkBody]
