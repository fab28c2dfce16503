"""Examples to token ids: the boundary between prompt and response, spans, EOS and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pausedata.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Encoding

    from pausedata.tokenizer import Tokenizer

Ints = NDArray[np.int32]
Reason = Literal[
    "overlong", "no_response_left", "empty_prompt", "empty_response", "has_pause", "not_unicode"
]


@dataclass(frozen=True)
class TokenRules:
    """What the recipe says about tokens.

    ``max_length`` counts prompt, response and EOS. With ``chat`` prompts are the text of the chat
    template, special tokens included.
    """

    append_eos: bool = True
    max_length: int = 2048
    overlong: Literal["error", "skip", "truncate"] = "error"
    pause_token: str = "[PAUSE]"
    chat: bool = False


@dataclass(eq=False)
class Tokenized:
    """One example as ids, with a span for each response token.

    ``char_start`` and ``char_end`` count Unicode code points of the response and together cover
    it, or of a truncated one the beginning that is left. A token that begins inside a character
    keeps ``char_start[k] < char_end[k-1]``.
    """

    prompt_ids: Ints
    response_ids: Ints
    char_start: Ints
    char_end: Ints
    truncated: bool
    boundary_mismatch: bool


@dataclass(frozen=True)
class Rejected:
    """An example that cannot be used: the reason it is counted under, and the case in words."""

    reason: Reason
    detail: str


class TokenBuilder:
    """Turns prompts and responses into ids by one tokenizer and one set of rules."""

    def __init__(self, tokenizer: Tokenizer, rules: TokenRules) -> None:
        self.tokenizer = tokenizer
        self.rules = rules
        pause_id, is_new = tokenizer.pause_id(rules.pause_token)
        self._pause_id = None if is_new else pause_id  # a new id cannot come out of the tokenizer
        self._suffix = 0 if rules.chat else len(tokenizer.suffix_ids)
        self.end_ids = self._end_ids()

    def _end_ids(self) -> list[int]:
        """What is appended to every response: EOS, or the end of an assistant's turn."""
        if not self.rules.append_eos:
            return []
        eos = self.tokenizer.eos_id
        ids = self.tokenizer.turn_end_ids() if self.rules.chat else [] if eos is None else [eos]
        if not ids:
            raise UsageError(
                "the tokenizer has no end-of-sequence token to append to responses: "
                "set `scoring.append_eos: false`."
            )
        return ids

    def encode(
        self, prompts: Sequence[str], responses: Sequence[str]
    ) -> list[Tokenized | Rejected]:
        """One result for each pair, in order. UsageError where the lengths differ."""
        if len(prompts) != len(responses):
            raise UsageError(f"{len(prompts)} prompts for {len(responses)} responses")
        results: list[Tokenized | Rejected | None] = [
            self._refused_text(prompt, response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        todo = [k for k, result in enumerate(results) if result is None]
        special = not self.rules.chat
        backend = self.tokenizer.backend
        fronts = backend.encode_batch_fast([prompts[k] for k in todo], add_special_tokens=special)
        wholes = backend.encode_batch(
            [prompts[k] + responses[k] for k in todo], add_special_tokens=special
        )
        front_ids = [self._without_suffix(front.ids) for front in fronts]
        whole_ids = [self._without_suffix(whole.ids) for whole in wholes]
        # Where these are no prefix, the prompt's last token and the response's first are one, or
        # change each other; where nothing follows, the prompt's last has swallowed the response.
        apart = [
            k
            for k, (front, whole) in enumerate(zip(front_ids, whole_ids, strict=True))
            if len(whole) <= len(front) or whole[: len(front)] != front
        ]
        alone = dict(
            zip(
                apart,
                backend.encode_batch([responses[todo[k]] for k in apart], add_special_tokens=False),
                strict=True,
            )
        )
        for k, row in enumerate(todo):
            prompt_ids, response = front_ids[k], responses[row]
            if k in alone:
                ids, offsets = alone[k].ids, _offsets(alone[k])
            else:
                ids = whole_ids[k][len(prompt_ids) :]
                offsets = _offsets(wholes[k])[len(prompt_ids) : len(whole_ids[k])]
                offsets = offsets - len(prompts[row])
            results[row] = self._example(prompt_ids, ids, offsets, len(response), k in alone)
        return [result for result in results if result is not None]

    def _without_suffix(self, ids: list[int]) -> list[int]:
        return ids[: len(ids) - self._suffix] if self._suffix else ids

    def _refused_text(self, prompt: str, response: str) -> Rejected | None:
        try:
            (prompt + response).encode()
        except UnicodeEncodeError as error:
            return Rejected("not_unicode", f"{error.reason} (a lone surrogate from JSON?)")
        if not response:
            return Rejected("empty_response", "the response is empty")
        if self.rules.pause_token in prompt + response:
            return Rejected("has_pause", f"the text contains {self.rules.pause_token!r}")
        return None

    def _example(
        self, prompt: list[int], response: list[int], offsets: Ints, length: int, mismatch: bool
    ) -> Tokenized | Rejected:
        """Put one example together; ``offsets`` are spans (n, 2) into the response, unmended."""
        rules = self.rules
        if not prompt:
            return Rejected("empty_prompt", "the prompt has no token: nothing to condition on")
        if not response:
            return Rejected("empty_response", "the tokenizer makes no token of the response")
        if self._pause_id is not None and self._pause_id in prompt + response:
            return Rejected("has_pause", f"the token ids contain the pause's, {self._pause_id}")
        total = len(prompt) + len(response) + len(self.end_ids)
        truncated = total > rules.max_length
        if truncated and rules.overlong != "truncate":
            return Rejected("overlong", f"{total} tokens; max_length is {rules.max_length}")
        room = rules.max_length - len(prompt)
        if truncated and room <= 0:
            return Rejected(
                "no_response_left",
                f"the prompt's {len(prompt)} tokens fill max_length ({rules.max_length})",
            )
        start, end = mend_spans(offsets[:, 0], offsets[:, 1], length)
        if truncated:
            # No EOS: it would teach the model to stop in the middle.
            response, start, end = response[:room], start[:room], end[:room]
        else:
            response = response + self.end_ids
            added = np.full(len(self.end_ids), length, dtype=np.int32)
            start, end = np.concatenate([start, added]), np.concatenate([end, added])
        return Tokenized(
            np.asarray(prompt, dtype=np.int32),
            np.asarray(response, dtype=np.int32),
            start,
            end,
            truncated,
            mismatch,
        )


def _offsets(encoding: Encoding) -> Ints:
    """The spans of an encoding in code points, (n, 2)."""
    return np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2)


def mend_spans(start: Ints, end: Ints, length: int) -> tuple[Ints, Ints]:
    """Spans that cover a text of ``length`` code points, from a tokenizer's, one or more.

    What a tokenizer leaves out, mostly whitespace, goes to the token that follows, after the last
    token to that one. Ends never fall; a token that begins inside a character still does.
    """
    start, end = np.clip(start, 0, length), np.clip(end, 0, length)
    nothing = start >= end  # such as a lone ▁ that the tokenizer itself put in front
    end = np.maximum.accumulate(end)
    end[-1] = length
    before = np.concatenate([np.zeros(1, dtype=np.int32), end[:-1]])
    start = np.where(nothing, before, np.minimum(start, before))
    return start.astype(np.int32), end.astype(np.int32)


def begins_character(
    char_start: Ints, char_end: Ints, offsets: NDArray[np.integer] | None = None
) -> NDArray[np.bool_]:
    """Which tokens begin at a character, and so may have a pause before them.

    The arrays are one example's, or many joined, in which case ``offsets`` says where each begins
    as Arrow's list offsets do (n + 1 values from 0).
    """
    begins = np.ones(len(char_start), dtype=np.bool_)
    begins[1:] = char_start[1:] >= char_end[:-1]
    if offsets is not None:
        firsts = offsets[:-1]
        begins[firsts[firsts < len(begins)]] = True
    return begins
