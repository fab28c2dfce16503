"""A run and a placement by a model that is in memory, as one new version of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pausedata import strategies
from pausedata.core.errors import UsageError, listing
from pausedata.core.progress import Progress
from pausedata.pipeline import stored_runs, targets
from pausedata.pipeline.commands import existing
from pausedata.pipeline.making import carry_out
from pausedata.pipeline.planner import State, Target
from pausedata.pipeline.recipe import Placement
from pausedata.pipeline.steps import score as score_step
from pausedata.pipeline.steps.reuse import ReusableScores, examples_of
from pausedata.pipeline.steps.score import CheckedPass
from pausedata.pipeline.transaction import Transaction
from pausedata.scorers.sizes import DEFAULT_BATCH_TOKENS
from pausedata.scorers.transformers import TransformersScorer
from pausedata.store.dataset import Table, Version
from pausedata.strategies.random import stream_keys


@dataclass(frozen=True)
class TrainingState:
    """Where in a training the model is, and how it is to be scored."""

    run: str  # the name of the run and, behind the placement's, of the new placement
    model: str  # what the model is called
    step: int
    sample: int | None = None  # so many examples; the others keep the scores that they have
    seed: int = 0
    batch_tokens: int | None = None


def refreshable(
    version: Version, name: str, specs: Mapping[str, Placement] | None = None
) -> Placement:
    """The placement ``name`` as it is recorded; UsageError where scores do not decide it.

    ``specs`` are the version's, where they were read already.
    """
    specs = targets.recorded_placements(version) if specs is None else specs
    if name not in specs:
        raise UsageError(f"no placement '{name}'. There: {listing(version.placements)}.")
    spec = specs[name]
    if not strategies.reads_scores(*spec.choose(f"placements.{name}")):
        raise UsageError(
            f"placement '{name}' ({spec.strategy}) reads no scores: no model changes it."
        )
    return spec


def refresh(
    root: Path, placement: str, model: Any, moment: TrainingState, progress: Progress
) -> tuple[Version, str]:
    """Score the dataset at ``root`` with ``model``, and place anew as ``placement`` was made.

    Commits the run ``moment.run`` and the placement ``PLACEMENT-RUN`` as one version; both are
    kept as they are where they were made from the same weights. The model is left as it was.
    """
    base = existing(root)
    others = targets.recorded_placements(base)
    spec = refreshable(base, placement, others)
    name = f"{placement}-{moment.run}"
    run = _run(base, spec, model, moment)
    named = targets.of_placement(name, spec.model_copy(update={"run": moment.run}), None)
    others.pop(name, None)
    with Transaction(root, base, progress) as tx:
        rest = targets.with_the_rest([named], base, others, base.manifest.pause)
        # A remake: training that was cut off comes by here again, with other last bits perhaps.
        state = State.of(base, replace=True)
        carry_out([run, *stored_runs.stored(root, base, [run], None), *rest], state, tx)
        return tx.commit(f"refresh {moment.run}").version, name


def _run(base: Version, spec: Placement, model: Any, moment: TrainingState) -> Target:
    """The scores that the model in memory gives."""
    tokens, rest = base.table("tokens"), None
    wanted = {
        "run": moment.run,
        "model": {"state_sha256": state_sha256(model)},
        "dtype": str(model.dtype).removeprefix("torch."),
        "backend": "transformers",
        "engine": {},
        "tokens": tokens.entry.content,
    }
    if moment.sample is not None and moment.sample < tokens.entry.rows:
        before = base.table(f"scores/{spec.run or base.default_run}")
        rest = _Rest(tokens, before, moment)
        wanted["sample"] = {
            "examples": moment.sample,
            "seed": moment.seed,
            "rest": rest.content,
        }
    facts = {
        "model": {"id": moment.model, **wanted["model"]},
        "trained": {"global_step": moment.step},
    }

    def load(logs: Path) -> Any:
        tokens_at_once = DEFAULT_BATCH_TOKENS.get(model.device.type, 512)
        return TransformersScorer(model, moment.batch_tokens or tokens_at_once)

    def make(tx: Transaction, wanted: dict[str, Any]) -> Table:
        return score_step.score(
            *(tx.staging, moment.run, wanted, tokens, [CheckedPass(load)]),
            *(rest, tx.progress, facts),
        )

    return Target(f"scores/{moment.run}", ("tokens",), lambda _: wanted, make, asked=True)


class _Rest(ReusableScores):
    """The scores of those examples that are not in the sample."""

    def __init__(self, tokens: Any, scores: Any, moment: TrainingState) -> None:
        super().__init__(tokens, scores)
        assert moment.sample is not None
        columns = ["id", "prompt_ids", "response_ids"]
        rows = pa.concat_tables([tokens.read(shard, columns) for shard in tokens.shards])
        keys = stream_keys(rows.column("id").to_pylist(), moment.seed)
        chosen = np.argsort(keys, kind="stable")[: moment.sample]
        for example in examples_of(rows.take(chosen)):
            self.forget(example)


def state_sha256(model: Any) -> str:
    """A hash of the model's weights as they are: names, types, shapes and bytes.

    Takes about a second for each billion bytes.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return "sha256:" + digest.hexdigest()
