"""Whether a pause may come next: pure, and the same for every engine.

An engine keeps a `PauseState` for each answer that it generates, feeds it with the tokens as they
come, and asks it for a `PauseDecision`. Where that is `IF_UNSURE`, the model's next-token
distribution decides: `is_unsure`.
"""

from __future__ import annotations

from enum import Enum

from pausedata.inference.params import PauseParams


class PauseDecision(Enum):
    """What may come next in an answer."""

    NEVER = "never"  #: no pause
    IF_UNSURE = "if-unsure"  #: a pause, where the model is unsure
    ALWAYS = "always"  #: a pause: the place has not got all of its own yet


def is_unsure(params: PauseParams, highest: float, entropy: float) -> bool:
    """Whether the next-token distribution calls for a pause.

    ``highest``: the highest probability of a token that is no pause; ``entropy`` in nats.
    """
    limit = params.entropy_threshold
    return highest < params.threshold or (limit is not None and entropy > limit)


class PauseState:
    """An answer so far, as far as it decides whether a pause may come next."""

    def __init__(self, params: PauseParams, after_pause: bool = False) -> None:
        """``after_pause``: the prompt's last token is a pause."""
        self.params = params
        self.pauses = 0
        self._run = 0  # pauses at the end
        self._since = 0  # other tokens since the last pause
        self._blocked = after_pause  # by the prompt, until the first token
        self._over = not params.eligible
        self._last = b""  # bytes that may be the beginning of a mark that ends the pauses
        self._inside: bytes | None = None  # the text that ends the part in which there is no pause
        self._text = b""  # bytes that may be the beginning of a mark of such a part
        self._character = b""  # the last bytes, which may be the beginning of a character
        self._ends = [mark.encode() for mark in params.never_after]
        self._parts = [(a.encode(), b.encode()) for a, b in params.never_inside]

    def copy(self) -> PauseState:
        """A copy, for an answer that continues differently from here."""
        other = object.__new__(PauseState)
        other.__dict__.update(self.__dict__)  # nothing in it is changed in place
        return other

    def add_pause(self) -> None:
        """A pause was generated."""
        self.pauses += 1
        self._run += 1
        self._since = 0

    def add_token(self, piece: bytes) -> None:
        """Another token was generated, which adds ``piece`` to the text's UTF-8."""
        self._run, self._blocked = 0, False
        self._since += 1
        self._character = (self._character + piece)[-4:]
        if self._ends:
            text = self._last + piece
            self._over = self._over or any(mark in text for mark in self._ends)
            self._last = _end(text, self._ends)
        if self._parts:
            self._follow(self._text + piece)

    def _follow(self, text: bytes) -> None:
        """Keep track of whether ``text`` ends within a part in which there is no pause."""
        while True:
            if self._inside is not None:
                _, found, after = text.partition(self._inside)
                if not found:
                    self._text = _end(text, [self._inside])
                    return
                text, self._inside = after, None
            begins = [(text.find(a), a, b) for a, b in self._parts if a in text]
            if not begins:
                self._text = _end(text, [a for a, _ in self._parts])
                return
            place, mark, self._inside = min(begins)
            text = text[place + len(mark) :]

    @property
    def verdict(self) -> PauseDecision:
        """What may come next."""
        params = self.params
        if self._run:
            return PauseDecision.ALWAYS if self._run < params.tokens else PauseDecision.NEVER
        if self._blocked or self._over or self._inside is not None:
            return PauseDecision.NEVER
        if params.max_pauses is not None and self.pauses + params.tokens > params.max_pauses:
            return PauseDecision.NEVER
        if self.pauses and self._since < params.cooldown:
            return PauseDecision.NEVER
        return PauseDecision.NEVER if _is_cut(self._character) else PauseDecision.IF_UNSURE


def _end(text: bytes, marks: list[bytes]) -> bytes:
    """The end of ``text`` that may be the beginning of a mark."""
    longest = max(map(len, marks)) - 1
    return text[-longest:] if longest else b""


def _is_cut(text: bytes) -> bool:
    """Whether UTF-8 ends inside a character."""
    for back, byte in enumerate(reversed(text[-3:]), 1):
        if byte < 0x80:
            return False
        if 0xC2 <= byte <= 0xF4:  # the first byte of a character of 2, 3 or 4
            return back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return False
