"""`pausedata score`: the same tokens by another model, of which its tokenizer must be no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Recipe, Run, make_model, swap_tokens, write_rows
from handmade import commit_handmade

from pausedata.analysis.verify import verify
from pausedata.core.errors import UsageError
from pausedata.core.progress import Silent
from pausedata.models.ref import ModelRef
from pausedata.models.tokenizer import Tokenizer
from pausedata.pipeline import resolve
from pausedata.pipeline.commands import score
from pausedata.pipeline.plan import plan_score
from pausedata.pipeline.recipe import Model
from pausedata.pipeline.resolve import find_model, recorded_pins
from pausedata.pipeline.score_request import ScoreRequest, of_command
from pausedata.scorers.transformers import TransformersScorer
from pausedata.store.dataset import Version, open_version
from pausedata.store.staging import Pins


def train_a_step(
    base: Path, folder: Path, rows_of: int | None = None, pad: str = "<|endoftext|>"
) -> Path:
    """A checkpoint as a trainer saves it: one step on, the pause added, the files rewritten."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[PAUSE]"]})
    backend = tokenizer.backend_tokenizer
    tokenizer.add_special_tokens({"pad_token": pad})
    backend.enable_padding(length=32, pad_id=tokenizer.pad_token_id, pad_token=pad)
    backend.enable_truncation(8)
    backend.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=rows_of)
    ids = torch.tensor([[5, 400, 6, 7, 8]])
    model(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.1 * weight.grad
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = json.loads((folder / "tokenizer.json").read_text())
    assert saved["padding"] and saved["truncation"]  # what the test is about
    assert (folder / "chat_template.jinja").exists()
    return folder


@pytest.fixture(scope="module")
def checkpoint(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_a_step(model_folder, tmp_path_factory.mktemp("trained") / "checkpoint-1")


def whole(root: Path) -> bool:
    return verify(open_version(root), Silent()) == []


def column(version: Version, table: str, name: str) -> list[Any]:
    found = version.table(table)
    return [row for shard in found.shards for row in found.read(shard)[name].to_pylist()]


def files_in(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_later_checkpoint_is_another_run_beside_the_first(
    built: Recipe, checkpoint: Path, run: Callable[..., Run]
) -> None:
    done = run("score", built.out, "--run", "epoch-1", "--model", checkpoint, "--json")
    assert done.status == 0, done.err
    printed = json.loads(done.out)
    assert (printed["version"], printed["made"]) == (2, ["scores/epoch-1"])
    placed = run(
        *("place", built.out, "later", "--strategy", "lowest_logprob"),
        *("--param", "positions=2", "--run", "epoch-1"),
    )
    assert placed.status == 0, placed.err
    query = "select run, count(*) n, avg(logprob) mean from tokens group by run order by run"
    base, later = json.loads(run("sql", built.out, query, "--format", "json").out)
    assert (base["run"], later["run"]) == ("base", "epoch-1")
    assert base["n"] == later["n"]
    assert base["mean"] != later["mean"]

    version = open_version(built.out)
    facts = version.table("scores/epoch-1").entry.provenance
    assert facts["inputs"]["tokens"] == version.table("tokens").entry.content
    assert facts["model"]["id"] == "checkpoint-1"
    assert facts["tokenizer"]["checked"] == "hash"
    assert (
        facts["tokenizer"]["hash"] == version.table("vocab").entry.provenance["inputs"]["tokenizer"]
    )
    assert str(checkpoint.parent) not in (version.folder / "manifest.json").read_text()
    assert version.table("placements/later").entry.provenance["made_from"] == [
        "tokens",
        "scores/epoch-1",
    ]
    assert whole(built.out)


def test_scores_are_over_the_checkpoints_own_vocabulary(recipe: Recipe, checkpoint: Path) -> None:
    """Also over the pause's row, which the checkpoint may predict; the reference is torch."""
    import torch
    from transformers import AutoModelForCausalLM

    recipe.data["placements"], recipe.data["exports"] = {}, {}
    recipe.build()
    score(recipe.out, "epoch-1", ScoreRequest(model=str(checkpoint)))
    version = open_version(recipe.out)
    prompt = column(version, "tokens", "prompt_ids")[0]
    response = column(version, "tokens", "response_ids")[0]
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double()
    assert logits.shape[1] == 401  # 400 and the pause
    rows = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
    expected = [float(row[id]) for row, id in zip(rows, response, strict=True)]
    assert column(version, "scores/epoch-1", "logprob")[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("pad", "checked"), [("<|endoftext|>", "hash"), ("[PAD]", "every row")])
def test_rows_and_tokens_for_padding_are_no_matter(
    built: Recipe, model_folder: Path, tmp_path: Path, pad: str, checked: str
) -> None:
    padded = train_a_step(model_folder, tmp_path / "padded", rows_of=64, pad=pad)
    outcome = score(built.out, "padded", ScoreRequest(model=str(padded)))
    facts = outcome.version.table("scores/padded").entry.provenance
    assert facts["tokenizer"]["checked"] == checked


def with_a_tool_token(model: Path, folder: Path, **changes: Any) -> Path:
    """A copy whose tokenizer has one token more, so that its hash is another."""
    shutil.copytree(model, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 402, "content": "<t>"})
    path.write_text(json.dumps(tokenizer | changes), encoding="utf-8")
    return folder


def test_another_hash_is_accepted_where_every_stored_row_gets_the_same_ids(
    built: Recipe, model_folder: Path, tmp_path: Path, run: Callable[..., Run]
) -> None:
    other = with_a_tool_token(model_folder, tmp_path / "tools")
    done = run("score", built.out, "--run", "tools", "--model", other)
    assert done.status == 0, done.err
    assert "tools: its tokenizer is not the one that made the tokens, but gives the same" in (
        done.err
    )
    version = open_version(built.out)
    facts = version.table("scores/tools").entry.provenance["tokenizer"]
    assert facts["checked"] == "every row"
    assert facts["hash"] != version.table("vocab").entry.provenance["inputs"]["tokenizer"]
    # The weights are the first run's, and so the scores.
    assert column(version, "scores/tools", "logprob") == column(version, "scores/base", "logprob")


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("overlong", ["error", "truncate"])
def test_what_was_added_to_texts_is_taken_from_the_stored_rows(
    recipe: Recipe, model_folder: Path, tmp_path: Path, chat: bool, overlong: str
) -> None:
    """A checkpoint may have lost BOS, EOS and chat template: the stored rows say what they gave."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    first = tmp_path / "first"
    shutil.copytree(model_folder, first)
    tokenizer: Any = AutoTokenizer.from_pretrained(first)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.save_pretrained(first)
    recipe.data["model"] = {"id": str(first)}
    recipe.data["placements"], recipe.data["exports"] = {}, {}
    recipe.data["scoring"] = {"max_length": 140 if overlong == "truncate" else 500}
    recipe.data["scoring"]["overlong"] = overlong
    if chat:
        recipe.data["prompt"] = {"messages": [{"role": "user", "content": "{{ question }}"}]}
        recipe.data["response"] = "{{ answer }}"
    version = recipe.build().version
    prompts, truncated = (column(version, "tokens", n) for n in ("prompt_ids", "truncated"))
    assert all(ids[0] == 1 for ids in prompts)  # <|im_start|>: the template's, or put in front
    assert any(truncated) == (overlong == "truncate")

    other = with_a_tool_token(model_folder, tmp_path / "other", post_processor=None)
    (other / "chat_template.jinja").unlink()
    settings = json.loads((other / "tokenizer_config.json").read_text())
    settings["eos_token"] = "<|im_start|>"
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    made = score(recipe.out, "other", ScoreRequest(model=str(other))).version
    assert made.table("scores/other").entry.provenance["tokenizer"]["checked"] == "every row"


def test_other_ids_are_refused_with_how_many_and_the_first(
    built: Recipe, tmp_path: Path, run: Callable[..., Run]
) -> None:
    other = make_model(tmp_path / "other")
    swap_tokens(other, ":", "?")
    before = files_in(built.out)
    for more in ([], ["--dry-run"]):
        done = run("score", built.out, "--run", "other", "--model", other, *more)
        assert (done.status, done.out) == (2, "")
        first = column(open_version(built.out), "examples", "id")[0]
        assert "12 of 12 examples would get other ids" in done.err
        assert f"The first: {first}, token 3 of its prompt is ':' (id " in done.err
        assert "dataset of its own" in done.err
    after = files_in(built.out)
    assert {k: v for k, v in after.items() if "/staging/" not in k} == {
        k: v for k, v in before.items() if "/staging/" not in k
    }


def test_an_end_that_means_another_token_is_refused(built: Recipe, tmp_path: Path) -> None:
    """No text gives the end's id, so that only the vocabularies can tell."""
    other = make_model(tmp_path / "other")
    swap_tokens(other, "<|endoftext|>", "<|im_end|>")
    with pytest.raises(UsageError, match=r"id 0 is '<\|endoftext\|>' there and '<\|im_end\|>'"):
        score(built.out, "other", ScoreRequest(model=str(other)))


def test_further_runs_of_a_recipe_are_checked_the_same_way(
    recipe: Recipe, model_folder: Path, tmp_path: Path
) -> None:
    other = with_a_tool_token(model_folder, tmp_path / "tools")
    recipe.data["runs"] = {"tools": {"model": {"id": str(other)}}}
    version = recipe.build().version
    facts = {run: version.table(f"scores/{run}").entry.provenance for run in version.runs}
    assert facts["base"]["tokenizer"]["checked"] == "hash"
    assert facts["tools"]["tokenizer"]["checked"] == "every row"
    # And `score` with nothing new finds the run as `build` made it.
    assert not score(recipe.out, "tools", ScoreRequest(model=str(other))).committed


def test_a_run_made_otherwise_needs_replace_which_remakes_what_rests_on_it(
    built: Recipe, model_folder: Path, checkpoint: Path, run: Callable[..., Run]
) -> None:
    words = ("score", built.out, "--run", "base", "--model")
    same = run(*words, model_folder)
    assert same.status == 0
    assert "nothing to do" in same.err
    refused = run(*words, checkpoint)
    assert refused.status == 2
    assert "scores/base is there already, made otherwise (model.weights_sha256" in refused.err
    assert open_version(built.out).number == 1

    old = open_version(built.out)
    done = json.loads(run(*words, checkpoint, "--replace", "--json").out)
    # `append` reads no scores and stays as it is.
    assert done["made"] == ["scores/base", "placements/dit", "exports/dit-tokenized"]
    new = open_version(built.out)
    assert new.number == 2
    for name in ("tokens", "placements/append"):
        assert new.table(name).entry == old.table(name).entry
    assert new.table("placements/dit").entry.content != old.table("placements/dit").entry.content
    assert whole(built.out)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    built: Recipe, checkpoint: Path, run: Callable[..., Run]
) -> None:
    before = files_in(built.out)
    words = ("score", built.out, "--run", "base", "--model", checkpoint, "--dry-run")
    done = run(*words, "--replace", "--json")
    assert done.status == 0, done.err
    planned = json.loads(done.out)
    assert [(step["table"], step["action"]) for step in planned["steps"]] == [
        ("scores/base", "remake"),
        ("placements/dit", "remake"),
        ("exports/dit-tokenized", "remake"),
    ]
    assert planned["steps"][0]["why"] == "with checkpoint-1, float32, transformers"
    assert planned["rows"] == {"train": 12}
    assert planned["tokens_to_score"] == planned["prompt_tokens"] + planned["response_tokens"]
    assert planned["tokenizer"]["checked"] == "hash"
    shown = run(*words, "--replace")
    assert "gives the same ids, by its hash" in shown.out
    assert run(*words).status == 2  # as without --dry-run
    assert files_in(built.out) == before


def test_scoring_goes_on_after_a_kill(
    built: Recipe, checkpoint: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    score_batch, calls = TransformersScorer.score, []

    def killed(self: Any, examples: Any, *rest: Any) -> Any:
        calls.append(len(examples))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_batch(self, examples, *rest)

    words = ("score", built.out, "--run", "epoch-1", "--model", checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(TransformersScorer, "score", killed)
        assert run(*words).status == 130
    planned = plan_score(built.out, "epoch-1", ScoreRequest(model=str(checkpoint)))
    assert planned.steps[0].action == "resume"
    assert planned.steps[0].why.startswith("1 of 3 shards were scored by an earlier command")
    done = run(*words)
    assert done.status == 0
    assert "1 of 3 shards were scored before and are kept" in done.err
    facts = open_version(built.out).table("scores/epoch-1").entry.provenance
    assert (facts["scored_examples"], calls) == (12, [4, 4])
    assert whole(built.out)


def test_when_the_corpus_grows_an_added_run_costs_only_what_is_new(
    built: Recipe, checkpoint: Path, rows: list[dict[str, Any]], run: Callable[..., Run]
) -> None:
    asked = ScoreRequest(model=str(checkpoint), batch_tokens=64)
    score(built.out, "epoch-1", asked)
    before = open_version(built.out)
    # Fewer rows: the run is carried whole, with what is known of it.
    built.data["source"]["limit"] = 8
    built.build(replace=True)
    fewer = open_version(built.out).table("scores/epoch-1").entry
    assert fewer.rows == fewer.provenance["carried_examples"] == 8
    for key in ("model", "tokenizer"):
        assert fewer.provenance[key] == before.table("scores/epoch-1").entry.provenance[key]

    # More rows than ever: it is left out, and the reason is the command that makes it again.
    del built.data["source"]["limit"]
    write_rows(built.folder / "rows.jsonl", [{"question": "What is 1 + 1?", "answer": "2"}, *rows])
    reason = built.build(replace=True).removed["scores/epoch-1"]
    assert reason.startswith(
        "1 example is without scores, and the recipe names no model for this run."
    )
    command = f"pausedata score {built.out} --run epoch-1 --model PATH-OF-checkpoint-1"
    assert command in reason
    assert open_version(built.out).runs == ["base"]

    planned = plan_score(built.out, "epoch-1", asked)
    assert "the scores of 12 examples are carried over" in planned.steps[0].why
    words = [
        str(checkpoint) if word == "PATH-OF-checkpoint-1" else word
        for word in reason[reason.index("pausedata score") :].split()[1:]
    ]
    done = run(*words)
    assert done.status == 0, done.err
    again = open_version(built.out)
    facts = again.table("scores/epoch-1").entry.provenance
    assert (facts["scored_examples"], facts["carried_examples"]) == (1, 12)
    kept = dict(
        zip(
            column(before, "examples", "id"),
            column(before, "scores/epoch-1", "logprob"),
            strict=True,
        )
    )
    found = dict(
        zip(
            column(again, "examples", "id"), column(again, "scores/epoch-1", "logprob"), strict=True
        )
    )
    first = column(before, "examples", "id")[:8]
    assert [found[id] for id in first] == [kept[id] for id in first]  # to the last bit
    assert whole(built.out)


def recorded(version: Version, model: dict[str, Any]) -> Version:
    """The version as it would be, had its recipe's model been ``model``."""
    recipe = version.manifest.recipe | {"model": model, "scoring": {"backend": "transformers"}}
    return Version(
        version.root,
        version.folder,
        version.manifest.model_copy(update={"recipe": recipe}),
        version.sha256,
    )


def test_the_model_may_be_left_out_where_the_recorded_one_is_on_the_hub(tmp_path: Path) -> None:
    version = commit_handmade(tmp_path / "d")
    commit = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
    on_hub = {"id": "org/model", "revision": commit, "dtype": "bfloat16"}
    spec, _ = of_command(tmp_path / "d", recorded(version, on_hub), "again", ScoreRequest())
    assert (spec.model.name, spec.model.revision) == ("org/model", commit)
    assert (spec.dtype, spec.backend) == ("bfloat16", "transformers")
    asked = ScoreRequest(dtype="float32", device="cpu", batch_tokens=7)
    spec, _ = of_command(tmp_path / "d", recorded(version, on_hub), "again", asked)
    assert (spec.dtype, spec.scoring.device, spec.scoring.batch_tokens) == ("float32", "cpu", 7)
    folder = {"id": "tiny", "weights_sha256": "0" * 64, "dtype": "float32"}
    with pytest.raises(UsageError, match=r"run 'again': give its model with --model: of a folder"):
        of_command(tmp_path / "d", recorded(version, folder), "again", ScoreRequest())


def test_the_base_of_an_adapter_is_pinned_like_a_model_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was looked up once is used again, in a copy of the dataset without staging too."""
    commit = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
    (tmp_path / "lora").mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"weights")
    spec = Model(id="lora")
    with monkeypatch.context() as patch:
        patch.setattr(resolve, "resolve_revision", lambda ref: replace(ref, revision=commit))
        ref, found = find_model(spec, tmp_path, Pins(tmp_path / "d", {}, keep=False))
    assert found == {"model.base.revision": commit}
    assert ref.base == ModelRef("hub", "org/base", None, commit)
    assert ref.identity()["base"] == {"id": "org/base", "revision": commit}

    version = commit_handmade(tmp_path / "d")
    manifest = version.manifest.model_copy(
        update={"recipe": {"source": {}, "model": {"id": "lora"} | ref.identity()}, "pins": found}
    )
    again = Version(version.root, version.folder, manifest, version.sha256)
    pins = Pins(tmp_path / "elsewhere", recorded_pins(again), keep=False)
    assert find_model(spec, tmp_path, pins) == (ref, found)  # and nobody asked the Hub


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "../x", "--model", "m"], "cannot name a run"),
        (["--run", "x", "--model", "./gone"], "--model: no such folder: ./gone"),
        (["--run", "x"], "run 'x': give its model with --model"),
        (["--run", "x", "--model", "m", "--backend", "vlm"], "--backend: unknown backend 'vlm'"),
        (["--run", "x", "--model", "m", "--dtype", "float23"], "Did you mean 'float32'"),
    ],
)
def test_a_wrong_argument_is_named(
    words: list[str], message: str, tmp_path: Path, run: Callable[..., Run]
) -> None:
    commit_handmade(tmp_path / "d")
    done = run("score", tmp_path / "d", *words)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_a_dataset_without_scores_can_be_given_some(recipe: Recipe, model_folder: Path) -> None:
    recipe.data["scoring"] = None
    recipe.data["placements"] = {"append": {"strategy": "append", "tokens": 2}}
    recipe.data["exports"] = {}
    recipe.build()
    outcome = score(recipe.out, "base", ScoreRequest(model=str(model_folder)))
    assert outcome.made == ["scores/base"]
    assert whole(recipe.out)


def test_a_tokenizer_with_the_pause_has_the_hash_of_one_without(
    model_folder: Path, checkpoint: Path
) -> None:
    from transformers import AutoTokenizer

    first, second = (
        Tokenizer(AutoTokenizer.from_pretrained(folder)) for folder in (model_folder, checkpoint)
    )
    assert second.pause_id("[PAUSE]") == (400, False)
    assert first.hash() == second.hash()


def test_a_run_that_was_removed_comes_back_from_the_version_that_has_it(
    built: Recipe, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_version(built.out).table("scores/base").entry.content
    assert run("rm", built.out, "scores/base", "--cascade").status == 0
    monkeypatch.setattr("pausedata.scorers.load_scorer", None)  # no model is needed
    ended = run("build", built.write())
    assert ended.status == 0 and "12 carried over" in ended.err
    assert open_version(built.out).table("scores/base").entry.content == before
