"""How many rows and tokens a recipe gives, and how long scoring them takes."""

from __future__ import annotations

import hashlib
import statistics
import time
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from pausedata.core.errors import UnreachableError
from pausedata.core.held_out import HOLDOUT, is_cut
from pausedata.models.ref import ModelRef
from pausedata.models.shape import parameter_count
from pausedata.models.tokens import Rejected, TokenBuilder, Tokenized
from pausedata.pipeline.plan.sizes import SampleTables
from pausedata.pipeline.resolve import Resolved
from pausedata.pipeline.steps import prepare as prepare_step
from pausedata.sources import BadRow, Row
from pausedata.sources.spec import ColumnPrompt
from pausedata.sources.templates import RenderedRow, Renderer
from pausedata.store.dataset import Version
from pausedata.store.tables import examples_with_messages, schema_of

SAMPLE = 256  # rows that are tokenised to estimate the rest
READ = 200_000  # rows that are read, where nothing else says how many there are


@dataclass
class SourceSample:
    """What a source's first rows say of all of them."""

    rows: dict[str, int | None] = field(default_factory=dict)  # by split
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    tokens_are: str = "unknown"  # exact, or estimated with the standard error
    tables: SampleTables | None = None  # the rows that were tokenised
    unknown: list[str] = field(default_factory=list)


def sample(resolved: Resolved) -> SourceSample:
    """Count rows, and tokenise some from the beginning of each split; say how sure the total is.

    A source or a tokenizer that cannot be reached leaves what it alone tells at None.
    """
    result, recipe = SourceSample(), resolved.recipe
    builder = renderer = None
    try:
        builder, renderer = resolved.token_builder(), resolved.renderer()
    except UnreachableError:
        if not resolved.is_chat:
            renderer = resolved.renderer()  # its templates can be tried all the same
    totals, error, whole = np.zeros(2), 0.0, True
    taken: list[tuple[str, RenderedRow, Tokenized]] = []
    held: tuple[int | None, int | None] | None = None
    for split in recipe.source.splits:
        try:
            count, first = _look(resolved, split)
        except UnreachableError as problem:
            # A dataset's card can be had where its rows cannot: then this is news.
            count, first, builder = None, [], None
            result.unknown.append(str(problem))
        result.rows[split] = count
        examples = _tokenised(first, renderer, builder)
        taken += examples
        lengths = np.array(
            [(len(t.prompt_ids), len(t.response_ids)) for _, _, t in examples], float
        ).reshape(-1, 2)
        if count is None:
            result.unknown.append(f"how many rows split '{split}' has")
        elif len(lengths):
            totals += lengths.sum(axis=0) * count / len(first)
            if count > len(first):
                whole = False
                each = lengths.sum(axis=1).tolist()
                spread = statistics.stdev(each) if len(each) > 1 else 0.0
                error += (spread * count / len(each) ** 0.5) ** 2
        if recipe.source.holdout is not None and split == recipe.source.splits[0]:
            held = _held_out(recipe.source.holdout, count, examples, whole=count == len(first))
    if held is not None:
        first_split = recipe.source.splits[0]
        result.rows |= {first_split: held[0], HOLDOUT: held[1]}
    if isinstance(recipe.prompt, ColumnPrompt) and recipe.prompt.turns == "each":
        result.unknown.append("how many examples there are: one conversation gives several")
    if builder is not None:
        result.prompt_tokens, result.response_tokens = (round(n) for n in totals)
        percent = 100 * 1.96 * error**0.5 / max(totals.sum(), 1)
        schema = examples_with_messages() if resolved.is_chat else schema_of("examples")
        result.tables = SampleTables(
            prepare_step.examples_table([(id, r) for id, r, _ in taken], schema),
            prepare_step.tokens_table([(id, t) for id, _, t in taken]),
        )
        result.tokens_are = "exact" if whole else f"estimated from {SAMPLE} rows, ±{percent:.0f}%"
    return result


def _held_out(
    share: float,
    count: int | None,
    examples: list[tuple[str, RenderedRow, Tokenized]],
    *,
    whole: bool,
) -> tuple[int | None, int | None]:
    """Of ``count`` rows those that stay in their split, and those that are held out, about.

    Of a ``whole`` split, whose examples are there, they are counted.
    """
    if count is None:
        return None, None
    if whole and examples:
        held = sum(is_cut(rendered.prompt, share) for _, rendered, _ in examples)
    else:
        held = round(count * share)
    return count - held, held


def _look(resolved: Resolved, split: str) -> tuple[int | None, list[Row | BadRow]]:
    """How many rows the split has, where that can be told, and the first of them."""
    return count_rows(resolved, split, READ), list(islice(resolved.source.rows(split), SAMPLE))


def count_rows(resolved: Resolved, split: str, most: int) -> int | None:
    """How many rows the split has, if that can be told without reading more than ``most``."""
    if (count := resolved.source.count(split)) is not None:
        return count
    read = sum(1 for _ in islice(resolved.source.rows(split), most))
    return None if read == most else read


def _tokenised(
    rows: list[Row | BadRow], renderer: Renderer | None, builder: TokenBuilder | None
) -> list[tuple[str, RenderedRow, Tokenized]]:
    """The examples that the rows make, with ids that are as long as theirs will be.

    None without a tokenizer, but the recipe's templates are tried on the rows.
    """
    rendered = [
        example
        for row in rows
        if renderer is not None and not isinstance(row, BadRow)
        for example in renderer.render(row)
        if not isinstance(example, BadRow)
    ]
    if builder is None:
        return []
    encoded = builder.encode([r.prompt for r in rendered], [r.response for r in rendered])
    return [
        (r.id or hashlib.sha256(f"{r.split} {r.row}".encode()).hexdigest()[:32], r, tokens)
        for r, tokens in zip(rendered, encoded, strict=True)
        if not isinstance(tokens, Rejected)
    ]


def scoring_time(tokens: int, model: ModelRef, base: Version | None) -> tuple[float, str] | None:
    """Seconds that scoring takes, and what that is estimated from; None where nothing says.

    From what scoring took before here, else from the model's size and this machine.
    """
    for run in base.runs if base else []:
        assert base is not None
        facts = base.table(f"scores/{run}").entry.provenance
        if facts.get("seconds") and facts.get("scored_tokens"):
            pace = facts["seconds"] / facts["scored_tokens"]
            return tokens * pace, f"at the pace of run '{run}'"
    parameters = parameter_count(model)
    if parameters is None:
        return None
    seconds = tokens * 2 * parameters / _flops()
    return seconds, f"{parameters / 1e6:,.0f}M parameters on this machine's CPU, rough"


def _flops() -> float:
    """What a float32 matrix product reaches here, per second; a model reaches about half of it."""
    matrix = np.ones((768, 768), np.float32)
    product = matrix @ matrix
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        np.matmul(matrix, matrix, out=product)
        rounds += 1
    return rounds * 2 * 768**3 / (time.perf_counter() - started) / 2
