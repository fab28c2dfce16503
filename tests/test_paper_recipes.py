"""`recipes/paper`: the paper's Table 1, three models with three data sets, five ways each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SHARED, Run, write_rows

from pausedata.analysis.verify import verify
from pausedata.core.progress import Silent
from pausedata.pipeline.recipe import load_recipe
from pausedata.sources import Row
from pausedata.sources.templates import RenderedRow, Renderer
from pausedata.store.dataset import Version, open_version

PAPER = ROOT / "recipes" / "paper"
MODELS = {
    "phi-2": "microsoft/phi-2",
    "phi-3-mini": "microsoft/Phi-3-mini-4k-instruct",
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
}
DATA = {
    "gsm8k": ("openai/gsm8k", "main", "gsm8k_train.jsonl"),
    "aqua_rat": ("deepmind/aqua_rat", "raw", "aqua_dev.jsonl"),
    "mbpp": ("google-research-datasets/mbpp", "full", "mbpp_train.jsonl"),
}
STRATEGIES = {
    "sft": "none",
    "ran": "random",
    "appd": "append",
    "aaw": "every_word",
    "dit": "lowest_logprob",
}
NINE = [(model, data) for model in MODELS for data in DATA]

# Rows in the shape of each data set, of our own making.
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {
            "question": f"Ann has {n} boxes of 6 eggs. How many eggs has she?",
            "answer": f"She has {n} * 6 = <<{n}*6={6 * n}>>{6 * n} eggs.\n#### {6 * n}",
        }
        for n in range(2, 8)
    ],
    "aqua_rat": [
        {
            "question": f"A train runs {60 * n} km in {n} hours. How fast is it?",
            "options": ["A)50", "B)60", "C)70", "D)80", "E)90"],
            "rationale": f"Speed = {60 * n} ÷ {n} = 60 km/h.\nThe answer is B",
            "correct": "B",
        }
        for n in range(2, 8)
    ],
    "mbpp": [
        {
            "task_id": n,
            "text": f"Write a function to add {n} to a number.",
            "code": f"def add_{n}(x):\r\n\treturn x + {n}",
            "test_list": [f"assert add_{n}(1) == {n + 1}"],
            "test_setup_code": "",
            "challenge_test_list": [],
        }
        for n in range(2, 8)
    ],
}


def path_of(model: str, data: str) -> Path:
    return PAPER / f"{model}_{data}.yaml"


def rendered(model: str, data: str, row: dict[str, Any]) -> RenderedRow:
    """The example that the recipe makes of a row."""
    recipe = load_recipe(path_of(model, data)).recipe
    renderer = Renderer(recipe.prompt, recipe.response, recipe.source)
    (example,) = renderer.render(Row("train", 0, row, "row"))
    assert isinstance(example, RenderedRow)
    return example


def test_there_is_one_for_each_model_and_data_set() -> None:
    there = {path.name for path in PAPER.iterdir()}
    assert there == {path_of(*pair).name for pair in NINE} | {"README.md"}


@pytest.mark.parametrize(("model", "data"), NINE)
def test_each_has_the_five_methods(model: str, data: str) -> None:
    recipe = load_recipe(path_of(model, data)).recipe
    hub, config, _ = DATA[data]
    assert (recipe.name, recipe.output) == (f"{model}_{data}", f"build/paper/{model}_{data}")
    assert (recipe.source.hub, recipe.source.config, recipe.source.splits) == (
        hub,
        config,
        ["train"],
    )
    assert recipe.model.id == MODELS[model]
    assert {name: spec.strategy for name, spec in recipe.placements.items()} == STRATEGIES
    assert recipe.placements["ran"].parameters["seed"] == 42
    exports = {name: (spec.placement, spec.format) for name, spec in recipe.exports.items()}
    assert exports == {name: (name, "tokenized") for name in STRATEGIES}
    assert recipe.scoring is not None and recipe.scoring.overlong == "skip"


@pytest.mark.parametrize(("model", "data"), NINE)
def test_prompt_and_answer_are_the_texts_of_the_reference_code(model: str, data: str) -> None:
    """But for what the recipes say that they do otherwise."""
    row = ROWS[data][0]
    question, answer = {
        "gsm8k": lambda: (row["question"], row["answer"]),
        "aqua_rat": lambda: (
            row["question"] + "\n" + "\n".join(row["options"]),
            row["rationale"] + "\n#### B",
        ),
        "mbpp": lambda: (row["text"], row["code"]),
    }[data]()
    reference = {
        "phi-2": f"Instruct: {question}\nOutput: {answer}",
        "phi-3-mini": f"<|user|>\n{question}\n<|assistant|>\n{answer}",
        "llama-3-8b": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "You are a helpful AI assistant.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        f"{question}<|eot_id|>\n\n<|start_header_id|>assistant<|end_header_id|>{answer}",
    }[model]
    example = rendered(model, data, row)
    # The tokenizer writes the beginning of the text; twice would be a defect.
    assert example.prompt + example.response == reference.removeprefix("<|begin_of_text|>")
    assert example.response.strip() == answer
    assert not example.prompt.endswith(" ")


@pytest.mark.parametrize("data", DATA)
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside this checkout")
def test_the_columns_are_those_of_the_real_rows(data: str) -> None:
    with (SHARED / DATA[data][2]).open(encoding="utf-8") as file:
        row = json.loads(file.readline())
    assert set(row) <= set(ROWS[data][0])
    assert rendered("phi-2", data, row).response.strip()


@pytest.mark.parametrize(("model", "data"), NINE)
def test_without_a_network_each_can_be_planned(
    model: str,
    data: str,
    tmp_path: Path,
    run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    def no_answer(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", no_answer)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", no_answer)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("pausedata.pipeline.resolve.cached_commit", lambda ref: None)
    ended = run("plan", path_of(model, data), "--output", tmp_path / "out", "--json")
    assert ended.status == 0, ended.err
    planned = json.loads(ended.out)
    assert [step["table"] for step in planned["steps"]] == [
        *("examples", "vocab", "tokens", "scores/base"),
        *(f"placements/{name}" for name in STRATEGIES),
        *(f"exports/{name}" for name in STRATEGIES),
    ]
    assert {step["action"] for step in planned["steps"]} == {"make"}
    assert f"'{DATA[data][0]}'" in planned["unknown"][0]
    assert f"'{MODELS[model]}'" in planned["unknown"][1]


@pytest.mark.parametrize("rows", ["own", "real"])
@pytest.mark.parametrize(("model", "data"), NINE)
def test_each_builds_from_local_rows_with_a_local_model(
    model: str, data: str, rows: str, model_folder: Path, tmp_path: Path, run: Callable[..., Run]
) -> None:
    file = SHARED / DATA[data][2]
    if rows == "own":
        file = write_rows(tmp_path / "rows.jsonl", ROWS[data])
    elif not file.is_file():
        pytest.skip("the shared data is not beside this checkout")
    words = ["--output", tmp_path / "out", "--limit", "8", "--set", "source.hub=null"]
    words += ["--set", f"source.files=[{file}]", "--set", f"model.id={model_folder}"]
    # To the tiny model's tokenizer the special tokens of others are text like any other.
    ended = run("build", path_of(model, data), *words, "--set", "scoring.max_length=1000")
    assert ended.status == 0, ended.err
    version = open_version(tmp_path / "out")
    assert verify(version, Silent()) == []
    if rows == "own":
        check_pauses(version)


def check_pauses(version: Version) -> None:
    """Each method's pauses, in every example."""
    tokens = columns(version, "tokens")
    text = dict(zip(*columns(version, "examples", "id", "response"), strict=True))
    examples = list(zip(*tokens, strict=True))
    assert len(examples) == 6
    for name in STRATEGIES:
        placed = zip(*columns(version, f"placements/{name}", "position", "count"), strict=True)
        for (id, response, ends), (positions, counts) in zip(examples, placed, strict=True):
            eos = len(response) - 1
            if name == "sft":
                assert positions == []
            elif name == "appd":
                assert (positions, counts) == ([0], [5])
            elif name == "aaw":
                # Wherever a token has a word's last character, and is the last that has it.
                padded = text[id] + " "
                assert {
                    k + 1
                    for k, end in enumerate(ends[:eos])
                    if padded[end].isspace() and not padded[end - 1].isspace()
                    if k + 1 == eos or ends[k + 1] > end
                } <= set(positions)
                assert len(positions) <= len(text[id].split())
                assert set(counts) == {1}
            else:
                assert (len(positions), counts) == (5, [1] * 5)
                assert max(positions) < eos


def columns(version: Version, table: str, *names: str) -> list[list[Any]]:
    """Columns of all of a table's rows."""
    found = version.table(table)
    rows = [found.read(shard) for shard in found.shards]
    names = names or ("id", "response_ids", "char_end")
    return [[value for part in rows for value in part.column(n).to_pylist()] for n in names]
