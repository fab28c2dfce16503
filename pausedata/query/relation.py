"""Relations of DuckDB's whose errors are ours, also those that come when their rows are fetched."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import duckdb
import pyarrow as pa

from pausedata.query.messages import translated

if TYPE_CHECKING:
    from pausedata.query.session import Session

# The methods that Python itself calls; all others go by their names.
_SPECIAL = {"__arrow_c_stream__", "__getattr__", "__getitem__", "__len__", "__repr__", "__str__"}

_sessions: WeakKeyDictionary[duckdb.DuckDBPyRelation, Session] = WeakKeyDictionary()
_at_work = threading.local()


class Relation(duckdb.DuckDBPyRelation):
    """A relation over a session's views; so are those that its methods give."""

    __slots__ = ()


def translating(relation: duckdb.DuckDBPyRelation, session: Session) -> duckdb.DuckDBPyRelation:
    """``relation``, which raises ``PausedataError`` from now on in place of ``duckdb.Error``.

    With DuckDB before 2.0, whose relations are no objects of Python's, as it was.
    """
    try:
        relation.__class__ = Relation
    except TypeError:
        return relation
    _sessions[relation] = session
    return relation


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: duckdb.DuckDBPyRelation, *args: Any, **options: Any) -> Any:
        if getattr(_at_work, "inside", False):  # DuckDB's own code, which knows its own errors
            return function(self, *args, **options)
        session = _sessions[self]
        with _entered(session):
            return _result(function(self, *args, **options), session)

    return call


@contextmanager
def _entered(session: Session) -> Iterator[None]:
    """DuckDB's errors as ours around the outermost of its methods."""
    _at_work.inside = True
    try:
        with translated(session):
            yield
    finally:
        _at_work.inside = False


def _result(result: Any, session: Session) -> Any:
    """What a method gave, where it has rows that are still to come."""
    if isinstance(result, duckdb.DuckDBPyRelation):
        return translating(result, session)
    if isinstance(result, pa.RecordBatchReader):
        return pa.RecordBatchReader.from_batches(result.schema, _rows(result, session))
    if isinstance(result, Generator):
        return _rows(result, session)
    return result


def _rows(rows: Any, session: Session) -> Iterator[Any]:
    with translated(session):
        yield from rows


for _name, _member in vars(duckdb.DuckDBPyRelation).items():
    if _name.startswith("_") and _name not in _SPECIAL:
        continue
    if isinstance(_member, property) and _member.fget is not None:
        setattr(Relation, _name, property(_method(_member.fget), doc=_member.__doc__))
    elif callable(_member):
        setattr(Relation, _name, _method(_member))
