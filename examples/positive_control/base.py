"""The base models: one that was taught to use pauses, and one that never saw any."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from tasks import Problem, problems
from tiny import NOTHING, Row, make_model, make_tokenizer, save, teach

PAUSE = "[PAUSE]"
PAUSES = 5  # before an answer
BATCH, PEAK = 64, 3e-3


def write_base(out: Path, digits: int, steps: int, *, taught: bool) -> None:
    """Train on problems, and write model and tokenizer: on easy ones, of one digit, as they are.

    Who is ``taught`` also reads problems of so many ``digits``, three batches of four, with pauses
    before the answer, and learns to say at each what the look-up of one digit finds: as Pfau,
    Merrill and Bowman ("Let's Think Dot by Dot", 2024, section 4) teach fillers, without which they
    found none to be used. Of hard problems without pauses it sees none.
    """
    tokenizer = make_tokenizer(*([PAUSE] if taught else []))
    model = make_model(tokenizer, hidden=64, layers=3, context=64, spread=0.1)
    easy, hard = problems(1, seed=0), problems(digits, seed=0)

    def batches() -> Iterator[list[Row]]:
        for number in count(1):
            with_pauses = taught and number % 4 != 0
            some = islice(hard if with_pauses else easy, BATCH)
            yield [_row(tokenizer, one, with_pauses) for one in some]

    teach(model, batches(), steps, PEAK)
    save(model, tokenizer, out)


def _row(tokenizer: object, problem: Problem, with_pauses: bool) -> Row:
    """A problem with its answer; the pauses stand where `lowest_logprob` finds the answer."""
    encode, end = tokenizer.encode, tokenizer.eos_token_id  # type: ignore[attr-defined]
    prompt, response = encode(problem.prompt), [*encode(problem.response), end]
    if not with_pauses:
        return {"input_ids": prompt + response, "labels": [NOTHING] * len(prompt) + response}
    pause = tokenizer.convert_tokens_to_ids(PAUSE)  # type: ignore[attr-defined]
    found = [encode(str(bit))[0] for bit in problem.bits]
    # A label is of what stands before it: that of the token after pause k, of what pause k finds.
    thought = [NOTHING, *found, *[NOTHING] * (PAUSES - 1 - len(found))]
    return {
        "input_ids": prompt + [pause] * PAUSES + response,
        "labels": [NOTHING] * len(prompt) + thought + response,
    }
