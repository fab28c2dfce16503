"""Figures of a version: what it holds, counted or as recorded, and its placements side by side."""

from pausedata.analysis.stats.by_place import ByPlace, by_place
from pausedata.analysis.stats.counted import stats
from pausedata.analysis.stats.manifest import (
    ExportStats,
    HistogramEdges,
    PlacementStats,
    RunStats,
    ScoreStats,
    SplitStats,
    Stats,
    manifest_stats,
)
from pausedata.analysis.stats.placements import (
    PlacedTokens,
    PlacementsStats,
    TokenCount,
    placements_stats,
)

__all__ = [
    "ByPlace",
    "ExportStats",
    "HistogramEdges",
    "PlacedTokens",
    "PlacementStats",
    "PlacementsStats",
    "RunStats",
    "ScoreStats",
    "SplitStats",
    "Stats",
    "TokenCount",
    "by_place",
    "manifest_stats",
    "placements_stats",
    "stats",
]
