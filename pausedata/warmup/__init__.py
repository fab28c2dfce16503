"""A short fine-tuning before scoring, so that a model stumbles at reasoning and not at the format.

From here: `Warmup` (the settings), `Corpus` (what it trains on), `warm` and `found`, which give a
`Warmed`: a model for each fold and what the manifest records; `keep` copies those models; `folds`
says which fold a prompt is in, `memory` what a warm-up takes. Importing this loads neither torch
nor peft: `pausedata.warmup.train`, which does, is imported when something has to be trained.
"""

from __future__ import annotations

from pausedata.warmup.settings import Warmup
from pausedata.warmup.warming import Corpus, Warmed, found, keep, warm

__all__ = ["Corpus", "Warmed", "Warmup", "found", "keep", "warm"]
