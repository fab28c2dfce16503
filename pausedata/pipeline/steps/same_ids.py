"""Whether a model's tokenizer gives the ids that are stored, so that scores are of those tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pausedata.core.errors import UsageError
from pausedata.core.progress import Progress
from pausedata.models.tokenizer import Tokenizer
from pausedata.models.tokens import encode_pairs
from pausedata.store.dataset import Table
from pausedata.store.tables import list_parts


@dataclass(frozen=True)
class Difference:
    """The first place where an example's ids are not the stored ones."""

    example: str
    part: str  # prompt or response
    position: int
    stored: int | None  # None: there is no token at this place
    theirs: int | None


def check_every_row(
    who: str, todo: str, tokenizer: Tokenizer, tables: Mapping[str, Table], progress: Progress
) -> None:
    """Encode every stored row again; UsageError where an id differs, or means another token.

    It begins with ``who``, the model, and ends with ``todo``.

    What was added to the text's own ids, in front of the prompt or behind the response, is taken
    from the stored rows: a checkpoint's post-processor and chat template may be rewritten or gone.
    """
    examples, tokens = tables["examples"], tables["tokens"]
    ours = _vocabulary(tables["vocab"])
    comparison = _Comparison({id for id, (_, special) in ours.items() if special})
    title = "comparing token ids"
    with progress.step(title, tokens.entry.rows, "examples") as advance:
        for text_shard, shard in zip(examples.shards, tokens.shards, strict=True):
            texts = examples.read(text_shard, ["id", "prompt", "response"]).to_pydict()
            rows = tokens.read(shard, ["prompt_ids", "response_ids", "char_start", "truncated"])
            pairs = encode_pairs(tokenizer, texts["prompt"], texts["response"], special=False)
            stored = zip(
                texts["id"],
                _lists(rows, "prompt_ids"),
                _lists(rows, "response_ids"),
                _lists(rows, "char_start"),
                rows.column("truncated").to_pylist(),
                strict=True,
            )
            for pair, response, (id, prompt_ids, ids, starts, truncated) in zip(
                pairs, texts["response"], stored, strict=True
            ):
                added = sum(start == len(response) for start in starts)
                comparison.compare(
                    id, prompt_ids, pair.prompt_ids, ids, pair.response_ids, added, truncated
                )
            advance(len(pairs))
    theirs = {entry.token_id: entry.bytes for entry in tokenizer.vocab()}
    if comparison.first is not None:
        raise UsageError(
            f"{who} has another tokenizer than the stored tokens': "
            f"{comparison.differing} of {tokens.entry.rows} examples would get other ids. "
            f"{_in_words(comparison.first, ours, theirs)} {todo}"
        )
    for id in comparison.added():
        if theirs.get(id) != ours[id][0]:
            raise UsageError(
                f"{who} has another tokenizer than the stored tokens': id {id} is "
                f"{_shown(ours[id][0])} there and {_shown(theirs.get(id))} here. {todo}"
            )


class _Comparison:
    """Rows compared so far: how many differ, the first of them, and what was added to texts."""

    def __init__(self, special: set[int]) -> None:
        self.differing = 0
        self.first: Difference | None = None
        self._special = special
        # What stands before every prompt and behind every response: the same in every row.
        self._before: list[int] | None = None
        self._behind: list[int] | None = None

    def added(self) -> list[int]:
        """The ids that no text gave."""
        return sorted({*(self._before or []), *(self._behind or [])})

    def compare(
        self,
        example: str,
        prompt: list[int],
        their_prompt: list[int],
        response: list[int],
        their_response: list[int],
        added: int,
        truncated: bool,
    ) -> None:
        """Take in one row; ``added``: how many of its last ids may be none of the text's."""
        before = prompt[: max(0, self._leading(prompt) - self._leading(their_prompt))]
        behind: list[int] = []
        if truncated:  # the text's end was cut off, and nothing added
            their_response = their_response[: len(response)]
        else:
            behind = response[max(len(their_response), len(response) - added) :]
        if self._before is None:
            self._before = before
        if self._behind is None and not truncated:
            self._behind = behind
        expected = [] if truncated else self._behind or []
        for part, stored, theirs in (
            ("prompt", prompt, self._before + their_prompt),
            ("response", response, their_response + expected),
        ):
            if stored != theirs:
                self.differing += 1
                if self.first is None:
                    self.first = _difference(example, part, stored, theirs)
                return

    def _leading(self, ids: list[int]) -> int:
        return next((k for k, id in enumerate(ids) if id not in self._special), len(ids))


def _difference(example: str, part: str, stored: list[int], theirs: list[int]) -> Difference:
    at = next(
        (k for k, (a, b) in enumerate(zip(stored, theirs, strict=False)) if a != b),
        min(len(stored), len(theirs)),
    )
    return Difference(
        example,
        part,
        at,
        stored[at] if at < len(stored) else None,
        theirs[at] if at < len(theirs) else None,
    )


def _in_words(
    difference: Difference, ours: dict[int, tuple[bytes, bool]], theirs: dict[int, bytes]
) -> str:
    def token(id: int | None, text: bytes | None) -> str:
        return "nothing" if id is None else f"{_shown(text)} (id {id})"

    stored, new = difference.stored, difference.theirs
    return (
        f"The first: {difference.example}, token {difference.position} of its {difference.part} "
        f"is {token(stored, ours[stored][0] if stored is not None else None)} there and "
        f"{token(new, theirs.get(new) if new is not None else None)} with this model."
    )


def _shown(text: bytes | None) -> str:
    return "no token" if text is None else repr(text.decode("utf-8", errors="backslashreplace"))


def _vocabulary(vocab: Table) -> dict[int, tuple[bytes, bool]]:
    found: dict[int, tuple[bytes, bool]] = {}
    for shard in vocab.shards:
        rows = vocab.read(shard, ["token_id", "bytes", "special"]).to_pydict()
        values = zip(rows["bytes"], rows["special"], strict=True)
        found |= dict(zip(rows["token_id"], values, strict=True))
    return found


def _lists(rows: Any, column: str) -> Sequence[list[int]]:
    offsets, values = list_parts(rows, column)
    return [values[a:b].tolist() for a, b in pairwise(offsets)]
