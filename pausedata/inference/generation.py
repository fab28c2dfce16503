"""What transformers' `generate` was asked for, as far as its logits processors can find out.

A logits processor is handed ids and scores, and nothing of the call that it serves. What of that
call goes wrong with pauses would go wrong silently, so it is looked up on the stack: in the frames
of the function that decodes, whose name and arguments the tests hold every release to.
"""

from __future__ import annotations

import sys
from types import FrameType

import transformers

from pausedata.core.errors import UsageError


class GenerationWarning(UserWarning):
    """An argument of `generate` that pauses disturb."""


_DECODES = {"logits_processor", "stopping_criteria"}  # names of a function that decodes


def check_assisted() -> None:
    """UsageError where an assistant, a look-up or a draft head proposes tokens."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_assisted_decoding":
            raise UsageError(
                "PauseLogitsProcessor: assisted decoding (assistant_model, "
                "prompt_lookup_num_tokens, assistant_early_exit, use_mtp) tries several tokens at "
                "once and takes some of them back, so that max_pauses, cooldown and tokens would "
                "not hold. Leave it out of `generate` and of the model's generation_config.json."
            )
        frame = frame.f_back


def disturbed() -> list[str]:
    """What of the `generate` that is going on reads pauses as text, and what to do: a line each."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _DECODES.issubset(frame.f_code.co_varnames):
        frame = frame.f_back
    if frame is None:  # a loop of the user's own
        return []
    processors = [type(p) for p in frame.f_locals["logits_processor"] or () if _counts_runs(p)]
    lines = []
    for kind in dict.fromkeys(processors):
        lines.append(
            f"{kind.__name__} takes pauses for tokens of the text: it misses what a pause stands "
            "in, and forbids pauses that it has seen, so that these end. Leave its argument out of "
            f"`generate`, and pass logits_processor=[WithoutPauses(tokenizer, {kind.__name__}(…)), "
            "pauses]; WithoutPauses is in pausedata.inference."
        )
    criteria = frame.f_locals["stopping_criteria"] or ()
    if any(isinstance(c, transformers.StopStringCriteria) for c in criteria):
        lines.append(
            "stop_strings does not find a text that a pause stands in, so that generation would "
            "go on. Leave it out of `generate`, and pass "
            "stopping_criteria=[PauseStopStrings(tokenizer, […])]; it is in pausedata.inference."
        )
    return lines


def _counts_runs(processor: object) -> bool:
    """Whether a processor looks for tokens that follow one another."""
    if isinstance(processor, transformers.NoRepeatNGramLogitsProcessor):
        return True
    # Of bad words, too. One token alone has no middle.
    sequences = getattr(processor, "sequence_bias", None)
    is_bias = isinstance(processor, transformers.SequenceBiasLogitsProcessor)
    return is_bias and any(len(sequence) > 1 for sequence in sequences or ())
