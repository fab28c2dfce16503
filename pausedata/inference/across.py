"""Rules of `generate` that read the text, told of it without the pauses that stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pausedata.core.errors import UsageError, missing_extra

try:
    import torch
    from transformers import LogitsProcessor, StoppingCriteria, StopStringCriteria
except ImportError as error:
    raise missing_extra("torch and transformers", "transformers", "Generating") from error

from pausedata.inference.token import find_pause

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class WithoutPauses(LogitsProcessor):
    """Another logits processor, which sees the ids without pauses: row by row.

    `logits_processor=[WithoutPauses(tokenizer, NoRepeatNGramLogitsProcessor(3)), pauses]` is
    `no_repeat_ngram_size=3` for a text with pauses. For processors that keep no state of a row.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        processor: LogitsProcessor,
        *,
        pause_token: str = "[PAUSE]",
    ) -> None:
        """UsageError where the tokenizer has no such token, or ``processor`` puts pauses in."""
        from pausedata.inference.processor import PauseLogitsProcessor

        if isinstance(processor, PauseLogitsProcessor):
            raise UsageError(
                "WithoutPauses: PauseLogitsProcessor has to see the pauses. Give it beside this "
                "one: logits_processor=[WithoutPauses(tokenizer, …), pauses]."
            )
        self._processor: Any = processor
        self._pause = find_pause(tokenizer, pause_token)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, vocabulary] of the token after ``input_ids`` [rows, tokens]."""
        made = [
            self._processor(row[row != self._pause][None], scores[k : k + 1])
            for k, row in enumerate(input_ids)
        ]
        return torch.cat(made)


class PauseStopStrings(StoppingCriteria):
    """`stop_strings` for a text with pauses: ends an answer where it has one of the texts.

    `stopping_criteria=[PauseStopStrings(tokenizer, ["\\n\\n"])]`. It ends where transformers'
    `stop_strings` ends the same tokens without pauses.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_strings: str | Sequence[str],
        *,
        pause_token: str = "[PAUSE]",
    ) -> None:
        """UsageError where the tokenizer has no such token, or there is no text to stop at."""
        strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings)
        if not strings or not all(isinstance(s, str) and s for s in strings):
            raise UsageError(
                f"PauseStopStrings: stop_strings is {stop_strings!r}: give a text, or a list of "
                "texts, none of them empty."
            )
        self._pause = find_pause(tokenizer, pause_token)
        self._inner: Any = StopStringCriteria(tokenizer, strings)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        """Which of the rows ``input_ids`` [rows, tokens] are done: [rows]."""
        is_pause = input_ids == self._pause
        # Pauses to the front, the rest in its order; there they are made an id that no text has.
        order = (~is_pause).to(torch.int8).argsort(dim=1, stable=True)
        ids = input_ids.masked_fill(is_pause, torch.iinfo(torch.int32).max).gather(1, order)
        # A pause adds nothing: what is before it was looked at when it came, or is the prompt.
        return self._inner(ids, scores) & ~is_pause[:, -1]
