"""The proof: exports in the tensors of real trainers, with SmolLM2's tokenizer and real rows.

`make test-trainers` installs the trainers. Each proof runs as a user would, in a process of its
own: some trainers patch what they import.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import PROBLEMS, SMOLLM2, start

from pausedata import exporters
from pausedata.core.progress import Silent
from pausedata.exporters import trainers
from pausedata.exporters.export_rows import ExportRows
from pausedata.exporters.inputs import ExportInputs
from pausedata.exporters.trainers import trl
from pausedata.exporters.trainers.base import Finding, LoadPath, TensorRow, Trainer, TrainerInput
from pausedata.exporters.trainers.trainer_check import TrainerCheck, prove
from pausedata.pipeline.build import build
from pausedata.pipeline.recipe import load_recipe
from pausedata.pipeline.steps.export import write_outside
from pausedata.pipeline.steps.tokenizer import tokenizer_of
from pausedata.store.dataset import open_version

pytestmark = [
    pytest.mark.trainers,
    pytest.mark.skipif(not SMOLLM2.exists(), reason="make model fetches it"),
]

RECIPE = f"""
format: pausedata-recipe/1
name: proof
source: {{files: [{PROBLEMS}]}}
prompt: {{messages: [{{role: user, content: "{{{{ question }}}}"}}]}}
response: "{{{{ answer }}}}"
model: {{id: {SMOLLM2}}}
scoring: null
placements:
  five: {{strategy: random, positions: 5, seed: 1}}
  none: {{strategy: none}}
output: data
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 word problems with five pauses each at random places, inside words too."""
    folder = tmp_path_factory.mktemp("trainers")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    build(load_recipe(folder / "recipe.yaml"), folder / "data")
    return folder / "data"


def checked(dataset: Path, folder: Path, trainer: str, *words: str) -> list[dict[str, Any]]:
    """What `export --check` says of each way of ``trainer``."""
    process = start(
        *("export", dataset, "--placement", "five", "--tokenizer", SMOLLM2, *words),
        *("--check", trainer, "--json"),
        cwd=folder,
    )
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out)["check"]


TOKENS = ("-o", "train.jsonl")
TEXT = ("-o", "train.jsonl", "--on-mismatch", "move")
WAYS = [
    ("trl", ("--format", "tokenized", *TOKENS)),
    ("trl", ("--format", "tokenized", "--pack", "512", *TOKENS)),
    ("trl", ("--format", "hf-disk", "--pause-label", "train", "-o", "hf")),
    ("trl", ("--format", "prompt-completion", "--allow-unmasked", *TEXT)),
    ("hf-trainer", ("--format", "tokenized", *TOKENS)),
    ("hf-trainer", ("--format", "hf-disk", "--pack", "512", "-o", "hf")),
    ("peft", ("--format", "tokenized", *TOKENS)),
    ("axolotl", ("--format", "tokenized", *TOKENS)),
    ("axolotl", ("--format", "axolotl-segments", *TEXT)),
    ("axolotl", ("--format", "axolotl-chat", *TEXT)),
    ("llama-factory", ("--format", "hf-disk", "-o", "hf")),
    ("llama-factory", ("--format", "alpaca", "--allow-unmasked", *TEXT)),
    ("llama-factory", ("--format", "sharegpt", "--allow-unmasked", *TEXT)),
    ("ms-swift", ("--format", "swift", *TEXT)),
    ("mlx-lm", ("--format", "messages", "--allow-unmasked", *TEXT)),
    ("nemo", ("--format", "shifted", *TOKENS)),
    ("torchtune", ("--format", "shifted", "--param", "columns=mask", *TOKENS)),
]


@pytest.mark.parametrize(
    ("trainer", "words"), WAYS, ids=[f"{trainer} {' '.join(w[1:4])}" for trainer, w in WAYS]
)
def test_every_row_arrives_as_planned(
    dataset: Path, tmp_path: Path, trainer: str, words: tuple[str, ...]
) -> None:
    """Rows, ids, labels, none cut; no pause bears loss, but where the format says that it does."""
    proofs = checked(dataset, tmp_path, trainer, *words)
    assert proofs
    for proof in proofs:
        assert proof["holds"], proof
        compared = {check["what"]: check["compared"] for check in proof["checks"]}
        assert compared["rows: as many as planned"] == 72
        unmasked = "--allow-unmasked" in words or "--pause-label" in words
        pauses = "pauses: trained, as the format says" if unmasked else "pauses: no loss"
        assert compared[pauses] == 72 * 5
        assert compared["other tokens: loss where planned"] > 5_000


# What goes wrong with the settings that our READMEs warn of: the proof sees it.


@pytest.fixture
def rows(dataset: Path, tmp_path: Path) -> Iterator[tuple[ExportRows, Path]]:
    """A `tokenized` export, outside, and what makes its plan."""
    version = open_version(dataset)
    yield _exported(dataset, version, "tokenized", {}, tmp_path / "train.jsonl")


def _exported(
    dataset: Path, version: Any, format_name: str, given: dict[str, Any], target: Path
) -> tuple[ExportRows, Path]:
    format = exporters.get(format_name)
    options = exporters.parse(format, given, "test")
    origin = ExportInputs.of(
        *(version.manifest.name, version.manifest.pause, version.tables, "five"),
        lambda: tokenizer_of(dataset, version, version.tables, Silent(), str(SMOLLM2)),
    )
    write_outside(target, format, options, origin, ["train"], version.number, Silent())
    return ExportRows(origin, format, options), target


def proof_of(rows: tuple[ExportRows, Path], way: LoadPath) -> dict[str, tuple[int, int]]:
    """(compared, differ) of each check, for one way alone."""
    proof = _proof(rows, way)
    assert not proof.holds
    return {check.what: (check.compared, check.differ) for check in proof.checks}


def all_hold(rows: tuple[ExportRows, Path], way: LoadPath) -> bool:
    """Whether everything is as planned."""
    proof = _proof(rows, way)
    assert proof.holds, proof.checks
    return proof.holds


def _proof(rows: tuple[ExportRows, Path], way: LoadPath) -> TrainerCheck:
    name = rows[0].format.name
    trainer = Trainer(name="test", packages=(), formats=(name,), ways=(way,))
    (proof,) = prove(trainer, rows[0], "train", rows[1])
    return proof


def test_trls_default_length_cuts(dataset: Path, tmp_path: Path) -> None:
    """What is left of a row is as planned, and no more than its `max_length`'s default."""
    from trl import SFTConfig

    default = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False).max_length
    assert default == 1024
    long = "You add up. " * 330  # a system prompt of more than 1,024 tokens
    rows = _exported(
        *(dataset, open_version(dataset), "tokenized"),
        {"chat_template": "model", "system": long, "prompt_label": "train"},
        tmp_path / "long.jsonl",
    )
    found = proof_of(rows, LoadPath("default", lambda given: trl.load(given, max_length=default)))
    assert found["rows: none cut"] == (72, 72)
    assert found["rows: the planned ids"] == (72, 72)
    compared, differ = found["other tokens: loss where planned"]
    assert compared <= 72 * 1024 and differ == 0


def test_trl_drops_rows_of_which_it_left_no_label(rows: tuple[ExportRows, Path]) -> None:
    """Cut within the prompt a row has nothing to train on, and is gone without a word."""
    found = proof_of(rows, LoadPath("short", lambda given: trl.load(given, max_length=80)))
    compared, gone = found["rows: as many as planned"]
    assert compared == 72 and 0 < gone < 72


@pytest.mark.parametrize("told", [None, True])
def test_a_completion_mask_alone_keeps_no_loss_off(
    rows: tuple[ExportRows, Path], told: bool | None
) -> None:
    """TRL reads `completion_mask` where `completion_only_loss=True` says so, and only there."""

    def load(given: TrainerInput) -> Iterator[TensorRow | Finding]:
        masked = given.rows().map(
            lambda row: {"completion_mask": [int(label != -100) for label in row["labels"]]},
            remove_columns=["labels", "attention_mask"],
        )
        return trl.load(given, masked, completion_only_loss=told)

    way = LoadPath("completion_mask", load)
    if told:
        assert all_hold(rows, way)
        return
    found = proof_of(rows, way)
    pauses, trained = found["pauses: no loss"]
    assert pauses == trained == 72 * 5
    prompt, trained = found["other tokens: no loss where planned"]
    assert prompt == trained


def test_a_collator_for_language_modeling_trains_prompt_and_pauses(
    rows: tuple[ExportRows, Path],
) -> None:
    """transformers' own: it makes labels of the ids, and the pauses are among them."""
    from transformers import DataCollatorForLanguageModeling

    def load(given: TrainerInput) -> Iterator[TensorRow]:
        collate = DataCollatorForLanguageModeling(given.tokenizer, mlm=False)
        for row in given.rows():
            batch = collate([{key: row[key] for key in ("input_ids", "attention_mask")}])
            yield TensorRow(batch["input_ids"][0].tolist(), batch["labels"][0].tolist())

    found = proof_of(rows, LoadPath("collator", load))
    assert found["rows: the planned ids"][1] == 0
    pauses, trained = found["pauses: no loss"]
    assert pauses == trained == 72 * 5
    prompt, trained = found["other tokens: no loss where planned"]
    assert 0 < trained <= prompt


def test_packed_rows_in_a_batch_with_a_mask_see_each_other(dataset: Path, tmp_path: Path) -> None:
    """Why packed exports have no `attention_mask`: the loss of a row is another with one."""
    import torch

    rows, path = _exported(
        dataset, open_version(dataset), "tokenized", {"pack": 512}, tmp_path / "packed.jsonl"
    )
    row = json.loads(path.read_text().splitlines()[0])
    assert len(row["seq_lengths"]) > 1
    given = TrainerInput(rows.format, rows.options, path, "train", rows.reader, 512, tmp_path)
    model = given.model().eval()
    tensors = {key: torch.tensor([row[key]]) for key in ("input_ids", "position_ids")}
    with torch.no_grad():
        packed = model(**tensors, use_cache=False).logits[0]
        ones = torch.ones_like(tensors["input_ids"])
        masked = model(**tensors, attention_mask=ones, use_cache=False).logits[0]
        first = 0
        for length in row["seq_lengths"]:
            alone = model(tensors["input_ids"][:, first : first + length]).logits[0]
            assert torch.allclose(packed[first : first + length], alone, atol=1e-5)
            same = torch.allclose(masked[first : first + length], alone, atol=1e-5)
            assert same == (first == 0)
            first += length


def test_text_with_trl_trains_the_pauses(dataset: Path, tmp_path: Path) -> None:
    """Read against a plan that masks them, a format of text does not hold."""
    rows, path = _exported(
        *(dataset, open_version(dataset), "prompt-completion"),
        {"allow_unmasked": True, "on_mismatch": "move"},
        tmp_path / "train.jsonl",
    )
    rows.format = replace(rows.format, pause_label_masked=True)
    found = proof_of((rows, path), LoadPath("text", trl.load))
    assert found["pauses: no loss"] == (72 * 5, 72 * 5)


def test_a_length_too_short_drops_rows_in_axolotl(dataset: Path, tmp_path: Path) -> None:
    """Without a word: the rows that are longer than `sequence_len` are gone."""
    from pausedata.exporters.trainers import axolotl

    made = _exported(dataset, open_version(dataset), "tokenized", {}, tmp_path / "train.jsonl")
    way = LoadPath("short", lambda given: axolotl.load(given, sequence_len=150), ordered=False)
    found = proof_of(made, way)
    compared, missing = found["rows: as many as planned"]
    assert 0 < missing < compared
    assert found["rows: the planned ids"] == (compared - missing, 0)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ("nemo", ("--format", "shifted", "--pack", "512", "-o", "x.jsonl")),
        ("torchtune", ("--format", "shifted", "-o", "x.jsonl")),
        ("axolotl", ("--format", "tokenized", "--pack", "512", "-o", "x.jsonl")),
        ("llama-factory", ("--format", "hf-disk", "--pack", "512", "-o", "hf")),
        # Two epochs: there is no split `train`, the one that it loads.
        ("llama-factory", ("--format", "hf-disk", "--placement", "none", "-o", "hf")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[1:4]),
)
def test_what_a_trainer_has_no_way_to_read_is_not_called_proven(
    dataset: Path, tmp_path: Path, trainer: str, words: tuple[str, ...]
) -> None:
    process = start(
        *("export", dataset, "--placement", "five", *words),
        *("--check", trainer, "--tokenizer", SMOLLM2),
        cwd=tmp_path,
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "no way to read it" in err


def test_every_trainer_is_tried_here() -> None:
    assert {trainer for trainer, _ in WAYS} == set(trainers.TRAINERS)
