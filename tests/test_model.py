"""The whole pipeline on the real SmolLM2-135M-Instruct (`make test-model`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SMOLLM2, Recipe

from pausedata.progress import Silent
from pausedata.store.dataset import Version, open_version
from pausedata.verify import verify

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not SMOLLM2.is_file(), reason="models/ has no SmolLM2: make model"),
]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The first eight problems of the quickstart, built from its own recipe."""
    from pausedata.build import build
    from pausedata.recipe import load_recipe

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
    _, [examples, tokens] = next(iter(quickstart.aligned("examples", "tokens")))
    assert examples["prompt"][0].as_py().endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert all(ids[-1] == 2 for ids in tokens["response_ids"].to_pylist())  # <|im_end|>


def test_the_placement_is_that_of_an_independent_float64_reckoning(quickstart: Version) -> None:
    """Logits of transformers, one example at a time; log-softmax in float64; sorted by hand."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        SMOLLM2.parent, gguf_file=SMOLLM2.name, dtype=torch.float32
    ).eval()
    tables = [t for _, t in quickstart.aligned("tokens", "scores/base", "placements/dit")]
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


def test_a_prompt_that_ends_in_a_space_is_warned_of(recipe: Recipe, tmp_path: Path) -> None:
    recipe.data["model"]["id"] = str(SMOLLM2)
    recipe.data["source"]["limit"] = 4
    recipe.data["prompt"] = "Question: {{ question }}\nAnswer: "
    recipe.data["response"] = "{{ answer }}"
    progress = Silent()
    recipe.build(progress=progress)
    assert any("first token" in warning for warning in progress.warnings)
    assert open_version(recipe.out).number == 1
