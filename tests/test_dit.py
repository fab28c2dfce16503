"""DIT, worked out on paper: "Learning to Insert [PAUSE] Tokens for Better Reasoning", section 3.

Kim, Kim and Thorne (arXiv 2506.03616) fine-tune a model on its own hesitations:

1. A model reads each example's prompt and response, and gives every response token its
   log-likelihood given all that comes before it.
2. `[PAUSE]` is inserted right *before* the least likely tokens: M places, some pauses at each.
3. The model is fine-tuned on that, and the loss on predicting `[PAUSE]` is ignored: it never
   learns to say pauses, only to make use of the extra steps that it is given.

Below is one example, small enough to do by hand. Probabilities are powers of two, so that the
natural log of 2^-k is k times -0.6931:

      position       0        1        2        3        4
      token          5       so      five     then    <eos>
      id            51       52       53       54       55
      probability   1/2      1/4     1/64      1/8     1/32
      log          -0.69    -1.39    -4.16    -2.08    -3.47

From least likely to likeliest the positions are 2, 4, 3, 1, 0.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest
from handmade import placement_table, tokens_table

from pausedata import exporters, strategies
from pausedata.strategies import Batch

PROMPT = [11, 12]  # "2+3=" in two tokens
RESPONSE = [51, 52, 53, 54, 55]
PROBABILITIES = [1 / 2, 1 / 4, 1 / 64, 1 / 8, 1 / 32]
P = 99  # [PAUSE]
no = -100  # the label that the loss leaves out


def place(probabilities: list[float], positions: int, tokens: int = 1) -> dict[int, int]:
    """Where `lowest_logprob` puts pauses: {position: how many}."""
    batch = Batch(
        ids=["example"],
        offsets=np.array([0, len(probabilities)]),
        begins_character=np.ones(len(probabilities), bool),
        logprob=np.array([log(p) for p in probabilities], np.float32),
    )
    strategy = strategies.get("lowest_logprob")
    parameters = strategies.parse(strategy, {"positions": positions, "tokens": tokens}, "test")
    placed, kept_off = strategies.place(strategy, batch, parameters)
    assert kept_off == 0
    return dict(zip(placed.positions.tolist(), placed.counts.tolist(), strict=True))


def training_row(places: dict[int, int]) -> dict[str, Any]:
    """The example as a trainer reads it: input_ids, attention_mask, labels."""
    sequences = exporters.insert_pauses(
        tokens_table([("example", PROMPT, RESPONSE)]), placement_table([("example", places)]), P
    )
    tokenized = exporters.get("tokenized")
    (row,) = tokenized.rows(sequences, exporters.parse(tokenized, {}, "test")).to_pylist()
    assert row["attention_mask"] == [1] * len(row["input_ids"])
    return row


def test_the_least_likely_token_gets_the_pause_right_before_it() -> None:
    # 1/64 is the smallest: position 2.
    places = place(PROBABILITIES, positions=1)
    assert places == {2: 1}
    row = training_row(places)
    assert row["input_ids"] == [11, 12, 51, 52, P, 53, 54, 55]
    assert row["labels"] == [no, no, 51, 52, no, 53, 54, 55]


def test_two_positions_are_the_two_least_likely_in_the_order_of_the_text() -> None:
    # 1/64 and 1/32: positions 2 and 4. The last one is <eos>, a response token like any other.
    places = place(PROBABILITIES, positions=2)
    assert list(places.items()) == [(2, 1), (4, 1)]
    row = training_row(places)
    assert row["input_ids"] == [11, 12, 51, 52, P, 53, 54, P, 55]
    assert row["labels"] == [no, no, 51, 52, no, 53, 54, no, 55]


def test_three_positions_take_the_next_least_likely_too() -> None:
    # 1/64, 1/32 and 1/8: positions 2, 4 and 3; in the order of the text 2, 3, 4.
    places = place(PROBABILITIES, positions=3)
    assert list(places.items()) == [(2, 1), (3, 1), (4, 1)]
    row = training_row(places)
    assert row["input_ids"] == [11, 12, 51, 52, P, 53, P, 54, P, 55]
    assert row["labels"] == [no, no, 51, 52, no, 53, no, 54, no, 55]


def test_two_tokens_are_two_pauses_in_a_row_at_each_position() -> None:
    # How many pauses a place gets changes nothing about which places are taken.
    one = place(PROBABILITIES, positions=1, tokens=2)
    assert one == {2: 2}
    assert training_row(one)["input_ids"] == [11, 12, 51, 52, P, P, 53, 54, 55]
    assert training_row(one)["labels"] == [no, no, 51, 52, no, no, 53, 54, 55]

    two = place(PROBABILITIES, positions=2, tokens=2)
    assert two == {2: 2, 4: 2}
    assert training_row(two)["input_ids"] == [11, 12, 51, 52, P, P, 53, 54, P, P, 55]
    assert training_row(two)["labels"] == [no, no, 51, 52, no, no, 53, 54, no, no, 55]

    three = place(PROBABILITIES, positions=3, tokens=2)
    assert three == {2: 2, 3: 2, 4: 2}
    assert training_row(three)["input_ids"] == [11, 12, 51, 52, P, P, 53, P, P, 54, P, P, 55]
    assert training_row(three)["labels"] == [no, no, 51, 52, no, no, 53, no, no, 54, no, no, 55]


def test_what_a_causal_loss_trains_is_the_token_after_the_pause() -> None:
    """Labels are unshifted: at each index the model predicts the label one further on.

    So the token that was hard is predicted from the pause, with the pause's step to think in; and
    nothing is trained to predict the pause itself, nor the prompt.
    """
    row = training_row(place(PROBABILITIES, positions=1, tokens=2))

    predictions = zip(row["input_ids"][:-1], row["labels"][1:], strict=True)
    trained = [(read, target) for read, target in predictions if target != no]

    assert trained == [
        (12, 51),  # the first response token, from the prompt's last
        (51, 52),
        #  52 → P, P → P: ignored
        (P, 53),  # the least likely token, from the last pause before it
        (53, 54),
        (54, 55),
    ]


def test_a_pause_before_the_first_token_stands_between_prompt_and_response() -> None:
    # 1/16 comes first here: position 0.
    places = place([1 / 16, 1 / 2, 1 / 4, 1 / 2, 1 / 2], positions=1)
    assert places == {0: 1}
    row = training_row(places)
    assert row["input_ids"] == [11, 12, P, 51, 52, 53, 54, 55]
    assert row["labels"] == [no, no, no, 51, 52, 53, 54, 55]


def test_a_pause_before_the_end_token_stands_between_the_last_word_and_the_end() -> None:
    # The model is least sure that it is done: position 4.
    places = place([1 / 2, 1 / 4, 1 / 2, 1 / 2, 1 / 16], positions=1)
    assert places == {4: 1}
    row = training_row(places)
    assert row["input_ids"] == [11, 12, 51, 52, 53, 54, P, 55]
    assert row["labels"] == [no, no, 51, 52, 53, 54, no, 55]


def test_of_equally_unlikely_tokens_the_earlier_goes_first() -> None:
    # 1/4 at positions 1, 3 and 4.
    probabilities = [1 / 2, 1 / 4, 1 / 2, 1 / 4, 1 / 4]
    assert list(place(probabilities, positions=1)) == [1]
    assert list(place(probabilities, positions=2)) == [1, 3]
    assert list(place(probabilities, positions=3)) == [1, 3, 4]
    # The two 1/2 come after all of them, the earlier one first again.
    assert list(place(probabilities, positions=4)) == [0, 1, 3, 4]


@pytest.mark.parametrize("positions", [5, 6, 1000])
def test_more_positions_than_tokens_take_every_token_once(positions: int) -> None:
    places = place(PROBABILITIES, positions)
    assert places == {0: 1, 1: 1, 2: 1, 3: 1, 4: 1}
    row = training_row(places)
    assert row["input_ids"] == [11, 12, P, 51, P, 52, P, 53, P, 54, P, 55]
    assert row["labels"] == [no, no, no, 51, no, 52, no, 53, no, 54, no, 55]


@pytest.mark.parametrize(("positions", "tokens"), [(0, 1), (3, 0), (0, 0)])
def test_no_positions_or_no_tokens_are_plain_fine_tuning(positions: int, tokens: int) -> None:
    places = place(PROBABILITIES, positions, tokens)
    assert places == {}
    row = training_row(places)
    assert row["input_ids"] == [11, 12, 51, 52, 53, 54, 55]
    assert row["labels"] == [no, no, 51, 52, 53, 54, 55]
