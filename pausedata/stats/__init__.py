"""Figures of a version: what it holds, counted or as recorded, and its placements side by side."""

from pausedata.stats.counted import stats
from pausedata.stats.manifest import (
    ExportStats,
    HistogramEdges,
    PlacementStats,
    RunStats,
    ScoreStats,
    SplitStats,
    Stats,
    manifest_stats,
)
from pausedata.stats.placements import (
    Chosen,
    PlacementsStats,
    TokenCount,
    placements_stats,
)

__all__ = [
    "Chosen",
    "ExportStats",
    "HistogramEdges",
    "PlacementStats",
    "PlacementsStats",
    "RunStats",
    "ScoreStats",
    "SplitStats",
    "Stats",
    "TokenCount",
    "manifest_stats",
    "placements_stats",
    "stats",
]
