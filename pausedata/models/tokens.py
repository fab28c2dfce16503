"""Examples to token ids: the boundary between prompt and response, spans, EOS and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pausedata.core.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Encoding

    from pausedata.models.tokenizer import Tokenizer

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


class EncodedPair(NamedTuple):
    """A prompt and a response as a tokenizer's ids, before anything is added or cut."""

    prompt_ids: list[int]
    response_ids: list[int]
    offsets: Ints  # spans (n, 2) into the response, unmended
    boundary_mismatch: bool  # the response was encoded on its own


class TokenBuilder:
    """Turns prompts and responses into ids by one tokenizer and one set of rules."""

    def __init__(self, tokenizer: Tokenizer, rules: TokenRules) -> None:
        self.tokenizer = tokenizer
        self.rules = rules
        pause_id, is_new = tokenizer.pause_id(rules.pause_token)
        self._pause_id = None if is_new else pause_id  # a new id cannot come out of the tokenizer
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
        encoded = encode_pairs(
            self.tokenizer,
            [prompts[k] for k in todo],
            [responses[k] for k in todo],
            special=not self.rules.chat,
        )
        for row, pair in zip(todo, encoded, strict=True):
            results[row] = self._example(pair, len(responses[row]))
        return [result for result in results if result is not None]

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

    def _example(self, pair: EncodedPair, length: int) -> Tokenized | Rejected:
        """Put one example together, of a response of ``length`` code points."""
        prompt, response, offsets, mismatch = pair
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


def encode_pairs(
    tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[str], *, special: bool
) -> list[EncodedPair]:
    """What ``tokenizer`` makes of each prompt and response, by the rule for their boundary.

    With ``special`` the ids that it puts in front of every text are kept as at inference; those
    that it puts behind are removed.
    """
    backend = tokenizer.backend
    suffix = len(tokenizer.suffix_ids) if special else 0
    fronts = backend.encode_batch_fast(list(prompts), add_special_tokens=special)
    wholes = backend.encode_batch(
        [p + r for p, r in zip(prompts, responses, strict=True)], add_special_tokens=special
    )
    front_ids = [front.ids[: len(front.ids) - suffix] for front in fronts]
    whole_ids = [whole.ids[: len(whole.ids) - suffix] for whole in wholes]
    # Where these are no prefix, the prompt's last token and the response's first are one, or
    # change each other; where nothing follows, the prompt's last has swallowed the response.
    apart = [
        k
        for k, (front, whole) in enumerate(zip(front_ids, whole_ids, strict=True))
        if len(whole) <= len(front) or whole[: len(front)] != front
    ]
    alone = backend.encode_batch([responses[k] for k in apart], add_special_tokens=False)
    by_row = dict(zip(apart, alone, strict=True))
    pairs = []
    for k, (front, whole) in enumerate(zip(front_ids, whole_ids, strict=True)):
        if k in by_row:
            pairs.append(EncodedPair(front, by_row[k].ids, _offsets(by_row[k]), True))
        else:
            spans = _offsets(wholes[k])[len(front) : len(whole)] - len(prompts[k])
            pairs.append(EncodedPair(front, whole[len(front) :], spans, False))
    return pairs


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
