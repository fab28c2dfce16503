"""What ``build`` or ``score`` would do, without doing it: steps, figures, what cannot be known."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pausedata import estimate, runs
from pausedata.build import FIRST, examples_differ, known_runs
from pausedata.change import refuse_overwriting
from pausedata.choice import told
from pausedata.errors import UnreachableError, UsageError
from pausedata.forecast import Forecast, forecast
from pausedata.models import ModelRef
from pausedata.progress import Silent
from pausedata.recipe import LoadedRecipe
from pausedata.references import (
    check_references,
    in_order,
    recorded_exports,
    recorded_placements,
    tables_read,
)
from pausedata.resolve import Resolved, survey
from pausedata.runs import Asked, RunSpec
from pausedata.steps import prepare as prepare_step
from pausedata.steps import score as score_step
from pausedata.store.dataset import KINDS, Table, Version, open_version, read_pointer
from pausedata.work import Work, differences


@dataclass(frozen=True)
class StepPlan:
    """What would happen to one table."""

    table: str
    action: str  # keep, make, resume, remake
    why: str


@dataclass
class Plan:
    """All that can be told beforehand; what cannot stands in ``unknown``."""

    output: str
    state: str
    steps: list[StepPlan] = field(default_factory=list)
    rows: dict[str, int | None] = field(default_factory=dict)
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    tokens_are: str = "unknown"  # exact, or estimated with the standard error
    tokens_to_score: int | None = None
    seconds: float | None = None
    seconds_from: str = ""
    new_bytes: int | None = None
    backend: str | None = None
    backend_why: str | None = None  # why it is what `auto` stands for
    runs: list[Forecast] = field(default_factory=list)  # those that are to be scored
    tokenizer: dict[str, str] | None = None  # how it was found to give the stored ids
    unknown: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def figures(self) -> dict[str, str]:
        """The figures, for people."""
        found = {}
        for split, rows in self.rows.items():
            found[f"rows, {split}"] = "unknown" if rows is None else f"{rows:,}"
        if self.prompt_tokens is not None and self.response_tokens is not None:
            total = self.prompt_tokens + self.response_tokens
            found["tokens"] = (
                f"{total:,}: {self.prompt_tokens:,} of prompts, {self.response_tokens:,} of "
                f"responses ({self.tokens_are})"
            )
        if self.tokenizer is not None:
            how = {"hash": "its hash", "every row": "encoding every stored row again"}
            found["tokenizer"] = f"gives the same ids, by {how[self.tokenizer['checked']]}"
        if self.tokens_to_score is not None:
            found["to score"] = f"{self.tokens_to_score:,} tokens"
        if self.backend is not None:
            why = f" (auto: {self.backend_why})" if self.backend_why else ""
            found["backend"] = self.backend + why
        for run in self.runs:
            found |= run.figures()
        if self.seconds is not None:
            found["time"] = f"about {_duration(self.seconds)} of scoring ({self.seconds_from})"
        if self.new_bytes is not None:
            found["disk"] = f"about {self.new_bytes / 1e6:,.1f} MB new"
        return found


def plan(loaded: LoadedRecipe, root: Path, *, replace: bool = False, update: bool = False) -> Plan:
    """Work out what ``build`` with the same arguments would do; nothing is written.

    Where the source or a model cannot be reached, the plan tells what rests on neither.
    """
    base = open_version(root) if read_pointer(root) else None
    result = Plan(str(root), f"version {base.number}" if base else "a new dataset")
    resolved, result.unknown = survey(loaded, root, base, update=update)
    result.backend, result.backend_why = resolved.backend, resolved.backend_why
    tokens = _plan_examples(resolved, root, base, replace, result)
    _plan_scores(resolved, root, base, tokens, result)
    _plan_rest(loaded, base, tokens, result)
    _estimate_time(resolved.model, base, result)
    _estimate_size(base, resolved, result)
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
    result.tokenizer = runs.check_tokenizer(spec, tokenizers, work)
    spec.try_out(score_step.check_context(tokens, spec.model))
    remade = recorded_placements(base, made_from=[spec.table])
    for placement in remade:
        result.steps.append(StepPlan(f"placements/{placement}", "remake", f"from {spec.table}"))
    for export, of in recorded_exports(base).items():
        if not remade.keys().isdisjoint(of.placements):
            why = f"of {told(of.placement)}"
            result.steps.append(StepPlan(f"exports/{export}", "remake", why))
    _estimate_time(spec.model, base, result)
    _estimate_size(base, None, result)
    return result


def _plan_examples(
    resolved: Resolved, root: Path, base: Version | None, replace: bool, result: Plan
) -> Table | None:
    """The first tables; returns ``tokens`` where it is there already, committed or staged."""
    if base is not None:
        different, unless = _differences(resolved, base)
        if not different:
            why = f"as in version {base.number}{unless}"
            result.steps += [StepPlan(name, "keep", why) for name in FIRST]
            tokens = base.table("tokens")
            _count_exactly(tokens, result)
            return tokens
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
    else:
        _estimate_tokens(resolved, result)
    result.steps += [StepPlan(name, action, why) for name in FIRST]
    return staged.tables["tokens"] if staged else None


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
    resolved: Resolved, root: Path, base: Version | None, tokens: Table | None, result: Plan
) -> None:
    specs = runs.of_recipe(resolved)
    if tokens is None:
        total = None
        if result.prompt_tokens is not None and result.response_tokens is not None and specs:
            total = result.prompt_tokens + result.response_tokens
            result.tokens_to_score = total * len(specs)
        for spec in specs:
            result.steps.append(StepPlan(spec.table, "make", f"with {spec.label}"))
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
        step = StepPlan(name, "resume" if done else "remake" if there else "make", why)
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
        result.steps.append(StepPlan(table, action, why))
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
        result.steps.append(StepPlan(table, action, f"{spec.format} of {told(spec.placement)}"))


def _count_exactly(tokens: Table, result: Plan) -> None:
    prompt = response = 0
    for shard in tokens.shards:
        rows = tokens.read(shard, ["prompt_ids", "response_ids"])
        prompt += len(rows.column("prompt_ids").combine_chunks().flatten())
        response += len(rows.column("response_ids").combine_chunks().flatten())
        result.rows[str(shard.split)] = (result.rows.get(str(shard.split)) or 0) + shard.rows
    result.prompt_tokens, result.response_tokens = prompt, response
    result.tokens_are = "exact"


def _estimate_tokens(resolved: Resolved, result: Plan) -> None:
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


def _estimate_time(model: ModelRef, base: Version | None, result: Plan) -> None:
    if not result.tokens_to_score:
        return
    found = estimate.scoring_time(result.tokens_to_score, model, base)
    if found is None:
        result.unknown.append("how long scoring takes: the model's size is not known here")
    else:
        result.seconds, result.seconds_from = found


def _estimate_size(base: Version | None, resolved: Resolved | None, result: Plan) -> None:
    if result.prompt_tokens is None or result.response_tokens is None:
        return
    made = [step.table for step in result.steps if step.action != "keep"]
    vocabulary = 0
    if "vocab" in made and resolved is not None:
        vocabulary = base.table("vocab").entry.rows if base else len(resolved.tokenizer)
    result.new_bytes = estimate.new_bytes(
        made, result.prompt_tokens, result.response_tokens, vocabulary
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
