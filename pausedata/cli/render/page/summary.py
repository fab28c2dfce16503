"""What the page says of the dataset as a whole: figures and charts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import yaml

from pausedata.analysis import diff, provenance
from pausedata.analysis.stats import (
    ByPlace,
    PlacementsStats,
    Stats,
    by_place,
    placements_stats,
    stats,
)
from pausedata.analysis.stats.by_place import PARTS
from pausedata.cli.render.page import charts
from pausedata.cli.render.page.charts import Chart
from pausedata.core.progress import Progress
from pausedata.store.dataset import Version

_MOST_FREQUENT = 12  # tokens named for each placement
_MOST_CHANGED = 5  # examples named for each pair of runs


@dataclass(frozen=True)
class Summary:
    """Figures of a version and what they were drawn as; what there is none of is empty."""

    figures: Stats
    placements: PlacementsStats
    charts: list[Chart]
    runs: list[diff.RunsDiff]  # every other run, compared with the first
    source: dict[str, Any]
    models: list[dict[str, Any]]
    limit: dict[str, Any] | None
    recipe: str


def summary(version: Version, progress: Progress) -> Summary:
    """Each figure has a pass over the shards it needs; errors as of ``stats`` and ``diff``."""
    figures = stats(version, None, progress)
    placements = placements_stats(version, None, progress, _MOST_FREQUENT)
    places = by_place(version, progress)
    manifest = version.manifest
    return Summary(
        figures=figures,
        placements=placements,
        charts=_charts(figures, places),
        runs=[_compared(version, version.runs[0], run, progress) for run in version.runs[1:]],
        source=provenance.source(manifest),
        models=[provenance.run(manifest, name) for name in version.runs],
        limit=provenance.length_limit(manifest),
        recipe=yaml.safe_dump(manifest.recipe, sort_keys=False, allow_unicode=True, width=100),
    )


def _compared(version: Version, a: str, b: str, progress: Progress) -> diff.RunsDiff:
    tables = f"scores/{a}", f"scores/{b}"
    found = diff.diff_tables(version, *tables, most=_MOST_CHANGED, progress=progress)
    assert isinstance(found, diff.RunsDiff)
    return found


def _charts(figures: Stats, places: ByPlace) -> list[Chart]:
    found = []
    edges = figures.histogram_edges
    scored = {name: run for name, run in figures.runs.items() if run.histogram and run.tokens}
    if edges is not None and scored:
        found.append(
            charts.bars(
                "How likely the tokens are",
                "Share of response tokens by the probability that the model gives them. Pauses "
                "belong where it is small.",
                "probability of the token, from",
                [f"{low:g}" for low, _ in pairwise(edges.probability)],
                {
                    name: [n / (run.tokens or 1) for n in run.histogram or []]
                    for name, run in scored.items()
                },
                percent=True,
            )
        )
    parts = [f"{100 * k // PARTS}%" for k in range(PARTS)]
    positions = [str(k) for k in range(len(next(iter(places.first_surprisal.values()), [])))]
    if scored:
        found.append(
            charts.lines(
                "Surprisal by place in the response",
                f"Mean surprisal in nats of each of {PARTS} equal parts of the responses.",
                "part of the response, from",
                parts,
                places.surprisal,
            )
        )
        found.append(
            charts.lines(
                "Surprisal of the first tokens",
                "Mean surprisal in nats. A first token that stands out says more of the prompt's "
                "template than of the corpus.",
                "token of the response, from 0",
                positions,
                places.first_surprisal,
            )
        )
    paused = {name: values for name, values in places.pauses.items() if None not in values}
    if paused:
        found.append(
            charts.lines(
                "Pauses by place in the response",
                f"Share of each placement's pauses in each of {PARTS} equal parts.",
                "part of the response, from",
                parts,
                paused,
                percent=True,
            )
        )
    return found
