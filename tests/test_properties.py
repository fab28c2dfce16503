"""The invariants of the design that span several steps, on data that hypothesis makes up.

1 to 3 are properties of single functions: test_exports.py and test_strategies.py hold them too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from aligned import aligned
from conftest import Recipe, in_ci, write_rows
from handmade import PAUSE, scores_table, tokens_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pausedata import exporters, strategies
from pausedata.analysis.verify import verify
from pausedata.core.progress import Silent
from pausedata.exporters.inputs import ExportInputs
from pausedata.pipeline.steps import export as export_step
from pausedata.pipeline.steps import place as place_step
from pausedata.store.dataset import Table, open_version
from pausedata.store.manifest import PauseEntry
from pausedata.store.shards import shard_name
from pausedata.store.staging import Stage, Staging
from pausedata.store.tables import schema_of

PROBABILITIES = st.sampled_from([1.0, 1 / 2, 1 / 3, 1 / 8, 1 / 100, 1 / 5000])
EXAMPLES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 15), min_size=1, max_size=4),  # prompt ids
        st.lists(st.tuples(st.integers(0, 15), PROBABILITIES), min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=12,
)
PLACEMENTS = st.sampled_from(
    [
        ("lowest_logprob", {"positions": 2, "tokens": 3}),
        ("lowest_logprob", {"positions": 99}),
        ("random", {"positions": 3, "seed": 5}),
        ("append", {"tokens": 2}),
        ("none", {}),
    ]
)


def stored(root: Path, examples: list[Any], each: int) -> dict[str, Table]:
    """The examples as stored tables, ``each`` of them in a shard."""
    stage = Stage(root / "made")
    rows = [(f"e{i}", prompt, [id for id, _ in r]) for i, (prompt, r) in enumerate(examples)]
    scores = [(f"e{i}", [p for _, p in r]) for i, (_, r) in enumerate(examples)]
    tables = {}
    for name, make, values in (
        ("tokens", tokens_table, rows),
        ("scores/base", scores_table, scores),
    ):
        portions = [values[i : i + each] for i in range(0, len(values), each)]
        paths = []
        for number, portion in enumerate(portions):
            path = f"{name}/{shard_name('train', number, len(portions))}"
            stage.write(path, make(portion))
            paths.append(("train", path))
        tables[name] = stage.table(name, schema_of(name), paths, {})
    stage.write("vocab.parquet", schema_of("vocab").empty_table())
    return tables


def exported(root: Path, tables: dict[str, Table], chosen: Any, format_name: str) -> Table:
    """The export ``e`` of a placement of the stored tables."""
    return _placed_and_exported(root, tables, chosen, format_name)[1]


def placed_and_exported(root: Path, tables: dict[str, Table], chosen: Any) -> tuple[Any, ...]:
    """The content hashes of a placement and its export, and the trainer's file."""
    placement, export = _placed_and_exported(root, tables, chosen, "tokenized")
    text = (export.folder / "exports/e/train.jsonl").read_bytes()
    return placement.entry.content, export.entry.content, text


def _placed(root: Path, tables: dict[str, Table], strategy: Any, parameters: Any) -> Table:
    names = place_step.tables_read(strategy, parameters, "base")
    read = {name: tables[name] for name in names}
    contents = {name: table.entry.content for name, table in read.items()}
    wanted = place_step.inputs(strategy, parameters, "base", contents)
    return place_step.place(Staging(root), "p", strategy, parameters, wanted, read, Silent())


def no_tokenizer() -> Any:
    raise AssertionError("formats of token ids need no tokenizer")


def _placed_and_exported(
    root: Path, tables: dict[str, Table], chosen: Any, format_name: str
) -> tuple[Table, Table]:
    strategy = strategies.get(chosen[0])
    parameters = strategies.parse(strategy, chosen[1], "test")
    tokens = tables["tokens"]
    placement = _placed(root, tables, strategy, parameters)
    pause = PauseEntry(token="[PAUSE]", id=PAUSE, id_is_new=True)
    format = exporters.get(format_name)
    options = exporters.parse(format, {}, "test")
    read = tables | {"examples": tokens, "vocab": tokens, "placements/p": placement}
    origin = ExportInputs.of("d", pause, read, "p", no_tokenizer)
    wanted = export_step.inputs(format, options, "p", origin.contents, pause)
    made = (Staging(root), "e", format, options, wanted, origin, Silent())
    return placement, export_step.export(*made)


@settings(max_examples=in_ci(40), deadline=None)
@given(examples=EXAMPLES, chosen=PLACEMENTS, each=st.integers(1, 12), again=st.booleans())
def test_placements_and_exports_depend_on_no_sharding_and_no_restart(
    examples: list[Any], chosen: Any, each: int, again: bool
) -> None:
    """Invariants 4 and 5: from the same stored scores come the same bytes and content hashes."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        whole = stored(Path(one), examples, len(examples))
        parts = stored(Path(other), examples, each)
        assert whole["scores/base"].entry.content == parts["scores/base"].entry.content
        first = placed_and_exported(Path(one), whole, chosen)
        assert placed_and_exported(Path(other), parts, chosen) == first
        if again:  # over what an earlier run left in staging
            assert placed_and_exported(Path(other), parts, chosen) == first


@settings(max_examples=in_ci(60), deadline=None)
@given(examples=EXAMPLES, positions=st.integers(0, 9))
def test_the_m_smallest_scores_get_the_pauses(examples: list[Any], positions: int) -> None:
    """Invariants 2 and 3, from stored tables to a stored placement."""
    with tempfile.TemporaryDirectory() as folder:
        tables = stored(Path(folder), examples, 3)
        strategy = strategies.get("lowest_logprob")
        parameters = strategies.parse(strategy, {"positions": positions}, "test")
        placement = _placed(Path(folder), tables, strategy, parameters)
        found = [row for s in placement.shards for row in placement.read(s)["position"].to_pylist()]
        for (_, response), row in zip(examples, found, strict=True):
            order = sorted(range(len(response)), key=lambda i: (response[i][1], i))
            assert row == sorted(order[:positions])


GOOD = {"question": "What is 2 + 2?", "answer": "2 + 2 = 4"}
ROWS = {
    "good": GOOD,
    "repeat": {"question": "Again?", "answer": "Yes 🙂"},
    "empty_response": GOOD | {"answer": "  "},
    "null": GOOD | {"question": None},
    "not_text": GOOD | {"answer": 4},
    "has_pause": GOOD | {"answer": "[PAUSE]"},
    "missing_column": {"answer": "4"},
    "not_an_object": [1, 2],
    "overlong": GOOD | {"answer": "word " * 60},
}


@settings(
    max_examples=in_ci(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kinds=st.lists(st.sampled_from(sorted(ROWS)), min_size=0, max_size=12),
    each=st.integers(1, 5),
    overlong=st.sampled_from(["error", "skip", "truncate"]),
)
def test_every_row_comes_out_or_is_counted_by_its_reason(
    recipe: Recipe, kinds: list[str], each: int, overlong: str
) -> None:
    """Invariant 7, whatever stands among the rows; and the ids depend on no sharding (5)."""
    kinds = ["good", *kinds]  # the first row shows the columns
    write_rows(recipe.folder / "rows.jsonl", [ROWS[kind] for kind in kinds])
    recipe.data |= {"shard_rows": each, "placements": {}, "exports": {}}
    recipe.data["source"]["max_bad_rows"] = 99
    recipe.data["scoring"] = {"max_length": 40, "overlong": overlong}
    with tempfile.TemporaryDirectory() as folder:
        recipe.out = Path(folder) / "out"
        recipe.build()
        version = open_version(recipe.out)
        counted = version.manifest.rows["train"]
        assert counted.into == len(kinds) == counted.out + sum(counted.dropped.values())
        for reason in set(ROWS) - {"good", "repeat", "overlong"}:
            assert counted.dropped.get(reason, 0) == kinds.count(reason)
        cut = counted.dropped.get("overlong", 0), counted.noted["truncated"]
        times = kinds.count("overlong")
        assert cut == ((0, times) if overlong == "truncate" else (times, 0))
        ids = [id for _, [t] in aligned(version, "examples") for id in t["id"].to_pylist()]
        kept = [k for k in kinds if k in ("good", "repeat") or (k == "overlong" and cut[1])]
        numbered = [f"{k}-{kept[: i + 1].count(k)}" for i, k in enumerate(kept)]
        names = {k: ids[kept.index(k)] for k in kept}
        expected = [
            names[k] if n.endswith("-1") else f"{names[k]}-{n.rsplit('-', 1)[1]}"
            for k, n in zip(kept, numbered, strict=True)
        ]
        assert ids == expected
        assert verify(version, Silent()) == []
