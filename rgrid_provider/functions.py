"""A Python function as a script of its own: its source, its arguments and what becomes of it.

The script reads the arguments from a file beside it, calls the function, and leaves its result in another. It
needs nothing but Python (and the package of its serializer, where that has one). A function that raises
Airflow's ``AirflowSkipException`` or ``AirflowFailException`` does so although Airflow is not there: the
script brings a stand-in for the modules that define them, where they cannot be imported.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rgrid_provider import frames, outputs

ARGUMENTS = "rgrid-arguments"
"""The input file that carries the arguments."""
OUTCOME = "rgrid-outcome"
"""The output file that says how the function ended."""
RESULT = "rgrid-result"
"""The output file with what it returned; values that stand apart are in files called so with a number."""
SERIALIZERS = ("json", "pickle", "cloudpickle", "arrow")
PACKAGES = {"cloudpickle": "cloudpickle", "arrow": "pyarrow"}
"""What a serializer needs on both sides beside Python, by its name for installers and for ``import``."""
PICKLE_PROTOCOL = 4
"""What every Python that a script may run under reads."""

CONTEXT_NAMES = frozenset(
    (
        *("ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz", "run_id", "params"),
        *("prev_start_date_success", "prev_end_date_success", "data_interval_start", "data_interval_end"),
        *("logical_date", "map_index_template", "task_instance_key_str", "test_mode"),
    )
)
"""What of a task's context a function may ask for by naming a parameter so."""

_SCRIPT = '''\
"""The function {name} of an Airflow task, with its arguments from {arguments!r}."""
from __future__ import annotations

import sys as _sys
{early_imports}

def _stand_in_for_airflow():
    """Let functions raise what Airflow knows where Airflow is not installed."""
    import importlib.util
    import types

    if importlib.util.find_spec("airflow") is not None:
        return
    for name in ("airflow", "airflow.exceptions", "airflow.sdk", "airflow.sdk.exceptions"):
        module = types.ModuleType(name, "A stand-in with Airflow's exceptions.")
        module.__path__ = []
        _sys.modules[name] = module
    errors = {{"AirflowException": type("AirflowException", (Exception,), {{}})}}
    for name in ("AirflowSkipException", "AirflowFailException"):
        errors[name] = type(name, (errors["AirflowException"],), {{}})
    for error in errors.values():
        error.__module__ = "airflow.exceptions"
    for name in ("airflow.exceptions", "airflow.sdk.exceptions"):
        vars(_sys.modules[name]).update(errors)


_stand_in_for_airflow()

{source}

def _call():
    import json

    {get_serializer}
    {get_outputs}

    binary = {serializer!r} != "json"

    def dumps(value):
        return serializer.dumps(value, protocol={protocol}) if binary else json.dumps(value).encode()

    def write(name, content):
        with open(name, "wb") as file:
            file.write(content)

    with open({arguments!r}, "rb" if binary else "r") as file:
        args, kwargs = serializer.load(file)
    outcome = None
    try:
        result = {name}(*args, **kwargs)
        try:
            content = dumps(result)
        except Exception as error:
            raise TypeError(
                "{name}() returned a " + type(result).__name__ + " that cannot be carried as {serializer} ("
                + str(error) + "); return something else, or give another serializer"
            ) from error
        outcome = {{"ended": "returned"}}
        {take_apart}
        write({result!r}, content)
    except Exception as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        ended = "skipped" if "AirflowSkipException" in names else "raised"
        if "AirflowFailException" in names:
            ended = "failed for good"
        outcome = {{"ended": ended, "type": names[0], "message": str(error)}}
        if ended != "skipped":
            raise
        print("skipped:", error, file=_sys.stderr)
    finally:
        # none where the function has left by sys.exit()
        if outcome is not None:
            with open({outcome!r}, "w") as file:
                json.dump(outcome, file)


if __name__ == "__main__":
    _call()
'''


def is_own_file(name: str) -> bool:
    """Whether a file beside a function is of the call itself, not one of the function's."""
    stem, _, number = name.rpartition("-")
    return name in {ARGUMENTS, OUTCOME, RESULT} or (stem == RESULT and number.isdigit())


class CannotBeCarried(ValueError):
    """An argument, a result or a serializer that does not work; the message names it and the way out."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a function ended: ``returned``, ``skipped``, ``raised`` or ``failed for good``, and why."""

    ended: str
    message: str = ""
    type: str = ""
    apart: Mapping[str, str] | None = None
    """The files of the values that stand apart, by their keys; None of what is no dict of outputs."""

    @classmethod
    def read(cls, content: bytes) -> Outcome:
        """From the file that the script left."""
        told = json.loads(content)
        return cls(
            str(told["ended"]), str(told.get("message", "")), str(told.get("type", "")), told.get("apart")
        )


def build_script(source: str, name: str, serializer: str, *, apart_above_bytes: int | None = None) -> str:
    """The script that calls a function.

    Args:
        source: the function's source, without Airflow's decorators.
        name: what it is called.
        serializer: one of :data:`SERIALIZERS`.
        apart_above_bytes: what the function returns are a task's outputs, of which so much stays together;
            None where it is one result.

    Raises:
        CannotBeCarried: there is no such serializer.
    """
    check_serializer(serializer)
    return _SCRIPT.format(
        early_imports=_early_imports(source, PACKAGES.get(serializer)),
        source=source,
        name=name,
        serializer=serializer,
        get_serializer=_get_serializer(serializer),
        **_outputs_by(apart_above_bytes),
        protocol=PICKLE_PROTOCOL,
        arguments=ARGUMENTS,
        outcome=OUTCOME,
        result=RESULT,
    )


def _get_serializer(serializer: str) -> str:
    """How a script comes by it: a module that is there, or for frames one that the script brings along."""
    if serializer != "arrow":
        return f"import {serializer} as serializer"
    return _brought_along("serializer", frames)


def _outputs_by(apart_above_bytes: int | None) -> dict[str, str]:
    """How a script comes by what takes a dict of outputs apart, and how it does so."""
    if apart_above_bytes is None:
        return {"get_outputs": "", "take_apart": ""}
    take_apart = (
        'content, outcome["apart"] = outputs.take_apart('
        f"result, content, {apart_above_bytes}, {RESULT!r}, serializer, dumps, write)"
    )
    return {"get_outputs": _brought_along("outputs", outputs), "take_apart": take_apart}


def _brought_along(name: str, module: ModuleType) -> str:
    source = Path(module.__file__ or "").read_text()
    lines = ("import types", f"{name} = types.ModuleType({name!r})", f"exec({source!r}, vars({name}))")
    return "\n    ".join(lines)


def _early_imports(source: str, package: str | None) -> str:
    """What a function and its serializer import first, at the top of a script, where the grid looks for it.

    It has them done before the script starts. They are made for their effect only: what fails here, or is
    not wanted after all, is the function's own to find out.
    """
    # the script itself needs these
    names = ("importlib.util", "json", "types", *([] if package is None else [package]))
    lines = [f"import {name} as _early" for name in names]
    (function,) = ast.parse(source).body
    body = function.body if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) else []
    for index, node in enumerate(body):
        if index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Import):
            lines += [f"import {alias.name} as _early" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            lines += [f"from {node.module} import {alias.name} as _early" for alias in node.names]
        else:
            break
    # Airflow is not there, but for the little that stands in for it
    wanted = [line for line in lines if line.split()[1].partition(".")[0] != "airflow"]
    return "".join(f"try:\n    {line}\nexcept Exception:\n    pass\n" for line in wanted)


def check_serializer(serializer: str) -> None:
    """Make sure that there is a serializer of this name.

    Raises:
        CannotBeCarried: there is not.
    """
    if serializer not in SERIALIZERS:
        raise CannotBeCarried(f"there is no serializer {serializer!r}; take one of {', '.join(SERIALIZERS)}")


def encode_arguments(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], serializer: str
) -> bytes:
    """The arguments as the script reads them.

    Raises:
        CannotBeCarried: one of them cannot be; the message names it.
    """
    dumps = _dumps(serializer)
    try:
        return dumps([list(args), dict(kwargs)])
    except Exception as error:
        name = _first_that_fails(function, args, kwargs, dumps)
        others = ", ".join(one for one in SERIALIZERS if one != serializer)
        raise CannotBeCarried(
            f"the argument {name} of {function.__name__}() cannot be carried as {serializer} ({error}); "
            f"give something else, or another serializer: {others}"
        ) from error


def plain(value: Any) -> Any:
    """What Airflow reads only when it is looked at, such as the results of mapped tasks, as a list."""
    is_lazy = isinstance(value, Sequence) and type(value).__module__.startswith("airflow.")
    return list(value) if is_lazy else value


def decode_result(content: bytes, serializer: str) -> Any:
    """What the function returned.

    Raises:
        CannotBeCarried: it cannot be read here, such as an object of a class that is not installed here.
    """
    try:
        return json.loads(content) if serializer == "json" else _module(serializer).loads(content)
    except Exception as error:
        raise CannotBeCarried(
            f"what the function returned cannot be read here as {serializer} ({error}); return plain values, "
            "or install what defines it beside Airflow"
        ) from error


def wanted_context(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], context: Mapping[str, Any]
) -> dict[str, Any]:
    """What of the task's context a function asks for: parameters of such names that nobody has given.

    Times are carried as ISO 8601, so that every serializer carries them.
    """
    found: dict[str, Any] = {}
    names = list(inspect.signature(function).parameters)
    for name in names[len(args) :]:
        if name in CONTEXT_NAMES and name not in kwargs and name in context:
            value = context[name]
            found[name] = value.isoformat() if hasattr(value, "isoformat") else value
    if "params" in found:
        found["params"] = dict(found["params"])
    return found


def _dumps(serializer: str) -> Callable[[Any], bytes]:
    check_serializer(serializer)
    if serializer == "json":
        # in one order, so that another try carries the same bytes
        return lambda value: json.dumps(value, sort_keys=True).encode()
    module = _module(serializer)
    return lambda value: bytes(module.dumps(value, protocol=PICKLE_PROTOCOL))


def _module(serializer: str) -> Any:
    package = PACKAGES.get(serializer, serializer)
    try:
        found = importlib.import_module(package)
    except ImportError as error:
        raise CannotBeCarried(
            f"the serializer {serializer} is not installed beside Airflow: pip install {package}"
        ) from error
    return frames if serializer == "arrow" else found


def _first_that_fails(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    dumps: Callable[[Any], bytes],
) -> str:
    names = list(inspect.signature(function).parameters)
    named = {names[at] if at < len(names) else f"number {at + 1}": value for at, value in enumerate(args)}
    for name, value in {**named, **kwargs}.items():
        try:
            dumps(value)
        except Exception:
            return repr(name)
    return "list"
