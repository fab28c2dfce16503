"""What a manifest says of a run's warm-up: told in card, log, figures and report, and verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from handmade import commit_handmade
from test_verify import edit_manifest, problems

from pausedata.analysis.history import history
from pausedata.hub.card import quick_card
from pausedata.store.dataset import open_version

SETTINGS = {"rows": 256, "epochs": 1, "folds": 2, "method": "lora", "lr": 0.001, "seed": 0}
RECORD = {
    "outcome": "warmed",
    "reason": None,
    "settings": SETTINGS,
    "corpus": "sha256:of",
    "folds": [{"fold": k, "reason": None, "weights_sha256": f"{k}" * 64} for k in (1, 2)],
}
FEW = "fold 2 of 2 has 3 rows to train on, and 16 are needed"
BASE = RECORD | {
    "outcome": "base",
    "reason": FEW,
    "folds": [{"fold": 2, "reason": FEW, "weights_sha256": None}],
}
INPUTS = SETTINGS | {"of": "sha256:of"}


def dataset(
    tmp_path: Path, inputs: dict[str, Any] | None = INPUTS, record: dict[str, Any] | None = RECORD
) -> Path:
    """A dataset whose run `base` was made so."""
    root = tmp_path / "data"
    commit_handmade(root)

    def edit(manifest: dict[str, Any]) -> None:
        facts = manifest["tables"]["scores/base"]["provenance"]
        facts |= {"model": {"id": "ORG/MODEL", "revision": "abc"}}
        facts["inputs"] |= {"dtype": "float32", "backend": "transformers"}
        if inputs is not None:
            facts["inputs"]["warmup"] = inputs
        if record is not None:
            facts["warmup"] = record

    edit_manifest(root, edit)
    return root


LOSSES = [{"rows": 256, "loss_before": 1.5, "loss_after": 1.0}, {"rows": 256}]
LOSSES[1] |= {"loss_before": 1.25, "loss_after": 0.75}
MEASURED = RECORD | {
    "folds": [fold | more for fold, more in zip(RECORD["folds"], LOSSES, strict=True)]
}
UNEVEN = MEASURED | {"folds": [MEASURED["folds"][0] | {"rows": 40}, MEASURED["folds"][1]]}


@pytest.mark.parametrize(
    ("inputs", "record", "said"),
    [
        (INPUTS, MEASURED, "warmed up: 2 x 256 rows, held-out loss 1.38 to 0.88"),
        (INPUTS, UNEVEN, "warmed up: 40 and 256 rows, held-out loss 1.38 to 0.88"),
        (INPUTS, RECORD, "warmed up"),
        (INPUTS, BASE, f"as it is: {FEW}"),
        (None, None, None),
    ],
    ids=["warmed", "uneven", "unmeasured", "base", "none"],
)
def test_people_are_told_how_a_run_was_scored(
    tmp_path: Path,
    run: Callable[..., Run],
    inputs: dict[str, Any] | None,
    record: dict[str, Any] | None,
    said: str | None,
) -> None:
    root = dataset(tmp_path, inputs, record)
    how = "float32, transformers" + (f", {said}" if said else "")
    entry = history(root)[0]
    assert entry.tables["scores/base"] == f"ORG/MODEL ({how})"
    assert entry.models["base"].get("warmup") == said
    card = quick_card(open_version(root).manifest)
    end = f", {said}." if said else "."
    assert f"revision `abc`, float32, by transformers{end}\n" in card
    assert ("no row was scored by a model that trained on it" in card) == (
        said is not None and said.startswith("warmed up")
    )
    assert how.partition(":")[0] in " ".join(run("stats", root).out.split())
    scored_by = json.loads(run("stats", root, "--json").out)["runs"]["base"]["scored_by"]
    assert scored_by.get("warmup") == said
    assert run("report", root, "-o", tmp_path / "report.html").status == 0
    assert (f", {said}</dd>" if said else "transformers</dd>") in (
        tmp_path / "report.html"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("inputs", "record"),
    [
        (INPUTS, RECORD),
        (INPUTS, BASE),
        (None, None),
        (INPUTS | {"shape": "cosine"}, RECORD | {"settings": SETTINGS | {"shape": "cosine"}}),
        (INPUTS, RECORD | {"outcome": "distilled", "folds": []}),  # of a later release
    ],
)
def test_a_warm_up_that_agrees_with_itself_is_no_problem(
    tmp_path: Path, inputs: dict[str, Any] | None, record: dict[str, Any] | None
) -> None:
    assert problems(dataset(tmp_path, inputs, record)) == []


@pytest.mark.parametrize(
    ("inputs", "record", "said"),
    [
        (INPUTS, None, "its inputs name a warm-up, of which nothing is recorded"),
        (None, RECORD, "a warm-up is recorded that its inputs do not name"),
        (
            *(INPUTS | {"rows": 160}, RECORD),
            "its warm-up was recorded with other settings than its inputs name",
        ),
        (
            *(INPUTS | {"of": "sha256:other"}, RECORD),
            "its warm-up was recorded on other tokens than its inputs name",
        ),
        (INPUTS, RECORD | {"folds": None}, "of its warm-up no folds are recorded"),
        (
            *(INPUTS, RECORD | {"folds": RECORD["folds"][:1]}),
            "not all folds of its warm-up are recorded",
        ),
        (
            *(INPUTS, RECORD | {"folds": [RECORD["folds"][0], {"fold": 2}]}),
            "a fold of its warm-up has no hash of its model's weights",
        ),
        (
            *(INPUTS, BASE | {"reason": None}),
            "its model scored as it is, and no reason is recorded",
        ),
    ],
)
def test_verify_tells_of_a_warm_up_that_does_not_agree_with_itself(
    tmp_path: Path, inputs: dict[str, Any] | None, record: dict[str, Any] | None, said: str
) -> None:
    assert problems(dataset(tmp_path, inputs, record)) == [f"scores/base: {said}"]
