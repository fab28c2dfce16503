"""Errors about examples that cannot be exported as planned, with ways to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pausedata.core.errors import DataError

if TYPE_CHECKING:
    from pausedata.exporters.check import CheckedExample
    from pausedata.exporters.reader import Reader

_WHY = {
    "place_not_in_text": "a pause stands where no text can put it",
    "no_end": "it has no end token (`append_eos: false`, or truncated), and its trainer adds one",
    "text_changes_tokens": "its text alone, without pauses, gives other ids",
    "pause_changes_tokens": "with its pauses the text gives other ids",
}


LENGTH = {"overlong", "no_response_left"}  # the reasons that a limit of length gives
# Why an example is not in an export, as its figures say it to a person.
REASONS = {
    "overlong": "longer than max_length",
    "no_response_left": "nothing of the response left within max_length",
    "place_not_in_text": "a pause where no text can put it",
    "no_end": "no end token, which the trainer would add",
    "pause_changes_tokens": "other ids with the pauses in the text",
    "text_changes_tokens": "other ids even without pauses",
}


class Refused(DataError):
    """Some examples cannot be written. Those of several shards are counted together."""

    def __init__(self, count: int, among: int, fault: str, first: str, advice: str) -> None:
        super().__init__()
        self.count, self.among = count, among
        self.first, self._fault, self._advice = first, fault, advice

    def __str__(self) -> str:
        """What is wrong with how many, the first of them, and what to do."""
        return (
            f"{self.count:,} of {self.among:,} examples {self._fault}. The first is "
            f"{self.first}. {self._advice}"
        )


def overlong(
    id: str, length: int, limit: int, count: int, among: int, may_cut: bool = True
) -> Refused:
    """Examples that are longer than rows may be; ``may_cut``: whether the format can cut them."""
    ways = "Raise max_length or pack, or say what becomes of them: `--overlong skip` or `truncate`."
    return Refused(
        count,
        among,
        f"are longer than the {limit:,} tokens that a row may have",
        f"'{id}', with {length:,} tokens",
        ways if may_cut else "Raise max_length, or leave them out: `--overlong skip`.",
    )


def mismatch(wrong: Sequence[tuple[str, CheckedExample]], among: int, reader: Reader) -> Refused:
    """Rows of text that would arrive as other ids than planned: (id, verdict) of each."""
    id, verdict = wrong[0]
    return Refused(
        len(wrong),
        among,
        "would not arrive as planned",
        f"'{id}': {_difference(verdict, reader)}",
        "`--on-mismatch move` puts such pauses at the nearest place that survives, `skip` leaves "
        "the rows out, and both are counted; formats of token ids have no such rows.",
    )


def _difference(verdict: CheckedExample, reader: Reader) -> str:
    assert verdict.reason is not None
    why = _WHY[verdict.reason]
    planned, read = verdict.planned, verdict.read
    if not read or verdict.reason == "no_end":
        return why
    both = enumerate(zip(planned, read, strict=False))
    at = next((k for k, (a, b) in both if a != b), min(len(planned), len(read)))
    first = max(0, at - 1)
    name = reader.tokenizer.hf.convert_ids_to_tokens
    shown = [name(list(ids[first : at + 3])) for ids in (planned, read)]
    return f"{why}: from token {first} on {shown[0]} is planned and {shown[1]} read"
