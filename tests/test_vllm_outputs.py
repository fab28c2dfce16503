"""What vLLM answers with, as arrays. Shapes as vLLM 0.32 gives them; numbers made up by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pausedata.core.errors import DataError
from pausedata.scorers import Example
from pausedata.scorers.vllm.outputs import Flat, TargetOnly

# Two tokens of a prompt, three of a response.
EXAMPLE = Example(np.array([7, 8], np.int32), np.array([9, 10, 11], np.int32))


def flat(**changes: Any) -> Any:
    """The answer to ``prompt_logprobs=0, flat_logprobs=True``: nothing for the first token."""
    logprobs = SimpleNamespace(
        start_indices=[0, 0, 1, 2, 3],
        end_indices=[0, 1, 2, 3, 4],
        token_ids=[8, 9, 10, 11],
        logprobs=[-4.0, -0.5, -1.5, -2.5],
        ranks=[40, 1, 2, 3],
        decoded_tokens=[None] * 4,
    )
    vars(logprobs).update(changes)
    return SimpleNamespace(prompt_logprobs=logprobs, prompt_token_id_logprobs=None)


def test_flat_asks_for_the_target_alone() -> None:
    assert Flat().parameters(EXAMPLE) == {"prompt_logprobs": 0, "flat_logprobs": True}


def test_flat_reads_the_responses_part() -> None:
    scores = Flat().read(flat(), EXAMPLE)
    assert scores is not None and scores.rank is not None
    assert scores.logprob.tolist() == [-0.5, -1.5, -2.5] and scores.logprob.dtype == np.float32
    assert scores.rank.tolist() == [1, 2, 3] and scores.rank.dtype == np.int32
    assert scores.entropy is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token_ids": [8, 9, 11, 10]}, "the score of token id 11 for id 10, token 3 of them"),
        ({"token_ids": [9, 10, 11, 12]}, "the score of token id 9 for id 8, token 1 of them"),
        ({"logprobs": [-4.0, -0.5, -1.5]}, "3 scores for the 4 tokens"),
    ],
)
def test_flat_refuses_scores_of_other_tokens(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Flat().read(flat(**changes), EXAMPLE)


@pytest.mark.parametrize("way", [Flat(), TargetOnly()])
def test_scores_that_were_left_out_are_none(way: Any) -> None:
    nothing = SimpleNamespace(prompt_logprobs=None, prompt_token_id_logprobs=None)
    assert way.read(nothing, EXAMPLE) is None


def test_target_only_asks_for_the_response_from_the_row_that_predicts_its_first_token() -> None:
    asked = TargetOnly().parameters(EXAMPLE)
    assert asked["prompt_logprob_token_ids"].tolist() == [[9], [10], [11]]
    assert asked["prompt_logprob_token_ids"].dtype == np.int32
    # vLLM scores row k as the token at start + k + 1: for the first, index 2 of [7, 8, 9, 10, 11].
    assert asked["prompt_logprob_start"] == 1
    # and it demands exactly as many rows as tokens that follow the start, but the last.
    assert len(asked["prompt_logprob_token_ids"]) == len(EXAMPLE) - 1 - 1


def test_target_only_reads_one_column() -> None:
    values = np.array([[-0.5], [-1.5], [-2.5]], np.float32)
    scores = TargetOnly().read(SimpleNamespace(prompt_token_id_logprobs=values), EXAMPLE)
    assert scores is not None and scores.logprob.tolist() == [-0.5, -1.5, -2.5]
    assert scores.rank is None


@pytest.mark.parametrize("shape", [(2, 1), (4, 1), (3, 2), (3,)])
def test_target_only_refuses_another_shape(shape: tuple[int, ...]) -> None:
    output = SimpleNamespace(prompt_token_id_logprobs=np.zeros(shape, np.float32))
    with pytest.raises(DataError, match="instead of \\(3, 1\\)"):
        TargetOnly().read(output, EXAMPLE)
