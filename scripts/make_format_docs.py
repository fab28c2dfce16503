"""Write docs/formats.md from what the export formats say of themselves.

python scripts/make_format_docs.py            write it
python scripts/make_format_docs.py --check    exit 1 where it is not what would be written
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from generated import write_or_check

from pausedata import exporters
from pausedata.exporters.base import Common, Guide, TokenOptions, UnmaskedOptions
from pausedata.exporters.trainers import TRAINERS

TARGET = Path(__file__).resolve().parent.parent / "docs" / "formats.md"
# Options that change a format's columns: a table for each.
VARIANTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "tokenized": [("", {}), ("with `pack`", {"pack": 2048})],
    "hf-disk": [("", {}), ("with `pack`", {"pack": 2048})],
    "shifted": [
        ("", {}),
        ("with `pack`", {"pack": 2048}),
        ("with `columns: mask`", {"columns": "mask"}),
    ],
}

HEAD = """\
# Exports

<!-- Made by `make docs`. Edit pausedata/exporters and scripts/make_format_docs.py, not this. -->

An export is a placement written so that one trainer reads it: pauses in their places, and no loss \
on predicting them. `pausedata export DATASET --placement P --format F` adds it to the dataset; \
with `-o` it goes to a file or folder of your own. In a recipe exports have names:

```yaml
exports:
  dit-tokenized: {placement: dit, format: tokenized}
  dit-packed: {placement: dit, format: hf-disk, pack: 2048}
```

Beside every export lies a `README.md` with the configuration or command line of its trainers, the \
figures of this export in it. `SPLIT.meta.json` says what the files hold and what they were made \
from; [format.md](format.md#exports) is the specification.

| format | for | pause label masked |
|---|---|---|
"""
BODY = """
**Not masked** means that the trainer has no way to keep the loss off a pause within a reply: the \
model learns to write it. `--allow-unmasked` says that you know; the output, the meta file and the \
README say it too.

## Text is checked, row by row
A pause within a text can change the tokens around it: `"is [PAUSE]4"` leaves a lone space token, \
which `"is[PAUSE] 4"` does not. Formats of token ids have no such rows. Of a format of text \
pausedata tokenises every row that it writes, as its trainer will (chat template, separate \
tokenising of parts, what the trainer appends), and compares with the ids that are planned. \
`--on-mismatch` says what becomes of a row that differs:

| | |
|---|---|
| `error` | nothing is written; the rows are counted, the first is shown (the default) |
| `move` | a pause that does not survive moves to the nearest place that does, the earlier of two; \
pauses that meet stand together. Rows that no move mends are left out |
| `skip` | the rows are left out |

What was moved or left out is counted in the output and in `SPLIT.meta.json`, and listed example \
by example in `SPLIT.changes.jsonl`. The model's tokenizer is needed: of a Hub model it is known, \
of a folder or file a dataset keeps no path, so name it with `--tokenizer`.

## Proof
`--check TRAINER` runs the trainer itself, as it is installed where you call it, on what was just \
written, and compares its own tensors with the plan, which is made from the dataset's tables:

```
$ pausedata export build/quickstart --placement dit --format tokenized -o train.jsonl --check trl
…
train: SFTTrainer                     compared   differ
───────────────────────────────────────────────────────
rows: as many as planned                    72        0
rows: none cut                              72        0
rows: the planned ids                       72        0
pauses: no loss                            360        0
other tokens: loss where planned         6,843        0
other tokens: no loss where planned      5,214        0
a step of training, its loss finite          1        0
```

Exit status 1 where anything differs. `make test-trainers` runs all of them on the CPU, with \
SmolLM2's tokenizer and real rows; it is also how to install them side by side.

| trainer | what is run | formats |
|---|---|---|
"""
REST = """
unsloth reads as TRL does and needs a GPU; verl needs Ray, OpenAI's service cannot be looked into: \
none of the three is proven here.

## What is held out
An export has every split but `holdout`, where the recipe \
[holds a part out](recipe.md#sourceholdout): the command, the README and `left_out` in \
`SPLIT.meta.json` say how many examples that are. `--split holdout` (`split: holdout` in a recipe) \
writes them alone, for a script that evaluates; their meta file says `held_out: true`, and the \
README that they are not to train on.

## Files
Inside a dataset an export has Parquet shards, for readers and the Hub, and beside them the \
trainer's own file: `SPLIT.jsonl`, of `hf-disk` the folder `hf/`. With `-o`:

| `-o` | gives |
|---|---|
| `train.jsonl`, `train.jsonl.gz`, `train.jsonl.zst`, `train.parquet` | that file, of one split \
(`--split`) |
| `folder` | `SPLIT.jsonl` for each split, or what `--type` says; of `hf-disk` a `DatasetDict` |
| either with `--shard-rows 100000` | `SPLIT-00000-of-00004.jsonl` … with so many rows each |

Files appear whole or not at all, and equal rows give equal bytes. An export that was stopped goes \
on where it was: finished shards are kept in the dataset's `staging` folder. Memory does not grow \
with the dataset.

## Mixtures and epochs
```sh
pausedata export D --placement dit=3 --placement append=1 --format tokenized   # mixed, 3 to 1
pausedata export D --placement dit --placement random --format tokenized       # one for each epoch
```
Mixed by weight, each example has one of the placements, drawn by its id and `seed` alone. One for \
each epoch gives the splits `train.epoch1`, `train.epoch2`, …: files to be trained on one after \
another, so that `-o` takes a folder. In a recipe: `placement: {dit: 3, append: 1}` and \
`placement: [dit, random]`.

## Packing
`--pack 2048` puts examples into rows of at most so many tokens, by best fit, none of them split. \
The first token of an example bears no loss in a packed row. Rows have `position_ids`, which begin \
at 0 in each example, and (but `shifted`) `seq_lengths`, and **no `attention_mask`**: given one, \
even of ones, transformers no longer sees where an example ends, and examples see each other. \
Train with `SFTConfig(padding_free=True)`, or with the Trainer's `default_data_collator` and a \
batch of one row.

## A format of your own
Another distribution adds one through the entry-point group `pausedata.exporters`: an object \
`pausedata.exporters.base.Format` with the entry point's name, options derived from \
`TokenOptions` (then `rows` makes an Arrow table of `Sequences`) or `TextOptions` (then `text` has \
`render`, which writes a row, and `read_back`, which tokenises rows as the trainer does), a \
`schema`, and `layout=RowFiles()`. `pausedata/exporters/swift.py` is a whole one in 75 lines. \
`pausedata doctor` lists what it found.

## Common options
"""


IDS = "\nFormats of token ids (`tokenized`, `hf-disk`, `shifted`) take also:\n\n"


def render() -> str:
    """The whole page."""
    parts = [HEAD, *_overview(), BODY, *_trainers(), REST]
    parts += [
        *_options(Common),
        IDS,
    ]
    parts += [*_options(TokenOptions, Common), "\nFormats of text take also:\n\n"]
    parts += [*_options(UnmaskedOptions, Common)]
    for name in exporters.own():
        parts += _format(name)
    return "".join(parts).rstrip("\n") + "\n"


def _overview() -> Iterator[str]:
    for name in exporters.own():
        format = exporters.get(name)
        masked = "yes" if format.pause_label_masked else "**no**"
        yield f"| [`{name}`](#{name}) | {format.readers} | {masked} |\n"


def _trainers() -> Iterator[str]:
    for trainer in TRAINERS.values():
        ways = "; ".join(
            f"`{way.name}`" if " " not in way.name else way.name for way in trainer.ways
        )
        formats = ", ".join(f"`{name}`" for name in trainer.formats)
        yield f"| `{trainer.name}` | {ways} | {formats} |\n"


def _options(model: Any, without: Any = None) -> Iterator[str]:
    yield "| option | default | |\n|---|---|---|\n"
    known = set(without.model_fields) if without else set()
    for name, field in model.model_fields.items():
        same = name in known and field.description == without.model_fields[name].description
        if not same:
            yield f"| `{name}` | {_shown(field)} | {field.description} |\n"


def _shown(field: Any) -> str:
    return "null" if field.default is None else f"`{json.dumps(field.default)}`"


def _format(name: str) -> Iterator[str]:
    format = exporters.get(name)
    summary = (format.options.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
    yield f"\n## {name}\n{' '.join(summary.split())}\n\n"
    yield f"Read by {format.readers}. **Loss:** {format.loss[0].lower()}{format.loss[1:]}\n"
    allow = {} if format.pause_label_masked else {"allow_unmasked": True}
    for title, values in VARIANTS.get(name, [("", {})]):
        options = exporters.parse(format, allow | values, name)
        yield f"\n| column{', ' + title if title else ''} | type |\n|---|---|\n"
        for field in format.schema(options):
            yield f"| `{field.name}` | {_type(field.type)} |\n"
    base = TokenOptions if issubclass(format.options, TokenOptions) else UnmaskedOptions
    own = [n for n in format.options.model_fields if n not in base.model_fields]
    if own:
        yield "\n| option | default | |\n|---|---|---|\n"
        for option in own:
            field = format.options.model_fields[option]
            yield f"| `{option}` | {_shown(field)} | {field.description} |\n"
    pause = {"token": "[PAUSE]", "id": 49152, "id_is_new": True}
    path = "folder" if name == "hf-disk" else "train.jsonl"
    options = exporters.parse(format, allow, name)
    for section in format.guide(Guide(options, pause, {"train": path}, 2048)):
        note = f" {section.note}" if section.note else ""
        yield f"\n**{section.trainer}.**{note}\n"
        yield f"```{section.language}\n{section.code}\n```\n"


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list&lt;{_type(kind.value_type)}&gt;"
    if pa.types.is_struct(kind):
        fields = (kind.field(k) for k in range(kind.num_fields))
        return "{" + ", ".join(f"{field.name}: {_type(field.type)}" for field in fields) + "}"
    return str(kind)


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, render, __doc__ or "", "the formats say"))
