"""Tells when pauses go where the format is new to the model, not where the reasoning is hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pausedata import strategies
from pausedata.analysis.piled import Pile, paused_texts
from pausedata.pipeline.transaction import Transaction
from pausedata.store.dataset import Table
from pausedata.strategies.base import SCORES

# How much less likely than the rest the first response token, or the appended end token, may be
# on average, in nats. Beyond it the template is at fault, or new to the model, and pauses go there
# for nothing. The real SmolLM2 gives gaps of 5 where the template suits it, and of 11 to 15 where
# it does not.
EDGE_GAP = 8.0

_NAMED = 3  # texts of a placement

_FIRST = (
    'Does the prompt end in a space? End it in "Answer:" and begin the response with " "; or '
    "leave the first token out of placements, eligible: {without: [first]}."
)
_END = (
    "A chat model ends turns its own way: give `messages` as the prompt; or leave the end token "
    "out of placements, eligible: {without: [eos]}, or of tokens, scoring.append_eos: false."
)


@dataclass(frozen=True)
class Piled:
    """A placement, and the texts before which its pauses pile up."""

    placement: str
    pauses: int  # in all
    texts: list[Pile]

    @property
    def share(self) -> float:
        """The share of its pauses that stand before these texts."""
        return sum(pile.pauses for pile in self.texts) / self.pauses


@dataclass(frozen=True)
class Edge:
    """What stands out at the first or the last token of the responses, and what may mend it."""

    found: str
    todo: str


def warn(tx: Transaction) -> None:
    """One warning for each run where something stands out, in it or in what was placed by it.

    Only runs and placements that ``tx`` made are looked at.
    """
    piled = _piled(tx)
    append_eos = _inputs(tx.tables["tokens"]).get("scoring", {}).get("append_eos", False)
    made = [name for name in tx.made if name.startswith("scores/")]
    for name in dict.fromkeys([*made, *piled]):
        run = tx.tables[name]
        found = edges(run, append_eos) if name in made else []
        # A model in training (`pausedata.training`) is the learner itself.
        if "trained" not in run.entry.provenance and (found or name in piled):
            tx.progress.warn(warning(run, piled.get(name, []), found))


def _piled(tx: Transaction) -> dict[str, list[Piled]]:
    """The placements made now whose pauses pile up, by the table of the run that they read."""
    placed = [
        table
        for name, table in tx.made.items()
        if name.startswith("placements/") and by_score_alone(_inputs(table))
    ]
    if not placed:
        return {}
    by_run: dict[str, list[Piled]] = {}
    counted = paused_texts(tx.tables["tokens"], placed, tx.tables["vocab"])
    for table in placed:
        found = counted[table.name]
        if texts := found.piled():
            piled = Piled(table.name, found.pauses, texts)
            by_run.setdefault(f"scores/{_inputs(table)['run']}", []).append(piled)
    return by_run


def _inputs(table: Table) -> dict[str, Any]:
    return table.entry.provenance.get("inputs", {})


def by_score_alone(inputs: dict[str, Any]) -> bool:
    """Whether scores alone decide a placement that was made from these ``inputs``.

    Where the text does, as with `regex`, sentences or ``eligible: {inside: …}``, pauses stand
    before some tokens on purpose.
    """
    if inputs.get("scores") is None or strategies.get(inputs["strategy"]).needs - SCORES:
        return False
    eligible = inputs["parameters"].get("eligible") or {}
    return eligible.get("inside") is None


def edges(run: Table, append_eos: bool) -> list[Edge]:
    """The first and the end token of the responses, as far as far less likely than the rest."""
    facts = run.entry.provenance
    inner = facts.get("inner_tokens_mean_logprob")
    if inner is None:
        return []
    said = "the {} token of the responses has a mean log-probability of {:.1f}, those between "
    said += f"{inner:.1f}"
    first, last = facts["first_token_mean_logprob"], facts["last_token_mean_logprob"]
    found = []
    if inner - first > EDGE_GAP:
        found.append(Edge(said.format("first", first), _FIRST))
    if append_eos and inner - last > EDGE_GAP:
        found.append(Edge(said.format("appended end", last), _END))
    return found


def warning(run: Table, piled: Sequence[Piled], edges: Sequence[Edge]) -> str:
    """What stands out with ``run`` and the placements by it, and what to do: two lines."""
    found = [*_counts(piled), *(edge.found for edge in edges)]
    warmup = run.entry.provenance.get("warmup") or {}
    if warmup.get("outcome") == "warmed":
        why = "the format is still new to the model, after its warm-up"
        todo = "Give the warm-up more rows: scoring.warmup.rows."
    elif warmup:
        why = "the format is new to the model, which scored as it is"
        todo = f"Its warm-up came to nothing: {warmup['reason']}."
    else:
        why = "the format is new to the model"
        todo = "Let it train on some of the rows before it scores: scoring: {warmup: true}, or "
        todo += "`pausedata score --warmup`."
    said = f"{run.name}: {'; '.join(found)}. Most likely {why}, and draws pauses that belong where "
    said += f"the reasoning is hard.\n{todo}"
    return " ".join([said, *(["Other ways:"] if edges else []), *(edge.todo for edge in edges)])


def _counts(piled: Sequence[Piled]) -> list[str]:
    """The placement that is worst off, with counts, and the others by name."""
    if not piled:
        return []
    worst, *rest = sorted(piled, key=lambda each: -each.share)
    whole = f" of the {worst.pauses:,} pauses of {worst.placement} stand"
    said = ", ".join(
        # The text as `repr` writes it, so that no character of it can move the cursor.
        f"{pile.pauses:,}{'' if k else whole} before {pile.text!r} ({pile.places:,} of its "
        f"{pile.occurrences:,} occurrences)"
        for k, pile in enumerate(worst.texts[:_NAMED])
    )
    more = f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else ""
    names = ", ".join(each.placement.partition("/")[2] for each in rest[:_NAMED])
    likewise = f" (likewise {names}{more})" if rest else ""
    return [f"{said}{likewise}"]
