"""``@task.rgrid``: a Python function that runs on the grid in an environment of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rgrid.exceptions import NotFound
from rgrid.models import Execution
from rgrid_provider._compat import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    DecoratedOperator,
    task_decorator_factory,
)
from rgrid_provider.done import outputs_of
from rgrid_provider.frames import is_carried_by_xcom
from rgrid_provider.functions import (
    ARGUMENTS,
    OUTCOME,
    PACKAGES,
    RESULT,
    CannotBeCarried,
    Outcome,
    build_script,
    check_serializer,
    decode_result,
    encode_arguments,
    is_own_file,
    plain,
    wanted_context,
)
from rgrid_provider.operators.rgrid import RGridRunOperator
from rgrid_provider.outputs import MAX_APART
from rgrid_provider.results import MAX_RESULT_BYTES_IN_XCOM, load_result, reference_to


class RGridDecoratedOperator(DecoratedOperator, RGridRunOperator):
    """Runs a function on the grid; made by ``@task.rgrid``.

    Args, beside those of :class:`rgrid_provider.operators.rgrid.RGridRunOperator` (``script`` and ``args``
    are the decorator's own):
        serializer: how arguments and result are carried: ``json``, ``pickle``, ``cloudpickle``, or ``arrow``
            for frames (pandas and pyarrow) beside plain values; its package is added to ``requirements``.
        max_result_bytes: a larger result stays on the grid, and XCom gets a reference to it; so does one with
            a pyarrow Table or a pandas Series, which XCom does not carry. A reference that is given as an
            argument is replaced by what it refers to. With ``multiple_outputs`` each value is looked at by
            itself: the largest are references until what is left is no larger.

    The function stands alone: its imports are inside of it, and nothing else of its module is there. A
    parameter named as a plain context variable (``ds``, ``run_id``, ``params`` …) gets that variable.
    """

    custom_operator_name = "@task.rgrid"
    template_fields: Sequence[str] = (
        "op_args",
        "op_kwargs",
        *(name for name in RGridRunOperator.template_fields if name not in {"script", "args"}),
    )
    template_fields_renderers = {  # noqa: RUF012 - as in the base
        "op_args": "py",
        "op_kwargs": "py",
        "requirements": "text",
    }
    shallow_copy_attrs: Sequence[str] = ("python_callable",)

    def __init__(
        self,
        *,
        serializer: str = "json",
        max_result_bytes: int = MAX_RESULT_BYTES_IN_XCOM,
        **kwargs: Any,
    ) -> None:
        for name in ("script", "args"):
            if name in kwargs:
                raise TypeError(f"@task.rgrid takes no {name!r}: the function is the script")
        try:
            check_serializer(serializer)
        except CannotBeCarried as error:
            raise ValueError(str(error)) from None
        super().__init__(script="", **kwargs)
        self.serializer = serializer
        self.max_result_bytes = max_result_bytes

    def execute(self, context: Any) -> Any:
        """Call the function on the grid, or attach to the call of an earlier try."""
        function = self.python_callable
        try:
            args = [load_result(plain(value)) for value in self.op_args]
            kwargs = {name: load_result(plain(value)) for name, value in self.op_kwargs.items()}
            kwargs |= wanted_context(function, args, kwargs, context)
            content = encode_arguments(function, args, kwargs, self.serializer)
            self.script = build_script(
                self.get_python_source(),
                function.__name__,
                self.serializer,
                apart_above_bytes=self.max_result_bytes if self.multiple_outputs else None,
            )
        except CannotBeCarried as error:
            # another try would carry the same
            raise AirflowFailException(str(error)) from error
        if self.serializer in PACKAGES:
            self.requirements = _with_package(self.requirements, PACKAGES[self.serializer])
        with tempfile.TemporaryDirectory(prefix="rgrid-call-") as directory:
            path = Path(directory, ARGUMENTS)
            path.write_bytes(content)
            self.input_files = {**_by_name(self.input_files), ARGUMENTS: str(path)}
            return super().execute(context)

    def _ends_in_triggerer(self) -> bool:
        # the result is decoded where the DAG's own code is
        return False

    def _output_names(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if not is_own_file(name)]

    def _value_of(self, execution: Execution) -> Any:
        outcome = self._outcome_of(execution)
        if outcome is None:
            name = self.python_callable.__name__
            raise AirflowException(
                f"{execution.execution_id} ended before {name}() did: sys.exit() or os._exit() ended it; "
                "return from the function instead"
            )
        if outcome.ended == "skipped":
            raise AirflowSkipException(outcome.message)
        files = {
            item.filename: reference_to(item, execution.execution_id, self.serializer, self.rgrid_conn_id)
            for item in outputs_of(self.hook.client.artifacts(execution.execution_id))
            if is_own_file(item.filename)
        }
        apart = outcome.apart or {}
        if not apart and files[RESULT]["size_bytes"] > self.max_result_bytes:
            return self._as_one(files[RESULT], outcome)
        content = self._content_of(execution, RESULT)
        if not apart and self.serializer == "arrow" and not is_carried_by_xcom(content):
            return self._as_one(files[RESULT], outcome)
        try:
            value = decode_result(content, self.serializer)
        except CannotBeCarried as error:
            raise AirflowFailException(str(error)) from error
        if apart:
            return {key: files[apart[key]] if key in apart else one for key, one in value.items()}
        return value

    def _as_one(self, reference: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
        """The whole result as a reference, which is no dict of outputs itself."""
        if self.multiple_outputs:
            name = self.python_callable.__name__
            if outcome.apart is None:
                raise AirflowFailException(
                    f"{name}() returned what is no dict with strings as keys; return one, or give "
                    "multiple_outputs=False"
                )
            self.log.warning(
                "what %s() returned has more than %d large values: all of it is one reference, and its keys "
                "are no XComs; raise max_result_bytes, or give multiple_outputs=False",
                name,
                MAX_APART,
            )
            # Airflow asks for it when it pushes what this task returns
            self.multiple_outputs = False
        return reference

    def _failure_of(self, execution: Execution) -> AirflowException:
        failure = super()._failure_of(execution)
        outcome = self._outcome_of(execution)
        if outcome is not None and outcome.ended == "failed for good":
            return AirflowFailException(str(failure))
        return failure

    def _outcome_of(self, execution: Execution) -> Outcome | None:
        try:
            return Outcome.read(self._content_of(execution, OUTCOME))
        except NotFound:
            return None

    def _content_of(self, execution: Execution, name: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="rgrid-call-") as directory:
            (path,) = self.hook.client.download(execution.execution_id, directory, names=[name])
            return path.read_bytes()


def rgrid_task(
    python_callable: Callable[..., Any] | None = None,
    multiple_outputs: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Make a task of a function that runs on the grid; arguments as of :class:`RGridDecoratedOperator`."""
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=RGridDecoratedOperator,
        **kwargs,
    )


def _by_name(files: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    from rgrid_provider.sources import named_files

    return {name: str(path) for name, path in named_files(files).items()}


def _with_package(requirements: str | Sequence[str] | None, package: str) -> str:
    from rgrid_provider.sources import requirements_text

    text = requirements_text(requirements) or ""
    return text if package in text else f"{text}\n{package}\n".lstrip()
