"""An example as a request to vLLM, and its scores in the answer, in one of two ways.

Nothing here imports vLLM: its answers are recognised by their attributes.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from pausedata.core.errors import DataError
from pausedata.scorers import Example, Floats, Ints, Scores


class ScoreReader(Protocol):
    """A way to ask for the scores of a response and to read them."""

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        ...

    @property
    def rank_ties(self) -> str | None:
        """How ranks count ties, as in `Scorer`; None without ranks."""
        ...

    def parameters(self, example: Example) -> dict[str, Any]:
        """The keywords of ``SamplingParams``, beside those that every request has."""
        ...

    def read(self, output: Any, example: Example) -> Scores | None:
        """The scores in a ``RequestOutput``; None where vLLM left them out.

        DataError where they cannot be those of ``example``.
        """
        ...


class Flat:
    """``prompt_logprobs=0``: of every token of prompt and response its own score and rank.

    In ``FlatLogprobs``, lists of numbers; an object for each token, which is what vLLM gives
    without it, takes ten times as long to make and to read.
    """

    name = "flat"
    rank_ties = "included"

    def parameters(self, example: Example) -> dict[str, Any]:
        """The same for every example."""
        return {"prompt_logprobs": 0, "flat_logprobs": True}

    def read(self, output: Any, example: Example) -> Scores | None:
        """The scores of the response; every token's id but the first's is compared."""
        flat = output.prompt_logprobs
        if not flat:
            return None
        ids = ids_of(example)
        if len(flat.logprobs) != len(ids) - 1:
            raise _misfit(f"{len(flat.logprobs)} scores for the {len(ids) - 1} tokens")
        returned = np.array(flat.token_ids, np.int64)
        if not np.array_equal(returned, ids[1:]):
            at = int((returned != ids[1:]).argmax()) + 1
            raise _misfit(
                f"the score of token id {returned[at - 1]} for id {ids[at]}, token {at} of them"
            )
        count = len(example.response_ids)
        return Scores(
            np.array(flat.logprobs[len(ids) - 1 - count :], np.float32),
            np.array(flat.ranks[len(ids) - 1 - count :], np.int32),
        )


class TargetOnly:
    """``prompt_logprob_token_ids``: the scores of the response's tokens alone, as an array.

    The V2 model runner has it, from vLLM 0.32 on. No rank. Row k of what is asked for is scored
    as the token that follows ``prompt_logprob_start + k``: with the last token of the prompt as the
    start, row k is the k-th of the response.
    """

    name = "target-only"
    rank_ties = None

    def parameters(self, example: Example) -> dict[str, Any]:
        """The response's ids (n, 1), and the row that predicts the first of them."""
        return {
            "prompt_logprob_token_ids": np.asarray(example.response_ids, np.int32)[:, None],
            "prompt_logprob_start": len(example.prompt_ids) - 1,
        }

    def read(self, output: Any, example: Example) -> Scores | None:
        """The array (n, 1). It has no ids that could be compared; its shape is checked."""
        values = output.prompt_token_id_logprobs
        if values is None:  # vLLM drops it where a request was preempted
            return None
        wanted = (len(example.response_ids), 1)
        if values.shape != wanted:
            raise _misfit(f"scores of shape {values.shape} instead of {wanted}")
        return Scores(np.array(values[:, 0], np.float32))


def ids_of(example: Example) -> Ints:
    """Prompt and response, int32."""
    return np.concatenate(
        [np.asarray(example.prompt_ids, np.int32), np.asarray(example.response_ids, np.int32)]
    )


def largest_and_mean(a: Floats, b: Floats) -> tuple[float, float]:
    """The largest and the mean absolute difference of two arrays (n), in nats."""
    difference = np.abs(a.astype(np.float64) - b)
    return float(difference.max(initial=0.0)), float(difference.mean()) if len(a) else 0.0


def _misfit(what: str) -> DataError:
    return DataError(
        f"vLLM returned {what} that it was sent. This is a fault of vLLM's: try another release, "
        "or `scoring.backend: transformers`."
    )
