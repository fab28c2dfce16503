"""JSON lines without a loop: byte for byte what ``json.dumps`` gives."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from conftest import in_ci
from hypothesis import given, settings
from hypothesis import strategies as st

from pausedata.exporters import jsonl
from pausedata.exporters.jsonl import json_lines


def expected(rows: pa.Table) -> bytes:
    """The definition: one `json.dumps` a row."""
    lines = (
        json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n"
        for row in rows.to_pylist()
    )
    return "".join(lines).encode()


def written(rows: pa.Table) -> bytes:
    return b"".join(json_lines(rows))


LISTS = st.lists(st.lists(st.integers(-100, 70_000), max_size=6), max_size=8)


@settings(max_examples=in_ci(200), deadline=None)
@given(lists=LISTS, first=st.integers(0, 3), cut=st.integers(0, 4))
def test_lists_of_integers(lists: list[list[int]], first: int, cut: int) -> None:
    """Negative numbers, empty lists, slices of a larger table, columns in several chunks."""
    column = pa.array(lists, pa.list_(pa.int32()))
    mask = pa.array([[1] * len(own) for own in lists], pa.list_(pa.int8()))
    rows = pa.table({"input_ids": column, "attention_mask": mask}).slice(first)
    if cut and rows.num_rows > cut:
        rows = pa.concat_tables([rows.slice(0, cut), rows.slice(cut)])
    assert written(rows) == expected(rows)


@settings(max_examples=in_ci(50), deadline=None)
@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3), max_size=4))
def test_any_integer(lists: list[list[int]]) -> None:
    """A range too wide for a table of texts takes another way."""
    rows = pa.table({"x": pa.array(lists, pa.list_(pa.int64()))})
    assert written(rows) == expected(rows)


TEXT = st.text(max_size=6)
VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), st.none() | TEXT),
    (pa.list_(pa.bool_()), st.lists(st.booleans(), max_size=3)),
    (pa.list_(pa.int32()), st.lists(st.none() | st.integers(0, 9), max_size=3)),
    (pa.list_(pa.list_(pa.string())), st.lists(st.lists(TEXT, max_size=2), max_size=2)),
    (
        pa.list_(pa.struct([("role", pa.string()), ("loss", pa.bool_())])),
        st.lists(st.fixed_dictionaries({"role": TEXT, "loss": st.none() | st.booleans()})),
    ),
]


@pytest.mark.parametrize(("kind", "values"), VALUES, ids=[str(kind) for kind, _ in VALUES])
@settings(max_examples=in_ci(50), deadline=None)
@given(data=st.data())
def test_every_other_type(kind: pa.DataType, values: Any, data: st.DataObject) -> None:
    """Control characters, quotes, whatever Unicode has, nulls."""
    column = data.draw(st.lists(values, max_size=4))
    rows = pa.table({'a "name"': pa.array(column, kind), "n": pa.array(range(len(column)))})
    assert written(rows) == expected(rows)


def test_large_tables_are_written_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_AT_ONCE", 10)
    rows = pa.table({"x": pa.array([list(range(k)) for k in range(20)], pa.list_(pa.int32()))})
    parts = list(json_lines(rows))
    assert len(parts) > 3
    assert b"".join(parts) == expected(rows)


def test_no_rows_are_no_lines() -> None:
    rows = pa.table({"x": pa.array([], pa.list_(pa.int32()))})
    assert list(json_lines(rows)) == []
