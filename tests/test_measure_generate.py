"""``measure --generate``: answers with pauses and without, scored, in turns."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aligned import aligned
from conftest import Run
from rich.console import Console
from test_measure import (  # noqa: F401
    Start,
    built,
    dataset,
    measure,
    trained,
)

from pausedata.cli.render.measure import _generated
from pausedata.core.errors import UsageError
from pausedata.measure import run as measuring
from pausedata.measure.generate import Generating, PauseInsertion, Record, summary, way_of
from pausedata.measure.paired import paired_interval
from pausedata.measure.result import Generated
from pausedata.store.dataset import open_version

WORDS = ("--generate", "--task", "gsm8k", "--examples", "6", "--max-new-tokens", "12")


def answers_of(measure: Start, file: Path, *words: object, **keys: Any) -> tuple[Any, list[Any]]:  # noqa: F811
    """What `--json` told, and the lines of `--answers`."""
    done: Run = measure("--json", *WORDS, "--answers", file, *words, **keys)
    assert done.status == 0, done.err
    return json.loads(done.out), [json.loads(line) for line in file.read_text().splitlines()]


def greedy(model: Path, prompts: list[list[int]], tokens: int, end: int) -> list[list[int]]:
    """Plain greedy decoding by hand, one forward pass for each token, pauses never chosen."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    found = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(tokens):
            with torch.no_grad():
                logits = loaded(torch.tensor([ids])).logits[0, -1]
            logits[-1] = -torch.inf  # the pause is the last id
            ids.append(int(logits.argmax()))
            if ids[-1] == end:
                break
        found.append(ids[len(prompt) :])
    return found


def test_answers_without_pauses_are_plain_greedy_decoding(
    measure: Start,  # noqa: F811
    dataset: Path,  # noqa: F811
    trained: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    from transformers import AutoTokenizer

    told, lines = answers_of(measure, tmp_path / "a.jsonl", "--batch", 4)
    assert told["generated"]["examples"] == len(lines) == 6
    tokenizer = AutoTokenizer.from_pretrained(trained)
    prompts = {
        row["id"]: row["prompt_ids"]
        for _, (table,) in aligned(open_version(dataset), "tokens")
        for row in table.to_pylist()
    }
    own = [prompts[line["id"]] for line in lines]
    for line, ids in zip(lines, greedy(trained, own, 12, tokenizer.eos_token_id), strict=True):
        assert line["without"] == tokenizer.decode(ids, skip_special_tokens=True)
        assert line["tokens_without"] == len(ids)


def test_pauses_are_left_out_of_texts_and_counted(
    measure: Start,  # noqa: F811
    tmp_path: Path,
) -> None:
    told, lines = answers_of(measure, tmp_path / "a.jsonl", "--threshold", "1", "--max-pauses", "3")
    assert all("[PAUSE]" not in line["with"] + line["without"] for line in lines)
    # A random model is never sure: it pauses until it may not any more, or ends.
    assert {line["pauses"] for line in lines} <= {1, 2, 3}
    assert all(line["tokens_with"] <= 12 for line in lines)
    own = told["generated"]
    assert own["pauses"] == pytest.approx(np.mean([line["pauses"] for line in lines]))
    overhead = sum(line["pauses"] for line in lines) / sum(line["tokens_with"] for line in lines)
    assert own["token_overhead"] == pytest.approx(overhead)
    assert own["accuracy_with"] == own["accuracy_without"] == 0
    assert own["reasons"]["with"]["no-answer"] == 6


def test_at_threshold_0_both_answers_are_the_same(measure: Start, tmp_path: Path) -> None:  # noqa: F811
    _, lines = answers_of(measure, tmp_path / "a.jsonl", "--threshold", "0")
    assert all(line["with"] == line["without"] and line["pauses"] == 0 for line in lines)


def test_pauses_of_append_stand_behind_the_prompt(measure: Start, tmp_path: Path) -> None:  # noqa: F811
    _, lines = answers_of(measure, tmp_path / "a.jsonl", placement="append")
    assert all(line["pauses"] == 4 for line in lines)


def test_answers_do_not_depend_on_how_many_are_written_at_once(
    measure: Start,  # noqa: F811
    tmp_path: Path,
) -> None:
    texts = [
        [(line["with"], line["without"]) for line in answers_of(measure, tmp_path / n, *words)[1]]
        for n, words in (("one", ("--batch", 1)), ("six", ("--batch", 6)))
    ]
    assert texts[0] == texts[1]


def test_what_was_written_before_a_stop_is_kept(
    measure: Start,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []
    really = measuring.write_pairs

    def stopped(pairs: Any, first: int, *rest: Any) -> Any:
        begun.append(first)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return really(pairs, first, *rest)

    monkeypatch.setattr(measuring, "write_pairs", stopped)
    assert measure(*WORDS, "--batch", 2).status == 130
    assert measure(*WORDS, "--batch", 2).status == 0
    assert begun == [0, 1, 1, 2]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the batches that are written, from here on."""
    found: list[int] = []
    really = measuring.write_pairs

    def counted(pairs: Any, first: int, *rest: Any) -> Any:
        found.append(first)
        return really(pairs, first, *rest)

    monkeypatch.setattr(measuring, "write_pairs", counted)
    return found


def stopped(*_: Any, **__: Any) -> Any:
    """Instead of what comes after the answers."""
    raise KeyboardInterrupt


def test_answers_of_a_try_with_fewer_examples_are_kept_as_far_as_they_go(
    measure: Start,  # noqa: F811
    begun: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "summary", stopped)
        assert measure(*WORDS, "--examples", 3, "--batch", 2).status == 130
    told = json.loads(measure("--json", *WORDS, "--batch", 2).out)
    assert begun == [0, 1, 1, 2]  # the second batch had one example of two
    assert told["generated"]["examples"] == 6


def test_answers_that_were_read_otherwise_are_written_again(
    measure: Start,  # noqa: F811
    begun: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "summary", stopped)
        patch.setattr(measuring, "READING", 1)
        assert measure(*WORDS, "--batch", 3).status == 130
    assert measure(*WORDS, "--batch", 3).status == 0
    assert begun == [0, 1, 0, 1]


def test_groups_have_their_own_accuracies(measure: Start, tmp_path: Path) -> None:  # noqa: F811
    told, lines = answers_of(measure, tmp_path / "a.jsonl", "--group-by", "subject")
    sizes = {name: own["examples"] for name, own in told["generated"]["groups"].items()}
    assert sizes == {n: sum(line["group"] == n for line in lines) for n in sizes}
    assert sum(sizes.values()) == 6


def four_answers() -> list[Record]:
    """With pauses three are right, without one; read leniently the same three without."""
    rights = [(True, False), (True, True), (False, False), (True, False)]
    return [
        {
            "right_with": own,
            "right_without": plain,
            "lenient_with": own,
            "lenient_without": plain or own,  # the form was lost, not the answer
            "reason_with": None if own else "wrong",
            "reason_without": None if plain else "no-answer",
            "tokens_with": 10,
            "tokens_without": 8,
            "pauses": 2,
            "seconds_with": 1.5,
            "seconds_without": 1.0,
        }
        for own, plain in rights
    ]


def test_accuracies_of_four_answers_worked_out_by_hand() -> None:
    told = summary(four_answers())
    assert (told["accuracy_with"], told["accuracy_without"]) == (0.75, 0.25)
    assert told["accuracy_gain"] == 0.5
    # Four answers of 10 tokens and 2 pauses in 1.5 s each, three of them right; of 8, one is.
    assert told["tokens_per_right_with"] == 16 and told["seconds_per_right_with"] == 2
    assert told["tokens_per_right_without"] == 32 and told["seconds_per_right_without"] == 4
    nothing = summary([record | {"right_with": False} for record in four_answers()])
    assert nothing["tokens_per_right_with"] is None
    low, high = told["accuracy_gain_interval"]
    assert -1 < low < 0 < 0.5 < high < 1  # four answers tell next to nothing
    lenient = [told[f"accuracy_lenient_{name}"] for name in ("with", "without", "gain")]
    assert lenient == [0.75, 0.75, 0]
    low, high = told["accuracy_lenient_gain_interval"]
    assert low == pytest.approx(-high)
    assert told["token_overhead"] == 0.2 and told["latency_overhead"] == 0.5
    assert told["reasons"] == {"with": {"wrong": 1}, "without": {"no-answer": 3}}


def test_the_interval_of_many_answers_holds_whenever_one_looks() -> None:
    """Wider than Tango's, which is of one look; where all agree it is Tango's, not nothing."""
    many = four_answers() * 50
    own, plain = ([record[f"right_{which}"] for record in many] for which in ("with", "without"))
    low, high = summary(many)["accuracy_gain_interval"]
    once = paired_interval(own, plain, 0.95)
    assert -1 < low < once[0] < 0.5 < once[1] < high < 1
    alike = [record | {"right_without": record["right_with"]} for record in many]
    nothing = summary(alike)["accuracy_gain_interval"]
    assert nothing == paired_interval(own, own, 0.95) and nothing[0] < 0 < nothing[1]
    # Fifty clusters of four that are all the same are fifty answers.
    clusters = summary(many, units=np.repeat(np.arange(50), 4).astype(str))
    assert clusters["units"] == 50


def test_the_table_has_both_readings_of_a_task_with_two() -> None:
    for task, rows in (
        ("gsm8k", ["all", "read leniently", "sums", "read leniently"]),
        ("mbpp", ["all", "sums"]),
    ):
        records = four_answers()
        own = Generated(Generating(task), summary(records), {"sums": summary(records)}, records)
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(*_generated(own))
        _, _, *lines, last = console.export_text().splitlines()
        assert (
            last
            == "for each right answer: with pauses 16.0 tokens, 2.00 s; without 32.0 tokens, 4.00 s"
        )
        assert [line[:16].strip() for line in lines] == rows
        assert lines[0].split()[1:4] == ["75.0%", "25.0%", "+50.0%"]
        if len(rows) == 4:
            assert lines[1].split()[2:5] == ["75.0%", "75.0%", "+0.0%"]


@pytest.mark.parametrize(
    ("inputs", "way"),
    [
        ({"strategy": "append", "parameters": {"tokens": 10}}, PauseInsertion("behind-prompt", 10)),
        ({"strategy": "none", "parameters": {}}, PauseInsertion("nowhere")),
        (
            {"strategy": "lowest_logprob", "parameters": {"positions": 5}},
            PauseInsertion("if-unsure"),
        ),
        ({"strategy": "random", "parameters": {"tokens": 2}}, PauseInsertion("if-unsure", 2)),
        ({"strategy": "every_word", "parameters": {}}, PauseInsertion("after-words")),
        (
            {"strategy": "every_word", "parameters": {"every_n_tokens": 4}},
            PauseInsertion("after-words", 1, 4),
        ),
    ],
)
def test_how_pauses_get_into_answers_follows_the_strategy(inputs: Any, way: PauseInsertion) -> None:
    assert way_of(inputs, Generating("gsm8k")) == way


def test_room_for_the_pauses_of_a_place_is_asked_for_before_anything_is_measured() -> None:
    inputs = {"strategy": "random", "parameters": {"tokens": 2}}
    with pytest.raises(UsageError, match="the placement has 2 at each place"):
        way_of(inputs, Generating("gsm8k", max_pauses=1))


def test_an_answer_ends_at_its_most_real_tokens_however_many_pauses_it_has() -> None:
    import torch

    from pausedata.measure.processors import RealTokens

    ends = RealTokens(pause=9, prompt=1, most=2)
    rows = torch.tensor([[9, 1, 9, 9, 2], [1, 9, 9, 9, 2], [1, 2, 3, 4, 5]])
    assert ends(rows, None).tolist() == [True, False, True]


def test_pauses_of_every_word_stand_after_words(trained: Path) -> None:  # noqa: F811
    """A model that would write ` one two` and end, whatever stands before."""
    import torch
    from transformers import AutoTokenizer

    from pausedata.measure.processors import AfterWords

    tokenizer = AutoTokenizer.from_pretrained(trained)
    pause = tokenizer.convert_tokens_to_ids("[PAUSE]")
    end = tokenizer.eos_token_id
    wanted = [*tokenizer(" one two")["input_ids"], end]

    def written(tokens: int, every: int | None) -> str:
        processor = AfterWords(tokenizer, pause, [end], tokens, every)
        ids = [5, 6]  # the prompt
        while ids[-1] != end:
            logits = torch.zeros(1, len(tokenizer))
            logits[0, wanted[len([id for id in ids[2:] if id != pause])]] = 9.0
            ids.append(int(processor(torch.tensor([ids]), logits).argmax()))
        return tokenizer.decode(ids[2:-1])

    assert written(1, None) == " one[PAUSE] two[PAUSE]"
    assert written(2, None) == " one[PAUSE][PAUSE] two[PAUSE][PAUSE]"
    texts = [tokenizer.decode([id]) for id in wanted[:-1]]
    assert written(1, 1) == "".join(text + "[PAUSE]" for text in texts)


def test_what_cannot_be_asked_for(measure: Start, tmp_path: Path) -> None:  # noqa: F811
    for done, status, said in [
        (measure("--generate"), 2, "--task gsm8k|aqua|mbpp"),
        (measure("--task", "gsm8k"), 2, "give --generate too"),
        (measure("--generate", "--task", "gsmk8"), 2, "Did you mean 'gsm8k'?"),
        (measure("--generate", "--task", "mbpp"), 1, "keep: [test_list, test_setup_code]"),
        (measure("--generate", "--task", "aqua"), 1, "names no option"),
        (measure(*WORDS, "--threshold", "1.5"), 2, "--threshold"),
    ]:
        assert done.status == status, done.err
        assert said in done.err and "Traceback" not in done.err
