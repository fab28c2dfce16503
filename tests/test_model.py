"""The whole pipeline on the real SmolLM2-135M-Instruct (`make test-model`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aligned import aligned
from conftest import ROOT, SHARED, SMOLLM2, Recipe
from slow_choice import SLOW, slow_budget, slow_places

from pausedata import strategies
from pausedata.analysis.verify import verify
from pausedata.core.progress import Silent
from pausedata.models.tokens import begins_character
from pausedata.store.dataset import Version, open_version
from pausedata.store.tables import list_parts
from pausedata.strategies import Batch

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not SMOLLM2.is_file(), reason="models/ has no SmolLM2: make model"),
]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The first eight problems of the quickstart, built from its own recipe."""
    from pausedata.pipeline.build import build
    from pausedata.pipeline.recipe import load_recipe

    root = tmp_path_factory.mktemp("quickstart") / "out"
    loaded = load_recipe(ROOT / "recipes" / "quickstart.yaml", {"source.limit": 8})
    return build(loaded, root).version


def test_the_quickstart_is_whole(quickstart: Version) -> None:
    assert quickstart.manifest.rows["train"].out == 8
    assert quickstart.manifest.pause.model_dump() == {
        "token": "[PAUSE]",
        "id": 49152,
        "id_is_new": True,
    }
    assert verify(quickstart, Silent()) == []


def test_the_response_ends_as_the_chat_template_ends_a_turn(quickstart: Version) -> None:
    _, [examples, tokens] = next(iter(aligned(quickstart, "examples", "tokens")))
    assert examples["prompt"][0].as_py().endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert all(ids[-1] == 2 for ids in tokens["response_ids"].to_pylist())  # <|im_end|>


def test_the_placement_is_that_of_an_independent_float64_reckoning(quickstart: Version) -> None:
    """Logits of transformers, one example at a time; log-softmax in float64; sorted by hand."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        SMOLLM2.parent, gguf_file=SMOLLM2.name, dtype=torch.float32
    ).eval()
    tables = [t for _, t in aligned(quickstart, "tokens", "scores/base", "placements/dit")]
    largest = 0.0
    for tokens, scores, placement in tables:
        for i in range(tokens.num_rows):
            prompt, response = tokens["prompt_ids"][i].as_py(), tokens["response_ids"][i].as_py()
            with torch.no_grad():
                logits = model(torch.tensor([prompt + response])).logits[0].double()
            wanted = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
            expected = wanted[range(len(response)), response]
            stored = torch.tensor(scores["logprob"][i].as_py(), dtype=torch.float64)
            largest = max(largest, float((stored - expected).abs().max()))
            order = sorted(range(len(response)), key=lambda k: (float(expected[k]), k))
            spread = float(expected[order[5]] - expected[order[4]])
            if spread > 2e-4:  # else two tokens are too near to tell apart
                assert placement["position"][i].as_py() == sorted(order[:5])
    assert largest <= 1e-4


@pytest.fixture(scope="module")
def gsm8k(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Eight real rows of GSM8K, built from the recipe for it."""
    from pausedata.pipeline.build import build
    from pausedata.pipeline.recipe import load_recipe

    rows = SHARED / "gsm8k_train.jsonl"
    if not rows.is_file():
        pytest.skip("no gsm8k_train.jsonl beside the repository")
    changes = {
        "source.hub": None,
        "source.files": [str(rows)],
        "source.limit": 8,
        "model.id": str(SMOLLM2),
    }
    root = tmp_path_factory.mktemp("gsm8k") / "out"
    return build(load_recipe(ROOT / "recipes" / "gsm8k.yaml", changes), root).version


@pytest.mark.parametrize("dataset", ["quickstart", "gsm8k"])
def test_strategies_agree_with_their_slow_versions_on_real_scores(
    dataset: str, request: pytest.FixtureRequest
) -> None:
    batches = scored(request.getfixturevalue(dataset))
    for name, parameters in [
        ("lowest_logprob", {"positions": 5}),
        ("lowest_logprob", {"fraction": 0.1, "min_gap": 4}),
        ("highest_entropy", {"positions": 5}),
        ("threshold", {}),
        ("threshold", {"rank": 3, "positions": 6, "min_gap": 2}),
    ]:
        for batch in batches:
            found = positions(name, batch, parameters)
            assert found == slow_places(batch, parameters, SLOW[name])
            assert sum(map(len, found)) >= len(found)  # it had something to do
    for parameters in ({"per_100": 10}, {"per_100": 4.5, "min_gap": 3, "max_positions": 8}):
        budget = strategies.get("budget")
        assert budget.fit
        fitted = budget.fit(lambda: batches, strategies.parse(budget, parameters, "here"))
        places = [
            positions("budget", dataclasses.replace(batch, fitted=fitted), parameters)
            for batch in batches
        ]
        assert (places, fitted) == slow_budget(batches, parameters)
        assert fitted["places"] > 0


def scored(version: Version) -> list[Batch]:
    """Each shard as a batch of the run `base`."""
    batches = []
    for _, [tokens, scores] in aligned(version, "tokens", "scores/base"):
        offsets, start = list_parts(tokens, "char_start")
        _, end = list_parts(tokens, "char_end")
        columns = {name: list_parts(scores, name)[1] for name in ("logprob", "rank", "entropy")}
        batches.append(
            Batch(
                ids=tokens["id"].to_pylist(),
                offsets=offsets,
                begins_character=begins_character(start, end, offsets),
                special=np.zeros(len(start), np.bool_),
                **columns,
            )
        )
    return batches


def positions(name: str, batch: Batch, parameters: dict[str, Any]) -> list[list[int]]:
    """Where the strategy places, in each example."""
    strategy = strategies.get(name)
    placed, _ = strategies.place(strategy, batch, strategies.parse(strategy, parameters, "here"))
    return [placed.positions[placed.example == k].tolist() for k in range(len(batch.ids))]


def test_a_prompt_that_ends_in_a_space_is_warned_of(recipe: Recipe, tmp_path: Path) -> None:
    recipe.data["model"]["id"] = str(SMOLLM2)
    recipe.data["source"]["limit"] = 4
    recipe.data["prompt"] = "Question: {{ question }}\nAnswer: "
    recipe.data["response"] = "{{ answer }}"
    progress = Silent()
    recipe.build(progress=progress)
    assert any("first token" in warning for warning in progress.warnings)
    assert open_version(recipe.out).number == 1
