"""What ``build`` or ``score`` would do, without doing it: steps, figures, what cannot be known.

What happens to each table is the planner's to say (`decide`), which both of them do. Here are the
figures: how many rows and tokens, how long, how large.
"""

from __future__ import annotations

import dataclasses
import tempfile
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from pausedata.core.errors import DataError, UnreachableError
from pausedata.core.progress import Progress, Silent
from pausedata.models.ref import ModelRef
from pausedata.pipeline import runs, stored_runs, targets, warming
from pausedata.pipeline.build import (
    all_targets,
    check_placements,
    corpus_of,
    examples_differ,
    note_corpus,
)
from pausedata.pipeline.commands import command_targets, mended
from pausedata.pipeline.plan import disk, estimate, fetches
from pausedata.pipeline.plan.forecast import forecast, forecast_warmup
from pausedata.pipeline.plan.result import Plan, StepPlan
from pausedata.pipeline.plan.sizes import Sample, SampleTables
from pausedata.pipeline.plan.trial import measure
from pausedata.pipeline.planner import (
    CORPUS,
    State,
    Step,
    decide,
    decide_corpus,
    differences,
    recorded,
)
from pausedata.pipeline.recipe import LoadedRecipe
from pausedata.pipeline.resolve import Resolved, resolve_offline
from pausedata.pipeline.runs import RunSpec
from pausedata.pipeline.score_request import ScoreRequest, of_command
from pausedata.pipeline.steps import prepare as prepare_step
from pausedata.pipeline.steps import score as score_step
from pausedata.pipeline.steps.prepare import Prepared
from pausedata.pipeline.steps.retokenize import retokenize
from pausedata.pipeline.steps.score import Lengths
from pausedata.store import repair
from pausedata.store.dataset import Table, Version, open_version
from pausedata.store.pointer import read_pointer
from pausedata.store.staging import Staging

# Rows that are prepared to tell what of earlier scores can be reused; beyond, it is not told.
PREPARED = 20_000


def plan(
    loaded: LoadedRecipe,
    root: Path,
    *,
    replace: bool = False,
    update: bool = False,
    trial: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Work out what ``build`` with the same arguments would do; nothing is written.

    Where the source or a model cannot be reached, the plan tells what rests on neither. With
    ``trial`` some examples are scored, in a folder that is gone afterwards, and the time is told by
    what they took.
    """
    lost, damaged = repair.find_fall_back(root), set[str]()
    base = lost[0] if lost else open_version(root) if read_pointer(root) else None
    if base is not None:
        base, damaged = repair.find_damage(base)
    result = Plan(str(root), f"version {base.number}" if base else "a new dataset")
    for line in lost[2] if lost else ():
        (progress or Silent()).warn(line)
    resolved, result.unknown = resolve_offline(loaded, root, base, update=update)
    result.backend, result.backend_why = resolved.backend, resolved.backend_why
    models = [resolved.model, *resolved.runs.values()]
    result.fetches = fetches.fetches(resolved.source, models)  # before rows of it are looked at
    others = targets.recorded_placements(base, but=loaded.recipe.placements)
    check_placements(loaded, base, others)
    state = State.of(base, damaged)
    with tempfile.TemporaryDirectory(prefix="pausedata-plan-") as folder:
        tokens, sample = _plan_corpus(resolved, root, base, replace, state, Path(folder), result)
        new_tokens = tokens if "tokens" in state.changed else None
        if base is not None and new_tokens is not None and "tokens" in damaged:
            base = _with_tokens(resolved, base, Path(folder) / "retokenized")
        pause = base.manifest.pause if base else None
        specs = runs.of_recipe(resolved, base, damaged, new_tokens)
        every = all_targets(resolved, specs, base, others, pause, new_tokens)
        steps = list(decide(every, state))
        _plan_steps(steps, {spec.table: spec for spec in specs}, root, base, tokens, result)
        if result.tokens_to_score:
            result.conversions = fetches.conversions(spec.model for spec in specs)
        _estimate_time(resolved.model, base, result)
        if trial and result.tokens_to_score:
            _measure_time(loaded, result, progress or Silent())
        vocabulary = None
        if "vocab" in {step.table for step in result.steps if step.writes}:
            with suppress(UnreachableError):
                vocabulary = resolved.tokenizer
        placements = {**others, **loaded.recipe.placements}
        exports = targets.recorded_exports(base) | loaded.recipe.exports
        each = loaded.recipe.shard_rows
        disk.estimate(root, tokens, sample, placements, exports, vocabulary, each, result)
    return result


def plan_score(root: Path, name: str, asked: ScoreRequest, *, replace: bool = False) -> Plan:
    """Work out what ``score`` with the same arguments would do; nothing is written."""
    base = open_version(root)
    result = Plan(str(root), f"version {base.number}")
    tokens = base.table("tokens")
    spec, tokenizers = of_command(root, base, name, asked, pin=False)
    result.backend, result.backend_why = spec.backend, spec.why
    base, damaged = repair.find_damage(base, mended(base, [spec.table]))
    spec = spec.found_damaged(damaged)
    target = spec.target(tokenizers)
    others = targets.recorded_placements(base)
    every = command_targets(base, [target], others)
    state = State.of(base, damaged, replace=replace)
    steps = [s for s in decide(every, state) if s.action != "keep" or s.target is target]
    lengths = _plan_steps(steps, {spec.table: spec}, root, base, tokens, result)
    if result.steps[0].action == "keep" or lengths is None:
        return result
    result.tokenizer = runs.check_tokenizer(
        f"run '{spec.name}'", spec.model, tokenizers, base.tables, Silent()
    )
    lengths.check_context(spec.model)
    spec.try_out(lengths.longest)
    _estimate_time(spec.model, base, result)
    result.fetches = fetches.fetches(None, [spec.model])
    result.conversions = fetches.conversions([spec.model])
    sample = partial(_sample_of, base.table("examples"), tokens)
    exports = targets.recorded_exports(base)
    disk.estimate(root, tokens, sample, others, exports, None, None, result)
    return result


def _plan_corpus(
    resolved: Resolved,
    root: Path,
    base: Version | None,
    replace: bool,
    state: State,
    folder: Path,
    result: Plan,
) -> tuple[Table | None, Sample]:
    """The first tables. Returns ``tokens`` where they are there, staged or could be prepared in
    ``folder``, and what gives some of the rows, as they are or would be.
    """
    different, unless = _differences(resolved, base)
    steps = decide_corpus(corpus_of(resolved, root, base, different, replace, unless), state)
    if {step.action for step in steps} <= {"keep", "repair"}:
        assert base is not None
        result.steps += [_told(step, []) for step in steps]
        unreadable = state.damaged & {"examples", "tokens"}
        state.damaged -= set(CORPUS)
        result.rows = {split: rows.out for split, rows in base.manifest.rows.items()}
        tokens, examples = base.table("tokens"), base.table("examples")
        if unreadable:
            return (None if "tokens" in unreadable else tokens), lambda: None
        return tokens, partial(_sample_of, examples, tokens)
    prepared, staged = _prepared(resolved, root, base, folder, result)
    source = resolved.recipe.source
    files = [source.hub] if source.hub else [Path(file).name for file in source.files or []]
    reads = {"examples": files, "vocab": ["tokenizer"], "tokens": ["examples", "tokenizer"]}
    for step in steps:
        why = step.why if step.table == "examples" or step.action != "make" else ""
        if staged:
            why = "prepared by an earlier build that did not end"
        action = "resume" if staged else step.action
        result.steps.append(StepPlan(step.table, action, why, reads[step.table]))
    if prepared is None:
        state.changed |= set(CORPUS)
        state.damaged -= set(CORPUS)
        return None, _estimate_tokens(resolved, result)
    note_corpus(state, base, prepared.tables, prepared.pause)
    result.rows = {split: rows.out for split, rows in prepared.rows.items()}
    examples, tokens = prepared.tables["examples"], prepared.tables["tokens"]
    return tokens, partial(_sample_of, examples, tokens)


def _with_tokens(resolved: Resolved, base: Version, folder: Path) -> Version:
    """``base``, with those of its damaged tokens that a build would make again read in ``folder``.

    They are what tells which of the scores can be used again.
    """
    again = dict.fromkeys(retokenize(resolved, base, folder), folder)
    return dataclasses.replace(base, elsewhere={**base.elsewhere, **again})


def _prepared(
    resolved: Resolved, root: Path, base: Version | None, folder: Path, result: Plan
) -> tuple[Prepared | None, bool]:
    """The first tables as they would be, where they can be had; and whether a build left them.

    Where there is a dataset, what of its scores can be used again rests on the examples, and these
    are prepared here: a large source, or one that is out of reach, leaves it unknown.
    """
    with suppress(UnreachableError):  # told already
        if (staged := prepare_step.finished(resolved, root)) is not None:
            return staged, True
        if base is None:
            return None, False
        splits = resolved.recipe.source.splits
        counts = [estimate.count_rows(resolved, split, PREPARED) for split in splits]
        if None not in counts and sum(count or 0 for count in counts) < PREPARED:
            return _prepare(resolved, folder, result), False
        result.unknown.append("which of the examples were scored before: there are many")
    return None, False


def _prepare(resolved: Resolved, folder: Path, result: Plan) -> Prepared | None:
    """The first tables, made in ``folder``; None where too many rows cannot be used."""
    try:
        with closing(Staging(folder)) as staging:
            return prepare_step.prepare(resolved, staging, Silent())
    except DataError as error:
        result.unknown.append(f"what comes of it: build stops. {str(error).splitlines()[0]}")
        return None


def _differences(resolved: Resolved, base: Version | None) -> tuple[list[str], str]:
    """What differs between the examples' inputs, as far as it is known, and what that rests on."""
    try:
        return examples_differ(resolved, base), ""
    except UnreachableError:
        if base is None:
            return [], ""
        made_from = recorded(base.manifest.tables["tokens"])
        known = prepare_step.known_inputs(resolved)
        before = {key: made_from.get(key) for key in known}
        before["source"] = {key: made_from["source"].get(key) for key in known["source"]}
        return differences(before, known), ", if what is unknown here did not change"


def _plan_steps(
    steps: list[Step],
    specs: dict[str, RunSpec],
    root: Path,
    base: Version | None,
    tokens: Table | None,
    result: Plan,
) -> Lengths | None:
    """Tell each step, and of the runs that are to be scored how much there is to do."""
    lengths = Lengths.of(tokens) if tokens is not None else None
    if tokens is not None and lengths is not None:
        result.rows = dict.fromkeys(tokens.splits(), 0)
        for shard in tokens.shards:
            result.rows[str(shard.split)] = (result.rows[str(shard.split)] or 0) + shard.rows
        result.prompt_tokens, result.response_tokens = lengths.prompts, lengths.responses
        result.tokens_are = "exact"
    if specs:
        result.tokens_to_score = 0
    for step in steps:
        spec = specs.get(step.table)
        if spec is None or step.action not in ("make", "remake", "repair"):
            result.steps.append(_told(step, list(step.target.shown)))
        elif tokens is None or lengths is None:
            _plan_unknown(step, spec, base, result)
        else:
            _plan_scoring(step, spec, root, base, tokens, lengths, result)
    return lengths


def _told(step: Step, reads: list[str]) -> StepPlan:
    making = step.action in ("make", "remake", "repair", "carry over")
    return StepPlan(step.table, step.action, step.why, reads if making else [])


def _plan_unknown(step: Step, spec: RunSpec, base: Version | None, result: Plan) -> None:
    """A run over tokens that are not there yet."""
    total = None
    if result.prompt_tokens is not None and result.response_tokens is not None:
        total = result.prompt_tokens + result.response_tokens
    known = result.tokens_to_score
    result.tokens_to_score = None if total is None or known is None else known + total
    result.steps.append(_told(step, list(step.target.shown)))
    # Of a run that is there all scores may be carried over: which is known when tokens are.
    sure = base is None or spec.name not in base.runs
    warmup = forecast_warmup(spec, None, result.rows_of_first_split, result.tokens_each, None)
    limit = spec.scoring.max_length
    result.runs.append(forecast(spec, total, None, limit, warmup=warmup, sure=sure))


def _plan_scoring(
    step: Step,
    spec: RunSpec,
    root: Path,
    base: Version | None,
    tokens: Table,
    lengths: Lengths,
    result: Plan,
) -> None:
    """How much of a run is to be scored, and why not more."""
    wanted = spec.inputs(tokens.entry.content)
    sound = base.table(spec.table) if base is not None and step.action == "repair" else None
    reuse = stored_runs.find_reusable(root, base, spec.name, wanted, tokens)
    warmed = spec.find_warmed(wanted["warmup"]["of"]) if spec.warmup is not None else None
    made_by = warming.hashes(warmed.record) if warmed is not None else []
    left = score_step.left(root, spec.name, wanted, tokens, lengths, reuse, sound, made_by)
    why, action = step.why, step.action
    if reuse is not None:
        why += f"; the scores of {left.reused:,} examples are carried over"
        why += reuse.lost(tokens)
    if left.staged:
        shards = len(tokens.shards)
        why = f"{left.staged} of {shards} shards were scored by an earlier command; {why}"
    action = "resume" if left.staged else step.action
    result.steps.append(StepPlan(spec.table, action, why, list(step.target.shown)))
    result.tokens_to_score = (result.tokens_to_score or 0) + left.tokens
    if left.tokens:
        units = lengths.units(left.shards)
        longest = lengths.longest
        of_split, each = result.rows_of_first_split, result.tokens_each
        warmup = forecast_warmup(spec, warmed, of_split, each, longest)
        result.runs.append(forecast(spec, left.tokens, units, longest, warmup=warmup))


def _sample_of(examples: Table, tokens: Table) -> SampleTables | None:
    """The first rows of tables that are there."""
    for shard, other in zip(tokens.shards, examples.shards, strict=True):
        if shard.rows and not examples.absent:
            rows = [table.read(s) for table, s in ((examples, other), (tokens, shard))]
            return SampleTables(*(table.slice(0, estimate.SAMPLE) for table in rows))
    return None


def _estimate_tokens(resolved: Resolved, result: Plan) -> Sample:
    sampled = estimate.sample(resolved)
    result.rows = sampled.rows
    result.prompt_tokens, result.response_tokens = sampled.prompt_tokens, sampled.response_tokens
    result.tokens_are = sampled.tokens_are
    told = "\n".join(result.unknown)
    result.unknown += [reason for reason in sampled.unknown if reason not in told]
    if result.prompt_tokens is None:
        result.unknown.append(
            "how many tokens there are, and so how long scoring takes and how much room is needed"
        )
    return lambda: sampled.tables


def _estimate_time(model: ModelRef, base: Version | None, result: Plan) -> None:
    if not result.tokens_to_score:
        return
    found = estimate.scoring_time(result.tokens_to_score, model, base)
    if found is None:
        result.unknown.append("how long scoring takes: the model's size is not known here")
        return
    result.seconds, result.seconds_from = found
    _estimate_warmup(result)


def _estimate_warmup(result: Plan) -> None:
    """How long the warm-ups take, at the pace at which is scored."""
    warmups = [run.warmup for run in result.runs if run.warmup is not None]
    if warmups and result.seconds is not None and result.tokens_to_score:
        pace = result.seconds / result.tokens_to_score
        result.warmup_seconds = pace * sum(warmup.work or 0 for warmup in warmups)


def _measure_time(loaded: LoadedRecipe, result: Plan, progress: Progress) -> None:
    """The time by a trial instead of by what is known of the model and the machine."""
    guess = result.seconds / (result.tokens_to_score or 1) if result.seconds else None
    found = measure(loaded, result.tokens_each or 0.0, guess, progress)
    left = {run.run: run.tokens or 0 for run in result.runs}
    result.seconds = sum(
        found.seconds[run] / tokens * left.get(run, 0)
        for run, tokens in found.tokens.items()
        if tokens
    )
    took = ", ".join(
        f"{tokens:,} tokens in {found.seconds[run]:.1f} s" for run, tokens in found.tokens.items()
    )
    result.seconds_from = f"measured on {found.examples} examples: {took}"
    _estimate_warmup(result)


__all__ = ["Plan", "StepPlan", "plan", "plan_score"]
