"""Source rows to the tables ``examples``, ``tokens`` and ``vocab``; every row accounted for."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from pausedata.analysis.shared_texts import shared_texts
from pausedata.core.errors import DataError, UnreachableError
from pausedata.core.held_out import HOLDOUT, is_cut
from pausedata.core.progress import Progress
from pausedata.models.tokenizer import Tokenizer
from pausedata.models.tokens import Rejected, Tokenized
from pausedata.pipeline.recipe import Recipe
from pausedata.pipeline.resolve import Resolved, token_settings
from pausedata.sources import BadRow
from pausedata.sources.templates import RenderedRow
from pausedata.store.dataset import Table
from pausedata.store.manifest import PauseEntry, SplitRows, TableEntry
from pausedata.store.shards import (
    choose_shard_rows,
    open_shard,
    regrouped,
    shard_name,
    stream_shard,
    write_rows,
)
from pausedata.store.staging import Stage, Staging, stage_folder
from pausedata.store.tables import examples_with_messages, schema_of

PORTION = 1024  # examples that are rendered and tokenised at a time
NAMED = 5  # unusable rows that an error names
# Reasons that `overlong: skip` asks to drop: they are counted, and are not bad rows.
ASKED_FOR = {"skip": {"overlong"}}


@dataclass(frozen=True)
class Prepared:
    """The first tables, and what became of the rows."""

    tables: dict[str, Table]
    rows: dict[str, SplitRows]
    pause: PauseEntry


@dataclass
class _Tally:
    """What became of one split's rows so far."""

    into: int = 0
    out: int = 0
    tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)

    def rows(self) -> SplitRows:
        return SplitRows(
            into=self.into, out=self.out, dropped=dict(self.dropped), noted=dict(self.noted)
        )


def inputs(resolved: Resolved) -> dict[str, Any]:
    """All that decides the values of ``examples`` and ``tokens``.

    Raises UnreachableError where the source or the tokenizer that says so is out of reach.
    """
    return _stated(resolved.recipe, _origin(resolved)) | _of_tokenizer(resolved)


def known_inputs(resolved: Resolved) -> dict[str, Any]:
    """The inputs without those that only a source or a tokenizer out of reach could tell."""
    origin = {"hub": resolved.recipe.source.hub}
    with suppress(UnreachableError):
        origin = _origin(resolved)
    known = _stated(resolved.recipe, origin)
    with suppress(UnreachableError):
        known |= _of_tokenizer(resolved)
    return known


def _stated(recipe: Recipe, origin: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": origin
        | recipe.source.model_dump(include={"limit", "id", "keep"})
        # Only where there is one: datasets of before there were any stay what they are.
        | recipe.source.model_dump(include={"holdout"}, exclude_none=True)
        | {"split": recipe.source.splits},
        "prompt": recipe.model_dump(mode="json")["prompt"],
        "response": recipe.response,
        "scoring": token_settings(recipe.token_rules),
        "pause": recipe.pause.model_dump(),
    }


def _origin(resolved: Resolved) -> dict[str, Any]:
    provenance = resolved.source.provenance()
    if resolved.recipe.source.files:  # a file's name decides nothing
        return {"files": [file["sha256"] for file in provenance["files"]]}
    return provenance


def _of_tokenizer(resolved: Resolved) -> dict[str, Any]:
    return {
        "tokenizer": resolved.tokenizer_hash,
        "chat_template": resolved.chat_template_hash,
    }


def stage_inputs(resolved: Resolved) -> dict[str, Any]:
    """What keys the step's staging: the values, and how they are cut into shards."""
    recipe = resolved.recipe
    limits = {"shard_rows": recipe.shard_rows, "max_bad_rows": recipe.source.max_bad_rows}
    return inputs(resolved) | limits


def finished(resolved: Resolved, root: Any) -> Prepared | None:
    """What an earlier, interrupted build prepared from the same inputs, if it is whole."""
    return _load(Stage(stage_folder(root, "tokens", stage_inputs(resolved))))


def prepare(resolved: Resolved, staging: Staging, progress: Progress) -> Prepared:
    """Read, render and tokenise every row, and write the tables into staging.

    Raises DataError where more rows are unusable than ``source.max_bad_rows`` allows, with the
    counts by reason and the first few rows.
    """
    stage = staging.stage("tokens", stage_inputs(resolved))
    done = _load(stage)
    if done is not None:
        return done
    shutil.rmtree(stage.folder)
    stage.folder.mkdir()
    return _Preparation(resolved, stage, progress).run()


class _Preparation:
    """One pass over the source into a spool, then a pass over the spool into shards.

    The number of shards is in their names, and is known only when all rows are.
    """

    def __init__(self, resolved: Resolved, stage: Stage, progress: Progress) -> None:
        self.resolved, self.stage, self.progress = resolved, stage, progress
        self.builder, self.renderer = resolved.token_builder(), resolved.renderer()
        source = resolved.recipe.source
        self.tallies = {split: _Tally() for split in source.all_splits}
        # Whose rows go to two splits, the second of which is not trained on.
        self.cut = source.splits[0] if source.holdout is not None else None
        self.schemas = {
            "examples": examples_with_messages() if resolved.is_chat else schema_of("examples"),
            "tokens": schema_of("tokens"),
        }
        self.named: list[str] = []
        self.spaces = 0  # prompts that end in a space
        self.seen: dict[bytes, int] = {}

    def run(self) -> Prepared:
        for split in self.resolved.recipe.source.splits:
            self._spool(split)
        self._check_rows()
        self._check_holdout()
        if 2 * self.spaces > sum(tally.out for tally in self.tallies.values()):
            self.progress.warn(
                "prompts end in a space, which makes the first response token unlikely in every "
                'example: end the prompt in "Answer:" and begin the response with " ".'
            )
        shards = self._share_out()
        recipe, tokenizer = self.resolved.recipe, self.resolved.tokenizer
        provenance = {"inputs": inputs(self.resolved), "made_from": []}
        source = self.resolved.source.provenance()
        model = {"id": self.resolved.model.name}
        self._write_vocab()
        tables = {
            "examples": self.stage.table(
                "examples",
                self.schemas["examples"],
                shards["examples"],
                provenance | {"source": source},
            ),
            "vocab": self.stage.table(
                "vocab",
                schema_of("vocab"),
                [(None, "vocab.parquet")],
                {
                    "inputs": {"tokenizer": self.resolved.tokenizer_hash},
                    "made_from": [],
                    "tokenizer": model,
                },
            ),
            "tokens": self.stage.table(
                "tokens",
                self.schemas["tokens"],
                shards["tokens"],
                provenance | {"made_from": ["examples"], "tokenizer": model},
            ),
        }
        shutil.rmtree(self.stage.folder / "spool")
        if found := shared_texts(tables["examples"], self.progress):
            self.progress.warn(
                "splits have examples in common, and measured on one of them is what was learnt "
                "from another:\n" + "\n".join(f"  {shared.told()}" for shared in found)
            )
        token = recipe.pause.token
        id, is_new = tokenizer.pause_id(token)
        prepared = Prepared(
            tables,
            {split: tally.rows() for split, tally in self.tallies.items()},
            PauseEntry(token=token, id=id, id_is_new=is_new),
        )
        _save(self.stage, prepared)
        return prepared

    def _spool(self, split: str) -> None:
        """Render and tokenise a source split's rows into spools, a portion at a time."""
        count = self.resolved.source.count(split)
        title, schema = f"reading {split}", self.schemas["examples"]
        folder = self.stage.folder / "spool"
        folder.mkdir(exist_ok=True)
        with ExitStack() as opened:
            spools: dict[str, tuple[Any, Any]] = {
                name: (
                    opened.enter_context(open_shard(folder / f"examples-{name}.parquet", schema)),
                    opened.enter_context(
                        open_shard(folder / f"tokens-{name}.parquet", schema_of("tokens"))
                    ),
                )
                for name in ([split, HOLDOUT] if split == self.cut else [split])
            }
            advance = opened.enter_context(self.progress.step(title, count, "rows"))
            for portion in _portions(self._rendered(split, advance)):
                accepted = self._accept(portion)
                for name, (examples, tokens) in spools.items():
                    rows = [row for row in accepted if row[1].split == name]
                    if rows:
                        write_rows(examples, examples_table([(id, e) for id, e, _ in rows], schema))
                        write_rows(tokens, tokens_table([(id, t) for id, _, t in rows]))

    def _rendered(self, split: str, advance: Any) -> Iterator[RenderedRow]:
        """A split's examples, each in the split that it is for; the others are counted.

        What has no text to go by counts as of the source's own split.
        """
        share = self.resolved.recipe.source.holdout
        for row in self.resolved.source.rows(split):
            advance(1)
            own = split
            outcomes = [row] if isinstance(row, BadRow) else self.renderer.render(row)
            for turn, outcome in enumerate(outcomes):
                if isinstance(outcome, BadRow):
                    self.tallies[split].into += 1
                    self._drop(split, outcome.where, outcome.reason, outcome.detail)
                    continue
                # A conversation stays together: a later turn's prompt holds the earlier answers.
                if split == self.cut and share is not None and turn == 0:
                    own = HOLDOUT if is_cut(outcome.prompt, share) else split
                self.tallies[own].into += 1
                yield outcome if own == split else replace(outcome, split=own)

    def _accept(self, portion: list[RenderedRow]) -> list[tuple[str, RenderedRow, Tokenized]]:
        """Tokenise a portion; count what is turned down; give the rest their ids."""
        encoded = self.builder.encode([r.prompt for r in portion], [r.response for r in portion])
        accepted = []
        for rendered, tokens in zip(portion, encoded, strict=True):
            where, tally = rendered.where, self.tallies[rendered.split]
            if isinstance(tokens, Rejected):
                self._drop(rendered.split, where, tokens.reason, tokens.detail)
                continue
            id = self._identify(rendered, where)
            tally.out += 1
            self.spaces += rendered.prompt.endswith(" ")
            tally.tokens += len(tokens.prompt_ids) + len(tokens.response_ids)
            tally.noted["truncated"] += tokens.truncated
            tally.noted["boundary_mismatch"] += tokens.boundary_mismatch
            accepted.append((id, rendered, tokens))
        return accepted

    def _identify(self, rendered: RenderedRow, where: str) -> str:
        """The source's own id, or one that the text gives, numbered where texts repeat."""
        if rendered.id is not None:
            key = hashlib.sha256(rendered.id.encode()).digest()[:16]
            if key in self.seen:
                raise DataError(
                    f"{where}: the id '{rendered.id}' was used before. Ids must be unique: name "
                    "another column in source.id, or leave it out."
                )
            self.seen[key] = 1
            return rendered.id
        text = f"{rendered.prompt}\0{rendered.response}".encode()
        key = hashlib.sha256(text).digest()[:16]
        self.seen[key] = self.seen.get(key, 0) + 1
        return key.hex() if self.seen[key] == 1 else f"{key.hex()}-{self.seen[key]}"

    def _drop(self, split: str, where: str, reason: str, detail: str) -> None:
        self.tallies[split].dropped[reason] += 1
        skipped = ASKED_FOR.get(self.resolved.recipe.token_rules.overlong, set())
        if reason not in skipped and len(self.named) < NAMED:
            self.named.append(f"  {where}: {reason}: {detail}")

    def _check_rows(self) -> None:
        """Stop here, before any scoring, where too many rows are unusable or none is left."""
        recipe = self.resolved.recipe
        skipped = ASKED_FOR.get(recipe.token_rules.overlong, set())
        reasons: Counter[str] = Counter()
        for tally in self.tallies.values():
            reasons.update({r: n for r, n in tally.dropped.items() if r not in skipped})
        bad = sum(reasons.values())
        counts = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        more = [f"  … and {bad - len(self.named)} more"] if bad > len(self.named) else []
        if bad > recipe.source.max_bad_rows:
            raise DataError(
                "\n".join(
                    [
                        f"{bad} of {sum(t.into for t in self.tallies.values())} rows cannot be "
                        f"used ({counts}); source.max_bad_rows allows "
                        f"{recipe.source.max_bad_rows}. Mend them, or raise it to leave them out:",
                        *self.named,
                        *more,
                    ]
                )
            )
        if bad:
            self.progress.warn("\n".join([f"{bad} rows left out ({counts}):", *self.named, *more]))
        if not any(tally.out for tally in self.tallies.values()):
            dropped = sum((tally.dropped for tally in self.tallies.values()), Counter[str]())
            counts = ", ".join(f"{n} {reason}" for reason, n in dropped.most_common())
            raise DataError(f"no usable row ({counts or 'the source is empty'}): nothing to build.")

    def _check_holdout(self) -> None:
        """Stop where what is held out of a split is none of it, or all."""
        if self.cut is None:
            return
        left, held = (self.tallies[split].out for split in (self.cut, HOLDOUT))
        if left and held:
            return
        share = self.resolved.recipe.source.holdout
        rows = f"{left + held} row{'s' if left + held > 1 else ''}"
        raise DataError(
            f"source.holdout: {share:g} holds out {'all' if held else 'none'} of the {rows} of "
            f"split '{self.cut}'. What is held out is drawn by a hash of the prompt, rows of the "
            "same prompt together: give more rows, or another share, or train on all of them: "
            "source.holdout: null (--set source.holdout=null)."
        )

    def _share_out(self) -> dict[str, list[tuple[str | None, str]]]:
        """Cut the spool into shards of the same rows in both tables."""
        out = sum(tally.out for tally in self.tallies.values())
        tokens = sum(tally.tokens for tally in self.tallies.values())
        each = self.resolved.recipe.shard_rows or choose_shard_rows(out, tokens)
        shards: dict[str, list[tuple[str | None, str]]] = {"examples": [], "tokens": []}
        for split, tally in self.tallies.items():
            count = max(1, -(-tally.out // each))
            for table, paths in shards.items():
                spool = self.stage.folder / "spool" / f"{table}-{split}.parquet"
                portions = regrouped(stream_shard(spool, PORTION), each)
                for number in range(count):
                    rows = next(portions, self.schemas[table].empty_table())
                    path = f"{table}/{shard_name(split, number, count)}"
                    self.stage.write(path, rows.cast(self.schemas[table]))
                    paths.append((split, path))
        return shards

    def _write_vocab(self) -> None:
        self.stage.write("vocab.parquet", vocab_table(self.resolved.tokenizer))


def vocab_table(tokenizer: Tokenizer) -> pa.Table:
    """What every id of a tokenizer stands for, as the table ``vocab`` has it."""
    schema = schema_of("vocab")
    columns = [list(column) for column in zip(*tokenizer.vocab(), strict=True)]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _portions(rows: Iterator[RenderedRow]) -> Iterator[list[RenderedRow]]:
    portion: list[RenderedRow] = []
    for row in rows:
        portion.append(row)
        if len(portion) == PORTION:
            yield portion
            portion = []
    if portion:
        yield portion


def examples_table(rows: list[tuple[str, RenderedRow]], schema: pa.Schema) -> pa.Table:
    """Examples with their ids, as the table ``examples`` has them."""
    values = [{"id": id} | {c: getattr(r, c) for c in schema.names if c != "id"} for id, r in rows]
    return pa.Table.from_pylist(values, schema=schema)


def tokens_table(rows: list[tuple[str, Tokenized]]) -> pa.Table:
    """The tokens of ``rows`` as the table ``tokens`` has them."""
    schema = schema_of("tokens")
    columns = [
        [id for id, _ in rows],
        *([getattr(t, field.name) for _, t in rows] for field in list(schema)[1:]),
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _save(stage: Stage, prepared: Prepared) -> None:
    stage.note(
        "done",
        {
            "tables": {n: t.entry.model_dump(mode="json") for n, t in prepared.tables.items()},
            "rows": {s: r.model_dump(mode="json", by_alias=True) for s, r in prepared.rows.items()},
            "pause": prepared.pause.model_dump(mode="json"),
        },
    )


def _load(stage: Stage) -> Prepared | None:
    """What ``_save`` kept, where every file is there and whole."""
    done = stage.record("done")
    if done is None:
        return None
    entries = {n: TableEntry.model_validate(e) for n, e in done["tables"].items()}
    if not all(stage.finished(s.path) for entry in entries.values() for s in entry.shards):
        return None
    return Prepared(
        {name: Table(name, entry, stage.folder) for name, entry in entries.items()},
        {split: SplitRows.model_validate(rows) for split, rows in done["rows"].items()},
        PauseEntry.model_validate(done["pause"]),
    )
