"""The negative control: models that listen to places, and a gate that is not taken in by it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from listening import teach_on, write_base, write_recipe

from pausedata import strategies
from pausedata.measure.declared import known_before
from pausedata.measure.result import Measurement
from pausedata.measure.run import MeasureOptions, measure
from pausedata.models.prepare import prepare_model
from pausedata.models.ref import ModelRef
from pausedata.pipeline.build import build
from pausedata.pipeline.recipe import load_recipe
from pausedata.pipeline.rules import Rules
from pausedata.store.dataset import open_version

pytestmark = pytest.mark.trainers
STEPS, TRAIN, TEST = 120, 1500, 150
RULES = Rules(min_gain=0.01)


def coins(rng: random.Random) -> dict[str, str]:
    """24 bits of which three in ten are ones: there is nothing to think about."""
    bits = "".join("01"[rng.random() < 0.3] for _ in range(24))
    return {"prompt": f"{rng.randrange(1000):03d}=", "response": bits}


def fork(rng: random.Random) -> dict[str, str]:
    """A coin that decides whether what follows is certain, or more uncertain than itself."""
    letters = "".join(rng.choice("abcd") for _ in range(5))
    response = f"1{letters}" if rng.random() < 0.5 else "0zzzzz"
    return {"prompt": f"{rng.randrange(1000):03d}=", "response": response}


class Heard:
    """Models that were trained on each of some placements of a corpus, and what they gain."""

    def __init__(self, folder: Path, row: Any, placements: dict[str, Any]) -> None:
        rng = random.Random(0)
        splits = {
            name: [row(rng) for _ in range(n)] for name, n in (("train", TRAIN), ("test", TEST))
        }
        self.folder = folder
        base = write_base(folder / "base", splits["train"], STEPS)
        placements = {"nowhere": {"strategy": "none"}} | placements
        recipe = write_recipe(folder, base, splits, placements)
        build(load_recipe(recipe), folder / "dataset")
        self.version = open_version(folder / "dataset")
        prepare_model(ModelRef.parse(str(base), None, Path()), folder / "prepared")
        self.plain = self.model("nowhere")

    def model(self, placement: str) -> Path:
        """The model that was trained on a placement."""
        out = self.folder / "models" / placement
        if not out.exists():
            exported = self.version.folder / "exports" / placement.replace("_", "-")
            teach_on(self.folder / "prepared", exported / "train.jsonl", out, STEPS)
        return out

    def gain(self, placement: str) -> Measurement:
        """What it gains over the one that was trained without pauses, on other examples."""
        asked = MeasureOptions(
            models=[str(self.model(placement))],
            placement=placement,
            baselines=[str(self.plain)],
            rules=RULES,
            to_the_end=True,
        )
        return measure(self.folder / "dataset", asked)[0]


COINS = {
    "lowest_logprob": {"positions": 5},
    "append": {"tokens": 5},
    "random": {"positions": 5},
    "every_word": {},
    "threshold": {},
    "regex": {"pattern": "1"},
    "sentence": {},
    "highest_entropy": {"positions": 5},
    "surprisal_spike": {"z": 1.0, "window": 8},
    "sampled": {"positions": 5, "temperature": 0.1},
    "budget": {"per_100": 20},
    "excess": {"positions": 5, "reference": "second"},
    "hardest_sentence": {"positions": 1},
    "combine": {"of": ["lowest_logprob", "regex"]},
}
# Of these the places tell so much that a model that listens gains far more than the rule asks for.
TALK = {
    *("lowest_logprob", "threshold", "regex", "sampled", "budget", "combine", "surprisal_spike"),
}


@pytest.fixture(scope="module")
def coin_flips(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    """Models that were trained on coin flips."""
    placements = {
        name: {"strategy": name} | values for name, values in COINS.items() if name != "excess"
    }
    return Heard(tmp_path_factory.mktemp("coins"), coins, placements)


@pytest.mark.parametrize("name", sorted(set(COINS) - {"excess"}))
def test_on_coin_flips_no_placement_gets_a_go(coin_flips: Heard, name: str) -> None:
    found = coin_flips.gain(name)
    figures, judged = found.whole.figures, found.whole.judged
    assert judged is not None and judged.verdict != "go"
    assert figures.gain is not None and figures.leak is not None
    if name in TALK:
        assert figures.gain > 0.05 and judged.verdict == "not-enough-data"
        assert "may be what the places tell of the tokens behind them" in judged.reasons[0]
        assert figures.leak > figures.gain  # the bound is one
    else:
        assert figures.gain < 0.01
    # All are as long as one another, so that random places tell nothing, too.
    if known_before(coin_flips.version, name) or name == "random":
        assert figures.leak == 0 and judged.verdict == "no-go"


def test_every_strategy_is_tried() -> None:
    # `excess` reads a second run; it ranks by the token's own log-probability as lowest_logprob.
    assert set(COINS) | {"none"} == set(strategies.own())


def test_the_most_of_a_whole_response_tell_of_what_comes_though_each_is_known_before(
    tmp_path: Path,
) -> None:
    """Where the entropy is highest of all depends on tokens that are still to come.

    A pause before the coin says that nothing behind it is more uncertain, and so how it fell: of
    the 7 tokens ln 2 is to be won, 0.099 nats for each. So `highest_entropy` is not known before.
    """
    placements = {"entropy": {"strategy": "highest_entropy", "positions": 1}}
    found = Heard(tmp_path, fork, placements).gain("entropy")
    assert found.whole.figures.gain == pytest.approx(0.099, abs=0.02)
    assert found.verdict == "not-enough-data"
