"""A tokenizer as a trainer has it: with the pause token added, and a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pausedata.core.errors import UsageError
from pausedata.exporters.templates import MODEL_TEMPLATE
from pausedata.models.tokenizer import Tokenizer, with_special_token


class Reader:
    """Reads text as trainers do. The tokenizer that it is given is not changed."""

    def __init__(
        self, tokenizer: Tokenizer, pause: str, pause_id: int, chat_template: str | None = None
    ) -> None:
        """``chat_template``: Jinja; None: the tokenizer's own. UsageError where the tokenizer
        gives the pause another id than ``pause_id``.
        """
        hf = with_special_token(tokenizer.hf, pause)
        if chat_template not in (None, MODEL_TEMPLATE):
            hf.chat_template = chat_template
        self.pause, self.pause_id = pause, pause_id
        self.tokenizer = Tokenizer(hf)
        own = self.tokenizer.backend.token_to_id(pause)
        if own != pause_id:
            raise UsageError(
                f"the tokenizer gives {pause} the id {own}, the dataset {pause_id}: it is another "
                "tokenizer. Name the one that the dataset was built with (--tokenizer)."
            )

    def encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """The ids of each text; ``special``: with what the tokenizer puts around it."""
        found = self.tokenizer.backend.encode_batch_fast(list(texts), add_special_tokens=special)
        return [encoding.ids for encoding in found]

    def encode_parts(self, rows: Sequence[Sequence[str]]) -> list[list[int]]:
        """The ids of rows in parts, each part tokenised apart from the others."""
        ids = iter(self.encode([part for parts in rows for part in parts], special=False))
        return [[token for _ in parts for token in next(ids)] for parts in rows]

    def chat(self, messages: Sequence[Mapping[str, Any]], *, answered: bool) -> str:
        """The chat template's text of ``messages``; not ``answered``: up to where a reply begins.

        UsageError where there is no template, or it refuses the messages.
        """
        return self.tokenizer.chat(messages, add_generation_prompt=not answered)

    @cached_property
    def turn_end_ids(self) -> list[int]:
        """What the chat template puts after a reply, up to and with its end token."""
        return self.tokenizer.turn_end_ids()

    @cached_property
    def turn_tail_ids(self) -> list[int]:
        """What it puts after that token at the end of a conversation, mostly a line break."""
        probe = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"}]
        (ids,) = self.encode([self.chat(probe, answered=True)], special=False)
        end = self.turn_end_ids
        for at in range(len(ids) - len(end), -1, -1):
            if ids[at : at + len(end)] == end:
                return ids[at + len(end) :]
        return []

    @property
    def opening_ids(self) -> list[int]:
        """What the tokenizer puts before a text: BOS, or nothing."""
        return self.tokenizer.prefix_ids

    @property
    def eos_ids(self) -> list[int]:
        """The end-of-sequence token; nothing where there is none."""
        found = self.tokenizer.eos_id
        return [] if found is None else [found]

    @property
    def eos(self) -> str:
        """The end-of-sequence token's text; empty where there is none."""
        return str(self.tokenizer.hf.eos_token or "")
