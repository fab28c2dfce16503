"""What `generate` is asked for beside pauses: stop strings, n-grams, assistants, embeddings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMOLLM2, problems
from hypothesis import given, settings
from hypothesis import strategies as st
from pausing import Pausing, prepared
from transformers import (
    AutoTokenizer,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StopStringCriteria,
)

from pausedata.core.errors import UsageError
from pausedata.inference import PauseStopStrings, WithoutPauses
from pausedata.inference.generation import GenerationWarning

PROMPTS = ["Question: 2 + 3?\nAnswer:", "Why", "A box holds twelve pencils and a pen.\nSo"]


@pytest.fixture(scope="module")
def tiny(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pausing:
    return prepared(model_folder, tmp_path_factory.mktemp("paused") / "model")


def real(tiny: Pausing, row: list[int]) -> list[int]:
    """The row without its pauses."""
    return [token for token in row if token != tiny.pause]


# Stop strings


def cut_text(tiny: Pausing, row: list[int]) -> str:
    """A text that two tokens of ``row`` make, with a pause between them."""
    ids = real(tiny, row)
    for k in range(4, len(ids) - 1):
        text = tiny.tokenizer.decode(ids[k : k + 2])
        if text.isascii() and text not in tiny.tokenizer.decode(ids[: k + 1]):
            return text
    raise AssertionError("no such text")


def test_a_pause_does_not_hide_a_stop_string(tiny: Pausing) -> None:
    """With a pause after every token; transformers' own goes on to the limit, and that is said."""
    (free,) = tiny.generate(PROMPTS[1:2], tiny.processor(1), length=60)
    stop = cut_text(tiny, free)
    criteria = [PauseStopStrings(tiny.tokenizer, [stop])]
    (row,) = tiny.generate(PROMPTS[1:2], tiny.processor(1), length=60, stopping_criteria=criteria)
    assert row == free[: len(row)] and len(row) < 60
    assert stop in tiny.tokenizer.decode(real(tiny, row))
    assert stop not in tiny.tokenizer.decode(real(tiny, row)[:-1])
    with pytest.warns(GenerationWarning, match="PauseStopStrings"):
        (row,) = tiny.generate(
            PROMPTS[1:2],
            tiny.processor(1),
            length=60,
            stop_strings=[stop],
            tokenizer=tiny.tokenizer,
        )
    assert row == free


def test_each_row_of_a_batch_stops_where_it_has_the_text(tiny: Pausing) -> None:
    free = tiny.generate(PROMPTS, tiny.processor(1), length=60)
    stop = cut_text(tiny, free[1])
    criteria = [PauseStopStrings(tiny.tokenizer, stop)]
    rows = tiny.generate(PROMPTS, tiny.processor(1), length=60, stopping_criteria=criteria)
    for row, whole in zip(rows, free, strict=True):
        texts = [tiny.tokenizer.decode(real(tiny, whole[:n])) for n in range(1, len(whole) + 1)]
        ends = next((n for n, text in enumerate(texts, 1) if stop in text), len(whole))
        assert row[:ends] == whole[:ends]
        assert set(row[ends:]) <= {tiny.tokenizer.pad_token_id}


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=12), st.data())
def test_it_stops_just_where_the_tokens_without_pauses_do(
    tiny: Pausing, tokens: list[int], data: st.DataObject
) -> None:
    """Here over all places of a pause but the last, which nothing can be new at."""
    strings = [tiny.tokenizer.decode(tokens[-2:]), "\n\n"]
    strings = [text for text in strings if text and text.isascii()]
    with_pauses = list(tokens)
    for _ in range(data.draw(st.integers(0, 4))):
        with_pauses.insert(data.draw(st.integers(0, len(with_pauses) - 1)), tiny.pause)
    own = PauseStopStrings(tiny.tokenizer, strings)
    plain = StopStringCriteria(tiny.tokenizer, strings)
    expected = plain(torch.tensor([tokens]), None)  # type: ignore[arg-type]
    assert own(torch.tensor([with_pauses]), None).tolist() == expected.tolist()
    assert own(torch.tensor([[*with_pauses, tiny.pause]]), None).tolist() == [False]


def test_a_stop_string_that_is_none(tiny: Pausing, model_folder: Path) -> None:
    for strings in ([], "", ["a", ""], [3]):
        with pytest.raises(UsageError, match="give a text, or a list of texts"):
            PauseStopStrings(tiny.tokenizer, strings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has no token"):
        PauseStopStrings(AutoTokenizer.from_pretrained(model_folder), "a")


# Rules of what follows what


def repeated(ids: list[int], size: int) -> int:
    grams = [tuple(ids[k : k + size]) for k in range(len(ids) - size + 1)]
    return len(grams) - len(set(grams))


def test_n_grams_are_those_of_the_text(tiny: Pausing) -> None:
    """transformers' own forbids pauses that it has seen, and sees no n-gram across one."""
    prompts, pauses = PROMPTS[1:2], [True, True, True, False]
    rule = WithoutPauses(tiny.tokenizer, NoRepeatNGramLogitsProcessor(2))
    assert repeated(tiny.generate(prompts, length=60)[0], 2) > 0
    processor = tiny.processor(1, tokens=3)
    inputs = tiny.encode(prompts)
    made = tiny.model.generate(
        **inputs,
        logits_processor=[rule, processor],
        max_new_tokens=64,
        do_sample=False,
        pad_token_id=tiny.tokenizer.pad_token_id,
    )[0, inputs["input_ids"].shape[1] :].tolist()
    assert [token == tiny.pause for token in made] == pauses * 16
    start = inputs["input_ids"][0].tolist()
    assert repeated(start + real(tiny, made), 2) == 0
    with pytest.warns(GenerationWarning, match="NoRepeatNGramLogitsProcessor takes pauses for"):
        (row,) = tiny.generate(prompts, processor, length=64, no_repeat_ngram_size=2)
    runs = "".join("P" if token == tiny.pause else " " for token in row).split()
    assert max(map(len, runs)) == 2  # a pause after a pause once, and no more
    assert runs.count("PP") == 1


def test_a_rule_sees_each_row_without_its_pauses(tiny: Pausing) -> None:
    seen = []

    class Lengths(RepetitionPenaltyLogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            seen.append(input_ids.tolist())
            return super().__call__(input_ids, scores)

    rule = WithoutPauses(tiny.tokenizer, Lengths(2.0))
    ids = torch.tensor([[5, tiny.pause, 6], [7, 8, 9]])
    scores = torch.full((2, tiny.pause + 1), -1.0)
    made = rule(ids, scores)
    assert seen == [[[5, 6]], [[7, 8, 9]]]
    assert [int((row < -1).sum()) for row in made] == [2, 3]
    assert made[0, tiny.pause] == -1.0  # the pause is no repetition


def test_the_pauses_themselves_are_not_put_in_by_it(tiny: Pausing) -> None:
    with pytest.raises(UsageError, match="has to see the pauses"):
        WithoutPauses(tiny.tokenizer, tiny.processor())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bad_words_ids": [[5, 6]]}, "NoBadWordsLogitsProcessor"),
        ({"sequence_bias": [[[5, 6], -2.0]]}, "SequenceBiasLogitsProcessor"),
        ({"num_beams": 2, "no_repeat_ngram_size": 2}, "NoRepeatNGramLogitsProcessor"),
        ({"bad_words_ids": [[5]]}, None),
        ({"repetition_penalty": 1.3, "min_new_tokens": 3}, None),
    ],
)
def test_what_pauses_disturb_is_told_and_no_more(
    tiny: Pausing, options: dict[str, Any], told: str | None
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny.generate(PROMPTS, tiny.processor(0.8), length=8, **options)
    lines = [str(w.message) for w in caught if w.category is GenerationWarning]
    assert [line.partition(" ")[0] for line in lines] == ([told] if told else [])


# Assisted decoding


@pytest.mark.parametrize("how", ["assistant_model", "prompt_lookup_num_tokens"])
@pytest.mark.parametrize("sampled", [False, True])
def test_assisted_decoding_is_refused(tiny: Pausing, how: str, sampled: bool) -> None:
    options: dict[str, Any] = {how: tiny.model if how == "assistant_model" else 3}
    processor = tiny.processor(1, max_pauses=2)
    with pytest.raises(UsageError, match="assisted decoding"):
        tiny.generate(PROMPTS[:1], processor, do_sample=sampled, **options)
    # The same processor serves the next call.
    (row,) = tiny.generate(PROMPTS[:1], processor)
    assert tiny.check(PROMPTS[0], row, threshold=1, max_pauses=2) == 2


def test_a_conversation_is_not_taken_for_assisted_decoding(tiny: Pausing) -> None:
    """Prompts that hold the answer before, whole, shortened, or with one token more."""
    processor = tiny.processor(0.9, max_pauses=3)
    prompt = PROMPTS[0]
    for _ in range(3):
        (row,) = tiny.generate([prompt], processor, length=16)
        assert tiny.check(prompt, row, threshold=0.9, max_pauses=3) > 0
        answer = tiny.tokenizer.decode(real(tiny, row))
        prompt += answer[:5] + "\nWhy?"


# Embeddings in place of ids


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_return_sequences": 2}])
def test_a_prompt_as_embeddings(tiny: Pausing, options: dict[str, Any]) -> None:
    inputs = tiny.encode(PROMPTS)
    keys = {"pad_token_id": tiny.tokenizer.pad_token_id, "max_new_tokens": 16, **options}
    requests = [{"threshold": 0.9, "max_pauses": 2}, None, {"threshold": 0}]
    processor = tiny.processor(0.8, requests=requests)
    found = []
    embedded = tiny.model.get_input_embeddings()(inputs["input_ids"])
    mask = {"attention_mask": inputs["attention_mask"]}
    for prompt in ({"inputs_embeds": embedded} | mask, {"inputs_embeds": embedded} | mask, inputs):
        torch.manual_seed(0)
        sampled = "num_return_sequences" in options
        rows = tiny.model.generate(
            **prompt, **keys, do_sample=sampled, logits_processor=[processor]
        )
        found.append(rows[:, -16:].tolist())
    assert found[0] == found[1] == found[2]
    assert any(tiny.pause in row for row in found[0])


# Whose request a row is


def test_other_prompts_are_no_return_sequences(tiny: Pausing) -> None:
    two = [{"threshold": 0.9}, {"threshold": 0}]
    four = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[1]]
    with pytest.raises(UsageError, match="requests has 2 entries, and 4 rows"):
        tiny.generate(four, tiny.processor(requests=two))
    with pytest.raises(UsageError, match="requests has 1 entries, and 2 rows"):
        tiny.generate(four[:2], tiny.processor(requests=two[:1]))
    rows = tiny.generate(four, tiny.processor(requests=two * 2))
    assert [tiny.pause in row for row in rows] == [True, False, True, False]
    rows = tiny.generate(four[:2], tiny.processor(requests=two), num_beams=2)
    assert [tiny.pause in row for row in rows] == [True, False]
    rows = tiny.generate(four[:1], tiny.processor(requests=two[:1]), num_beams=2)
    assert tiny.pause in rows[0]


# The real model


@pytest.mark.model
@pytest.mark.skipif(not SMOLLM2.is_file(), reason="models/ has no SmolLM2: make model")
def test_stop_strings_of_the_real_model(tmp_path: Path) -> None:
    """A blank line, whose two ends a pause stands between."""
    paused = prepared(SMOLLM2, tmp_path / "paused")
    prompt = f"Question: {problems(1)[0]['question']}\nAnswer:"
    # The model was never trained on pauses: left to itself it ends at once.
    keys: dict[str, Any] = {"length": 40, "suppress_tokens": [paused.tokenizer.eos_token_id]}
    (free,) = paused.generate([prompt], paused.processor(1), **keys)
    assert "\n\n" in paused.tokenizer.decode(real(paused, free))
    criteria = [PauseStopStrings(paused.tokenizer, "\n\n")]
    (row,) = paused.generate([prompt], paused.processor(1), stopping_criteria=criteria, **keys)
    assert row == free[: len(row)] and len(row) < len(free)
    assert paused.tokenizer.decode(row).endswith("\n[PAUSE]\n")
    assert paused.tokenizer.decode(real(paused, row)).count("\n\n") == 1
