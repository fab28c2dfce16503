"""What was generated, without its pauses, and how many there were.

A pause never stands inside a character, so that a text without pauses is the text of the ids
without pauses. Where the tokenizer holds the pause as a special token, as `prepare-model` adds it,
decoding with `skip_special_tokens=True` leaves it out by itself; the ids have it all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pausedata.core.errors import UsageError
from pausedata.inference.token import find_pause

PAUSE = "[PAUSE]"


@dataclass(frozen=True)
class Stripped:
    """An answer, or a piece of one, without pauses."""

    text: str
    ids: list[int] | None  #: None where a text was given
    pauses: int  #: in the answer so far


def strip_pauses(
    answer: str | Sequence[int],
    tokenizer: Any = None,
    *,
    pause_token: str = PAUSE,
    skip_special_tokens: bool = True,
) -> Stripped:
    """``answer``, a text or token ids (a list, or a tensor of one dimension), without pauses.

    Ids need the ``tokenizer``, which also decodes what is left of them, with or without special
    tokens. In a text every ``pause_token`` is taken for a pause.
    """
    if isinstance(answer, str):
        return Stripped(answer.replace(pause_token, ""), None, answer.count(pause_token))
    given = _ids(answer)
    if tokenizer is None:
        raise UsageError("strip_pauses: ids need the tokenizer: strip_pauses(ids, tokenizer).")
    pause = find_pause(tokenizer, pause_token)
    ids = [token for token in given if token != pause]
    text = tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
    return Stripped(text, ids, len(given) - len(ids))


def _ids(answer: Any) -> list[int]:
    values = answer.tolist() if hasattr(answer, "tolist") else list(answer)
    if any(not isinstance(value, int) for value in values):
        raise UsageError(
            "strip_pauses: ids are whole numbers of one answer: of a batch, give row after row."
        )
    return values


class TextDeltas:
    """A text that comes in pieces, without pauses: also where a pause lies across two of them."""

    def __init__(self, pause_token: str = PAUSE) -> None:
        self.pauses = 0
        self._token, self._held = pause_token, ""

    def feed(self, piece: str) -> str:
        """What of the text is certain with ``piece``; less than a pause's length is held back."""
        *certain, last = (self._held + piece).split(self._token)
        self.pauses += len(certain)
        longest = min(len(last), len(self._token) - 1)
        held = next((n for n in range(longest, 0, -1) if self._token.startswith(last[-n:])), 0)
        self._held = last[len(last) - held :]
        return "".join(certain) + last[: len(last) - held]

    def end(self) -> str:
        """What was held back; to be called after the last piece."""
        held, self._held = self._held, ""
        return held


class PauseStreamer:
    """A streamer for `generate` that hands all but the pauses to another, and counts them.

    `PauseStreamer(TextIteratorStreamer(tokenizer, skip_prompt=True))` is iterated over as the
    inner one is. ``pauses`` is the number in the answer that was streamed last; a prompt's own
    are neither left out nor counted.
    """

    def __init__(self, streamer: Any, tokenizer: Any = None, *, pause_token: str = PAUSE) -> None:
        """``streamer``: one of transformers; ``tokenizer``: by default its own."""
        self.streamer = streamer
        self.pauses = 0
        self._pause = find_pause(tokenizer or streamer.tokenizer, pause_token)
        self._prompt_is_next = True

    def put(self, value: Any) -> None:
        """Take the prompt's ids [1, n], then new ones [n]: `generate` calls this."""
        if self._prompt_is_next:
            self._prompt_is_next, self.pauses = False, 0
            self.streamer.put(value)
            return
        kept = value[value != self._pause]
        self.pauses += value.numel() - kept.numel()
        if kept.numel():
            self.streamer.put(kept)

    def end(self) -> None:
        """The answer is complete: `generate` calls this."""
        self._prompt_is_next = True
        self.streamer.end()

    def __iter__(self) -> Iterator[str]:
        return iter(self.streamer)

    def __aiter__(self) -> Any:
        return self.streamer.__aiter__()


def strip_output(output: Any, tokenizer: Any, *, pause_token: str = PAUSE) -> list[Stripped]:
    """Each answer of a `RequestOutput` of vLLM that holds whole answers, without pauses.

    That is what `LLM.generate` gives, and what an engine streams by default.
    """
    pause = find_pause(tokenizer, pause_token)
    stripped = []
    for answer in output.outputs:
        ids = [token for token in answer.token_ids if token != pause]
        text = answer.text.replace(pause_token, "")
        stripped.append(Stripped(text, ids, len(answer.token_ids) - len(ids)))
    return stripped


class OutputDeltas:
    """As `strip_output`, for answers streamed with `output_kind=RequestOutputKind.DELTA`.

    Call it with each `RequestOutput` of one request in turn: it returns what is new in each answer;
    ``pauses`` is the number so far. Text that may be the beginning of a pause is held back until
    the next output.
    """

    def __init__(self, tokenizer: Any, *, pause_token: str = PAUSE) -> None:
        self._pause, self._token = find_pause(tokenizer, pause_token), pause_token
        self._texts: dict[int, TextDeltas] = {}
        self._pauses: dict[int, int] = {}

    def __call__(self, output: Any) -> list[Stripped]:
        """What is new in ``output``, one for each answer that it tells of, in its order."""
        stripped = []
        for answer in output.outputs:
            ids = [token for token in answer.token_ids if token != self._pause]
            count = self._pauses.get(answer.index, 0) + len(answer.token_ids) - len(ids)
            self._pauses[answer.index] = count
            deltas = self._texts.setdefault(answer.index, TextDeltas(self._token))
            text = deltas.feed(answer.text)
            if answer.finish_reason is not None:
                text += deltas.end()
            stripped.append(Stripped(text, ids, count))
        return stripped
