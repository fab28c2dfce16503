"""A run whose model is warmed up first: built, planned, grown, repaired, and scored by command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Recipe, Run, problems, tiny_recipe, write_rows
from planning import actions, planned, why
from test_kept import logprobs
from test_plan_damage import damage

from pausedata.analysis.verify import verify
from pausedata.core.errors import UsageError
from pausedata.core.progress import Silent
from pausedata.pipeline.recipe import load_recipe
from pausedata.scorers.transformers import TransformersScorer
from pausedata.store.dataset import Version, open_version
from pausedata.warmup.folds import fold_of

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytestmark = pytest.mark.processes  # most train models, once each

Command = Callable[..., Run]
QUICK = {"rows": 32, "rank": 4, "lr": 5e-3, "epochs": 2}
ROWS = 60


@pytest.fixture(scope="module")
def warmed_once(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset that was built with a warm-up, and the cache with its models."""
    folder, patch = tmp_path_factory.mktemp("warmed"), pytest.MonkeyPatch()
    with patch.context() as environment:
        environment.setenv("PAUSEDATA_CACHE", str(folder / "cache"))
        of_sixty(folder, model_folder).build()
    return folder / "out", folder / "cache"


@pytest.fixture
def warmed(
    tmp_path: Path, model_folder: Path, warmed_once: tuple[Path, Path], cache: Path
) -> Recipe:
    """The same, to change."""
    shutil.copytree(warmed_once[0], tmp_path / "out", symlinks=True)
    shutil.copytree(warmed_once[1], cache, symlinks=True)
    return of_sixty(tmp_path, model_folder)


def of_sixty(folder: Path, model_folder: Path, **scoring: Any) -> Recipe:
    return tiny_recipe(
        folder, model_folder, problems(ROWS), scoring={"warmup": QUICK} | scoring, shard_rows=20
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which folds are trained, from here on."""
    from pausedata.warmup import train

    found: list[str] = []
    fit = train.train
    monkeypatch.setattr(
        train, "train", lambda *a, title, **k: found.append(title) or fit(*a, title=title, **k)
    )
    return found


def record_of(version: Version, run: str = "base") -> dict[str, Any]:
    return version.table(f"scores/{run}").entry.provenance["warmup"]


def test_each_row_is_scored_by_the_model_that_trained_on_the_other_fold(
    warmed: Recipe, model_folder: Path, cache: Path
) -> None:
    """By transformers and PEFT alone, adapters unmerged, one row at a time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    version, found = open_version(warmed.out), logprobs(open_version(warmed.out))
    record = record_of(version)
    assert record["outcome"] == "warmed" and [fold["fold"] for fold in record["folds"]] == [1, 2]
    models = []
    folders = sorted((cache / "warmups").glob("*/adapter_config.json"))
    assert len(folders) == 2
    for config in folders:
        base = AutoModelForCausalLM.from_pretrained(model_folder)
        models.append(PeftModel.from_pretrained(base, str(config.parent)).eval())
    seen: list[set[int]] = [set(), set()]
    examples, tokens = version.table("examples"), version.table("tokens")
    for shard, own in zip(examples.shards, tokens.shards, strict=True):
        prompts = examples.read(shard, ["id", "prompt"]).to_pylist()
        ids = tokens.read(own, ["prompt_ids", "response_ids"]).to_pylist()
        for text, row in zip(prompts, ids, strict=True):
            fold = fold_of(text["prompt"], 2, 0)
            both = [expected(model, row) for model in models]
            right = [np.allclose(one, found[text["id"]], atol=1e-4) for one in both]
            assert sum(right) == 1
            seen[fold].add(right.index(True))
    assert sorted(map(sorted, seen)) == [[0], [1]]  # one model for each fold, and another one


def expected(model: Any, row: dict[str, Any]) -> list[float]:
    """The log-probabilities of a response's tokens."""
    prompt, response = row["prompt_ids"], row["response_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + response])).logits[0].double()
    logp = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
    return logp[torch.arange(len(response)), torch.tensor(response)].tolist()


def test_the_corpus_becomes_likelier_and_the_record_says_how_much(
    warmed: Recipe, tmp_path: Path, model_folder: Path
) -> None:
    cold = Recipe(tmp_path, warmed.data | {"scoring": {"warmup": False}})
    cold.out = tmp_path / "cold"
    base = cold.build().version
    before, after = (
        v.table("scores/base").entry.provenance for v in (base, open_version(warmed.out))
    )
    assert "warmup" not in before and "warmup" not in before["inputs"]
    assert after["mean_logprob"] > before["mean_logprob"]
    for fold in after["warmup"]["folds"]:
        assert fold["loss_after"] < fold["loss_before"]
        assert 16 <= fold["rows"] <= QUICK["rows"]
    assert str(tmp_path) not in json.dumps(
        open_version(warmed.out).manifest.model_dump(mode="json")
    )
    assert verify(open_version(warmed.out), Silent()) == []


def test_the_same_again_makes_nothing(
    warmed: Recipe, trained: list[str], counted: list[int], cache: Path
) -> None:
    shutil.rmtree(cache)  # where nothing is to be scored, no model is needed
    assert set(actions(planned(warmed)).values()) == {"keep"}
    assert not warmed.build().committed
    assert trained == [] and counted == []


def test_a_plan_tells_of_it(
    tmp_path: Path, model_folder: Path, cache: Path, trained: list[str]
) -> None:
    recipe = of_sixty(tmp_path, model_folder)
    result = planned(recipe)
    assert "warmed up" in why(result, "scores/base")
    told = result.runs[0].warmup
    assert told is not None and not told.cached and told.work
    assert result.warmup_seconds and "of warming up" in result.figures()["time"]
    assert trained == [] and not cache.exists()


def test_a_corpus_that_grows_keeps_its_warm_up(
    warmed: Recipe, trained: list[str], counted: list[int]
) -> None:
    before = open_version(warmed.out)
    write_rows(warmed.folder / "rows.jsonl", problems(ROWS + 6))
    result = planned(warmed, replace=True)
    assert "the scores of 60 examples are carried over" in why(result, "scores/base")
    told = result.runs[0].warmup
    assert told is not None and told.cached and told.work == 0
    after = warmed.build(replace=True).version
    assert trained == [] and sum(counted) == 6
    assert logprobs(after).items() >= logprobs(before).items()
    assert record_of(after) == record_of(before)
    inputs = [v.table("scores/base").entry.provenance["inputs"] for v in (before, after)]
    assert inputs[0]["warmup"] == inputs[1]["warmup"] and inputs[0] != inputs[1]
    assert set(actions(planned(warmed)).values()) == {"keep"}


def test_without_its_models_everything_is_scored_again(
    warmed: Recipe, trained: list[str], counted: list[int], cache: Path
) -> None:
    write_rows(warmed.folder / "rows.jsonl", problems(ROWS + 6))
    shutil.rmtree(cache)
    result = planned(warmed, replace=True)
    assert "carried over" not in why(result, "scores/base")
    assert result.tokens_to_score == (result.prompt_tokens or 0) + (result.response_tokens or 0)
    warmed.build(replace=True)
    assert len(trained) == 2 and sum(counted) == ROWS + 6


def edit_a_trained_row(recipe: Recipe) -> None:
    """Another question for a row that a model trained on."""
    record = record_of(open_version(recipe.out))
    assert sum(fold["rows"] for fold in record["folds"]) >= ROWS - 2  # nearly all, by one or other
    rows = problems(ROWS)
    for row in rows[7:12]:
        row["question"] = "Hello. " + row["question"]
    write_rows(recipe.folder / "rows.jsonl", rows)


def other_prompts(recipe: Recipe) -> None:
    """Another prompt for all rows, which may put each in the other fold."""
    recipe.data["prompt"] = "Problem: {{ question }}\nSolution:"


@pytest.mark.parametrize("change", [edit_a_trained_row, other_prompts])
def test_what_was_trained_on_and_has_changed_is_never_scored_by_who_trained_on_it(
    warmed: Recipe, trained: list[str], change: Callable[[Recipe], None]
) -> None:
    before = record_of(open_version(warmed.out))
    change(warmed)
    told = planned(warmed, replace=True).runs[0].warmup
    assert told is not None and not told.cached
    after = warmed.build(replace=True).version
    assert len(trained) == 2 and record_of(after)["corpus"] != before["corpus"]


def test_a_corpus_that_was_too_small_is_warmed_up_when_it_grows(
    recipe: Recipe, cache: Path, trained: list[str]
) -> None:
    recipe.data["scoring"] = {"warmup": QUICK}
    told = planned(recipe).runs[0].warmup
    assert told is not None and "16 are needed" in told.figure()
    assert record_of(recipe.build().version)["outcome"] == "base" and trained == []
    write_rows(recipe.folder / "rows.jsonl", problems(ROWS))
    told = planned(recipe, replace=True).runs[0].warmup
    assert told is not None and not told.cached and told.reason is None
    assert record_of(recipe.build(replace=True).version)["outcome"] == "warmed"
    assert len(trained) == 2


@pytest.mark.parametrize("with_models", [True, False])
def test_damaged_scores_come_out_as_they_were(
    warmed: Recipe, trained: list[str], counted: list[int], cache: Path, with_models: bool
) -> None:
    before = open_version(warmed.out).table("scores/base").entry
    damage(warmed.out, before.shards[1].path)
    if not with_models:
        shutil.rmtree(cache)
    assert actions(planned(warmed))["scores/base"] == "repair"
    outcome = warmed.build()
    assert outcome.repaired == ["scores/base"] and not outcome.committed
    assert sum(counted) == 20 and len(trained) == (0 if with_models else 2)


def test_after_a_kill_no_fold_is_trained_twice(
    tmp_path: Path, model_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.warmup import train

    recipe, fit, begun = of_sixty(tmp_path, model_folder), train.train, []

    def killed(*arguments: Any, title: str, **options: Any) -> Any:
        begun.append(title)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return fit(*arguments, title=title, **options)

    monkeypatch.setattr(train, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        recipe.build()
    recipe.build()
    assert len(begun) == 3 and begun[1] == begun[2] != begun[0]


def test_after_a_kill_while_the_second_model_scores_the_first_does_not_score_again(
    tmp_path: Path,
    model_folder: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    warmed_once: tuple[Path, Path],
) -> None:
    shutil.copytree(warmed_once[1], cache, symlinks=True)
    recipe, score, calls = of_sixty(tmp_path, model_folder), TransformersScorer.score, []

    def killed(self: Any, examples: Any, *rest: Any) -> Any:
        calls.append(len(examples))
        if len(calls) == 5:  # three shards by the first model, one by the second
            raise KeyboardInterrupt
        return score(self, examples, *rest)

    monkeypatch.setattr(TransformersScorer, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        recipe.build()
    version = recipe.build().version
    assert sum(calls) == ROWS + calls[4]  # what was under way alone is scored twice
    assert logprobs(version) == logprobs(open_version(warmed_once[0]))


def test_too_few_rows_are_scored_by_the_base_model(
    recipe: Recipe, cache: Path, capsys: pytest.CaptureFixture[str], run: Command
) -> None:
    base = recipe.build().version
    recipe.data["scoring"] = {"warmup": True}
    recipe.out = recipe.folder / "warmed"
    ended = run("build", recipe.write(), "--output", recipe.out)
    assert ended.status == 0 and "scores as it is, without a warm-up" in ended.err
    assert "to train on, and 16 are needed" in ended.err
    version = open_version(recipe.out)
    assert logprobs(version) == logprobs(base)
    assert record_of(version)["outcome"] == "base"
    assert set(actions(planned(recipe)).values()) == {"keep"}


def test_another_split_is_scored_and_never_trained_on(
    tmp_path: Path, model_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.warmup import warming

    asked: list[str] = []
    samples = warming.folding.samples

    def watched(prompts: Any, **options: Any) -> Any:
        found = list(prompts)
        asked.extend(id for id, _ in found)
        return samples(found, **options)

    monkeypatch.setattr(warming.folding, "samples", watched)
    rows = problems(72)
    folder = tmp_path / "hub"
    folder.mkdir()
    write_rows(folder / "train.jsonl", rows[:50])
    write_rows(folder / "test.jsonl", rows[50:])
    recipe = of_sixty(tmp_path, model_folder)
    recipe.data["source"] = {"hub": str(folder), "split": ["train", "test"]}
    version = recipe.build().version
    examples = version.table("examples")
    splits: dict[str, set[str]] = {"train": set(), "test": set()}
    for shard in examples.shards:
        splits[str(shard.split)] |= set(examples.read(shard, ["id"])["id"].to_pylist())
    assert len(splits["test"]) == 22 and set(asked) == splits["train"]
    assert set(logprobs(version)) == splits["train"] | splits["test"]


# --- score, by command ---


@pytest.mark.parametrize("with_models", [True, False])
def test_what_is_kept_of_a_run_goes_on_with_its_models(
    warmed: Recipe,
    model_folder: Path,
    run: Command,
    cache: Path,
    trained: list[str],
    counted: list[int],
    with_models: bool,
) -> None:
    """A run that the recipe does not name, when the corpus has grown."""
    asked = ("score", warmed.out, "--run", "other", "--model", model_folder)
    given = [f"--warmup-param={key}={value}" for key, value in QUICK.items()]
    assert run(*asked, *given).status == 0
    before = record_of(open_version(warmed.out), "other")
    write_rows(warmed.folder / "rows.jsonl", problems(ROWS + 6))
    warmed.build(replace=True)
    assert "kept/other" in open_version(warmed.out).manifest.tables
    counted.clear()
    if not with_models:
        shutil.rmtree(cache)
        refused = run(*asked)
        assert refused.status == 2 and "made otherwise (warmup.of: " in refused.err
        asked = (*asked, "--replace")
    assert run(*asked).status == 0
    after = record_of(open_version(warmed.out), "other")
    assert (after == before) is with_models
    assert sum(counted) == (6 if with_models else ROWS + 6)
    assert len(trained) == (0 if with_models else 2)


def test_score_warms_up_only_where_it_is_asked_to(
    warmed: Recipe, model_folder: Path, run: Command, trained: list[str]
) -> None:
    asked = ("--model", model_folder)
    assert run("score", warmed.out, "--run", "cold", *asked).status == 0
    assert "warmup" not in open_version(warmed.out).table("scores/cold").entry.provenance
    assert trained == []
    small = ("--warmup-param", "rows=24", "--warmup-param", "rank=2")
    assert run("score", warmed.out, "--run", "small", *asked, *small).status == 0
    settings = record_of(open_version(warmed.out), "small")["settings"]
    assert (settings["rows"], settings["rank"], settings["folds"]) == (24, 2, 2)
    # The run that is there is taken as it was scored, unless something else is said.
    assert run("score", warmed.out, "--run", "small", *asked, "--dry-run").status == 0
    again = run("score", warmed.out, "--run", "small", *asked, "--no-warmup")
    assert again.status == 2 and "made otherwise (warmup: " in again.err
    assert "--replace" in again.err


def test_warm_up_alone_leaves_the_adapters(
    warmed: Recipe, model_folder: Path, run: Command, tmp_path: Path
) -> None:
    before = open_version(warmed.out).number
    keep = tmp_path / "adapters"
    asked = ("--model", model_folder, "--backend", "server", "--url", "http://127.0.0.1:1")
    given = [f"--warmup-param={key}={value}" for key, value in QUICK.items()]
    refused = run("score", warmed.out, "--run", "served", *asked, *given)
    assert refused.status == 2 and "--warmup-only" in refused.err
    ended = run(
        *("score", warmed.out, "--run", "served", *asked, *given),
        *("--warmup-param", f"keep={keep}", "--warmup-only"),
    )
    assert ended.status == 0
    folders = [Path(line) for line in ended.out.splitlines()]
    assert folders == [keep / "fold-1", keep / "fold-2"]
    assert all((folder / "adapter_config.json").is_file() for folder in folders)
    assert open_version(warmed.out).number == before


def test_where_the_models_are_kept_is_recorded_by_its_name_alone(
    tmp_path: Path, model_folder: Path, cache: Path
) -> None:
    recipe = of_sixty(tmp_path, model_folder, warmup=QUICK | {"keep": str(tmp_path / "adapters")})
    version = recipe.build().version
    assert version.manifest.recipe["scoring"]["warmup"]["keep"] == "adapters"
    assert str(tmp_path) not in json.dumps(version.manifest.model_dump(mode="json"))
    shutil.rmtree(cache)
    write_rows(recipe.folder / "rows.jsonl", problems(ROWS + 6))
    assert "carried over" in why(planned(recipe, replace=True), "scores/base")


@pytest.mark.parametrize("flag", ["--dry-run", "--replace", "--no-warmup"])
def test_warm_up_alone_takes_no_flag_of_scoring(warmed: Recipe, run: Command, flag: str) -> None:
    refused = run("score", warmed.out, "--run", "base", "--warmup-only", flag)
    assert refused.status == 2 and "--warmup-only scores nothing" in refused.err


def test_a_folder_to_keep_models_in_that_cannot_be_written_is_told_before_training(
    tmp_path: Path, model_folder: Path, cache: Path, trained: list[str]
) -> None:
    (tmp_path / "file").touch()
    recipe = of_sixty(tmp_path, model_folder, warmup=QUICK | {"keep": str(tmp_path / "file")})
    with pytest.raises(UsageError, match="file is no folder that can be written: name another"):
        recipe.build()
    assert trained == []


@pytest.mark.parametrize(
    ("warmup", "told"),
    [
        ({"rows": 3}, "scoring.warmup.rows: should be at least 16, not 3."),
        ({"row": 5}, "scoring.warmup.row'. Did you mean 'rows'?"),
        ({"folds": 1}, "scoring.warmup.folds: "),
        ({"lr": 0}, "scoring.warmup.lr: "),
        ("yes please", "scoring.warmup: "),
    ],
)
def test_what_is_wrong_is_named(recipe: Recipe, warmup: Any, told: str) -> None:
    recipe.data["scoring"] = {"warmup": warmup}
    with pytest.raises(UsageError) as error:
        load_recipe(recipe.write())
    assert told in str(error.value) and "more)" not in str(error.value)


def test_a_server_is_refused_in_a_recipe(recipe: Recipe) -> None:
    recipe.data["scoring"] = {"warmup": True, "backend": "server", "url": "http://127.0.0.1:1"}
    with pytest.raises(UsageError, match="a server scores with the model that it serves"):
        load_recipe(recipe.write())
