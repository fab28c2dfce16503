"""What a command says of a run, and the run that comes of it: as asked, as there, as the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pausedata import scorers
from pausedata.core.errors import UsageError, listing, nearest
from pausedata.pipeline import warming
from pausedata.pipeline.recipe import Model, Scoring, check_warmup
from pausedata.pipeline.resolve import Tokenizers, find_model, recorded_pins
from pausedata.pipeline.runs import RunSpec
from pausedata.pipeline.steps import score as score_step
from pausedata.pipeline.stored_runs import scored_from, stored_scores
from pausedata.scorers.address import check_address
from pausedata.store.dataset import Version
from pausedata.store.staging import Pins
from pausedata.warmup import Warmup

DTYPES: tuple[str, ...] = get_args(Model.model_fields["dtype"].annotation)


@dataclass(frozen=True)
class ScoreRequest:
    """What a command says of a run; None: as in the run that is there, else as in the recipe.

    ``model`` may be a path, relative to the current folder; ``url`` is a server's, for backend
    ``server``, and is nowhere recorded.
    """

    model: str | None = None
    revision: str | None = None
    dtype: str | None = None
    backend: str | None = None
    device: str | None = None
    batch_tokens: int | None = None
    url: str | None = None
    cross_check: int | None = None
    engines: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    warmup: bool | Warmup | None = None
    only_warm: bool = False


def of_command(
    root: Path,
    version: Version,
    name: str,
    asked: ScoreRequest,
    *,
    pin: bool = True,
) -> tuple[RunSpec, Tokenizers]:
    """The run that a command asks for, and the tokenizers to check it with.

    Without ``pin`` what is found is not kept for the next time: nothing is written.
    """
    recipe = version.manifest.recipe
    pins = Pins(root, recorded_pins(version), keep=pin)
    there = stored_scores(version, name)
    facts = there.entry.provenance if there is not None else {}
    before = facts.get("inputs", {})
    recorded = recipe.get("runs", {}).get(name, recipe).get("model", {})
    if "model" in before:
        recorded = {"dtype": before["dtype"]} | facts.get("model", before["model"])
    settings = recipe.get("scoring") or {}
    scoring = Scoring(**{k: v for k, v in settings.items() if k in Scoring.model_fields})
    own = before.get("backend", scoring.backend)
    keys = ("device", "batch_tokens", "url", "cross_check", "engines")
    changed = {key: getattr(asked, key) for key in keys}
    scoring = scoring.model_copy(update={k: v for k, v in changed.items() if v is not None})
    backend, why = asked.backend or own, None
    scorers.check_backend(backend, "--backend")
    if backend == "auto":
        backend, why = scorers.choose_backend(scoring.device)
    where = "--url" if asked.url is not None else "--url (no dataset records it)"
    check_address(backend, asked.url, where)
    engine: dict[str, Any] = {}
    if backend == own:
        # A run records what decides its scores; how an engine is to run is the recipe's to say.
        engine = score_step.running(scoring.engine) | before.get("engine", scoring.engine)
    if asked.engine and backend != "vllm":
        raise UsageError(f"--engine is for vLLM, backend '{backend}' takes no such settings.")
    scoring = scoring.model_copy(update={"engine": engine | dict(asked.engine)})
    dtype = asked.dtype or recorded.get("dtype", "float32")
    check_dtype(dtype)
    model = Model(
        id=_model_id(name, asked, recorded, bool(before)), revision=_revision(asked, recorded)
    )
    ref, _ = find_model(model, Path(), pins, where="--model")
    tokenizers = Tokenizers(version.manifest.pause.token, pins)
    warmup = _warmup_of(name, asked, before, recipe)
    if not asked.only_warm:
        check_warmup(backend, warmup is not None, "--warmup")
    made_from, tokens = scored_from(version, name), version.table("tokens")
    spec = RunSpec(
        *(name, ref, dtype, backend, scoring, why, warmup),
        before=made_from,
        tokens=tokens,
    )
    return spec, tokenizers


def _warmup_of(
    name: str, asked: ScoreRequest, before: Mapping[str, Any], recipe: Mapping[str, Any]
) -> Warmup | None:
    """The warm-up asked for; else that of the run that is there, or that the recipe names.

    A run that neither has is mostly of a checkpoint, which has learnt the format.
    """
    if asked.warmup is not None:
        return warming.settings_of(asked.warmup)
    if before:
        return warming.recorded_settings(before)
    scoring = recipe.get("scoring") or {}
    if name != scoring.get("run") and name not in recipe.get("runs", {}):
        return None
    said = recipe.get("runs", {}).get(name, {}).get("warmup", scoring.get("warmup", False))
    if isinstance(said, dict):  # a recorded folder is but a name
        said = Warmup(**{key: value for key, value in said.items() if key != "keep"})
    return warming.settings_of(said)


def check_dtype(dtype: str) -> None:
    """UsageError unless a model can be run in ``dtype``."""
    if dtype not in DTYPES:
        raise UsageError(f"--dtype: no '{dtype}'.{nearest(dtype, DTYPES)} There: {listing(DTYPES)}")


def _model_id(name: str, asked: ScoreRequest, recorded: dict[str, Any], own: bool) -> str:
    if asked.model is not None:
        return asked.model
    if "revision" in recorded and "id" in recorded:  # on the Hub
        return recorded["id"]
    known = f", which is recorded as '{recorded['id']}'" if own and "id" in recorded else ""
    raise UsageError(
        f"run '{name}': give its model with --model{known}: of a folder or a file a dataset "
        "records no path."
    )


def _revision(asked: ScoreRequest, recorded: dict[str, Any]) -> str | None:
    """The revision asked for; else that of the run that is there, if it is of the same model."""
    if asked.revision is not None or asked.model not in (None, recorded.get("id")):
        return asked.revision
    return recorded.get("revision")
