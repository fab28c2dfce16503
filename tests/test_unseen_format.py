"""What build and place tell where pauses go before a format that the model has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Recipe

from pausedata import strategies
from pausedata.analysis.piled import PausedTexts, Pile, paused_texts
from pausedata.core.progress import Silent
from pausedata.pipeline import unseen_format
from pausedata.pipeline.commands import place
from pausedata.pipeline.recipe import Placement
from pausedata.pipeline.steps import place as place_step
from pausedata.pipeline.unseen_format import Piled, by_score_alone, warning
from pausedata.store.dataset import Table, Version, open_version
from tests import small_dataset
from tests.small_dataset import DOT, EOS, FOUR, IS, SUM, THE, make_dataset

# In each response " is" is what the model has never seen, and one word of four is hard, in turn.
WORDS = (THE, SUM, FOUR, DOT)
LOWEST = {"strategy": "lowest_logprob", "positions": 2}


def dataset(root: Path, examples: int = 10, is_logprob: float = -9.0) -> Version:
    """Responses of six tokens: " is", the four words, the end."""
    rows = []
    for k in range(examples):
        hard = [-5.0 if number == k % 4 else -0.5 for number in range(4)]
        tokens = [(IS, is_logprob), *zip(WORDS, hard, strict=True), (EOS, -1.0)]
        spans = [(id, n, n + 1, logprob, 1) for n, (id, logprob) in enumerate(tokens)]
        rows.append((f"e{k:02}", "Q", "abcdef", spans))
    shards = [("train", 0, 2, rows[:4]), ("train", 1, 2, rows[4:])]
    return make_dataset(root, shards=shards, placements=False)


def warnings(root: Path, **placements: dict[str, Any]) -> list[str]:
    """What `place` warns of."""
    progress = Silent()
    specs = {name: Placement.model_validate(said) for name, said in placements.items()}
    place(root, specs, progress=progress)
    return progress.warnings


def test_it_names_the_texts_that_pauses_pile_up_before_and_what_to_do(tmp_path: Path) -> None:
    """Two of six tokens in ten responses: " is" in all, then the hard one: e.g. " The", in three.

    Three of 20 pauses are more than a tenth, too, but " The" has them at three places of ten.
    """
    [said] = warnings(dataset(tmp_path / "d").root, dit=LOWEST)
    assert said.startswith(
        "scores/base: 10 of the 20 pauses of placements/dit stand before ' is' (10 of its 10 "
        "occurrences). "
    )
    assert "The" not in said and "eos" not in said
    assert "{warmup: true}" in said and "score --warmup" in said
    assert len(said.splitlines()) == 2


def test_one_warning_tells_of_all_placements_by_a_run(tmp_path: Path) -> None:
    root = dataset(tmp_path / "d").root
    other = {"strategy": "lowest_logprob", "positions": 2, "run": "other"}
    three = {"strategy": "lowest_logprob", "positions": 3}
    base, second = warnings(root, dit=LOWEST, three=three, dit_other=other)
    assert base.startswith("scores/base:") and second.startswith("scores/other:")
    # The third is the end token: two thirds of its pauses pile up, and half of those of dit.
    assert "10 of the 30 pauses of placements/three stand before '<eos>'" in base
    assert ", 10 before ' is' (10 of its 10 occurrences) (likewise dit)" in base
    assert "eos" not in second


@pytest.mark.parametrize(
    "spec",
    [
        {"strategy": "random", "positions": 2},
        {"strategy": "append", "tokens": 1},
        {"strategy": "regex", "pattern": "a"},  # " is", on purpose
        LOWEST | {"eligible": {"inside": "a"}},
        # Five of six tokens: most texts have pauses nearly everywhere.
        {"strategy": "lowest_logprob", "positions": 5},
    ],
    ids=["random", "append", "regex", "inside", "nearly every token"],
)
def test_it_is_silent_where_pauses_are_meant_to_stand(tmp_path: Path, spec: dict[str, Any]) -> None:
    assert warnings(dataset(tmp_path / "d").root, other_ones=spec) == []


def test_it_is_silent_where_pauses_stand_before_what_is_hard(tmp_path: Path) -> None:
    """ " is" as likely as the rest: each of four words has a quarter of the pauses, and of its
    occurrences.
    """
    root = dataset(tmp_path / "d", examples=40, is_logprob=-0.1).root
    assert warnings(root, dit={"strategy": "lowest_logprob", "positions": 1}) == []


@pytest.mark.parametrize(
    ("examples", "positions"), [(9, 2), (7, 3)], ids=["18 places", "7 examples"]
)
def test_few_pauses_say_nothing(tmp_path: Path, examples: int, positions: int) -> None:
    spec = {"strategy": "lowest_logprob", "positions": positions}
    assert warnings(dataset(tmp_path / "d", examples).root, dit=spec) == []


def counted(**texts: tuple[int, int, int]) -> PausedTexts:
    """Texts with occurrences, places and pauses, and 40 pauses before what occurs once each."""
    columns = np.array([*texts.values(), *([(1, 1, 1)] * 40)], np.int64).T
    names = [*texts, *(f"w{k}" for k in range(40))]
    return PausedTexts(names, *columns, examples=20, pauses=int(columns[2].sum()))


@pytest.mark.parametrize(
    ("figures", "piled"),
    [
        ((40, 38, 38), True),
        # A frequent word, half of whose occurrences have pauses; and just more than half of it.
        ((400, 200, 200), False),
        ((76, 38, 38), False),
        ((74, 38, 38), True),
        # 4 of 44 pauses are less than a tenth; 5 of 45 are more.
        ((4, 4, 4), False),
        ((5, 5, 5), True),
        # 2 places, but 10 of 50 pauses, which are what training sees.
        ((2, 2, 10), True),
    ],
)
def test_a_text_piles_up_by_its_share_of_pauses_and_of_its_occurrences(
    figures: tuple[int, int, int], piled: bool
) -> None:
    rest = (2000, 0, 0)  # which has none, so that few tokens have a pause
    found = counted(it=figures, rest=rest).piled()
    assert found == ([Pile("it", *figures)] if piled else [])


def test_ids_with_one_text_are_counted_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words " sum" and " The" both with the text " The": 3 + 3 of 10 + 10 occurrences."""
    vocab = list(small_dataset.VOCAB)
    vocab[SUM] = vocab[THE]
    monkeypatch.setattr(small_dataset, "VOCAB", vocab)
    root = dataset(tmp_path / "d").root
    warnings(root, dit=LOWEST)
    version = open_version(root)
    tokens, dit, vocab_table = (version.table(n) for n in ("tokens", "placements/dit", "vocab"))
    found = paused_texts(tokens, [dit], vocab_table)["placements/dit"]
    at = found.texts.index(" The")
    assert (found.occurrences[at], found.places_before[at], found.pauses_before[at]) == (20, 6, 6)
    assert (found.examples, found.pauses, len(found.texts)) == (10, 20, len(vocab) - 1)


@pytest.mark.parametrize(
    ("name", "values", "alone"),
    [
        ("lowest_logprob", {"positions": 1}, True),
        ("lowest_logprob", {"positions": 1, "eligible": {"without": ["eos", "special"]}}, True),
        ("lowest_logprob", {"positions": 1, "eligible": {"inside": "x"}}, False),
        ("highest_entropy", {"positions": 1}, True),
        ("hardest_sentence", {"positions": 1}, False),  # at their first tokens on purpose
        ("every_word", {"every_n_tokens": 2}, False),
        ("random", {"positions": 1}, False),
        ("append", {"tokens": 1}, False),
    ],
)
def test_which_strategies_are_looked_at(name: str, values: dict[str, Any], alone: bool) -> None:
    strategy, parameters = strategies.of(name, values, "here")
    contents = dict.fromkeys(["tokens", "scores/base", "examples", "vocab"], "a hash")
    assert by_score_alone(place_step.inputs(strategy, parameters, "base", contents)) is alone


@pytest.mark.parametrize(
    ("warmup", "told"),
    [
        ({"outcome": "warmed"}, ["after its warm-up", "scoring.warmup.rows"]),
        ({"outcome": "base", "reason": "fold 1 of 2 has 6 rows"}, ["scored as it is", "6 rows"]),
    ],
)
def test_whose_warm_up_was_asked_for_is_not_told_to_ask_for_one(
    tmp_path: Path, warmup: dict[str, Any], told: list[str]
) -> None:
    table = dataset(tmp_path / "d").table("scores/base")
    entry = table.entry.model_copy(update={"provenance": {"warmup": warmup}})
    run = Table(table.name, entry, table.folder)
    said = warning(run, [Piled("placements/dit", 20, [Pile(" is", 10, 10, 10)])], [])
    assert all(words in said for words in told) and "warmup: true" not in said


def test_a_text_cannot_move_the_cursor(tmp_path: Path) -> None:
    table = dataset(tmp_path / "d").table("scores/base")
    piled = [Piled("placements/dit", 20, [Pile("\n\x1b[2J\u202e", 10, 10, 10)])]
    assert r"stand before '\n\x1b[2J\u202e' (10 of" in warning(table, piled, [])


def test_build_says_it_once_for_a_run(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the end token stands out, too, which here it does since any gap is enough."""
    monkeypatch.setattr(unseen_format, "EDGE_GAP", -100.0)
    progress = Silent()
    recipe.build(progress=progress)
    [said] = [text for text in progress.warnings if "warmup: true" in text]
    assert "first token" in said and "appended end token" in said
    again = Silent()
    recipe.build(progress=again)  # where nothing is made
    assert again.warnings == []
