"""`PauseLogitsProcessor`: pauses in what transformers' `generate` generates."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pausedata.core.errors import UsageError, missing_extra

try:
    import torch
    from transformers import LogitsProcessor
except ImportError as error:
    raise missing_extra("torch and transformers", "transformers", "PauseLogitsProcessor") from error

from pausedata.inference.decide import PauseState
from pausedata.inference.generation import GenerationWarning, check_assisted, disturbed
from pausedata.inference.params import PauseParams, parse_params
from pausedata.inference.tensors import put_pauses
from pausedata.inference.token import check_rows, find_pause, pieces_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pausedata.inference.eligibility import Eligibility

_DEFAULTS = PauseParams()


class PauseLogitsProcessor(LogitsProcessor):
    """Forces a pause where the model is unsure, and forbids it elsewhere.

    `model.generate(**inputs, logits_processor=[PauseLogitsProcessor(tokenizer, 0.5)])`. What a
    prompt holds counts towards no limit. One processor serves one call of `generate` after the
    other, not two at a time. It refuses assisted decoding, and continuous batching does without
    it. A GenerationWarning tells of `stop_strings` and of n-grams, which pauses disturb.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        threshold: float = _DEFAULTS.threshold,
        *,
        entropy_threshold: float | None = _DEFAULTS.entropy_threshold,
        tokens: int = _DEFAULTS.tokens,
        max_pauses: int | None = _DEFAULTS.max_pauses,
        cooldown: int = _DEFAULTS.cooldown,
        never_inside: Sequence[tuple[str, str]] = _DEFAULTS.never_inside,
        never_after: Sequence[str] = _DEFAULTS.never_after,
        eligibility: Eligibility | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        group: str | None = None,
        requests: Sequence[Mapping[str, Any] | None] | None = None,
        pause_token: str = "[PAUSE]",
    ) -> None:
        """``tokenizer``: one with the pause, as `pausedata prepare-model` makes it.

        ``threshold``: a pause is forced where the highest next-token probability (of another
        token than the pause) is below it; with ``entropy_threshold``, in nats, also where the
        entropy is above that. ``tokens`` pauses come at each place, at most ``max_pauses`` in an
        answer, with at least ``cooldown`` other tokens between. None comes inside the texts of
        ``never_inside`` (pairs of beginning and end), after one of ``never_after``, or inside a
        character. ``eligibility``, a rule or its file, says whether ``group`` may have any.

        ``requests``: for each prompt of the batch what is other for it: a mapping of these same
        keys, or None. Beams and `num_return_sequences` of a prompt share its; rows that are not
        the same prompt do not (of `inputs_embeds`, nothing tells).

        UsageError where a value is wrong, or the tokenizer has no such token.
        """
        self._pause, self._pause_token = find_pause(tokenizer, pause_token), pause_token
        self._piece = pieces_of(tokenizer)
        common = {
            "threshold": threshold,
            "entropy_threshold": entropy_threshold,
            "tokens": tokens,
            "max_pauses": max_pauses,
            "cooldown": cooldown,
            "never_inside": never_inside,
            "never_after": never_after,
            "eligibility": eligibility,
        }
        each: list[Mapping[str, Any]] = [{}]
        where = ["PauseLogitsProcessor"]
        if requests is not None:
            each = [request or {} for request in requests]
            where = [f"PauseLogitsProcessor: requests[{k}]" for k in range(len(each))]
            parse_params(common, "PauseLogitsProcessor")
        common["group"] = group
        self._params = [parse_params({**common, **e}, w) for e, w in zip(each, where, strict=True)]
        self._each = requests is not None
        if not self._params:
            raise UsageError("PauseLogitsProcessor: requests is empty: one for each prompt.")
        self._ids = torch.empty(0, 0, dtype=torch.long)  # what the last call was given
        self._answers: list[PauseState] = []  # one for each row

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, vocabulary] of the token after ``input_ids`` [rows, tokens]."""
        check_rows(self._pause, scores.shape[-1], self._pause_token)
        check_assisted()
        answers = self._follow(input_ids)
        scores = scores.clone()
        put_pauses(
            scores,
            self._pause,
            range(len(answers)),
            [answer.params for answer in answers],
            [answer.verdict for answer in answers],
        )
        return scores

    def _follow(self, ids: torch.Tensor) -> list[PauseState]:
        """The rows' answers with the newest token of each; new ones for a new `generate`."""
        answers = self._answers_before(ids)
        if answers is None:
            for line in disturbed():
                warnings.warn(line, GenerationWarning, stacklevel=3)
            # Of a prompt that is given as `inputs_embeds` there are no ids.
            ends = (ids[:, -1:] == self._pause).any(1).tolist()
            answers = [PauseState(p, e) for p, e in zip(self._of_rows(ids), ends, strict=True)]
        else:
            for answer, token in zip(answers, ids[:, -1].tolist(), strict=True):
                if token == self._pause:
                    answer.add_pause()
                else:
                    answer.add_token(self._piece(token))
        # A copy: beam search writes into the tensor that it gives.
        self._ids, self._answers = ids.clone(), answers
        return answers

    def _answers_before(self, ids: torch.Tensor) -> list[PauseState] | None:
        """The rows' answers without the newest token; None where this is a new `generate`."""
        before = self._ids
        if before.shape != (len(ids), ids.shape[1] - 1) or before.device != ids.device:
            return None
        if torch.equal(before, ids[:, :-1]):
            return self._answers
        # Beams are kept, dropped and split; each goes on from one of the same prompt.
        params = [answer.params for answer in self._answers]
        known = {
            (id(p), *row): answer
            for p, row, answer in zip(params, before.tolist(), self._answers, strict=True)
        }
        rows = zip(params, ids[:, :-1].tolist(), strict=True)
        found = [known.get((id(p), *row)) for p, row in rows]
        answers = [answer.copy() for answer in found if answer is not None]
        return answers if len(answers) == len(found) else None

    def _of_rows(self, ids: torch.Tensor) -> list[PauseParams]:
        """The parameters of each row of the prompts ``ids``."""
        rows, prompts = len(ids), len(self._params)
        if rows % prompts:
            raise UsageError(
                f"PauseLogitsProcessor: requests has {prompts} entries, and {rows} rows are "
                "generated: give one for each prompt of the batch."
            )
        of_prompt = rows // prompts
        groups = ids.reshape(prompts, of_prompt, ids.shape[1])
        if self._each and not torch.equal(groups, groups[:, :1].expand_as(groups)):
            raise UsageError(
                f"PauseLogitsProcessor: requests has {prompts} entries, and {rows} rows are "
                "generated, of more prompts than that: beams and num_return_sequences share a "
                "request, other prompts do not. Give one for each prompt of the batch, or None."
            )
        return [p for p in self._params for _ in range(of_prompt)]
