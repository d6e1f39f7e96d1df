"""Frames as bytes, and functions on the grid that are given and return them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from rgrid_provider import frames
from rgrid_provider.functions import CannotBeCarried, encode_arguments
from rgrid_provider.results import load_result
from tests.airflow.test_task_rgrid import called

ContextOf = Callable[..., dict[str, Any]]
REQUIREMENTS = ["pandas>=2.2,<4"]
DAYS = pandas.DataFrame(
    {
        "date": pandas.to_datetime(["2026-01-30", "2026-01-31", "2026-02-01"], utc=True),
        "rain_mm": [1.5, None, 3.0],
        "weather": pandas.Categorical(["rain", "sun", "rain"]),
    },
    index=pandas.Index(["a", "b", "c"], name="station"),
)


def carried(value: Any) -> Any:
    return frames.loads(frames.dumps(value))


def test_a_frame_comes_back_with_its_types_and_its_index() -> None:
    pandas.testing.assert_frame_equal(carried(DAYS), DAYS)


@pytest.mark.parametrize("name", ["rain", 7, None])
def test_a_series_comes_back_with_its_name(name: Any) -> None:
    series = pandas.Series([1.0, 2.5], index=[3, 5], name=name)
    pandas.testing.assert_series_equal(carried(series), series)


def test_a_table_comes_back_and_pandas_is_not_asked_for() -> None:
    table = pyarrow.table({"a": [1, None], "b": [[1], [2, 3]]})
    content = frames.dumps(table)
    assert frames.loads(content).equals(table)
    read = (
        "import sys; sys.modules['pandas'] = None; from rgrid_provider import frames; "
        "print(frames.loads(sys.stdin.buffer.read()).num_rows)"
    )
    done = subprocess.run([sys.executable, "-c", read], input=content, capture_output=True, check=True)
    assert done.stdout.strip() == b"2"


def test_frames_stand_in_lists_and_dicts_beside_plain_values() -> None:
    value = {"days": [DAYS, {"part": DAYS["rain_mm"]}], "scale": 2.5, "names": ("a", None, True)}
    content = frames.dumps(value)
    found = frames.loads(content)
    pandas.testing.assert_frame_equal(found["days"][0], DAYS)
    pandas.testing.assert_series_equal(found["days"][1]["part"], DAYS["rain_mm"])
    assert (found["scale"], found["names"]) == (2.5, ["a", None, True])
    assert frames.kinds_in(content) == {frames.FRAME, frames.SERIES}
    assert frames.kinds_in(frames.dumps({"plain": 1})) == set()


def test_plain_values_need_no_library() -> None:
    script = (
        "import sys; sys.modules['pyarrow'] = sys.modules['pandas'] = None; "
        "from rgrid_provider import frames; print(frames.loads(frames.dumps([1, {'a': 'b'}])))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, {'a': 'b'}]"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {1, 2},
            r"a builtins\.set is none of pandas DataFrames and Series, pyarrow Tables, and what JSON has",
        ),
        ({1: "one"}, "a dict has keys that are no strings"),
        ({frames.PLACE: 0}, "'rgrid:frame', which stands for a frame"),
        (pandas.DataFrame({"mixed": [1, "two"]}), r"Arrow has no type .* pandas\.DataFrame"),
        (pandas.Series([1], name=("a", 1)), r"the Series is named \('a', 1\)"),
    ],
)
def test_what_arrow_cannot_carry_is_named(value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        frames.dumps(value)

    def takes(rows: Any) -> None: ...

    with pytest.raises(CannotBeCarried, match=rf"argument 'rows' of takes\(\).*arrow.*{message}"):
        encode_arguments(takes, [value], {}, "arrow")


def test_a_function_takes_and_returns_frames(context_of: ContextOf) -> None:
    def by_weather(days: Any, scale: int) -> Any:
        import pandas

        assert isinstance(days, pandas.DataFrame), type(days)
        return {"sums": days.groupby("weather", observed=True)[["rain_mm"]].sum() * scale, "rows": len(days)}

    task = called(by_weather, DAYS, kwargs={"scale": 2}, serializer="arrow", requirements=REQUIREMENTS)
    found = task.execute(context_of(task))
    assert found["rows"] == 3
    assert found["sums"]["rain_mm"].to_dict() == {"rain": 9.0, "sun": 0.0}


def test_what_xcom_does_not_carry_is_a_reference_that_the_next_function_is_given_as_it_is(
    context_of: ContextOf,
) -> None:
    def doubled(table: Any) -> Any:
        import pyarrow.compute

        return table.set_column(0, "a", pyarrow.compute.multiply(table["a"], 2))

    task = called(doubled, pyarrow.table({"a": [1, 2]}), serializer="arrow")
    reference = task.execute(context_of(task))
    assert reference["kind"] == "rgrid_result"
    assert load_result(reference)["a"].to_pylist() == [2, 4]
    assert load_result([{"deep": reference}])[0]["deep"]["a"].to_pylist() == [2, 4]
    again = called(doubled, reference, serializer="arrow")
    context = context_of(again)
    context["ti"].task_id = "again"
    assert load_result(again.execute(context))["a"].to_pylist() == [4, 8]


def test_of_many_outputs_only_what_xcom_does_not_carry_is_a_reference(context_of: ContextOf) -> None:
    def made() -> Any:
        import pandas
        import pyarrow

        return {"frame": pandas.DataFrame({"a": [1]}), "table": pyarrow.table({"b": [2]}), "rows": 1}

    task = called(made, serializer="arrow", requirements=REQUIREMENTS, multiple_outputs=True)
    found = task.execute(context_of(task))
    assert (found["frame"]["a"].to_list(), found["rows"]) == ([1], 1)
    assert found["table"]["kind"] == "rgrid_result"
    assert load_result(found["table"])["b"].to_pylist() == [2]


def test_what_a_function_returns_and_arrow_cannot_carry_is_named(context_of: ContextOf) -> None:
    def returns_a_set() -> Any:
        return {1, 2}

    task = called(returns_a_set, serializer="arrow")
    with pytest.raises(
        AirflowException, match=r"returned a set that cannot be carried as arrow \(a builtins"
    ):
        task.execute(context_of(task))


def test_a_pandas_frame_where_pandas_is_not_asked_for_is_told(context_of: ContextOf) -> None:
    def rows(days: Any) -> int:
        return len(days)

    task = called(rows, DAYS, serializer="arrow")
    with pytest.raises(
        AirflowException, match=r"a pandas\.DataFrame is carried, and pandas is not installed"
    ):
        task.execute(context_of(task))


def test_without_pyarrow_beside_airflow_the_way_out_is_named(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing() -> None: ...

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    task = called(nothing, serializer="arrow")
    with pytest.raises(AirflowFailException, match="pip install pyarrow"):
        task.execute(context_of(task))


def test_the_provider_is_imported_without_pyarrow_and_pandas(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['pyarrow'] = sys.modules['pandas'] = None; "
        "import rgrid_provider.decorators.rgrid, rgrid_provider.results"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
