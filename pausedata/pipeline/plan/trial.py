"""``plan --measure``: a few examples are built for real, in a folder of their own, and timed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pausedata.core.progress import Progress
from pausedata.pipeline.build import build
from pausedata.pipeline.recipe import LoadedRecipe

SECONDS = 10.0  # of scoring, about, that the trial is meant to take
MOST_EXAMPLES = 256
LEAST_EXAMPLES = 4


@dataclass(frozen=True)
class Trial:
    """What scoring some of the recipe's own examples took."""

    examples: int
    tokens: dict[str, int]  # of prompts and responses, by run
    seconds: dict[str, float]  # of scoring them, by run; loading the model is not among them


def measure(
    loaded: LoadedRecipe, tokens_each: float, guess: float | None, progress: Progress
) -> Trial:
    """Score the first examples of a recipe with the models and backends that ``build`` would use.

    ``tokens_each`` is how many tokens an example has, ``guess`` the seconds that one is expected
    to take: so many examples are taken as score in some ten seconds. Nothing is written but into a
    folder that is gone afterwards, and the caches of models. Errors are those of ``build``.
    """
    recipe = loaded.recipe
    count = MOST_EXAMPLES
    if guess and tokens_each:
        count = int(SECONDS / (guess * tokens_each))
    count = max(LEAST_EXAMPLES, min(count, MOST_EXAMPLES)) // len(recipe.source.splits) or 1
    count = min(count, recipe.source.limit or count)
    few = {"limit": count, "max_bad_rows": count, "holdout": None}
    source = recipe.source.model_copy(update=few)
    cold = {"warmup": False}  # so few examples would not do, and take as long to score
    scoring = recipe.scoring.model_copy(update=cold) if recipe.scoring else None
    runs = {name: run.model_copy(update=cold) for name, run in recipe.runs.items()}
    changed = {"source": source, "scoring": scoring, "runs": runs, "placements": {}, "exports": {}}
    small = recipe.model_copy(update=changed)
    with tempfile.TemporaryDirectory(prefix="pausedata-trial-") as folder:
        trial = loaded.model_copy(update={"recipe": small})
        version = build(trial, Path(folder) / "trial", command="trial", progress=progress).version
        facts = {run: version.table(f"scores/{run}").entry.provenance for run in version.runs}
        return Trial(
            examples=version.table("examples").entry.rows,
            tokens={run: told["scored_tokens"] for run, told in facts.items()},
            seconds={run: told["seconds"] for run, told in facts.items()},
        )
