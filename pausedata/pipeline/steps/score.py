"""Tokens to ``scores/<run>``: the one step that needs a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pausedata.core.errors import DataError
from pausedata.core.progress import Progress
from pausedata.models.ref import ModelRef
from pausedata.models.shape import context_length
from pausedata.pipeline.recipe import Scoring
from pausedata.pipeline.steps.cross_check import CrossCheck, Sample, combined
from pausedata.pipeline.steps.reuse import ReusableScores, examples_of
from pausedata.pipeline.steps.scoring import (
    Pass,
    ScoringWork,
    distinct,
    part_lengths,
    records_of,
    score_path,
    scores_table,
)
from pausedata.pipeline.steps.units import plan_units
from pausedata.scorers import Scorer
from pausedata.store.dataset import Table
from pausedata.store.manifest import ShardEntry
from pausedata.store.staging import Stage, Staging, stage_folder
from pausedata.store.tables import list_parts, schema_of

# What a run's provenance says of how its scores were made, and is true of some of them, too.
OF_THE_MAKING = (
    *("model", "tokenizer", "warmup", "versions", "rank_ties", "settings", "cross_check"),
    "trained",
)


# Settings of an engine that say how it is to run: they move last bits alone, so that mending them
# after an out-of-memory error loses no finished shard, and a run that differs in nothing else is
# the same run. What is not here may change scores: quantization, kv_cache_dtype, max_model_len
# (by which some models choose their rotary factors), hf_overrides …
RUNNING = frozenset({
    "async_scheduling", "attention_backend", "attention_config", "block_size",
    "compilation_config", "cpu_offload_gb", "cudagraph_capture_sizes",
    "disable_cascade_attn", "disable_custom_all_reduce", "disable_log_stats",
    "distributed_executor_backend", "enable_chunked_prefill", "enable_expert_parallel",
    "enable_prefix_caching", "enforce_eager", "gpu_memory_utilization", "kv_cache_memory_bytes",
    "max_num_batched_tokens", "max_num_partial_prefills", "max_num_seqs",
    "max_parallel_loading_workers", "num_gpu_blocks_override", "optimization_level",
    "pipeline_parallel_size", "safetensors_load_strategy", "swap_space",
    "tensor_parallel_size",
})  # fmt: skip


def running(engine: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's settings that change at most the last bits of scores."""
    return {key: value for key, value in engine.items() if key in RUNNING}


def inputs(
    run: str, model: ModelRef, dtype: str, backend: str, scoring: Scoring, tokens: str
) -> dict[str, Any]:
    """All that decides scores, within the stated bound. ``tokens``: the content hash scored.

    The device, the size of batches and how an engine runs (`RUNNING`) move last bits alone.
    """
    identity = model.identity()
    if "weights_sha256" in identity:  # the name of a folder decides nothing
        identity = {"weights_sha256": identity["weights_sha256"]}
    return {
        "run": run,
        "model": identity,
        "dtype": dtype,
        "backend": backend,
        "engine": {k: v for k, v in scoring.engine.items() if k not in RUNNING},
        "tokens": tokens,
    }


@dataclass(frozen=True)
class Lengths:
    """How many tokens the examples of a table ``tokens`` have: told by one pass over it."""

    rows: dict[str, NDArray[np.int64]]  # by shard's path: of each row, prompt and response together
    prompts: int
    responses: int
    longest: int
    holder: str  # the longest example's id

    @classmethod
    def of(cls, tokens: Table) -> Lengths:
        """Read ``tokens``, shard by shard."""
        by_shard: dict[str, NDArray[np.int64]] = {}
        prompts = responses = longest = 0
        holder = ""
        for shard in tokens.shards:
            read = tokens.read(shard, ["id", "prompt_ids", "response_ids"])
            prompt, response = part_lengths(read)
            lengths = by_shard[shard.path] = prompt + response
            prompts, responses = prompts + int(prompt.sum()), responses + int(response.sum())
            if len(lengths) and lengths.max() > longest:
                longest, holder = int(lengths.max()), read["id"][int(lengths.argmax())].as_py()
        return cls(by_shard, prompts, responses, longest, holder)

    def total(self, shards: Iterable[ShardEntry]) -> int:
        """The tokens of ``shards`` together."""
        return sum(int(self.rows[shard.path].sum()) for shard in shards)

    def units(self, shards: Iterable[ShardEntry]) -> int:
        """How many units ``shards`` are scored in."""
        return sum(len(plan_units(self.rows[shard.path])) for shard in shards)

    def check_context(self, model: ModelRef) -> None:
        """DataError where an example is longer than the model's context, before any scoring."""
        limit = context_length(model)
        if limit is None or self.longest <= limit:
            return
        too_long = sum(int((lengths > limit).sum()) for lengths in self.rows.values())
        raise DataError(
            f"{too_long} examples are longer than the {limit} tokens that {model.name} reads "
            f"(the longest: {self.holder}, {self.longest} tokens). Set scoring.max_length to "
            f"{limit} or less and scoring.overlong to skip or truncate."
        )


@dataclass(frozen=True)
class Left:
    """What of a run is still to be scored."""

    shards: list[ShardEntry]  # of tokens
    staged: int  # shards that an earlier, interrupted command scored
    reused: int  # examples whose scores are taken from elsewhere
    tokens: int  # of the examples that are to be scored


def left(
    root: Path,
    run: str,
    wanted: dict[str, Any],
    tokens: Table,
    lengths: Lengths,
    reuse: ReusableScores | None,
    sound: Table | None,
    made_by: Sequence[str] = (),
) -> Left:
    """What ``score`` would have to do, given the same; nothing is written."""
    stage = Stage(stage_folder(root, f"scores/{run}", _keyed(wanted, tokens, reuse, made_by)))
    staged = {s.path for s in tokens.shards if stage.finished(score_path(run, s)) is not None}
    whole = {shard.path for shard in sound.shards} - sound.damaged() if sound else set()
    todo = [s for s in tokens.shards if s.path not in staged and score_path(run, s) not in whole]
    if reuse is None:
        return Left(todo, len(staged), 0, lengths.total(todo))
    missing = length = 0
    for shard in tokens.shards:
        lengths_of = [len(example) for example in reuse.missing(tokens, [shard])]
        missing += len(lengths_of)
        length += sum(lengths_of) if shard in todo else 0
    return Left(todo, len(staged), tokens.entry.rows - missing, length)


@dataclass(frozen=True)
class CheckedPass(Pass):
    """A pass whose scores are compared with a reference: at the first of them and at the end."""

    check: CrossCheck | None = None

    def checked_by(self, sample: Sample | None) -> Pass:
        """The pass, with a model that is tried on ``sample`` when it is loaded."""

        def load(logs: Path) -> Scorer:
            scorer = self.load(logs)
            try:
                if sample is not None:
                    sample.check_engine(scorer)
            except BaseException:
                scorer.close()
                raise
            return scorer

        return Pass(load, self.mask)


def score(
    staging: Staging,
    run: str,
    wanted: dict[str, Any],
    tokens: Table,
    passes: Sequence[CheckedPass],
    carried: ReusableScores | None,
    progress: Progress,
    facts: dict[str, Any],
    sound: Table | None = None,
    lengths: Lengths | None = None,
    made_by: Sequence[str] = (),
) -> Table:
    """Score every shard of ``tokens`` that is not scored yet; a model is loaded if one is not.

    ``wanted`` comes from ``inputs``; ``facts`` are recorded beside it; each of the ``passes`` loads
    its model, given a folder for what an engine says. ``sound`` is a committed table of the same
    inputs, of which some files are damaged: the others are taken as they are. ``lengths`` are those
    of ``tokens``, where they were told already. ``made_by`` are hashes of models that ``wanted``
    does not name, which were made for this. Raises DataError where a score cannot be right.
    """
    name = f"scores/{run}"
    stage = staging.stage(name, _keyed(wanted, tokens, carried, made_by))
    if sound is not None:
        _adopt(stage, sound)
    todo = [s for s in tokens.shards if stage.finished(score_path(run, s)) is None]
    if len(todo) < len(tokens.shards):
        progress.say(
            f"{name}: {len(tokens.shards) - len(todo)} of {len(tokens.shards)} "
            "shards were scored before and are kept"
        )
    progress.detail(f"{name}: reads tokens; writes to {stage.folder}")
    samples = [
        each.check.prepare(
            *(stage, run, tokens, carried, progress, each.mask),
            name=f"cross_check-{number}" if number else "cross_check",
        )
        if each.check is not None
        else None
        for number, each in enumerate(passes)
    ]
    if todo:
        checked = [each.checked_by(own) for each, own in zip(passes, samples, strict=True)]
        with ScoringWork(stage, run, tokens, checked, carried) as work:
            work.do(todo, (lengths or Lengths.of(tokens)).total(todo), progress)
    paths: list[tuple[str | None, str]] = [(s.split, score_path(run, s)) for s in tokens.shards]
    records = [record for _, path in paths for record in records_of(stage, path)]
    inherited = _inherited(carried, sound)
    summary = _summary(records, tokens, inherited)
    drawn = [sample for sample in samples if sample is not None]
    if drawn:
        found = [sample.check_stored(summary["rank_ties"]) for sample in drawn]
        summary["cross_check"] = combined(found)
    elif "cross_check" in inherited:
        summary["cross_check"] = inherited["cross_check"]
    table = stage.table(
        name,
        schema_of(name),
        paths,
        {"inputs": wanted, "made_from": ["tokens"]} | facts | summary,
    )
    return _with_means(table)


def keep(
    staging: Staging, run: str, wanted: dict[str, Any], tokens: Table, reuse: ReusableScores
) -> Table:
    """The scores of those examples of ``tokens`` that have some, as ``kept/RUN``.

    In the shards of ``tokens``, each with the scores of its rows that have some.
    """
    name = f"kept/{run}"
    stage = staging.stage(name, wanted | {"shards": cut(tokens)})
    paths: list[tuple[str | None, str]] = []
    for shard in tokens.shards:
        rows = tokens.read(shard, ["id", "prompt_ids", "response_ids"])
        found = reuse.find(examples_of(rows))
        there = [row for row, scores in enumerate(found) if scores is not None]
        path = score_path(run, shard).replace("scores/", "kept/", 1)
        ids = rows.column("id").combine_chunks().take(pa.array(there, pa.int64()))
        stage.write(path, scores_table(ids, [scores for scores in found if scores is not None]))
        paths.append((shard.split, path))
    told = {key: reuse.provenance[key] for key in OF_THE_MAKING if key in reuse.provenance}
    facts = {"inputs": wanted, "made_from": ["tokens"]} | told
    return stage.table(name, schema_of(name), paths, facts)


def _keyed(
    wanted: dict[str, Any],
    tokens: Table,
    carried: ReusableScores | None,
    made_by: Sequence[str],
) -> dict[str, Any]:
    """The staging key's inputs: what decides the values, and the bits: shards and carried rows."""
    key = wanted | {"shards": cut(tokens)}
    key |= {"made_by": list(made_by)} if made_by else {}
    return key | ({"carried": carried.content} if carried else {})


def cut(tokens: Table) -> list[list[Any]]:
    """How the rows are cut into shards: split and rows of each."""
    return [[shard.split, shard.rows] for shard in tokens.shards]


def _adopt(stage: Stage, sound: Table) -> None:
    """Take the whole shards of a damaged table into the stage."""
    damaged = sound.damaged()
    for shard in sound.shards:
        if shard.path not in damaged and stage.finished(shard.path) is None:
            stage.adopt(sound.folder / shard.path, shard.path)


def _inherited(carried: ReusableScores | None, sound: Table | None) -> dict[str, Any]:
    """What is known of the making of those scores that were not made now."""
    if sound is not None:
        return sound.entry.provenance
    return carried.provenance if carried else {}


def _summary(
    records: list[dict[str, Any]], tokens: Table, inherited: dict[str, Any]
) -> dict[str, Any]:
    """What is good to know of how the shards were made."""
    versions: dict[str, set[str]] = {}
    for record in records:
        for library, version in record.get("versions", {}).items():
            versions.setdefault(library, set()).add(version)
    ties = {record["rank_ties"] for record in records if record.get("rank_ties")}
    return {
        "versions": {lib: sorted(found) for lib, found in sorted(versions.items())}
        or inherited.get("versions", {}),
        "rank_ties": ", ".join(sorted(ties)) or inherited.get("rank_ties"),
        "settings": distinct(s for record in records for s in record.get("settings", []))
        or inherited.get("settings", []),
        "scored_examples": sum(record.get("scored", 0) for record in records),
        "carried_examples": tokens.entry.rows - sum(record.get("scored", 0) for record in records),
        "scored_tokens": sum(record.get("tokens", 0) for record in records),
        "seconds": round(sum(record.get("seconds", 0.0) for record in records), 3),
    }


def _with_means(table: Table) -> Table:
    """The table with the mean log-probability of all, first, last and inner tokens noted."""
    sums, counts = np.zeros(3), np.zeros(3, np.int64)  # first, last, all
    inner_sum, inner_count = 0.0, 0
    for shard in table.shards:
        offsets, logprob = list_parts(table.read(shard, ["logprob"]), "logprob")
        first, last = offsets[:-1], offsets[1:] - 1
        for i, part in enumerate((logprob[first], logprob[last], logprob)):
            sums[i] += part.sum(dtype=np.float64)
            counts[i] += len(part)
        inner = np.ones(len(logprob), bool)
        inner[first] = inner[last] = False
        inner_sum += float(logprob[inner].sum(dtype=np.float64))
        inner_count += int(inner.sum())
    names = ("first_token_mean_logprob", "last_token_mean_logprob", "mean_logprob")
    means = {n: round(float(s / c), 6) for n, s, c in zip(names, sums, counts, strict=True)}
    if inner_count:
        means["inner_tokens_mean_logprob"] = round(inner_sum / inner_count, 6)
    entry = table.entry.model_copy(update={"provenance": table.entry.provenance | means})
    return Table(table.name, entry, table.folder)
