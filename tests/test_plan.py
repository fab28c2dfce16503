"""`plan`: what build would do, as far as it can be told with what is in reach."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PROBLEMS, TABLES, Recipe, Run, write_rows
from planning import actions, planned, why

from pausedata.core.errors import UsageError
from pausedata.models.ref import ModelRef
from pausedata.pipeline.plan import Plan, plan
from pausedata.pipeline.recipe import load_recipe

Command = Callable[..., Run]
COMMIT, OTHER = "a" * 40, "b" * 40


class Hub:
    """The Hub as a test wants it: no answer, unless it is told what to say."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        import huggingface_hub
        import transformers

        self.model: str | Exception = ConnectionError("no route")
        self.dataset: str | Exception = ConnectionError("no route")
        self.files: Path | Exception = ConnectionError("no route")
        self.asked: list[str] = []
        local, load = ModelRef.from_pretrained_args, transformers.AutoTokenizer.from_pretrained

        def info(kind: str) -> Any:
            def call(api: object, id: str, **_: Any) -> Any:
                self.asked.append(id)
                answer = getattr(self, kind)
                if isinstance(answer, Exception):
                    raise answer
                return SimpleNamespace(sha=answer, safetensors=None)

            return call

        def where(ref: ModelRef) -> tuple[str, dict[str, Any]]:
            if (ref.base or ref).kind != "hub" or isinstance(self.files, Exception):
                return local(ref)
            return str(self.files), {}

        def tokenizer(name: str, **_: Any) -> Any:
            if name.startswith("org/") and isinstance(self.files, Exception):
                # transformers says it in its own words, with the reason behind.
                raise OSError("We couldn't load the files") from self.files
            return load(name)

        patch.setattr(ModelRef, "from_pretrained_args", where)
        patch.setattr(transformers.AutoTokenizer, "from_pretrained", tokenizer)
        patch.setattr(huggingface_hub.HfApi, "model_info", info("model"))
        patch.setattr(huggingface_hub.HfApi, "dataset_info", info("dataset"))
        patch.setattr(huggingface_hub, "snapshot_download", self.listing)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub-cache"))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets-cache")

    def listing(self, id: str, **_: Any) -> Any:
        raise ConnectionError("no route")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """A Hub that does not answer, and empty caches."""
    return Hub(monkeypatch, tmp_path)


def gated() -> Exception:
    """The Hub's answer to one who has not accepted the terms."""
    from huggingface_hub.errors import GatedRepoError

    return GatedRepoError.__new__(GatedRepoError, "403: access is restricted")


def from_the_hub(recipe: Recipe, *, source: bool = False, model: bool = False) -> None:
    if source:
        recipe.data["source"] = {"hub": "org/problems"}
    if model:
        recipe.data["model"] = {"id": "org/model"}


def test_with_everything_in_reach_nothing_is_unknown(recipe: Recipe) -> None:
    result = planned(recipe)
    assert actions(result) == dict.fromkeys(TABLES, "make")
    assert result.rows == {"train": 12}
    outcome = recipe.build()
    assert result.tokens_are == "exact"
    tokens = outcome.version.table("tokens")
    made = [tokens.read(shard) for shard in tokens.shards]
    for column, count in (
        ("prompt_ids", result.prompt_tokens),
        ("response_ids", result.response_tokens),
    ):
        assert sum(len(ids) for rows in made for ids in rows.column(column).to_pylist()) == count
    assert result.tokens_to_score == (result.prompt_tokens or 0) + (result.response_tokens or 0)
    assert result.unknown == []
    assert set(actions(planned(recipe)).values()) == {"keep"}


def test_rows_of_a_local_file_are_counted_and_their_tokens_estimated(recipe: Recipe) -> None:
    lines = PROBLEMS.read_text(encoding="utf-8").splitlines() * 5
    write_rows(recipe.folder / "rows.jsonl", [json.loads(line) for line in lines])
    result = planned(recipe)
    assert result.rows == {"train": len(lines)}
    assert result.tokens_are.startswith("estimated from 256 rows, ±")
    recipe.data["source"]["limit"] = 300
    assert planned(recipe).rows == {"train": 300}


def test_without_the_source_all_tables_are_told(recipe: Recipe, hub: Hub, run: Command) -> None:
    from_the_hub(recipe, source=True)
    words = ("plan", recipe.write(), "--output", recipe.out)
    told = json.loads(run(*words, "--json").out)
    assert [step["table"] for step in told["steps"]] == TABLES
    assert {step["action"] for step in told["steps"]} == {"make"}
    assert why(planned(recipe), "placements/dit") == "lowest_logprob from scores/base"
    assert told["rows"] == {"train": None}
    for key in ("prompt_tokens", "tokens_to_score", "seconds", "new_bytes"):
        assert told[key] is None
    assert told["unknown"][0].startswith("source.hub: the Hub does not answer for 'org/problems'")
    assert told["unknown"][1] == "how many rows split 'train' has"
    assert told["unknown"][2].startswith("how many tokens there are")
    assert len(told["unknown"]) == 3
    shown = run(*words)
    assert shown.status == 0 and shown.err == ""
    assert "exports/dit-tokenized" in shown.out
    assert "unknown: source.hub: the Hub does not answer" in shown.out
    assert not recipe.out.exists()


def test_without_the_model_rows_are_told_and_the_templates_tried(recipe: Recipe, hub: Hub) -> None:
    from_the_hub(recipe, model=True)
    result = planned(recipe)
    assert actions(result) == dict.fromkeys(TABLES, "make")
    assert why(result, "scores/base") == "with org/model, float32, transformers"
    assert result.rows == {"train": 12}
    assert (result.prompt_tokens, result.tokens_to_score) == (None, None)
    assert result.unknown[0].startswith("model 'org/model' cannot be looked up on the Hub")
    assert len(result.unknown) == 2
    recipe.data["prompt"] = "{{ questoin }}"
    with pytest.raises(UsageError, match=r"'questoin'.*'question'"):
        planned(recipe)


def test_without_either_each_reason_is_told_once(recipe: Recipe, hub: Hub, run: Command) -> None:
    from_the_hub(recipe, source=True, model=True)
    recipe.data["runs"] = {"again": {"model": {"id": "org/model"}}}
    recipe.data["runs"]["tiny"] = {"model": {"id": "org/other"}}
    ended = run("plan", recipe.write(), "--output", recipe.out, "--json")
    assert ended.status == 0, ended.err
    told = json.loads(ended.out)
    assert [step["table"] for step in told["steps"] if "scores" in step["table"]] == [
        *("scores/base", "scores/again", "scores/tiny")
    ]
    reasons = [reason.split("'")[1] for reason in told["unknown"][:3]]
    assert reasons == ["org/problems", "org/model", "org/other"]
    assert hub.asked == reasons  # and nothing was asked twice


def test_a_gated_model_says_what_to_do(recipe: Recipe, hub: Hub, run: Command) -> None:
    from_the_hub(recipe, model=True)
    # Who has not accepted the terms may still look the model up: it is the files that are refused.
    hub.model, hub.files = COMMIT, gated()
    for refused_at in ("the files", "the model"):
        ended = run("plan", recipe.write(), "--output", recipe.out, "--json")
        assert ended.status == 0, refused_at
        told = json.loads(ended.out)
        assert told["rows"] == {"train": 12}
        assert [step["table"] for step in told["steps"]] == TABLES
        (reason,) = [reason for reason in told["unknown"] if "gated" in reason]
        assert "accept its terms on https://huggingface.co/org/model" in reason
        assert "`hf auth login`" in reason
        assert "--set model.id=FOLDER" in reason
        hub.model = gated()
    hub.model = COMMIT
    built = run("build", recipe.path, "--output", recipe.out)
    assert built.status == 1
    assert "is gated: accept its terms" in built.err and "Traceback" not in built.err


def test_what_is_wrong_with_the_recipe_is_an_error_without_a_network_too(
    recipe: Recipe, hub: Hub, run: Command
) -> None:
    def refused(*said: str) -> None:
        ended = run("plan", recipe.write(), "--output", recipe.out)
        assert (ended.status, ended.out) == (2, "")
        assert all(text in ended.err for text in said), ended.err

    tiny = recipe.data["model"]
    from_the_hub(recipe, model=True)
    recipe.data["source"] = {"files": ["row.jsonl"]}
    refused("row.jsonl", "Did you mean 'rows.jsonl'?")
    from_the_hub(recipe, source=True)
    recipe.data["model"] = {"id": "./no-model"}
    refused("model.id", "no such folder: ./no-model")
    recipe.data["model"] = tiny
    recipe.data["placements"]["dit"]["strategy"] = "lowest_logprop"
    refused("placements.dit.strategy", "Did you mean 'lowest_logprob'?")


def test_a_copy_in_the_cache_tells_of_rows_and_tokens(
    recipe: Recipe, hub: Hub, tmp_path: Path
) -> None:
    """As if org/problems had been loaded with `datasets` before."""
    import datasets

    (tmp_path / "problems").mkdir()
    shutil.copy(recipe.folder / "rows.jsonl", tmp_path / "problems" / "train.jsonl")
    builder = datasets.load_dataset_builder(str(tmp_path / "problems"))
    builder.download_and_prepare()
    cached = tmp_path / "datasets-cache" / "org___problems" / "default" / "0.0.0" / COMMIT
    cached.parent.mkdir(parents=True)
    shutil.move(builder.cache_dir, cached)
    local = planned(recipe)
    from_the_hub(recipe, source=True)
    result = planned(recipe)
    assert result.rows == {"train": 12}
    assert result.prompt_tokens == local.prompt_tokens
    (reason,) = result.unknown
    assert "does not answer for 'org/problems'" in reason
    assert reason.endswith("of the copy in the cache, aaaaaaaaaaaa.")
    # Of two copies it is not known which one it would be.
    (cached.parent / OTHER).mkdir()
    assert planned(recipe).rows == {"train": None}


@pytest.fixture
def built(recipe: Recipe, hub: Hub, model_folder: Path) -> Recipe:
    """A dataset whose model is of the Hub, copied to where neither pins nor tokenizer are."""
    from_the_hub(recipe, model=True)
    hub.model, hub.files = COMMIT, model_folder
    recipe.build()
    shutil.rmtree(recipe.out / "staging")
    hub.model = hub.files = ConnectionError("no route")
    return recipe


def test_of_a_dataset_that_is_there_what_would_be_kept_is_told(built: Recipe) -> None:
    result = planned(built)
    assert actions(result) == dict.fromkeys(TABLES, "keep")
    assert why(result, "tokens") == "as in version 1, if what is unknown here did not change"
    assert why(result, "scores/base") == "as in version 1"
    (reason,) = result.unknown
    assert "'org/model': its tokenizer is in no cache here" in reason
    assert result.tokens_are == "exact"
    built.data["placements"]["more"] = {"strategy": "lowest_logprob", "positions": 4}
    built.data["placements"]["append"]["tokens"] = 7
    changed = {name: act for name, act in actions(planned(built)).items() if act != "keep"}
    assert changed == {"placements/append": "remake", "placements/more": "make"}


def test_of_a_dataset_that_is_there_what_differs_for_certain_stops_the_plan(built: Recipe) -> None:
    source = built.data["source"]
    built.data["source"] = source | {"limit": 8}
    with pytest.raises(UsageError, match=r"source\.limit: nothing → 8"):
        planned(built)
    built.data["source"] = {"hub": "org/problems"}
    with pytest.raises(UsageError, match=r"source\.hub: nothing → 'org/problems'"):
        planned(built)
    result = planned(built, replace=True)
    assert actions(result)["tokens"] == "remake"
    assert result.rows == {"train": None}


def test_another_model_out_of_reach_scores_again(built: Recipe) -> None:
    built.data["model"] = {"id": "org/larger"}
    result = planned(built)
    assert actions(result) | {"tokens": "keep"} == actions(result)
    assert (actions(result)["scores/base"], actions(result)["placements/dit"]) == (
        "remake",
        "remake",
    )
    assert actions(result)["placements/append"] == "keep"
    assert "'org/larger'" in result.unknown[0]


def test_an_update_out_of_reach_tells_of_what_is_pinned(built: Recipe, hub: Hub) -> None:
    hub.asked.clear()
    result = planned(built, update=True)
    assert hub.asked == ["org/model"]
    assert "'org/model' cannot be looked up" in result.unknown[0]
    assert actions(result) == dict.fromkeys(TABLES, "keep")


def sizes_of(built: Any) -> dict[str, int]:
    """The bytes of each table that was made, its files beside the rows among them."""
    return {name: sum(f.bytes for f in t.files()) for name, t in built.version.tables.items()}


def test_the_sizes_of_the_tables_are_those_that_a_build_makes(recipe: Recipe) -> None:
    result = planned(recipe)
    made = sizes_of(recipe.build())
    for step in result.steps:
        assert step.bytes == pytest.approx(made[step.table], rel=0.25), step.table
    whole = sum(p.stat().st_size for p in (recipe.out / "versions/0001").rglob("*") if p.is_file())
    assert result.new_bytes == pytest.approx(whole, rel=0.2)
    assert result.free_bytes and result.free_bytes > result.new_bytes
    assert planned(recipe).new_bytes == 0  # all of it is there now


@pytest.mark.model
def test_of_the_quickstart_tokens_and_disk_are_within_a_fifth(tmp_path: Path) -> None:
    """Its first half is planned from a quarter of its rows, as a large corpus would be."""
    from pausedata.pipeline.build import build
    from pausedata.pipeline.plan import estimate

    loaded = load_recipe(Path("recipes/quickstart.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "SAMPLE", 18)
        result = plan(loaded, tmp_path / "out")
    version = build(loaded, tmp_path / "out").version
    tokens = version.table("tokens")
    rows = [row for shard in tokens.shards for row in tokens.read(shard).to_pylist()]
    prompts, responses = (
        sum(len(row[column]) for row in rows) for column in ("prompt_ids", "response_ids")
    )
    assert "estimated" in result.tokens_are
    assert result.prompt_tokens == pytest.approx(prompts, rel=0.2)
    assert result.response_tokens == pytest.approx(responses, rel=0.2)
    whole = sum(p.stat().st_size for p in version.folder.rglob("*") if p.is_file())
    assert result.new_bytes == pytest.approx(whole, rel=0.2)


def test_a_plan_says_what_each_step_reads(recipe: Recipe) -> None:
    reads = {step.table: step.reads for step in planned(recipe).steps}
    assert reads == {
        "examples": ["rows.jsonl"],
        "vocab": ["tokenizer"],
        "tokens": ["examples", "tokenizer"],
        "scores/base": ["tokens", "model"],
        "placements/dit": ["tokens", "scores/base"],
        "placements/append": ["tokens"],
        "exports/dit-tokenized": ["examples", "tokens", "placements/dit"],
    }


def test_a_trial_measures_the_pace_and_writes_nothing_that_stays(
    recipe: Recipe, run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pausedata.pipeline.plan import trial

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    scored: list[trial.Trial] = []
    real = trial.measure
    monkeypatch.setattr(
        "pausedata.pipeline.plan.measure", lambda *args: scored.append(real(*args)) or scored[-1]
    )
    told = json.loads(run("plan", recipe.write(), "--measure", "--json").out)
    found = scored[0]
    pace = found.seconds["base"] / found.tokens["base"]
    assert told["seconds"] == pytest.approx(told["tokens_to_score"] * pace)
    assert told["seconds_from"].startswith(f"measured on {found.examples} examples")
    assert 4 <= found.examples <= 12
    assert not recipe.out.exists() and list(scratch.iterdir()) == []
    recipe.build()
    again = json.loads(run("plan", recipe.write(), "--measure", "--json").out)
    assert again["seconds"] is None and len(scored) == 1  # there is nothing to time


def test_what_would_be_fetched_of_a_model_is_told(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pausedata.pipeline.plan import fetches

    def listing(name: str, **options: Any) -> list[Any]:
        assert options["dry_run"] and options["revision"] == COMMIT
        size, there = {"config.json": 700, "model.safetensors": 1000}, {"config.json"}
        return [
            SimpleNamespace(filename=n, file_size=s, will_download=n not in there)
            for n, s in size.items()
        ]

    monkeypatch.setattr("huggingface_hub.snapshot_download", listing)
    model = ModelRef("hub", "org/model", None, COMMIT)
    other = ModelRef("hub", "org/other", None, None)  # that the Hub did not tell the commit of
    found = fetches.fetches(None, [model, model, other])
    assert [(f.name, f.cached, f.files, f.bytes) for f in found] == [
        ("org/model", False, 1, 1000),
        ("org/other", False, None, None),
    ]


def test_too_little_room_is_told(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    result = planned(recipe)
    assert result.free_bytes == 1000
    assert any("0.00 MB are free" in reason for reason in result.unknown)


def test_where_nothing_is_to_be_made_no_sample_is_read(
    built: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pausedata.pipeline.plan._sample_of", lambda *_: pytest.fail("read"))
    assert planned(built).new_bytes == 0


def test_of_several_models_each_is_told() -> None:
    from pausedata.pipeline.plan.fetches import Fetch

    models = [Fetch("model", f"org/{name}", COMMIT, False, 2, 3_000_000) for name in "ab"]
    told = Plan("out", "new", fetches=models, conversions={"a.gguf": 10**6, "b.gguf": 10**9})
    assert told.figures()["model of the Hub"] == (
        "org/a: 2 files, 3.00 MB to fetch; org/b: 2 files, 3.00 MB to fetch"
    )
    assert told.figures()["model cache"] == (
        "a.gguf is converted once: about 1.00 MB; b.gguf is converted once: about 1.0 GB"
    )


def test_a_file_in_the_dataset_s_place_is_no_dataset(recipe: Recipe) -> None:
    """`build` says that it is one; the plan is of a new dataset, as where nothing is."""
    recipe.out.write_text("a file")
    assert planned(recipe).state == "a new dataset"
