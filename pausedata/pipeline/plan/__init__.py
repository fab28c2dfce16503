"""What ``build`` or ``score`` would do, without doing it: steps, figures, what cannot be known."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from pausedata.core.errors import UnreachableError, UsageError
from pausedata.core.progress import Progress, Silent
from pausedata.models.ref import ModelRef
from pausedata.pipeline import runs
from pausedata.pipeline.build import FIRST, examples_differ, known_runs
from pausedata.pipeline.change import refuse_overwriting
from pausedata.pipeline.plan import disk, estimate, fetches
from pausedata.pipeline.plan.forecast import forecast
from pausedata.pipeline.plan.result import Plan, StepPlan
from pausedata.pipeline.plan.sizes import Sample, SampleTables
from pausedata.pipeline.plan.trial import measure
from pausedata.pipeline.recipe import LoadedRecipe
from pausedata.pipeline.references import (
    check_references,
    in_order,
    recorded_exports,
    recorded_placements,
    tables_read,
)
from pausedata.pipeline.resolve import Resolved, survey
from pausedata.pipeline.runs import Asked, RunSpec
from pausedata.pipeline.steps import prepare as prepare_step
from pausedata.pipeline.steps import score as score_step
from pausedata.pipeline.work import Work, differences
from pausedata.store.choice import describe_choice
from pausedata.store.dataset import KINDS, Table, Version, open_version
from pausedata.store.pointer import read_pointer


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
    base = open_version(root) if read_pointer(root) else None
    result = Plan(str(root), f"version {base.number}" if base else "a new dataset")
    resolved, result.unknown = survey(loaded, root, base, update=update)
    result.backend, result.backend_why = resolved.backend, resolved.backend_why
    specs = runs.of_recipe(resolved)
    models = [resolved.model, *(spec.model for spec in specs)]
    result.fetches = fetches.fetches(resolved.source, models)  # before rows of it are looked at
    tokens, sample = _plan_examples(resolved, root, base, replace, result)
    _plan_scores(specs, root, base, tokens, result)
    _plan_rest(loaded, base, tokens, result)
    if result.tokens_to_score:
        result.conversions = fetches.conversions(spec.model for spec in specs)
    _estimate_time(resolved.model, base, result)
    if trial and result.tokens_to_score:
        _measure_time(loaded, result, progress or Silent())
    placements = recorded_placements(base) | loaded.recipe.placements
    exports = recorded_exports(base) | loaded.recipe.exports
    vocabulary = None
    if "vocab" in {step.table for step in result.steps if step.action != "keep"}:
        with suppress(UnreachableError):
            vocabulary = resolved.tokenizer
    each = loaded.recipe.shard_rows
    disk.estimate(root, tokens, sample, placements, exports, vocabulary, each, result)
    return result


def plan_score(root: Path, name: str, asked: Asked, *, replace: bool = False) -> Plan:
    """Work out what ``score`` with the same arguments would do; nothing is written."""
    base = open_version(root)
    result = Plan(str(root), f"version {base.number}")
    work, tokens = Work(root, base, Silent()), base.table("tokens")
    spec, tokenizers = runs.of_command(root, base, name, asked, pin=False)
    result.backend, result.backend_why = spec.backend, spec.why
    refuse_overwriting(work, spec.table, spec.inputs(tokens), replace)
    _count_exactly(tokens, result)
    if _plan_run(spec, root, base, tokens, result).action == "keep":
        return result
    result.tokenizer = runs.check_tokenizer(
        f"run '{spec.name}'", spec.model, tokenizers, work.tables, work.progress
    )
    spec.try_out(score_step.check_context(tokens, spec.model))
    remade = recorded_placements(base, made_from=[spec.table])
    for placement in remade:
        result.steps.append(StepPlan(f"placements/{placement}", "remake", f"from {spec.table}"))
    for export, of in recorded_exports(base).items():
        if not remade.keys().isdisjoint(of.placements):
            why = f"of {describe_choice(of.placement)}"
            result.steps.append(StepPlan(f"exports/{export}", "remake", why))
    _estimate_time(spec.model, base, result)
    result.fetches = fetches.fetches(None, [spec.model])
    result.conversions = fetches.conversions([spec.model])
    sample = partial(_sample_of, base.table("examples"), tokens)
    placements, exports = recorded_placements(base), recorded_exports(base)
    disk.estimate(root, tokens, sample, placements, exports, None, None, result)
    return result


def _plan_examples(
    resolved: Resolved, root: Path, base: Version | None, replace: bool, result: Plan
) -> tuple[Table | None, Sample]:
    """The first tables; returns ``tokens`` where it is there already, committed or staged, and
    what gives some of the rows, as they are or would be.
    """
    if base is not None:
        different, unless = _differences(resolved, base)
        if not different:
            why = f"as in version {base.number}{unless}"
            result.steps += [StepPlan(name, "keep", why) for name in FIRST]
            tokens = base.table("tokens")
            _count_exactly(tokens, result)
            return tokens, partial(_sample_of, base.table("examples"), tokens)
        if not replace:
            raise UsageError(
                f"{root}: the recipe would change the examples that are there "
                f"({'; '.join(different)}). build stops here unless --replace is given."
            )
        action, why = "remake", "; ".join(different)
    else:
        action, why = "make", f"from {resolved.recipe.source.hub or 'files'}"
    try:
        staged = prepare_step.finished(resolved, root)
    except UnreachableError:  # told already: what keys its folder is not known
        staged = None
    if staged is not None:
        action, why = "resume", "prepared by an earlier build that did not end"
        _count_exactly(staged.tables["tokens"], result)
        sample = partial(_sample_of, staged.tables["examples"], staged.tables["tokens"])
    else:
        sample = _estimate_tokens(resolved, result)
    source = resolved.recipe.source
    files = [source.hub] if source.hub else [Path(file).name for file in source.files or []]
    reads = {"examples": files, "vocab": ["tokenizer"], "tokens": ["examples", "tokenizer"]}
    result.steps += [
        StepPlan(name, action, why if name == "examples" or action != "make" else "", reads[name])
        for name in FIRST
    ]
    return (staged.tables["tokens"] if staged else None), sample


def _differences(resolved: Resolved, base: Version) -> tuple[list[str], str]:
    """What differs between the examples' inputs, as far as it is known, and what that rests on."""
    try:
        return examples_differ(resolved, base), ""
    except UnreachableError:
        made_from = base.table("tokens").entry.provenance["inputs"]
        known = prepare_step.known_inputs(resolved)
        before = {key: made_from.get(key) for key in known}
        before["source"] = {key: made_from["source"].get(key) for key in known["source"]}
        return differences(before, known), ", if what is unknown here did not change"


def _plan_scores(
    specs: list[RunSpec], root: Path, base: Version | None, tokens: Table | None, result: Plan
) -> None:
    if tokens is None:
        total = None
        if result.prompt_tokens is not None and result.response_tokens is not None and specs:
            total = result.prompt_tokens + result.response_tokens
            result.tokens_to_score = total * len(specs)
        for spec in specs:
            reads = ["tokens", "model"]
            result.steps.append(StepPlan(spec.table, "make", f"with {spec.label}", reads))
            # Of a run that is there all scores may be carried over: which is known when tokens are.
            sure = base is None or spec.name not in base.runs
            result.runs.append(forecast(spec, total, None, spec.scoring.max_length, sure=sure))
        return
    for spec in specs:
        _plan_run(spec, root, base, tokens, result)


def _plan_run(
    spec: RunSpec, root: Path, base: Version | None, tokens: Table, result: Plan
) -> StepPlan:
    """One run over tokens that are there: kept, or how much of it is to be scored."""
    wanted, name = spec.inputs(tokens), spec.table
    there = base.tables.get(name) if base is not None else None
    left = (result.prompt_tokens or 0) + (result.response_tokens or 0)
    if base is not None and there and there.entry.provenance["inputs"] == wanted:
        step, left = StepPlan(name, "keep", f"as in version {base.number}"), 0
    else:
        why, carried = f"with {spec.label}", runs.find_carried(root, base, spec.name, wanted)
        if carried is not None:
            examples, left = score_step.count_missing(tokens, carried)
            why += f"; the scores of {tokens.entry.rows - examples:,} examples are carried over"
        todo = score_step.shards_left(root, spec.name, wanted, tokens, carried)
        shards = len(tokens.shards)
        done = shards - len(todo)
        left = round(left * len(todo) / shards)
        if done:
            why = f"{done} of {shards} shards were scored by an earlier command; {why}"
        action = "resume" if done else "remake" if there else "make"
        step = StepPlan(name, action, why, ["tokens", "model"])
        if left:
            units, longest = score_step.units_and_longest(tokens, todo)
            result.runs.append(forecast(spec, left, units, longest))
    result.steps.append(step)
    result.tokens_to_score = (result.tokens_to_score or 0) + left
    return step


def _plan_rest(
    loaded: LoadedRecipe, base: Version | None, tokens: Table | None, result: Plan
) -> None:
    """Placements and exports: kept where nothing that they rest on would change."""
    changing = {step.table for step in result.steps if step.action != "keep"}
    work = Work(Path(result.output), base, Silent()) if base and tokens else None
    recipe = loaded.recipe
    placements = recorded_placements(base) | recipe.placements
    runs_there, default_run = known_runs(recipe, base)
    check_references(placements, runs_there, default_run, loaded.label)
    for name in in_order(placements):
        table, spec = f"placements/{name}", placements[name]
        run = spec.run or default_run
        rests_on = tables_read(name, spec, default_run)
        others = [t for t in rests_on if t.partition("/")[0] in KINDS]
        why = spec.strategy + (f" from {', '.join(others)}" if others else ", needs no scores")
        kept = False
        if work is not None and not changing.intersection(rests_on) and table in work.tables:
            if recipe.scoring:
                work.default_run = recipe.scoring.run
            # A strategy that needs no scores does not wait for the run that it names.
            alone = spec.model_copy(update={"run": None}) if f"scores/{run}" in changing else spec
            inputs, _ = work.placement_inputs(name, alone)
            kept = work.has(table, inputs)
            changes = differences(work.tables[table].entry.provenance.get("inputs"), inputs)
            why += f"; {'; '.join(changes)}" if changes else ""
        action = "keep" if kept else ("remake" if base and table in base.tables else "make")
        reads = [] if kept else ["tokens", *(each for each in rests_on if each != "tokens")]
        result.steps.append(StepPlan(table, action, why, reads))
        changing |= set() if kept else {table}
    for name, spec in (recorded_exports(base) | recipe.exports).items():
        table = f"exports/{name}"
        kept = (
            work is not None
            and table in work.tables
            and changing.isdisjoint(f"placements/{name}" for name in spec.placements)
            and work.has(table, work.export_inputs(name, spec))
        )
        action = "keep" if kept else ("remake" if base and table in base.tables else "make")
        reads = (
            [] if kept else ["examples", "tokens", *(f"placements/{p}" for p in spec.placements)]
        )
        of = f"{spec.format} of {describe_choice(spec.placement)}"
        result.steps.append(StepPlan(table, action, of, reads))


def _count_exactly(tokens: Table, result: Plan) -> None:
    prompt = response = 0
    for shard in tokens.shards:
        rows = tokens.read(shard, ["prompt_ids", "response_ids"])
        prompt += len(rows.column("prompt_ids").combine_chunks().flatten())
        response += len(rows.column("response_ids").combine_chunks().flatten())
        result.rows[str(shard.split)] = (result.rows.get(str(shard.split)) or 0) + shard.rows
    result.prompt_tokens, result.response_tokens = prompt, response
    result.tokens_are = "exact"


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
    describe_choice = "\n".join(result.unknown)
    result.unknown += [reason for reason in sampled.unknown if reason not in describe_choice]
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
    else:
        result.seconds, result.seconds_from = found


def _measure_time(loaded: LoadedRecipe, result: Plan, progress: Progress) -> None:
    """The time by a trial instead of by what is known of the model and the machine."""
    total = (result.prompt_tokens or 0) + (result.response_tokens or 0)
    rows = sum(count or 0 for count in result.rows.values())
    guess = result.seconds / (result.tokens_to_score or 1) if result.seconds else None
    found = measure(loaded, total / rows if rows else 0.0, guess, progress)
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


__all__ = ["Plan", "StepPlan", "plan", "plan_score"]
