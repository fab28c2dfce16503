"""The figures that a version's manifest has; no table is read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from pausedata.analysis.history import scored_by
from pausedata.analysis.shared_texts import SharedTexts
from pausedata.core.held_out import cut_split
from pausedata.store.choice import Choice
from pausedata.store.dataset import Version


@dataclass(frozen=True)
class SplitStats:
    """One split: rows read from the source, examples made of them, and dropped rows by reason.

    Tokens are None where they were not counted.
    """

    rows: int
    examples: int
    dropped: dict[str, int]
    noted: dict[str, int]  # kept, but worth knowing
    tokens: int | None = None  # of prompts and responses
    response_tokens: int | None = None


@dataclass(frozen=True)
class ScoreStats:
    """How likely response tokens are to a run. None where that was not counted, or there are none.

    ``quantiles`` gives for each q the log-probability that at least a share q of the tokens does
    not exceed: "0" is the least likely token's. ``histogram`` counts tokens between
    ``Stats.histogram_edges``.
    """

    tokens: int | None = None
    mean_logprob: float | None = None  # nats
    perplexity: float | None = None  # exp(-mean_logprob); None, too, where no float can hold it
    mean_entropy: float | None = None  # nats, over the tokens that have one
    share_of_first_choices: float | None = None  # rank 1, of the tokens that have a rank
    quantiles: dict[str, float | None] = field(default_factory=dict)  # nats
    histogram: list[int] | None = None


@dataclass(frozen=True)
class RunStats(ScoreStats):
    """One run, over all splits and by split."""

    scored_by: dict[str, Any] = field(default_factory=dict)  # as ``history.scored_by``
    splits: dict[str, ScoreStats] = field(default_factory=dict)


@dataclass(frozen=True)
class PlacementStats:
    """One placement. None where it was neither counted nor recorded, or there are no examples."""

    strategy: str | None
    parameters: dict[str, Any]
    run: str | None  # the one that it was made from
    examples_with_pauses: int | None = None
    places: int | None = None
    pauses: int | None = None
    places_per_example: float | None = None
    pauses_per_example: float | None = None
    fewest_pauses: int | None = None  # of an example
    most_pauses: int | None = None
    share_without_pauses: float | None = None  # of all examples


@dataclass(frozen=True)
class ExportStats:
    """One export: tokens with prompts and pauses. None where that was not recorded."""

    placement: Choice | None
    format: str | None
    rows: int
    tokens: int | None
    pauses: int | None
    longest: int | None


@dataclass(frozen=True)
class HistogramEdges:
    """Edges of n bins, ascending, n + 1 of each. A bin holds its lower edge, and the last both."""

    probability: list[float]
    logprob: list[float | None]  # nats; the first is None, as the logarithm of 0 is no number


@dataclass(frozen=True)
class Stats:
    """A version in figures. Sizes are in bytes, of files shared with other versions too.

    Where it was not counted, figures are those that were recorded when the tables were made, and
    None where they were not.
    """

    name: str
    version: int
    counted: bool
    examples: int
    tokens: int | None  # of prompts and responses
    response_tokens: int | None
    splits: dict[str, SplitStats]
    runs: dict[str, RunStats]
    placements: dict[str, PlacementStats]
    exports: dict[str, ExportStats]
    bytes: dict[str, int]  # of each table
    total_bytes: int
    histogram_edges: HistogramEdges | None = None  # one for all runs; None where not counted
    # The largest relative error of a quantile; the extremes, 0 and 1, are exact.
    quantiles_within: float | None = None
    held_out: str | None = None  # the split that was cut off to be measured on
    # Examples that two splits have in common; None where that was not counted.
    shared: list[SharedTexts] | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def manifest_stats(version: Version, run: str | None = None) -> Stats:
    """What the manifest of ``version`` says, of all runs or of ``run`` alone.

    UsageError where there is no such run.
    """
    manifest = version.manifest
    exports = {name: _export(version, name) for name in version.exports}
    tokens, response_tokens = _tokens(version)
    examples = sum(rows.out for rows in manifest.rows.values())
    return Stats(
        name=manifest.name,
        version=version.number,
        counted=False,
        examples=examples,
        tokens=tokens,
        response_tokens=response_tokens,
        splits={
            split: SplitStats(
                rows.into, rows.out, rows.dropped, {k: n for k, n in rows.noted.items() if n}
            )
            for split, rows in manifest.rows.items()
        },
        runs={name: _run(version, name) for name in (version.runs if run is None else [run])},
        placements={name: placement_stats(version, name, examples) for name in version.placements},
        exports=exports,
        bytes={
            name: sum(file.bytes for file in table.files())
            for name, table in version.tables.items()
        },
        total_bytes=sum(file.bytes for file in version.files()),
        held_out=cut_split(manifest.tables["tokens"].provenance),
    )


def perplexity(mean_logprob: float | None) -> float | None:
    """exp(-mean), as far as a float can hold it."""
    if mean_logprob is None:
        return None
    try:
        return math.exp(-mean_logprob)
    except OverflowError:
        return None


def _facts(version: Version, table: str) -> dict[str, Any]:
    return version.table(table).entry.provenance


def _run(version: Version, name: str) -> RunStats:
    mean = _facts(version, f"scores/{name}").get("mean_logprob")
    made = scored_by(version.manifest, name)
    return RunStats(mean_logprob=mean, perplexity=perplexity(mean), scored_by=made)


def placement_stats(version: Version, name: str, examples: int) -> PlacementStats:
    """What was recorded of placement ``name`` of ``examples`` examples."""
    facts = _facts(version, f"placements/{name}")
    inputs = facts.get("inputs", {})

    def each(count: int | None) -> float | None:
        return None if count is None else share(count, examples)

    having = facts.get("examples_with_pauses")
    return PlacementStats(
        strategy=inputs.get("strategy"),
        parameters=inputs.get("parameters", {}),
        run=inputs.get("run"),
        examples_with_pauses=having,
        places=facts.get("places"),
        pauses=facts.get("pauses"),
        places_per_example=each(facts.get("places")),
        pauses_per_example=each(facts.get("pauses")),
        share_without_pauses=each(None if having is None else examples - having),
    )


def _export(version: Version, name: str) -> ExportStats:
    table = version.table(f"exports/{name}")
    inputs = table.entry.provenance.get("inputs", {})
    tallies = table.entry.provenance.get("splits", {}).values()

    def over_splits(key: str, join: Any) -> int | None:
        counts = [tally[key] for tally in tallies if key in tally]
        return join(counts) if counts else None

    return ExportStats(
        placement=inputs.get("placement"),
        format=inputs.get("format"),
        rows=table.entry.rows,
        tokens=over_splits("tokens", sum),
        pauses=over_splits("pauses", sum),
        longest=over_splits("longest", max),
    )


def _tokens(version: Version) -> tuple[int | None, int | None]:
    """All tokens, and those of responses, as recorded when an export or a run was made.

    An export counts only if it holds every example unchanged: one placement, no options. None
    where nothing was recorded.
    """
    for name in version.exports:
        facts = _facts(version, f"exports/{name}")
        made = facts.get("inputs", {})
        if made.get("options") != {} or not isinstance(made.get("placement"), str):
            continue
        tallies = facts.get("splits", {}).values()
        whole = set(facts.get("splits", {})) == set(version.splits)
        if whole and all({"tokens", "pauses", "loss_tokens"} <= set(tally) for tally in tallies):
            return (
                sum(tally["tokens"] - tally["pauses"] for tally in tallies),
                sum(tally["loss_tokens"] for tally in tallies),
            )
    for run in version.runs:
        facts = _facts(version, f"scores/{run}")
        if facts.get("carried_examples") == 0 and "scored_tokens" in facts:
            return facts["scored_tokens"], None
    return None, None


def share(part: float, whole: float) -> float | None:
    """``part / whole``; None where ``whole`` is 0."""
    return part / whole if whole else None
