"""What ``build`` or ``score`` would do, without doing it: steps, figures, what cannot be known."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pausedata import models, runs
from pausedata.build import examples_differ, known_runs
from pausedata.change import refuse_overwriting
from pausedata.errors import UnreachableError, UsageError
from pausedata.models import ModelRef
from pausedata.progress import Silent
from pausedata.recipe import ColumnPrompt, LoadedRecipe
from pausedata.resolve import Resolved, resolve
from pausedata.runs import Asked, RunSpec
from pausedata.sources import BadRow
from pausedata.steps import prepare as prepare_step
from pausedata.steps import score as score_step
from pausedata.store.dataset import KINDS, Table, Version, open_version, read_pointer
from pausedata.tokens import Rejected
from pausedata.work import (
    Work,
    check_references,
    in_order,
    recorded_exports,
    recorded_placements,
    tables_read,
)

SAMPLE = 256  # rows that are tokenised to estimate the rest

# Bytes on disk, measured on the quickstart with SmolLM2.
BYTES_PER_PROMPT_TOKEN = 4.0  # text, meta and ids
BYTES_PER_RESPONSE_TOKEN = 5.5  # text, ids and character spans
BYTES_PER_SCORE = 7.0  # log-probability, rank, entropy
BYTES_PER_EXPORTED_TOKEN = 13.0  # JSONL, and the rows as Parquet
VOCABULARY_BYTES_PER_TOKEN = 18.5


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
        if self.seconds is not None:
            found["time"] = f"about {_duration(self.seconds)} of scoring ({self.seconds_from})"
        if self.new_bytes is not None:
            found["disk"] = f"about {self.new_bytes / 1e6:,.1f} MB new"
        return found


def plan(loaded: LoadedRecipe, root: Path, *, replace: bool = False, update: bool = False) -> Plan:
    """Work out what ``build`` with the same arguments would do; nothing is written."""
    base = open_version(root) if read_pointer(root) else None
    result = Plan(str(root), f"version {base.number}" if base else "a new dataset")
    try:
        resolved = resolve(loaded, root, base, update=update, pin=False)
    except UnreachableError as error:
        result.unknown.append(f"everything that rests on it: {error}")
        return result
    tokens = _plan_examples(resolved, root, base, replace, result)
    _plan_scores(resolved, root, base, tokens, result)
    _plan_rest(resolved, base, tokens, result)
    _estimate_time(resolved.model, base, result)
    _estimate_size(base, resolved, result)
    return result


def plan_score(root: Path, name: str, asked: Asked, *, replace: bool = False) -> Plan:
    """Work out what ``score`` with the same arguments would do; nothing is written."""
    base = open_version(root)
    result = Plan(str(root), f"version {base.number}")
    work, tokens = Work(root, base, Silent()), base.table("tokens")
    spec, tokenizers = runs.of_command(root, base, name, asked, pin=False)
    refuse_overwriting(work, spec.table, spec.inputs(tokens), replace)
    _count_exactly(tokens, result)
    if _plan_run(spec, root, base, tokens, result).action == "keep":
        return result
    result.tokenizer = runs.check_tokenizer(spec, tokenizers, work)
    score_step.check_context(tokens, spec.model)
    remade = recorded_placements(base, made_from=[spec.table])
    for placement in remade:
        result.steps.append(StepPlan(f"placements/{placement}", "remake", f"from {spec.table}"))
    for export, of in recorded_exports(base).items():
        if of.placement in remade:
            result.steps.append(StepPlan(f"exports/{export}", "remake", f"of {of.placement}"))
    _estimate_time(spec.model, base, result)
    _estimate_size(base, None, result)
    return result


def _plan_examples(
    resolved: Resolved, root: Path, base: Version | None, replace: bool, result: Plan
) -> Table | None:
    """The first tables; returns ``tokens`` where it is there already, committed or staged."""
    if base is not None:
        different = examples_differ(resolved, base)
        if not different:
            for name in ("examples", "vocab", "tokens"):
                result.steps.append(StepPlan(name, "keep", f"as in version {base.number}"))
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
    staged = prepare_step.finished(resolved, root)
    if staged is not None:
        action, why = "resume", "prepared by an earlier build that did not end"
        _count_exactly(staged.tables["tokens"], result)
    else:
        _estimate_tokens(resolved, result)
    result.steps += [StepPlan(name, action, why) for name in ("examples", "vocab", "tokens")]
    return staged.tables["tokens"] if staged else None


def _plan_scores(
    resolved: Resolved, root: Path, base: Version | None, tokens: Table | None, result: Plan
) -> None:
    specs = runs.of_recipe(resolved)
    if tokens is None:
        for spec in specs:
            result.steps.append(StepPlan(spec.table, "make", f"with {spec.label}"))
        total = (result.prompt_tokens or 0) + (result.response_tokens or 0)
        result.tokens_to_score = total * len(specs) if specs else None
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
        done, shards = (
            score_step.shards_done(root, spec.name, wanted, tokens, carried),
            len(tokens.shards),
        )
        left = round(left * (1 - done / shards))
        if done:
            why = f"{done} of {shards} shards were scored by an earlier command; {why}"
        step = StepPlan(name, "resume" if done else "remake" if there else "make", why)
    result.steps.append(step)
    result.tokens_to_score = (result.tokens_to_score or 0) + left
    return step


def _plan_rest(
    resolved: Resolved, base: Version | None, tokens: Table | None, result: Plan
) -> None:
    """Placements and exports: kept where nothing that they rest on would change."""
    changing = {step.table for step in result.steps if step.action != "keep"}
    work = Work(Path(result.output), base, Silent()) if base and tokens else None
    recipe = resolved.recipe
    placements = recorded_placements(base) | recipe.placements
    runs_there, default_run = known_runs(resolved, base)
    check_references(placements, runs_there, default_run)
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
            kept = work.has(table, work.placement_inputs(name, alone)[0])
        action = "keep" if kept else ("remake" if base and table in base.tables else "make")
        result.steps.append(StepPlan(table, action, why))
        changing |= set() if kept else {table}
    for name, spec in (recorded_exports(base) | recipe.exports).items():
        table = f"exports/{name}"
        kept = (
            work is not None
            and table in work.tables
            and f"placements/{spec.placement}" not in changing
            and work.has(table, work.export_inputs(name, spec))
        )
        action = "keep" if kept else ("remake" if base and table in base.tables else "make")
        result.steps.append(StepPlan(table, action, f"{spec.format} of {spec.placement}"))


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
    """Tokenise rows spread over the beginning of each split; say how sure the total is."""
    recipe, builder = resolved.recipe, resolved.token_builder()
    prompts: list[float] = []
    responses: list[float] = []
    whole, error = True, 0.0
    totals = np.zeros(2)
    for split in recipe.source.splits:
        renderer = resolved.renderer()
        count = resolved.source.count(split)
        sample = list(islice(resolved.source.rows(split), SAMPLE))
        if count is None and len(sample) < SAMPLE:
            count = len(sample)
        result.rows[split] = count
        rendered = [
            example
            for row in sample
            if not isinstance(row, BadRow)
            for example in renderer.render(row)
            if not isinstance(example, BadRow)
        ]
        encoded = builder.encode([r.prompt for r in rendered], [r.response for r in rendered])
        kept = [t for t in encoded if not isinstance(t, Rejected)]
        prompts = [float(len(t.prompt_ids)) for t in kept]
        responses = [float(len(t.response_ids)) for t in kept]
        if count is None:
            result.unknown.append(f"how many rows split '{split}' has")
            continue
        if not sample or not kept:
            continue
        scale = count / len(sample)
        totals += np.array([sum(prompts), sum(responses)]) * scale
        if count > len(sample):
            whole = False
            lengths = [a + b for a, b in zip(prompts, responses, strict=True)]
            spread = statistics.stdev(lengths) if len(lengths) > 1 else 0.0
            error += (spread * count / len(lengths) ** 0.5) ** 2
        if isinstance(recipe.prompt, ColumnPrompt) and recipe.prompt.turns == "each":
            result.unknown.append("rows: one conversation gives several examples")
    result.prompt_tokens, result.response_tokens = (round(n) for n in totals)
    percent = 100 * 1.96 * error**0.5 / max(totals.sum(), 1)
    result.tokens_are = "exact" if whole else f"estimated from {SAMPLE} rows, ±{percent:.0f}%"


def _estimate_time(model: ModelRef, base: Version | None, result: Plan) -> None:
    """From what scoring took before here, else from the model's size and this machine."""
    if not result.tokens_to_score:
        return
    for run in base.runs if base else []:
        assert base is not None
        facts = base.table(f"scores/{run}").entry.provenance
        if facts.get("seconds") and facts.get("scored_tokens"):
            result.seconds = result.tokens_to_score * facts["seconds"] / facts["scored_tokens"]
            result.seconds_from = f"at the pace of run '{run}'"
            return
    parameters = models.parameter_count(model)
    if parameters is None:
        result.unknown.append("how long scoring takes: the model's size is not known here")
        return
    result.seconds = result.tokens_to_score * 2 * parameters / _flops()
    result.seconds_from = f"{parameters / 1e6:,.0f}M parameters on this machine's CPU, rough"


def _flops() -> float:
    """What a float32 matrix product reaches here, per second; a model reaches about half of it."""
    matrix = np.ones((768, 768), np.float32)
    product = matrix @ matrix
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        np.matmul(matrix, matrix, out=product)
        rounds += 1
    return rounds * 2 * 768**3 / (time.perf_counter() - started) / 2


def _estimate_size(base: Version | None, resolved: Resolved | None, result: Plan) -> None:
    if result.prompt_tokens is None or result.response_tokens is None:
        return
    prompt, response = result.prompt_tokens, result.response_tokens
    size = 0.0
    for step in result.steps:
        if step.action == "keep":
            continue
        kind = step.table.split("/")[0]
        if kind == "tokens":
            size += prompt * BYTES_PER_PROMPT_TOKEN + response * BYTES_PER_RESPONSE_TOKEN
        elif kind == "scores":
            size += response * BYTES_PER_SCORE
        elif kind == "exports":
            size += (prompt + response) * BYTES_PER_EXPORTED_TOKEN
        elif kind == "vocab" and resolved is not None:
            vocabulary = base.table("vocab").entry.rows if base else len(resolved.tokenizer)
            size += vocabulary * VOCABULARY_BYTES_PER_TOKEN
    result.new_bytes = round(size)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
