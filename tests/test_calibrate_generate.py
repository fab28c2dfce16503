"""``calibrate --generate``: what thresholds spend in text that a model writes itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from pausing import Pausing
from test_measure import (  # noqa: F401
    ROWS,
    built,
    trained,
)

from pausedata.core.held_out import holdout_mask
from pausedata.inference import PauseLogitsProcessor
from pausedata.measure.calibrate import Tried
from pausedata.measure.calibrate.generated import nearest, search
from pausedata.store.dataset import open_version

Start = Callable[..., Run]
WORDS = ("--budget", "20/100", "--generate", "4", "--max-new-tokens", "12")


@pytest.fixture
def calibrated(run: Start, built: Path, trained: Path) -> Callable[..., Any]:  # noqa: F811
    def call(*words: object) -> Any:
        done = run("calibrate", built, *WORDS, "--model", trained, "--json", *words)
        assert done.status == 0, done.err
        return json.loads(done.out)

    return call


def prompts_of(dataset: Path, count: int) -> list[list[int]]:
    """The first held-out prompts in the order that seed 0 gives them."""
    tokens = open_version(dataset).table("tokens")
    rows = [row for s in tokens.shards for row in tokens.read(s)["prompt_ids"].to_pylist()]
    held = np.flatnonzero(holdout_mask(ROWS, 0))
    return [rows[k] for k in np.random.default_rng([0, 1]).permutation(held)[:count]]


@pytest.mark.parametrize("tokens", [1, 3])
def test_it_counts_the_pauses_that_the_processor_forces(
    calibrated: Callable[..., Any],
    built: Path,  # noqa: F811
    trained: Path,  # noqa: F811
    tokens: int,
) -> None:
    """Counted again by one `generate` for each prompt, and no more than 12 real tokens."""
    import torch

    told = calibrated("--rounds", "0", "--tokens", tokens)
    own, model = told["generated"], Pausing(trained)
    for key, tried in (("threshold", "by_probability"), ("entropy_threshold", "by_entropy")):
        (one,) = own[tried]
        assert one["threshold"] == told[key] == own[key]
        limits: dict[str, Any] = {"threshold": 0.0} | {key: one["threshold"]}
        pauses = real = 0
        for prompt in prompts_of(built, 4):
            processor = PauseLogitsProcessor(model.tokenizer, tokens=tokens, **limits)
            made = model.model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                logits_processor=[processor],
                max_new_tokens=12 * (tokens + 1),
                do_sample=False,
                pad_token_id=model.tokenizer.eos_token_id,
            )[0, len(prompt) :].tolist()
            answer: list[int] = []
            for id in made:  # up to its end, or its twelfth real token
                answer.append(id)
                done = len(answer) - answer.count(model.pause) == 12
                if done or id == model.tokenizer.eos_token_id:
                    break
            pauses += answer.count(model.pause)
            real += len(answer) - answer.count(model.pause)
        assert one["pauses"] == pauses
        assert one["tokens"] == real
        assert one["pauses_per_token"] == pytest.approx(pauses / real)
    assert own["examples"] == 4 and own["overlong"] == 0 and own["max_new_tokens"] == 12
    assert own["model"]["id"] == trained.name


def test_further_thresholds_are_tried_and_the_nearest_is_proposed(
    calibrated: Callable[..., Any],
    run: Start,
    built: Path,  # noqa: F811
    trained: Path,  # noqa: F811
) -> None:
    own = calibrated("--rounds", "2")["generated"]
    for key, tried in (("threshold", "by_probability"), ("entropy_threshold", "by_entropy")):
        distances = [abs(one["pauses_per_token"] - 0.2) for one in own[tried]]
        assert 1 <= len(own[tried]) <= 3
        assert own[key] == own[tried][int(np.argmin(distances))]["threshold"]
    shown = run("calibrate", built, *WORDS, "--model", trained, "--rounds", "0").out
    assert "generated: 4 answers by model" in shown
    assert "found above" in shown and "nearest" in shown


def linear(times: float) -> Callable[[float], Tried]:
    """Text that spends so many times what given text does; thresholds are budgets themselves."""
    return lambda t: Tried(t, 100, round(100 * times * t), times * t, None)


@pytest.mark.parametrize(
    ("times", "thresholds"),
    [
        (1.0, [0.1]),
        (1.08, [0.1]),  # near enough
        (4.0, [0.1, 0.025]),
        (0.5, [0.1, 0.2]),
        (0.0, [0.1, 0.2, 0.4, 0.8]),  # nothing at all, as far as the rounds go
    ],
)
def test_the_next_threshold_is_taken_from_what_the_last_one_spent(
    times: float, thresholds: list[float]
) -> None:
    tried = search(linear(times), lambda budget: budget, 0.1, 3)
    assert [one.threshold for one in tried] == pytest.approx(thresholds)


def test_a_search_stays_between_too_little_and_too_much() -> None:
    """A step: 0.3 from 0.04 on, 0.02 below. By hand: 0.1, 0.0333, then the middle, twice."""
    tried = search(
        lambda t: Tried(t, 100, 0, 0.3 if t >= 0.04 else 0.02, None), lambda b: b, 0.1, 3
    )
    expected = [0.1, 0.1 / 3, (0.1 + 0.1 / 3) / 2, ((0.1 + 0.1 / 3) / 2 + 0.1 / 3) / 2]
    # 0.0333 asks for five times as much, which is too much already: the middle.
    assert [one.threshold for one in tried] == pytest.approx(expected)
    assert nearest(tried, 0.1).threshold == pytest.approx(0.1 / 3)


def test_a_threshold_is_not_tried_twice() -> None:
    assert len(search(linear(4.0), lambda _: 0.5, 0.1, 3)) == 1


def test_a_model_that_cannot_write_pauses_is_refused(
    run: Start,
    built: Path,  # noqa: F811
    model_folder: Path,
    tmp_path: Path,
) -> None:
    for words, said in (
        (["--model", model_folder], "has no token [PAUSE]"),
        ([], "a dataset keeps no path"),
        (["--model", tmp_path / "none"], "--model"),
    ):
        done = run("calibrate", built, *WORDS, *words)
        assert done.status == 2
        assert said in " ".join(done.err.split())
    done = run("calibrate", built, "--budget", "3/100", "--model", model_folder)
    assert done.status == 2 and "--generate N" in done.err
