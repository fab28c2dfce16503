"""Pauses in what transformers generates: a tiny real model, and the real SmolLM2 behind `model`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SMOLLM2, problems
from hypothesis import given
from hypothesis import strategies as st
from pausing import Pausing, prepared
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer, TextStreamer

from pausedata.core.errors import UsageError
from pausedata.inference import (
    OutputDeltas,
    PauseLogitsProcessor,
    PauseStreamer,
    TextDeltas,
    strip_output,
    strip_pauses,
)

PROMPTS = ["Question: 2 + 3?\nAnswer:", "Why", "A box holds twelve pencils and a pen.\nSo"]


@pytest.fixture(scope="module")
def tiny(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pausing:
    return prepared(model_folder, tmp_path_factory.mktemp("paused") / "model")


# Where pauses come


def test_without_a_threshold_it_is_plain_greedy_decoding(tiny: Pausing) -> None:
    plain = tiny.generate(PROMPTS)
    assert tiny.generate(PROMPTS, tiny.processor(0)) == plain
    assert not any(tiny.pause in row for row in plain)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_pauses_stand_just_where_the_model_is_unsure(tiny: Pausing, threshold: float) -> None:
    """Batched with padding on the left; recomputed row by row, without padding."""
    rows = tiny.generate(PROMPTS, tiny.processor(threshold))
    counts = [tiny.check(p, row, threshold=threshold) for p, row in zip(PROMPTS, rows, strict=True)]
    assert sum(counts) > 0
    assert [tiny.generate([p], tiny.processor(threshold))[0] for p in PROMPTS] == rows


def test_or_where_the_entropy_is_high(tiny: Pausing) -> None:
    options = {"threshold": 0.0, "entropy_threshold": 2.0}
    rows = tiny.generate(PROMPTS, tiny.processor(**options))
    counts = [tiny.check(p, row, **options) for p, row in zip(PROMPTS, rows, strict=True)]
    assert 0 < sum(counts) < sum(map(len, rows)) / 2


def test_at_threshold_one_every_second_token_is_a_pause(tiny: Pausing) -> None:
    (row,) = tiny.generate(PROMPTS[1:2], tiny.processor(1), length=12)
    assert [token == tiny.pause for token in row] == [True, False] * 6


def test_the_pause_itself_does_not_count_as_the_highest(tiny: Pausing) -> None:
    """Where a model wants a pause, it is unsure of all else; but it writes none by itself."""
    processor = tiny.processor(0.5)
    ids = torch.tensor([[5, 6]])
    scores = torch.full((1, tiny.pause + 1), -20.0)
    scores[0, tiny.pause], scores[0, 7] = 4.0, 3.0  # 0.73 and 0.27
    (made,) = processor(ids, scores)
    assert int(made.argmax()) == tiny.pause and torch.isinf(made).sum() == tiny.pause
    (made,) = tiny.processor(0.2)(ids, scores)
    assert int(made.argmax()) == 7 and made[tiny.pause] == -torch.inf
    assert scores[0, tiny.pause] == 4.0  # what was given is left alone


def test_a_pause_that_is_forbidden_is_not_forced(tiny: Pausing) -> None:
    """By a grammar, or a list of banned words."""
    rows = tiny.generate(PROMPTS, tiny.processor(1), suppress_tokens=[tiny.pause])
    assert rows == tiny.generate(PROMPTS)


def test_sampling_takes_the_forced_pause(tiny: Pausing) -> None:
    torch.manual_seed(0)
    rows = tiny.generate(PROMPTS, tiny.processor(0.5), do_sample=True, top_k=5, temperature=2.0)
    assert sum(tiny.check(p, r) for p, r in zip(PROMPTS, rows, strict=True)) > 0


# Limits


@pytest.mark.parametrize(
    "options",
    [
        {"max_pauses": 2},
        {"max_pauses": 0},
        {"cooldown": 4},
        {"tokens": 3},
        {"tokens": 2, "max_pauses": 5, "cooldown": 2},
        {"never_after": ["ow"]},
        {"never_inside": [("top", " 2")]},
    ],
)
def test_limits_hold_in_every_row(tiny: Pausing, options: dict[str, Any]) -> None:
    free = tiny.generate(PROMPTS, tiny.processor(0.8), length=48)
    rows = tiny.generate(PROMPTS, tiny.processor(0.8, **options), length=48)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        tiny.check(prompt, row, threshold=0.8, **options)
    assert rows != free


def test_what_the_prompt_holds_counts_towards_nothing(tiny: Pausing) -> None:
    """But a pause at its end is the last token, after which comes another."""
    prompt = "#### 1[PAUSE] x[PAUSE]"
    processor = tiny.processor(1, max_pauses=1, never_after=["####"])
    for _ in range(2):  # the second call begins anew
        (row,) = tiny.generate([prompt], processor, length=8)
        assert [token == tiny.pause for token in row] == [False, True] + [False] * 6


def test_one_processor_serves_one_generation_after_the_other(tiny: Pausing) -> None:
    processor = tiny.processor(0.8, max_pauses=3)
    alone = [tiny.generate([p], tiny.processor(0.8, max_pauses=3))[0] for p in PROMPTS]
    assert [tiny.generate([p], processor)[0] for p in PROMPTS] == alone
    assert tiny.generate(PROMPTS, processor) == alone


def test_each_request_of_a_batch_has_its_own(tiny: Pausing, tmp_path: Path) -> None:
    rule = tmp_path / "rule.json"
    rule.write_text(
        json.dumps({"format": "pausedata-eligibility/1", "groups": {"sets": "no-pause"}})
    )
    requests = [{"threshold": 0.9, "max_pauses": 2}, None, {"group": "sets"}]
    rows = tiny.generate(PROMPTS, tiny.processor(0.6, eligibility=rule, requests=requests))
    tiny.check(PROMPTS[0], rows[0], threshold=0.9, max_pauses=2)
    assert tiny.check(PROMPTS[1], rows[1], threshold=0.6) > 0
    assert rows[2] == tiny.generate(PROMPTS)[2]
    whole = tiny.processor(0.9, eligibility=rule, group="sets")
    assert tiny.generate(PROMPTS, whole) == tiny.generate(PROMPTS)


def test_several_answers_to_a_prompt_share_its_parameters(tiny: Pausing) -> None:
    requests = [{"threshold": 0.9, "max_pauses": 2}, {"threshold": 0}]
    torch.manual_seed(1)
    rows = tiny.generate(
        PROMPTS[:2], tiny.processor(requests=requests), do_sample=True, num_return_sequences=3
    )
    for row in rows[:3]:
        assert tiny.check(PROMPTS[0], row, threshold=0.9, max_pauses=2) > 0
    assert not any(tiny.pause in row for row in rows[3:])


def test_limits_follow_a_beam_wherever_it_goes(tiny: Pausing) -> None:
    options: dict[str, Any] = {"threshold": 0.8, "max_pauses": 3, "cooldown": 2}
    rows = tiny.generate(
        PROMPTS, tiny.processor(**options), num_beams=4, num_return_sequences=2, length=24
    )
    for k, row in enumerate(rows):
        assert tiny.check(PROMPTS[k // 2], row, **options) > 0


# Text without pauses


def test_ids_and_text_without_pauses(tiny: Pausing) -> None:
    (row,) = tiny.generate(PROMPTS[:1], tiny.processor(0.9))
    made = strip_pauses(row, tiny.tokenizer)
    assert made.ids == [token for token in row if token != tiny.pause]
    assert made.pauses == row.count(tiny.pause) > 0
    assert made.text == tiny.tokenizer.decode(row, skip_special_tokens=True)
    assert strip_pauses(torch.tensor(row), tiny.tokenizer) == made
    text = strip_pauses(tiny.tokenizer.decode(row))
    assert (text.text, text.ids, text.pauses) == (made.text, None, made.pauses)


@pytest.mark.parametrize("streamer", [TextStreamer, TextIteratorStreamer])
def test_a_stream_leaves_pauses_out_and_counts_them(
    tiny: Pausing, streamer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    inner = streamer(tiny.tokenizer, skip_prompt=True)
    pausing = PauseStreamer(inner)
    for prompt in PROMPTS[:2]:  # again with the same
        made: list[list[int]] = []
        arguments = ([prompt], tiny.processor(0.9), 32)
        thread = Thread(
            target=lambda a=arguments, m=made: m.extend(tiny.generate(*a, streamer=pausing))
        )
        thread.start()
        thread.join()
        printed = capsys.readouterr().out.removesuffix("\n")
        text = printed if streamer is TextStreamer else "".join(pausing)
        expected = strip_pauses(made[0], tiny.tokenizer, skip_special_tokens=False)
        assert text.removesuffix("<|endoftext|>") == expected.text
        assert pausing.pauses == expected.pauses > 0


@given(st.text("[PAUSE]x", max_size=30), st.integers(0, 4), st.data())
def test_a_text_in_pieces_is_the_text(noise: str, pauses: int, data: st.DataObject) -> None:
    text = noise.replace("[PAUSE]", "")
    for _ in range(pauses):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + "[PAUSE]" + text[at:]
    deltas, pieces, start = TextDeltas(), [], 0
    while start < len(text):
        size = data.draw(st.integers(1, 9))
        pieces.append(deltas.feed(text[start : start + size]))
        start += size
    assert "".join(pieces) + deltas.end() == text.replace("[PAUSE]", "")
    assert deltas.pauses == text.count("[PAUSE]")


def test_what_may_be_a_pause_is_held_back_and_no_more() -> None:
    deltas = TextDeltas()
    assert [deltas.feed(p) for p in ("a [PA", "USE] b", " [", "c")] == ["a ", " b", " ", "[c"]
    assert (deltas.end(), deltas.pauses) == ("", 1)


def output(**answers: Any) -> Any:
    """A `RequestOutput` of vLLM with one answer."""
    return SimpleNamespace(outputs=[SimpleNamespace(index=0, **answers)])


def test_outputs_of_vllm_whole_and_in_deltas(tiny: Pausing) -> None:
    ids = [7, tiny.pause, 8]
    (made,) = strip_output(output(token_ids=ids, text="a[PAUSE]b"), tiny.tokenizer)
    assert (made.text, made.ids, made.pauses) == ("ab", [7, 8], 1)
    # The engine left special tokens out of the text.
    (made,) = strip_output(output(token_ids=ids, text="ab"), tiny.tokenizer)
    assert (made.text, made.ids, made.pauses) == ("ab", [7, 8], 1)
    deltas = OutputDeltas(tiny.tokenizer)
    steps = [([7], "a[", None), ([tiny.pause], "PAUSE]", None), ([8], "b[P", "length")]
    made = [deltas(output(token_ids=i, text=t, finish_reason=r))[0] for i, t, r in steps]
    assert [(m.text, m.ids, m.pauses) for m in made] == [
        ("a", [7], 0),
        ("", [], 1),
        ("b[P", [8], 1),
    ]


# Bad input


def test_a_tokenizer_without_the_pause(model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for call in (
        lambda: PauseLogitsProcessor(tokenizer),
        lambda: strip_pauses([1], tokenizer),
        lambda: PauseStreamer(TextStreamer(tokenizer)),
    ):
        with pytest.raises(UsageError, match=r"no token '\[PAUSE\]'\. `pausedata prepare-model"):
            call()


def test_a_model_without_a_row_for_it(tiny: Pausing, model_folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(model_folder)
    inputs = tiny.encode(PROMPTS[:1])
    with pytest.raises(UsageError, match="no row for the pause"):
        plain.generate(**inputs, logits_processor=[tiny.processor()], max_new_tokens=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": 2}, "PauseLogitsProcessor: threshold: should be at most 1"),
        ({"max_pauses": -1}, "max_pauses: should be at least 0"),
        ({"group": "sets"}, "a group says nothing without eligibility"),
        ({"eligibility": "none.json"}, "none.json: no such eligibility rule"),
        ({"requests": []}, "requests is empty"),
        ({"requests": [None, {"cooldown": -1}]}, "requests[1]: cooldown: should be at least 0"),
        ({"requests": [{"treshold": 1}]}, "requests[0]: unknown key 'treshold'. Did you mean"),
        ({"pause_token": "[WAIT]"}, "no token '[WAIT]'"),
    ],
)
def test_a_wrong_argument(tiny: Pausing, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as told:
        tiny.processor(**options)
    assert says in str(told.value)


def test_requests_that_are_not_the_batch(tiny: Pausing) -> None:
    with pytest.raises(UsageError, match="requests has 2 entries, and 3 rows are generated"):
        tiny.generate(PROMPTS, tiny.processor(requests=[None, None]))


def test_ids_of_a_batch_or_without_a_tokenizer(tiny: Pausing) -> None:
    with pytest.raises(UsageError, match="row after row"):
        strip_pauses(torch.tensor([[1], [2]]), tiny.tokenizer)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="need the tokenizer"):
        strip_pauses([1, 2])


def test_importing_it_loads_no_torch() -> None:
    code = (
        "import sys, pausedata.inference as i; i.PauseParams; i.strip_pauses; print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "vllm", "numpy"} & set(run.stdout.split())


# The real model


@pytest.mark.model
@pytest.mark.skipif(not SMOLLM2.is_file(), reason="models/ has no SmolLM2: make model")
def test_the_real_model(tmp_path: Path) -> None:
    """At threshold 0 greedy decoding token for token; at 0.5 pauses just where they are due."""
    real = prepared(SMOLLM2, tmp_path / "paused")
    prompts = [f"Question: {row['question']}\nAnswer:" for row in problems(3)]
    plain = real.generate(prompts)
    assert real.generate(prompts, real.processor(0)) == plain
    rows = real.generate(prompts, real.processor(0.5))
    counts = [real.check(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
    assert all(counts) and sum(counts) < sum(map(len, rows)) / 2
    rows = real.generate(prompts, real.processor(0.5, max_pauses=2, cooldown=5))
    for prompt, row in zip(prompts, rows, strict=True):
        assert 0 < real.check(prompt, row, max_pauses=2, cooldown=5) <= 2
