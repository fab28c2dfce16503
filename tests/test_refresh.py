"""Placements that follow the model: real short trainings of the tiny model on the CPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from conftest import Recipe, problems, tiny_recipe
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from pausedata.analysis.verify import verify
from pausedata.core.errors import UsageError
from pausedata.core.progress import Silent
from pausedata.pipeline.commands import place, score
from pausedata.pipeline.recipe import Placement
from pausedata.pipeline.score_request import ScoreRequest
from pausedata.store.dataset import open_version
from pausedata.training import PlacedRows, PlacingCollator, RefreshPlacement, UnplacedRows

DIT = Placement(strategy="lowest_logprob", positions=3)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """Twelve word problems, scored by the tiny model and placed by `dit`."""
    folder = tmp_path_factory.mktemp("refresh")
    placements = {"dit": {"strategy": "lowest_logprob", "positions": 3}}
    recipe = tiny_recipe(
        *(folder, model_folder, problems(12)), placements=placements, exports={}, shard_rows=5
    )
    recipe.build()
    return recipe.out


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "data", symlinks=True)


class SaveAt(TrainerCallback):
    """Saves the model as it is when an epoch or so many steps end."""

    def __init__(self, folder: Path, steps: int | None = None) -> None:
        self.folder, self.steps = folder, steps

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.steps is None:
            kwargs["model"].save_pretrained(self.folder / f"epoch-{round(state.epoch)}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.steps and state.global_step % self.steps == 0:
            kwargs["model"].save_pretrained(self.folder / f"step-{state.global_step}")


def model_and_tokenizer(folder: Path) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(401, mean_resizing=False)
    return model, tokenizer


def trainer_of(
    model_folder: Path, rows: Any, out: Path, callbacks: list[Any], **settings: Any
) -> Trainer:
    model, tokenizer = model_and_tokenizer(model_folder)
    arguments = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 7,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(str(out), **arguments | settings),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=callbacks,
    )


def positions(dataset: Path, placement: str) -> dict[str, list[int]]:
    table = open_version(dataset).table(f"placements/{placement}")
    rows = pa.concat_tables([table.read(shard) for shard in table.shards]).to_pylist()
    return {row["id"]: row["position"] for row in rows}


def offline(dataset: Path, checkpoint: Path, model_folder: Path, name: str) -> dict[str, list[int]]:
    """What `pausedata score` of the saved weights, and `place`, give."""
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(checkpoint)
    score(dataset, name, ScoreRequest(model=str(checkpoint)))
    place(dataset, {name: DIT.model_copy(update={"run": name})})
    return positions(dataset, name)


class Seen(TrainerCallback):
    """The batches that the model was given, of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[list[list[int]]] = []

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epochs.append([])

    def watch(self, trainer: Trainer) -> None:
        def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if module.training:
                self.epochs[-1] += kwargs["input_ids"].tolist()

        trainer.model.register_forward_pre_hook(note, with_kwargs=True)  # type: ignore[union-attr]


def without_padding(rows: list[list[int]], pad: int) -> list[tuple[int, ...]]:
    kept = [[*row] for row in rows]
    for row in kept:
        while len(row) > 1 and row[-1] == row[-2] == pad:
            row.pop()
    return sorted(tuple(row) for row in kept)


def test_each_epoch_trains_on_what_the_last_one_placed(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    """Positions are those of an offline scoring of the same weights; the batches have them."""
    rows = PlacedRows(dataset, "dit")
    seen = Seen()
    callbacks = [RefreshPlacement(rows), SaveAt(tmp_path / "saved"), seen]
    trainer = trainer_of(model_folder, rows, tmp_path / "t", callbacks)
    seen.watch(trainer)
    trainer.train()

    version = open_version(dataset)
    assert version.number == 3 and {"epoch-1", "epoch-2"} <= set(version.runs)
    assert "epoch-3" not in version.runs  # nothing would be trained on it
    assert verify(version, Silent()) == []
    moved = 0
    for epoch in (1, 2):
        expected = offline(dataset, tmp_path / f"saved/epoch-{epoch}", model_folder, f"o-{epoch}")
        found = positions(dataset, f"dit-epoch-{epoch}")
        assert found == expected
        moved += sum(found[id] != own for id, own in positions(dataset, "dit").items())
    assert moved > 0  # it learned something, and the pauses went elsewhere
    pad = trainer.data_collator.tokenizer.pad_token_id  # type: ignore[union-attr]
    for epoch, placement in enumerate(("dit", "dit-epoch-1", "dit-epoch-2")):
        expected_rows = PlacedRows(dataset, placement)
        wanted = [expected_rows[k]["input_ids"] for k in range(len(expected_rows))]
        assert without_padding(seen.epochs[epoch], pad) == without_padding(wanted, pad)


def test_what_is_recorded_says_which_weights_they_were(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    rows = PlacedRows(dataset, "dit")
    trainer_of(
        model_folder, rows, tmp_path / "t", [RefreshPlacement(rows)], num_train_epochs=2
    ).train()
    facts = open_version(dataset).table("scores/epoch-1").entry.provenance
    assert facts["model"]["state_sha256"].startswith("sha256:")
    assert facts["trained"] == {"global_step": 3}
    assert facts["scored_examples"] == 12
    assert open_version(dataset).manifest.command == "refresh epoch-1"


def test_training_is_the_same_as_without_it_until_the_first_refresh(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    """Neither the model nor any random number is disturbed: dropout would show it."""
    weights = []
    for with_it in (True, False):
        rows = PlacedRows(dataset, "dit")
        placed = PlacedRows(dataset, "dit")
        callbacks: list[Any] = [RefreshPlacement(rows)] if with_it else []
        # Scored after epoch 1, and again put in place: only a disturbance would be left.
        if with_it:
            rows.use = lambda *args: None  # type: ignore[method-assign]
        trainer = trainer_of(
            model_folder, rows if with_it else placed, tmp_path / f"t{with_it}", callbacks
        )
        trainer.model.config.attention_dropout = 0.3  # type: ignore[union-attr]
        for layer in trainer.model.model.layers:  # type: ignore[union-attr]
            layer.self_attn.attention_dropout = 0.3
        trainer.train()
        weights.append(trainer.model.state_dict())  # type: ignore[union-attr]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_another_training_begins_with_the_first_placement(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    rows = PlacedRows(dataset, "dit")
    callback, seen = RefreshPlacement(rows), Seen()
    trainer_of(model_folder, rows, tmp_path / "t", [callback], num_train_epochs=2).train()
    assert rows.placement == "dit-epoch-1"
    trainer = trainer_of(model_folder, rows, tmp_path / "u", [callback, seen], num_train_epochs=1)
    seen.watch(trainer)
    trainer.train()
    first = PlacedRows(dataset, "dit")
    pad = trainer.data_collator.tokenizer.pad_token_id  # type: ignore[union-attr]
    wanted = [first[k]["input_ids"] for k in range(len(first))]
    assert without_padding(seen.epochs[0], pad) == without_padding(wanted, pad)


def test_every_so_many_steps(dataset: Path, model_folder: Path, tmp_path: Path) -> None:
    rows = PlacedRows(dataset, "dit")
    callbacks = [RefreshPlacement(rows, every=4), SaveAt(tmp_path / "saved", steps=4)]
    trainer_of(model_folder, rows, tmp_path / "t", callbacks).train()  # nine steps
    assert {"step-4", "step-8"} <= set(open_version(dataset).runs)
    for step in (4, 8):
        expected = offline(dataset, tmp_path / f"saved/step-{step}", model_folder, f"o-{step}")
        assert positions(dataset, f"dit-step-{step}") == expected
    assert rows.placement == "dit-step-8"


def test_a_sample_is_scored_and_the_rest_keeps_its_places(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    rows = PlacedRows(dataset, "dit")
    callbacks = [RefreshPlacement(rows, sample=5), SaveAt(tmp_path / "saved")]
    trainer_of(model_folder, rows, tmp_path / "t", callbacks, num_train_epochs=2).train()
    facts = open_version(dataset).table("scores/epoch-1").entry.provenance
    assert (facts["scored_examples"], facts["carried_examples"]) == (5, 7)
    before, after = positions(dataset, "dit"), positions(dataset, "dit-epoch-1")
    expected = offline(dataset, tmp_path / "saved/epoch-1", model_folder, "offline")
    assert all(after[id] in (before[id], expected[id]) for id in after)
    assert sum(after[id] == expected[id] for id in after) >= 5
    assert sum(after[id] == before[id] for id in after) >= 7


class StopAfter(TrainerCallback):
    """Ends the training, as a kill would, when so many epochs are done and saved."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if round(state.epoch) == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("saves", "at"),
    [({"save_strategy": "epoch"}, 2), ({"save_strategy": "steps", "save_steps": 3}, 1)],
    ids=["after a refresh", "between an epoch's last step and its refresh"],
)
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(
    dataset: Path, model_folder: Path, tmp_path: Path, saves: dict[str, Any], at: int
) -> None:
    """From the trainer's checkpoint: the same placements, the same weights at the end."""
    weights, places = [], []
    for name, stop in (("whole", None), ("stopped", at)):
        own = shutil.copytree(dataset, tmp_path / name, symlinks=True)
        rows = PlacedRows(own, "dit")
        callbacks: list[Any] = [RefreshPlacement(rows)]
        if stop is not None:
            first = trainer_of(
                model_folder, rows, tmp_path / f"t-{name}", [*callbacks, StopAfter(stop)], **saves
            )
            with pytest.raises(KeyboardInterrupt):
                first.train()
            rows = PlacedRows(own, "dit")  # a new process begins with the first placement
            callbacks = [RefreshPlacement(rows)]
        trainer = trainer_of(model_folder, rows, tmp_path / f"t-{name}", callbacks, **saves)
        trainer.train(resume_from_checkpoint=stop is not None)
        weights.append(trainer.model.state_dict())  # type: ignore[union-attr]
        places.append([positions(own, f"dit-epoch-{k}") for k in (1, 2)])
        assert open_version(own).number == 3  # no refresh was made twice
    assert places[0] == places[1]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_training_goes_on_with_its_own_placement_when_another_made_one_of_that_name(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    class StopAtStep(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:  # in the middle of epoch 2
                raise KeyboardInterrupt

    rows = PlacedRows(dataset, "dit")
    first = trainer_of(
        *(model_folder, rows, tmp_path / "a", [RefreshPlacement(rows), StopAtStep()]),
        save_strategy="steps",
        save_steps=2,
    )
    with pytest.raises(KeyboardInterrupt):
        first.train()
    own = [rows[k] for k in range(len(rows))]

    other = PlacedRows(dataset, "dit")
    callbacks = [RefreshPlacement(other)]
    trainer_of(
        model_folder, other, tmp_path / "b", callbacks, num_train_epochs=2, learning_rate=3e-2
    ).train()
    others = PlacedRows(dataset, "dit-epoch-1")
    assert own != [others[k] for k in range(len(others))]

    used: list[list[dict[str, list[int]]]] = []

    class Look(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            used.append([rows[k] for k in range(len(rows))])

    rows = PlacedRows(dataset, "dit")
    trainer = trainer_of(model_folder, rows, tmp_path / "a", [RefreshPlacement(rows), Look()])
    trainer.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert used[0] == own


def test_a_finished_training_that_is_resumed_makes_nothing(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    for again in (False, True):
        rows = PlacedRows(dataset, "dit")
        trainer_of(
            *(model_folder, rows, tmp_path / "t", [RefreshPlacement(rows)]), save_strategy="epoch"
        ).train(resume_from_checkpoint=again)
        assert open_version(dataset).number == 3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"every": 0}, "every"),
        ({"every": "step"}, "every"),
        ({"sample": 0}, "sample"),
    ],
)
def test_wrong_settings_are_refused(dataset: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        RefreshPlacement(PlacedRows(dataset, "dit"), **settings)


def test_what_no_model_changes_is_refused(dataset: Path) -> None:
    place(dataset, {"ten": Placement(strategy="append", tokens=10)})  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="reads no scores"):
        RefreshPlacement(PlacedRows(dataset, "ten"))
    with pytest.raises(UsageError, match=r"dit"):
        PlacedRows(dataset, "dti")
    with pytest.raises(UsageError, match="no split"):
        PlacedRows(dataset, "dit", split="test")
    with pytest.raises(UsageError, match="numbers"):
        PlacedRows(dataset, "dit", pack=512)


def test_workers_that_would_keep_old_rows_are_refused(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    rows = PlacedRows(dataset, "dit")
    trainer = trainer_of(
        *(model_folder, rows, tmp_path / "t", [RefreshPlacement(rows, every=2)]),
        dataloader_num_workers=1,
    )
    with pytest.raises(UsageError, match="dataloader_num_workers=0"):
        trainer.train()


def test_rows_are_those_of_the_export(recipe: Recipe) -> None:
    version = recipe.build().version
    import json

    lines = (version.folder / "exports/dit-tokenized/train.jsonl").read_text().splitlines()
    rows = PlacedRows(recipe.out, "dit")
    assert [rows[k] for k in range(len(rows))] == [json.loads(line) for line in lines]
    with pytest.raises(IndexError):
        rows[len(rows)]


# The collator


class Watched:
    """A `PlacingCollator` whose placements, and the weights at their time, are kept."""

    def __init__(self, collator: PlacingCollator, model: Any) -> None:
        self.collator, self.model = collator, model
        self.placed: list[dict[str, list[int]]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self, features: Any) -> Any:
        batch = self.collator(features)
        assert self.collator.last is not None
        self.placed.append({row["id"]: row["position"] for row in self.collator.last.to_pylist()})
        state = self.model.state_dict()
        self.weights.append({key: value.clone() for key, value in state.items()})
        return batch


def test_the_collator_places_by_the_model_as_it_is_at_that_step(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    rows = UnplacedRows(dataset)
    trainer = trainer_of(
        *(model_folder, rows, tmp_path / "t", []),
        remove_unused_columns=False,
        num_train_epochs=2,
    )
    model = trainer.model
    watched = Watched(PlacingCollator(model, rows, positions=3), model)
    trainer.data_collator = watched  # type: ignore[assignment]
    trainer.train()
    assert len(watched.placed) == 6
    changed = 0
    for step in (0, 2, 5):
        saved = tmp_path / f"at-{step}"
        other, _ = model_and_tokenizer(model_folder)
        other.load_state_dict(watched.weights[step])
        other.save_pretrained(saved)
        expected = offline(dataset, saved, model_folder, f"at-{step}")
        for id, found in watched.placed[step].items():
            assert found == expected[id]
            changed += found != positions(dataset, "dit")[id]
    assert changed > 0


def test_the_collators_batch_is_what_an_export_would_be(dataset: Path, model_folder: Path) -> None:
    """With the weights that `dit` was placed by: its rows, padded."""
    _, tokenizer = model_and_tokenizer(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    rows, placed = UnplacedRows(dataset), PlacedRows(dataset, "dit")
    batch = PlacingCollator(model, rows, positions=3)([rows[k] for k in range(len(rows))])
    expected = DataCollatorForSeq2Seq(tokenizer)([placed[k] for k in range(len(placed))])
    keep = batch["attention_mask"].bool()
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert torch.equal(batch["labels"], expected["labels"])
    assert torch.equal(batch["input_ids"][keep], expected["input_ids"][keep])


def test_a_strategy_that_needs_more_is_refused(dataset: Path, model_folder: Path) -> None:
    model, _ = model_and_tokenizer(model_folder)
    rows = UnplacedRows(dataset)
    for strategy, parameters in (
        ("highest_entropy", {"positions": 2}),
        ("budget", {"per_100": 3}),
    ):
        with pytest.raises(UsageError, match="RefreshPlacement takes any strategy"):
            PlacingCollator(model, rows, strategy=strategy, **parameters)
