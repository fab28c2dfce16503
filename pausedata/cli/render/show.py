"""What ``pausedata show`` shows: which examples, with what, as pictures and as JSON."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from pausedata.cli.render.example import (
    ShownTables,
    View,
    as_json,
    find,
    load_views,
    named,
    tokens_json,
)
from pausedata.cli.render.heatmap import Heatmap, change_of, most_changed
from pausedata.core.errors import UsageError
from pausedata.store.dataset import Version


@dataclass(frozen=True)
class Choice:
    """Which examples: the one called ``id``, or those that the other fields choose.

    With none of them it is the first of the dataset. UsageError where they do not go together.
    """

    id: str | None = None
    where: str | None = None
    sort: str | None = None
    n: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        given = {"--where": self.where, "--sort": self.sort, "--n": self.n, "--seed": self.seed}
        if self.id is not None and (others := [o for o, v in given.items() if v is not None]):
            raise UsageError(
                f"'{self.id}' is one example: leave it out, or {' and '.join(others)}, which "
                "chooses among all."
            )
        if self.seed is not None and self.sort != "random":
            raise UsageError("--seed is for --sort random: give both, or leave it out.")

    @property
    def of_many(self) -> bool:
        """Whether it chooses: then the answer is a list, however few it holds."""
        return not (self.where is None and self.sort is None and self.n is None)


@dataclass(frozen=True)
class Shown:
    """The examples that were chosen, each with its views, and how they were chosen."""

    choice: Choice
    names: Sequence[ShownTables]
    examples: Sequence[Sequence[View]]
    pause_token: str
    matching: int = 1
    total: int = 1
    seed: int | None = None  # that a random choice was made with
    notes: Sequence[str] = field(default_factory=list)  # names in the condition that are not there

    def as_json(self) -> dict[str, Any]:
        """One document: of one example, or where examples were chosen, of the list of them."""
        documents = [_document(views) for views in self.examples]
        if not self.choice.of_many:
            return documents[0]
        return {
            "where": self.choice.where,
            "sort": self.choice.sort,
            "run": self.names[0].run,
            "seed": self.seed,
            "matching": self.matching,
            "examples": documents,
        }

    def renderables(self) -> Iterator[RenderableType]:
        """What to print, one after the other."""
        if self.choice.of_many:
            yield Text(self._chosen())
        for number, views in enumerate(self.examples):
            if self.choice.of_many:
                yield Text("")
            yield Heatmap(views, self.pause_token, legend=not number)

    def _chosen(self) -> str:
        """How many there are of how many, and in which order."""
        shown, matching = len(self.examples), f"{self.matching:,}"
        whole = "in the dataset" if self.choice.where is None else f"that match, of {self.total:,}"
        if not self.matching:
            return f"no example matches, of {self.total:,}"
        order = {
            "random": f"chosen at random with --seed {self.seed}",
            "hardest": f"hardest first, by mean log-probability in {self.names[0].run}",
            "spread": "spread from the hardest to the easiest",
            "easiest": f"easiest first, by mean log-probability in {self.names[0].run}",
        }.get(self.choice.sort or "", "in the dataset's order")
        return f"{shown:,} of {matching} examples {whole}, {order}"


def show(
    version: Version, choice: Choice, placements: Sequence[str] = (), runs: Sequence[str] = ()
) -> Shown:
    """Load what ``choice`` chooses, with ``placements`` and ``runs`` (see ``example.named``).

    Raises UsageError for names that are not there and for a condition that is wrong.
    """
    names = named(version, placements, runs)
    token = version.manifest.pause.token
    if not choice.of_many:
        views = load_views(version, [find(version, choice.id)], names)
        return Shown(choice, names, views, token)
    from pausedata.query.choose import choose

    seed = choice.seed
    if choice.sort == "random" and seed is None:
        seed = secrets.randbelow(10_000)
    n = 1 if choice.n is None else choice.n
    chosen = choose(version, names[0].run, choice.where, choice.sort, n, seed or 0)
    return Shown(
        choice,
        names,
        load_views(version, chosen.places, names),
        token,
        chosen.matching,
        version.table("examples").entry.rows,
        seed,
        chosen.notes,
    )


def _document(views: Sequence[View]) -> dict[str, Any]:
    """An example with the first of its views, and what the others add."""
    first = views[0]
    document = as_json(first.example)
    if first.other is not None:
        a, b = first.example, first.other
        document["difference"] = {
            "a": a.run,
            "b": b.run,
            "tokens": [
                {"pos": one.pos, "logprob_a": one.logprob, "logprob_b": other.logprob, "more": more}
                for more, one, other in change_of(a, b)
            ],
            "most_changed": [one.pos for _, one, _ in most_changed(a, b)],
        }
    if len(views) > 1:
        document["placements"] = [
            {"placement": e.placement, "run": e.run, **tokens_json(e)}
            for e in (view.example for view in views)
        ]
    return document
