"""``calibrate``: the threshold that spends a number of pauses, from stored scores."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from aligned import aligned
from conftest import SMOLLM2, Run

from pausedata.core.errors import UsageError
from pausedata.core.held_out import holdout_mask
from pausedata.measure.calibrate import calibrate, parse_budget
from pausedata.measure.calibrate.bounds import bounds
from pausedata.measure.calibrate.counts import Counts
from tests.small_dataset import SHARDS, make_dataset


def scores_of(predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """logprob, rank and entropy of ``targets`` [n] under ``predictions`` [n, vocabulary]."""
    own = predictions[np.arange(len(targets)), targets]
    rank = 1 + (predictions > own[:, None]).sum(axis=1)
    entropy = -(predictions * np.log(predictions)).sum(axis=1)
    return np.log(own).astype(np.float32), rank.astype(np.int32), entropy.astype(np.float32)


def drawn(count: int, seed: int, vocabulary: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of every sharpness, and targets that are drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.gumbel(size=(count, vocabulary)) * rng.uniform(0.2, 6, (count, 1))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    predictions = (weights / weights.sum(axis=1, keepdims=True)).clip(1e-30)
    ends = predictions.cumsum(axis=1)
    targets = (ends < rng.uniform(size=(count, 1)) * ends[:, -1:]).sum(axis=1)
    return predictions, targets


def test_the_highest_probability_lies_between_its_bounds_whatever_the_prediction_is() -> None:
    predictions, targets = drawn(5000, seed=0)
    highest = predictions.max(axis=1)
    least, most = bounds(*scores_of(predictions, targets), vocabulary=200)
    assert (least <= highest + 1e-6).all()
    assert (highest <= most + 1e-6).all()


def test_bounds_that_can_be_worked_out_by_hand() -> None:
    # A first choice: its own. Rank 2 at 0.25 with entropy 0.5623 = that of (3/4, 1/4): no more
    # than 3/4 as 1/4 is taken, no less as two tokens are the sharpest of that entropy. Rank 3
    # at 0.3: above 0.3, and two of them leave no more than 0.4.
    logprob = np.log(np.array([0.6, 0.25, 0.3])).astype(np.float32)
    rank = np.array([1, 2, 3], np.int32)
    entropy = np.array([1.0, 0.562335, 1.2], np.float32)
    least, most = bounds(logprob, rank, entropy, vocabulary=10)
    assert least == pytest.approx([0.6, 0.75, 0.3012], abs=2e-4)
    assert most == pytest.approx([0.6, 0.75, 0.4], abs=2e-4)


def test_where_the_text_is_the_models_own_the_estimate_meets_what_the_predictions_say() -> None:
    predictions, targets = drawn(60_000, seed=1)
    counts = Counts(vocabulary=200)
    counts.add(*scores_of(predictions, targets))
    highest = predictions.max(axis=1)
    for threshold in (0.05, 0.1, 0.2, 0.35, 0.5, 0.8):
        spent = counts.spent(threshold)
        truth = (highest < threshold).mean()
        assert spent.at_least <= truth <= spent.at_most
        assert spent.pauses_per_token == pytest.approx(truth, abs=0.01)


def test_the_entropy_threshold_is_counted_exactly() -> None:
    # Entropies 0.5, 1.5, 2.5, 3.5; surprisal 1, 2, 3, 4 of 10: two pauses stand before 3 and 4.
    counts = Counts(vocabulary=50)
    logprob = np.array([-1, -2, -3, -4], np.float32)
    counts.add(logprob, np.array([1, 2, 3, 4], np.int32), np.array([0.5, 1.5, 2.5, 3.5], "f4"))
    threshold = counts.entropy_threshold(2)
    spent = counts.spent_by_entropy(threshold)
    assert threshold == 1.5  # not above it: no pause before the token with 1.5
    assert (spent.pauses_per_token, spent.surprisal) == (0.5, pytest.approx(0.7))
    assert counts.limit(1) == pytest.approx(4)


def test_counts_do_not_depend_on_how_tokens_come() -> None:
    scores = scores_of(*drawn(500, seed=2))
    whole, parts = Counts(200), Counts(200)
    whole.add(*scores)
    for k in range(0, 500, 90):
        parts.add(*(values[k : k + 90] for values in scores))
    assert parts.spent(0.3).surprisal == pytest.approx(whole.spent(0.3).surprisal)
    assert parts.threshold(40) == whole.threshold(40)
    assert parts.spent(0.3).at_least == whole.spent(0.3).at_least


def test_a_fifth_is_held_out_the_same_for_a_seed() -> None:
    chosen = holdout_mask(50, seed=3)
    assert chosen.sum() == 10
    assert (chosen == holdout_mask(50, seed=3)).all()
    assert (chosen != holdout_mask(50, seed=4)).any()
    assert not holdout_mask(1, seed=0).any()


def test_the_last_split_is_held_out_where_there_are_several(tmp_path: Path) -> None:
    found = calibrate(make_dataset(tmp_path / "d"), "base", 0.5)
    assert found.held_out is not None
    assert (found.held_out.split, found.held_out.examples, found.held_out.tokens) == ("test", 1, 2)
    # e1 to e4 have 13 tokens; six of them may have a pause.
    assert found.tokens == 13
    assert found.entropy_threshold == 2.0
    assert found.entropy_predicted is not None
    assert found.entropy_predicted.pauses_per_token == pytest.approx(6 / 13)
    # e5's: 0.75 and 13.
    assert found.held_out.by_entropy is not None
    assert found.held_out.by_entropy.pauses_per_token == 0.5
    assert found.entropy_difference == pytest.approx(0.5 - 6 / 13)


def test_the_command_gives_json_and_a_picture(run: Callable[..., Run], tmp_path: Path) -> None:
    make_dataset(tmp_path / "d", shards=SHARDS[:3])
    picture = tmp_path / "curve.svg"
    result = run(
        "calibrate", tmp_path / "d", "--budget", "30/100", "--seed", "1", "--json", "-o", picture
    )
    assert result.status == 0, result.err
    told = json.loads(result.out)
    assert told["budget"] == 0.3
    assert 0 <= told["threshold"] <= 1
    assert told["held_out"]["split"] is None
    assert told["held_out"]["seed"] == 1
    covered = [point["entropy_surprisal"] for point in told["curve"]]
    assert covered == sorted(covered)
    assert all(p["surprisal"] <= p["limit"] + 0.02 for p in told["curve"])
    svg = ET.parse(picture).getroot()
    assert len(svg.findall("{*}polyline")) == 3
    assert "prefers-color-scheme" in picture.read_text(encoding="utf-8")
    shown = run("calibrate", tmp_path / "d", "--budget", "0.3")
    assert "a fifth of the examples (there is one split), chosen by seed 0" in shown.out


def test_a_budget_is_of_pauses_and_not_of_places(run: Callable[..., Run], tmp_path: Path) -> None:
    """Of 13 tokens 6/13 at two pauses a place leave three places: the highest three entropies."""
    version = make_dataset(tmp_path / "d")
    one, two = (calibrate(version, "base", b, tokens=n) for b, n in ((3 / 13, 1), (6 / 13, 2)))
    assert (two.threshold, two.entropy_threshold) == (one.threshold, one.entropy_threshold)
    assert one.entropy_predicted is not None and two.entropy_predicted is not None
    assert one.entropy_predicted.pauses_per_token == pytest.approx(3 / 13)
    assert two.entropy_predicted.pauses_per_token == pytest.approx(6 / 13)
    assert two.entropy_predicted.surprisal == pytest.approx(one.entropy_predicted.surprisal)
    assert two.predicted.at_most == pytest.approx(2 * one.predicted.at_most)
    assert one.held_out is not None and two.held_out is not None
    assert two.held_out.by_probability.pauses_per_token == pytest.approx(
        2 * one.held_out.by_probability.pauses_per_token
    )
    curve = {round(point.budget, 4): point for point in two.curve}
    simple = {round(point.budget, 4): point for point in one.curve}
    for share in (0.1, 0.2, 0.5):  # so many pauses are half as many places
        assert curve[share].limit == pytest.approx(simple[share / 2].limit)
        assert curve[share].threshold == simple[share / 2].threshold
    words = ("calibrate", tmp_path / "d", "--budget", "150/100", "--tokens", "2")
    told = json.loads(run(*words, "--json", "-o", tmp_path / "c.svg").out)
    assert (told["tokens_per_place"], told["budget"]) == (2, 1.5)
    assert "budget: 150 pauses for 100 tokens, 2 pauses at each place" in run(*words).out
    assert "at most 200/100" in run(*words[:3], "201/100", *words[4:]).err


def test_that_generated_text_spends_something_else_is_said(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    make_dataset(tmp_path / "d")
    shown = run("calibrate", tmp_path / "d", "--budget", "3/100").out
    assert "spend several times as much where it is new to the format, and less" in shown
    assert "--generate 50 --model TRAINED measures how much" in shown


@pytest.mark.parametrize("budget", ["0", "-1/100", "101/100", "3/0", "three", "nan"])
def test_a_budget_that_is_no_share_is_refused(budget: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        parse_budget(budget)


def test_what_is_not_there_is_named(run: Callable[..., Run], tmp_path: Path) -> None:
    make_dataset(tmp_path / "d")
    for args, said in (
        (["--run", "bace"], "Did you mean 'base'?"),
        (["--split", "tst"], "Did you mean 'test'?"),
        (["--run", "other"], "has no ranks"),
        (["-o", "curve.png"], "ends in .svg"),
    ):
        result = run("calibrate", tmp_path / "d", "--budget", "3/100", *args)
        assert result.status == 2
        assert said in result.err


@pytest.mark.model
def test_the_estimate_for_the_real_model_is_near_what_its_logits_say(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    """Over real rows, share of places under each threshold, against the logits themselves."""
    import torch

    from pausedata.models.ref import ModelRef
    from pausedata.scorers import Example, Job
    from pausedata.scorers.transformers import load
    from pausedata.store.dataset import open_version

    recipe = SMOLLM2.parents[1] / "recipes" / "quickstart.yaml"
    assert run("build", str(recipe), "--output", tmp_path / "q", "--limit", "24").status == 0
    version = open_version(tmp_path / "q")
    counts, highest = Counts(version.table("vocab").entry.rows), []
    scorer = load(Job(ModelRef("gguf", SMOLLM2.name, SMOLLM2)))
    for _, (tokens, scores) in aligned(version, "tokens", "scores/base"):
        rows = zip(tokens.to_pylist(), scores.to_pylist(), strict=True)
        for token, score in rows:
            example = Example(token["prompt_ids"], np.array(token["response_ids"]))
            for logits in scorer.logits(example):
                highest += torch.softmax(logits, -1).amax(-1).tolist()
            counts.add(
                np.array(score["logprob"], "f4"),
                np.array(score["rank"], "i4"),
                np.array(score["entropy"], "f4"),
            )
    truth = np.array(highest)
    for threshold in (0.15, 0.2, 0.3, 0.5, 0.7):
        spent = counts.spent(threshold)
        assert spent.at_least <= (truth < threshold).mean() <= spent.at_most
        assert spent.pauses_per_token == pytest.approx((truth < threshold).mean(), abs=0.02)
