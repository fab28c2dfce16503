"""``verify``: every checksum and every invariant of a version, problem by problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pausedata import exporters
from pausedata.analysis.verify_exports import export_problems
from pausedata.analysis.verify_warmups import warmup_problems
from pausedata.core.errors import PausedataError, listing
from pausedata.core.progress import Advance, Progress
from pausedata.store.content import ContentHash
from pausedata.store.dataset import Table, Version, read_version
from pausedata.store.integrity import problems_of
from pausedata.store.known_damage import MANIFEST, marks
from pausedata.store.manifest import CARD, ShardEntry
from pausedata.store.opening import version_folder, version_numbers
from pausedata.store.tables import is_known, list_parts, schema_of

PORTION = 64  # files that are hashed together


def verify(version: Version, progress: Progress) -> list[str]:
    """Check ``version`` and return what is wrong, a line each; an empty list where all is whole."""
    damaged = _damaged(version, progress)
    return [
        *(f"{path}: {why}" for path, why in damaged.items()),
        *_unlisted(version),
        *_tables(version, damaged, progress),
    ]


def verify_others(current: Version, progress: Progress) -> dict[int, list[str]]:
    """What is wrong with the other versions: their manifests, their parents, their files.

    What an earlier repair marked as damaged for good is left out: ``known_damage.marks`` has it.
    """
    root, marked = current.root, marks(current.root)
    numbers = [n for n in version_numbers(root) if n != current.number]
    parents = [current.manifest.parent]
    found: dict[int, list[str]] = {}
    with progress.step("checking other versions", len(numbers), "versions") as advance:
        for number in reversed(numbers):  # children first: they say what their parents hash to
            problems = found.setdefault(number, [])
            advance(1)
            if MANIFEST in marked.get(number, {}):  # then nothing is known of the rest
                continue
            recorded = {p.sha256 for p in parents if p is not None and p.version == number}
            try:
                version = read_version(root, version_folder(root, number))
            except PausedataError as error:
                problems.append(str(error))
                continue
            parents.append(version.manifest.parent)
            if version.number != number:
                problems.append(f"manifest.json: is of version {version.number}")
            elif recorded and version.sha256 not in recorded:
                problems.append("manifest.json: not the one that later versions were made from")
            damaged = problems_of(version.folder, version.files())
            known = marked.get(number, {})
            problems += [f"{path}: {why}" for path, why in damaged.items() if path not in known]
            problems += _unlisted(version)
    return {number: problems for number, problems in sorted(found.items()) if problems}


def _damaged(version: Version, progress: Progress) -> dict[str, str]:
    """What is wrong with each file that is not as the manifest says; every file is read anew."""
    found: dict[str, str] = {}
    entries = version.files()
    with progress.step("checking files", len(entries), "files") as advance:
        for start in range(0, len(entries), PORTION):
            portion = entries[start : start + PORTION]
            found |= problems_of(version.folder, portion, anew=True)
            advance(len(portion))
    return found


def _unlisted(version: Version) -> Iterator[str]:
    """Files that the manifest does not name."""
    manifest = version.manifest
    tables = [entry for table in manifest.tables.values() for entry in table.all_files()]
    known = {*(e.path for e in [*tables, *manifest.loose_files()]), "manifest.json", CARD}
    for full in sorted(version.folder.rglob("*")):
        path = full.relative_to(version.folder).as_posix()
        if full.is_file() and path not in known:
            yield f"{path}: not in the manifest"


def _tables(version: Version, damaged: Mapping[str, str], progress: Progress) -> Iterator[str]:
    """Every table holds what its columns promise, and hashes to its content hash.

    Nothing is said of what rests on a ``damaged`` file: that file's problem is known.
    """
    tables = version.tables
    for name in ("examples", "vocab", "tokens"):
        if name not in tables:
            yield f"{name}: the manifest has no such table"
            return
    yield from _row_counts(version)
    for name, table in tables.items():
        if name.startswith(("scores/", "kept/")):
            yield from warmup_problems(name, table.entry)
    checks = _RowChecks(version, damaged)
    here = [table for table in tables.values() if not table.absent]
    if version.absent:
        progress.say(f"not pulled, and so not checked: {listing(sorted(version.absent))}")
    with progress.step("checking rows", sum(t.entry.rows for t in here), "rows") as advance:
        for table in here:
            yield from checks.problems(table, progress, advance)
        if not damaged:
            for name in version.exports:
                needs = {"tokens", *tables[f"exports/{name}"].entry.provenance.get("made_from", [])}
                if not any(tables[n].absent for n in (f"exports/{name}", *needs) if n in tables):
                    yield from export_problems(version, name, progress)


def _row_counts(version: Version) -> Iterator[str]:
    """The rows of each split are counted rightly, and are those of ``examples``."""
    for split, rows in version.manifest.rows.items():
        if rows.into != rows.out + sum(rows.dropped.values()):
            yield f"rows of {split}: {rows.into} in are not {rows.out} out and the dropped"
        found = sum(s.rows for s in version.table("examples").shards if s.split == split)
        if found != rows.out:
            yield f"rows of {split}: examples has {found}, the manifest says {rows.out}"


class _RowChecks:
    """Checks the rows of each table, alone and against the tokens of the same examples."""

    def __init__(self, version: Version, damaged: Mapping[str, str]) -> None:
        self._version, self._damaged = version, damaged
        self._tokens, vocab = version.table("tokens"), version.table("vocab")
        self._vocabulary = None if vocab.absent else _vocabulary(vocab)
        self._ids: set[str] = set()  # of the examples seen so far

    def problems(self, table: Table, progress: Progress, advance: Advance) -> Iterator[str]:
        """What is wrong with ``table``, a line each; ``advance`` hears of the rows checked."""
        schema = _schema(table)
        if schema is None:
            progress.warn(
                f"{table.name}: a later release made it; its files and content hash are checked, "
                "what its rows mean is not known here"
            )
        elif _has_a_row_per_example(table.name) and len(table.shards) != len(self._tokens.shards):
            there = len(self._tokens.shards)
            yield f"{table.name}: {len(table.shards)} shards where tokens has {there}"
            return
        yield from _row_numbers(table)
        content: ContentHash | None = None
        for number, shard in enumerate(table.shards):
            advance(shard.rows)
            if shard.path in self._damaged:
                continue
            try:
                rows = table.read(shard)
                rows = rows if schema is None else _as_known(rows, schema)
                content = content or ContentHash(rows.schema)
                content.update(shard.split or "", rows)
                if rows.num_rows != shard.rows:
                    yield f"{shard.path}: {rows.num_rows} rows, the manifest says {shard.rows}"
                if schema is not None:
                    for problem in self._of_shard(table, number, rows.select(schema.names)):
                        yield f"{shard.path}: {problem}"
            except (PausedataError, pa.ArrowException, ValueError, KeyError) as error:
                if not self._damaged:  # else it rests on a damaged file of another table
                    yield f"{shard.path}: unreadable: {str(error).splitlines()[0]}"
        whole = not any(shard.path in self._damaged for shard in table.shards)
        content = content or ContentHash(pa.schema([]))
        if whole and content.hexdigest() != table.entry.content:
            yield f"{table.name}: its values do not hash to the manifest's content hash"

    def _of_shard(self, table: Table, number: int, rows: pa.Table) -> Iterator[str]:
        """What is wrong with the ``rows`` of shard ``number``."""
        kind = table.name.partition("/")[0]
        if kind == "vocab":
            yield from _vocab(rows)
        elif kind == "exports" or self._tokens.absent:
            return  # exports are made again: ``export_problems``
        elif kind == "gates":
            yield from _gate(rows)
        else:
            tokens = self._tokens.read(self._tokens.shards[number])
            if kind == "kept":  # which has scores of some of the examples
                tokens = tokens.filter(pc.field("id").isin(rows.column("id").combine_chunks()))
            if rows.column("id").combine_chunks() != tokens.column("id").combine_chunks():
                yield "its ids are not those of tokens"
            elif kind in ("scores", "kept"):
                yield from _scores(rows, tokens)
            elif kind == "placements":
                yield from _placement(rows, tokens)
            elif kind == "tokens":
                yield from self._of_tokens(number, rows)
            else:
                yield from self._of_examples(table.shards[number], rows)

    def _of_examples(self, shard: ShardEntry, rows: pa.Table) -> Iterator[str]:
        ids = rows.column("id").to_pylist()
        if len(set(ids)) != len(ids) or not self._ids.isdisjoint(ids):
            yield "an id stands there twice"
        self._ids.update(ids)
        if set(rows.column("split").to_pylist()) - {shard.split}:
            yield f"rows of another split than {shard.split}"

    def _of_tokens(self, number: int, rows: pa.Table) -> Iterator[str]:
        offsets, ids = list_parts(rows, "response_ids")
        _, prompt_ids = list_parts(rows, "prompt_ids")
        starts, start = list_parts(rows, "char_start")
        ends, end = list_parts(rows, "char_end")
        if not (np.array_equal(offsets, starts) and np.array_equal(offsets, ends)):
            yield "character spans are not one for each response token"
            return
        if (np.diff(offsets) == 0).any():
            yield "a response without tokens"
            return
        for each in (ids, prompt_ids):
            if self._vocabulary is not None and not np.isin(each, self._vocabulary).all():
                yield "a token id outside the vocabulary"
        if np.isin(self._version.manifest.pause.id, np.concatenate([ids, prompt_ids])):
            yield "the pause token stands in the corpus"
        # Spans cover the response, or of a truncated one its beginning.
        gaps = start[1:] > end[:-1]
        gaps[offsets[1:-1] - 1] = False
        if (start > end).any() or gaps.any() or start[offsets[:-1]].any():
            yield "character spans leave a gap"
        examples = self._version.table("examples")
        if examples.absent:
            return
        texts = examples.read(examples.shards[number], ["response"]).column("response").to_pylist()
        truncated = rows.column("truncated").to_pylist()
        for text, cut, last in zip(texts, truncated, end[offsets[1:] - 1], strict=True):
            if last != len(text) and not (cut and last <= len(text)):
                yield f"character spans end at {last}, the response has {len(text)} characters"
                return


def _row_numbers(table: Table) -> Iterator[str]:
    """The shards of each split follow one another without gaps, and hold all rows of the table."""
    counted: dict[str | None, int] = {}
    for shard in table.shards:
        if shard.first_row != counted.get(shard.split, 0):
            yield f"{shard.path}: the manifest says that it begins at row {shard.first_row}"
        counted[shard.split] = shard.first_row + shard.rows
    rows = sum(shard.rows for shard in table.shards)
    if rows != table.entry.rows:
        yield f"{table.name}: its shards have {rows} rows, the manifest says {table.entry.rows}"


def _vocabulary(table: Table) -> np.ndarray[Any, Any] | None:
    """The ids there are (a vocabulary may have gaps); None where the table cannot be read."""
    try:
        return np.concatenate([table.read(s)["token_id"].to_numpy() for s in table.shards])
    except (PausedataError, KeyError):
        return None


def _schema(table: Table) -> pa.Schema | None:
    """The columns of a table, as this release knows them; None where a later one made it."""
    if table.name.startswith("exports/"):
        known = exporters.recorded(table.entry.provenance.get("inputs", {}))
        return known[0].schema(known[1]) if known else None
    return schema_of(table.name) if is_known(table.name) else None


def _as_known(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns that this release knows, and behind them those that a later one added."""
    known = rows.select(schema.names).cast(schema)
    for field in rows.schema:
        if field.name not in schema.names:
            known = known.append_column(field, rows.column(field.name))
    return known


def _has_a_row_per_example(name: str) -> bool:
    """Whether a table's shards have to be those of tokens: not a vocabulary's or an export's."""
    return name != "vocab" and not name.startswith(("exports/", "gates/"))


def _vocab(rows: pa.Table) -> Iterator[str]:
    ids = rows.column("token_id").to_numpy()
    if (np.diff(ids) <= 0).any() or (len(ids) and ids[0] < 0):
        yield "token ids do not ascend from 0"


def _gate(rows: pa.Table) -> Iterator[str]:
    ids = rows.column("id").to_pylist()
    if len(set(ids)) != len(ids):
        yield "an id stands there twice"
    tokens, after = (rows.column(name).to_numpy() for name in ("tokens", "after"))
    if (after < 0).any() or (after > tokens).any() or (tokens < 1).any():
        yield "more tokens after a pause than there are"
    for column in ("logprob_without", "logprob_with"):
        if not np.isfinite(rows.column(column).to_numpy()).all():
            yield f"{column} is not finite"


def _scores(rows: pa.Table, tokens: pa.Table) -> Iterator[str]:
    offsets, logprob = list_parts(rows, "logprob")
    if not np.array_equal(offsets, list_parts(tokens, "response_ids")[0]):
        yield "log-probabilities are not one for each response token"
        return
    if not np.isfinite(logprob).all() or (logprob > 0).any():
        yield "a log-probability is not finite, or above zero"
    if rows.column("n_tokens").to_pylist() != np.diff(offsets).tolist():
        yield "n_tokens is not the number of response tokens"
    if len(logprob):
        least = np.minimum.reduceat(logprob, offsets[:-1])
        if not np.array_equal(least, rows.column("min_logprob").to_numpy()):
            yield "min_logprob is not the smallest log-probability"
        means = np.add.reduceat(logprob.astype(np.float64), offsets[:-1]) / np.diff(offsets)
        if not np.allclose(means, rows.column("mean_logprob").to_numpy(), rtol=1e-5, atol=1e-6):
            yield "mean_logprob is not the mean log-probability"
    for column, least_allowed in (("rank", 1), ("entropy", 0)):
        if rows.column(column).null_count == rows.num_rows:
            continue
        lengths, values = list_parts(rows, column)
        if not np.array_equal(lengths, offsets):
            yield f"{column} is not one for each response token"
        elif not np.isfinite(values).all() or (values < least_allowed).any():
            yield f"{column} below {least_allowed}, or not finite"


def _placement(rows: pa.Table, tokens: pa.Table) -> Iterator[str]:
    from pausedata.models.tokens import begins_character

    offsets, position = list_parts(rows, "position")
    counts, count = list_parts(rows, "count")
    if not np.array_equal(offsets, counts):
        yield "counts are not one for each position"
        return
    example = np.repeat(np.arange(rows.num_rows), np.diff(offsets))
    token_offsets, start = list_parts(tokens, "char_start")
    lengths = np.diff(token_offsets)
    ascending = np.diff(position) > 0
    ascending[example[1:] != example[:-1]] = True
    if not ascending.all():
        yield "positions do not ascend"
    if (position < 0).any() or (position > lengths[example]).any():
        yield "a position outside the response"
        return
    if (count < 1).any():
        yield "a count below 1"
    begins = begins_character(start, list_parts(tokens, "char_end")[1], token_offsets)
    within = position < lengths[example]
    if not begins[token_offsets[example[within]] + position[within]].all():
        yield "a pause inside a character"
