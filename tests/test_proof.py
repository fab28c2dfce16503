"""What a proof tells of a trainer that does something else than planned; no trainer is needed.

The trainers here are a few lines each, over the rows of the handmade dataset:

    a: [1,10,2 | 3,P,P,10,4,15]   b: [5 | 11,12,13,14,P,P,6,15]   c: [7,10,8 | P,P,9,15]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from handmade import PAUSE as P
from handmade import commit_handmade
from test_properties import no_tokenizer

from pausedata import exporters
from pausedata.exporters.export_rows import ExportRows
from pausedata.exporters.inputs import ExportInputs
from pausedata.exporters.trainers.base import Finding, LoadPath, TensorRow, Trainer, TrainerInput
from pausedata.exporters.trainers.trainer_check import Check, prove
from pausedata.store.dataset import open_version

no = -100
A = TensorRow([1, 10, 2, 3, P, P, 10, 4, 15], [no, no, no, 3, no, no, 10, 4, 15])
B = TensorRow([5, 11, 12, 13, 14, P, P, 6, 15], [no, 11, 12, 13, 14, no, no, 6, 15])
C = TensorRow([7, 10, 8, P, P, 9, 15], [no, no, no, no, no, 9, 15])

Tell = Callable[..., dict[str, Check]]


class Rows(ExportRows):
    """Rows whose trainer asks for no tokenizer."""

    reader: Any = None  # pyright: ignore[reportIncompatibleVariableOverride]


@pytest.fixture
def tell(tmp_path: Path) -> Tell:
    """The checks, by what they are of, of a trainer that has these rows."""
    commit_handmade(tmp_path / "data")
    version = open_version(tmp_path / "data")
    origin = ExportInputs.of("data", version.manifest.pause, version.tables, "low", no_tokenizer)
    format = exporters.get("tokenized")
    made = Rows(origin, format, exporters.parse(format, {}, "test"))

    def call(*has: TensorRow | Finding, ordered: bool = True) -> dict[str, Check]:
        def load(given: TrainerInput) -> Iterator[TensorRow | Finding]:
            yield from has

        trainer = Trainer("own", (), ("tokenized",), (LoadPath("own", load, ordered),))
        (proof,) = prove(trainer, made, "train", tmp_path / "unread")
        assert proof.holds == (not any(check.differ for check in proof.checks))
        return {check.what: check for check in proof.checks}

    return call


def wrong(found: dict[str, Check]) -> dict[str, tuple[int, str | None]]:
    """How many differ, and the first of them, of what does not hold."""
    return {what: (check.differ, check.first) for what, check in found.items() if check.differ}


def test_the_plan_itself_holds(tell: Tell) -> None:
    found = tell(A, B, C)
    assert wrong(found) == {}
    counts = {what: check.compared for what, check in found.items()}
    assert counts == {
        "rows: as many as planned": 3,
        "rows: none cut": 3,
        "rows: the planned ids": 3,
        "pauses: no loss": 6,
        "other tokens: loss where planned": 4 + 6 + 2,
        "other tokens: no loss where planned": 3 + 1 + 3,
    }


def test_a_row_left_out_is_named_and_those_behind_it_are_compared_with_their_own(
    tell: Tell,
) -> None:
    found = tell(A, C)
    assert wrong(found) == {"rows: as many as planned": (1, "row 1 is missing")}
    assert found["rows: the planned ids"].compared == 2


def test_so_it_is_where_the_trainer_has_an_order_of_its_own(tell: Tell) -> None:
    assert wrong(tell(C, A, B, ordered=False)) == {}
    found = tell(C, A, ordered=False)
    assert wrong(found) == {"rows: as many as planned": (1, "row 1 is missing")}


def test_an_order_of_its_own_is_no_plan_where_rows_should_keep_theirs(tell: Tell) -> None:
    assert wrong(tell(B, A, C))


def test_a_row_twice(tell: Tell) -> None:
    said = {"rows: as many as planned": (1, "row 3 of the trainer's is one too many")}
    assert wrong(tell(A, B, C, C)) == said
    assert wrong(tell(A, B, C, C, ordered=False)) == said


@pytest.mark.parametrize("ordered", [True, False])
def test_a_row_cut_is_compared_as_far_as_it_goes(tell: Tell, ordered: bool) -> None:
    cut = TensorRow(B.input_ids[:4], B.labels[:4])
    assert wrong(tell(A, cut, C, ordered=ordered)) == {
        "rows: none cut": (1, "row 1: 4 tokens of 9"),
        "rows: the planned ids": (1, f"row 1: from token 4 on [], not {[14, P, P, 6]}"),
    }


def test_other_ids_and_the_labels_before_them(tell: Tell) -> None:
    """Behind other ids labels say nothing: which token they are of is not known."""
    other = TensorRow([1, 10, 2, 3, 9, 9, P, P, 10], [no, no, no, no, 9, 9, P, P, 10])
    assert wrong(tell(other, B, C)) == {
        "rows: the planned ids": (1, f"row 0: from token 4 on {[9, 9, P, P]}, not {[P, P, 10, 4]}"),
        "other tokens: loss where planned": (1, "row 0, token 3: label -100, not 3"),
    }


def test_a_pause_that_bears_loss(tell: Tell) -> None:
    trained = TensorRow(C.input_ids, [no, no, no, P, P, 9, 15])
    assert wrong(tell(A, B, trained)) == {
        "pauses: no loss": (2, f"row 2, token 3: label {P}, not -100")
    }


def test_a_prompt_that_bears_loss(tell: Tell) -> None:
    assert wrong(tell(A, TensorRow(B.input_ids, [5, *B.labels[1:]]), C)) == {
        "other tokens: no loss where planned": (1, "row 1, token 0: label 5, not -100")
    }


def test_labels_that_are_too_few(tell: Tell) -> None:
    """The tokens behind them would not be trained on, and no label says so."""
    assert wrong(tell(A, B, TensorRow(C.input_ids, C.labels[:5]))) == {
        "rows: none cut": (1, "row 2: 5 labels of 7")
    }


def test_what_else_was_tried_counts(tell: Tell) -> None:
    found = tell(A, B, C, Finding("a step of training, its loss finite", False, "nan"))
    assert wrong(found) == {"a step of training, its loss finite": (1, "nan")}
