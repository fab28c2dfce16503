"""What a warm-up does to places of pauses, by its size and method, beside what it costs.

    python benchmarks/warmup.py --source gsm8k_train.jsonl
    python benchmarks/warmup.py --recipe recipes/mbpp.yaml --source mbpp.jsonl \\
        --only base lora-256 reference
    python benchmarks/warmup.py --quick            # two minutes, and says nothing

The rows of the source, rendered and tokenised as the recipe says, are cut up by the warm-up's own
hash: evaluation rows are one fold's, in the order of its held-out ones, training rows the other
folds', in the order in which a warm-up takes them (so 40 rows are the first of 80), and those of
the reference, a model trained in full on 416 rows, come after the last of these. So nothing is
evaluated on what it, or a near duplicate of it, was trained on, and the reference shares no row
with what it is compared with.

Every line scores the same evaluation rows and places 5 pauses in each with `lowest_logprob`:

- mean log-probability of their response tokens;
- the share of pauses before format tokens: texts that stand in at least 80 % of the source's
  responses (they are printed, with their share of all tokens, which is what chance would give), and
  the share before `--marks`, which is what a person would call format;
- places shared with the reference: the mean over rows of the part of a row's places that are in
  both;
- seconds of training and of scoring, by the clock and, in brackets, of the processor. A warm-up's
  loss is measured on 8 rows here, not on 64 as in a build, and both folds of a build take twice
  that.

Contexts are whole training examples (prompt, response and its end) before the prompt, for every
row others.

A line is kept in `build/warmup/` as soon as it is there, and is not made again: kill it and go on.
With SmolLM2-135M on GSM8K, minutes of one processor: base 1, LoRA 2 (40 rows) to 7 (256), full 6,
the reference 15, contexts 1 and 5: about 50 in all. Where others use the machine, OMP_NUM_THREADS=1
is several times as fast as two threads, which wait for each other.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import transformers
from common import DATA, MODEL, ROOT, machine, parser_of

import pausedata
from pausedata import strategies
from pausedata.core.progress import Silent
from pausedata.models.ref import ModelRef
from pausedata.pipeline.recipe import load_recipe
from pausedata.pipeline.steps.batches import begins_character
from pausedata.pipeline.steps.reuse import examples_of
from pausedata.scorers import Example, load_scorer
from pausedata.store.files import digest, write_json
from pausedata.store.tables import list_parts
from pausedata.strategies import Batch
from pausedata.warmup import Warmup
from pausedata.warmup.folds import HELD_OUT_ROWS, samples
from pausedata.warmup.train import train

POSITIONS = 5
FORMAT = 0.8  # of the responses: texts that stand in so many are format
BAD = 5  # rows that are left out at most: one of MBPP is too long
FOLDS = 4  # one is evaluated on, the others are trained on
MEASURED = 8  # rows, not evaluated on, whose loss the training measures before and after
REFERENCE = "reference"
QUICK = 16  # rows of a training, at most
END = "<|im_end|>"  # of SmolLM2 and many others
MARKS = {"gsm8k": ("<<", ">>", "####")}


@dataclass(frozen=True)
class Line:
    """What scores: the model as it is, after others' examples, or trained."""

    about: str
    warmup: Warmup | None = None
    context: int = 0


def trained(method: str, rows: int, rank: int = 16) -> Line:
    about = f"LoRA rank {rank}, {rows} rows" if method == "lora" else f"full, {rows} rows"
    return Line(about, Warmup(method=method, rows=rows, rank=rank))  # type: ignore[arg-type]


def lines_of(args: argparse.Namespace) -> dict[str, Line]:
    """By name, the most telling first."""
    reference = trained("full", args.reference_rows)
    tuned = Warmup(**json.loads(args.tuned)) if args.tuned else None
    lines = {
        "base": Line("the model as it is"),
        "lora-256": trained("lora", 256),
        REFERENCE: Line(f"the reference: {reference.about}", reference.warmup),
        "full-160": trained("full", 160),
        "lora-80": trained("lora", 80),
        "lora-160": trained("lora", 160),
        "lora-40": trained("lora", 40),
        "context-2": Line("2 other examples before it", context=2),
        "context-8": Line("8 other examples before it", context=8),
        "lora-80-rank-4": trained("lora", 80, 4),
        "lora-80-rank-64": trained("lora", 80, 64),
    }
    if tuned is not None:
        lines["tuned"] = Line(f"warm-up with {args.tuned}", tuned)
    if not args.quick:
        return lines
    small = {}
    for name in ("base", "lora-40", "full-160", REFERENCE, "context-2"):
        line = lines[name]
        if line.warmup is not None:
            about = line.about.rpartition(",")[0]
            line = Line(f"{about}, {QUICK} rows", line.warmup.model_copy(update={"rows": QUICK}))
        small[name] = line
    return small


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--recipe", type=Path, default=ROOT / "recipes" / "gsm8k.yaml", help="its templates")
    add("--source", type=Path, default=DATA, help="a file with the recipe's columns")
    add("--model", default=str(MODEL), help="a folder, a .gguf file or a Hub id")
    add("--limit", type=int, default=1024, help="rows of the source")
    add("--rows", type=int, default=HELD_OUT_ROWS, help="that are evaluated on")
    add("--reference-rows", type=int, default=416, help="that the reference is trained on")
    add("--marks", nargs="+", help="parts of tokens; default: the end token, GSM8K's beside")
    add("--tuned", metavar="JSON", help="settings of a warm-up for a line `tuned`")
    add("--only", nargs="+", metavar="NAME", help="lines to make, in this order; all are printed")
    add("--folder", type=Path, default=ROOT / "build" / "warmup", help="where lines are kept")
    add("--quick", action="store_true", help="8 rows, trainings of 16")
    args = parser.parse_args()
    if args.marks is None:
        args.marks = [*MARKS.get(args.recipe.stem, ()), END]
    if args.quick:
        args.rows = min(args.rows, 8)
    if not 1 <= args.rows <= HELD_OUT_ROWS:
        parser.error(f"--rows is from 1 to {HELD_OUT_ROWS}, which a warm-up holds out")
    unknown = set(args.only or ()) - set(lines_of(args))
    if unknown:
        parser.error(
            f"no such line: {', '.join(sorted(unknown))}. Lines: {', '.join(lines_of(args))}"
        )
    return args


class Log(Silent):
    """Prints what a training tells of its loss."""

    def detail(self, message: str) -> None:
        say(f"  {message}")


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


class Corpus:
    """The source's rows as a build without scores makes them."""

    def __init__(self, args: argparse.Namespace) -> None:
        folder = Path(tempfile.mkdtemp(prefix="pausedata-warmup-"))
        overrides = {
            "source.hub": None,
            "source.files": [str(args.source.resolve())],
            "source.limit": args.limit,
            "source.max_bad_rows": BAD,
            "model.id": args.model,
            "scoring": None,
            "placements": {},
            "exports": {},
        }
        try:
            pausedata.build(load_recipe(args.recipe, overrides), folder / "out")
            data = pausedata.open(folder / "out")
            self.texts = data.examples.to_table(columns=["id", "prompt"]).to_pylist()
            tokens = data.tokens.to_table().combine_chunks()
            vocab = data.vocab.to_table(columns=["token_id", "token"])
        finally:
            shutil.rmtree(folder)
        self.token = dict(zip(*(column.to_pylist() for column in vocab.columns), strict=True))
        self._tokens = tokens
        self._row = {id: row for row, id in enumerate(tokens["id"].to_pylist())}

    def rows(self, ids: Sequence[str]) -> pa.Table:
        return self._tokens.take([self._row[id] for id in ids]).combine_chunks()

    def examples(self, ids: Sequence[str]) -> list[Example]:
        return examples_of(self.rows(ids))

    def words(self, response_ids: Any) -> list[str]:
        return [self.token[int(id)] for id in response_ids]

    @cached_property
    def format(self) -> dict[str, float]:
        """Texts that stand in most responses, with their share of all response tokens."""
        responses = [self.words(ids) for ids in self._tokens["response_ids"].to_pylist()]
        within, count = dict[str, int](), dict[str, int]()
        for words in responses:
            for word in set(words):
                within[word] = within.get(word, 0) + 1
                count[word] = count.get(word, 0) + words.count(word)
        total = sum(map(len, responses))
        often = [word for word, n in within.items() if n >= FORMAT * len(responses)]
        return {word: count[word] / total for word in sorted(often, key=lambda w: (-count[w], w))}

    def share(self, marks: Sequence[str]) -> float:
        """Of the response tokens those with one of ``marks`` in them."""
        ids = pc.value_counts(pc.list_flatten(self._tokens["response_ids"])).to_pylist()
        marked = sum(each["counts"] for each in ids if has_any(self.token[each["values"]], marks))
        return marked / sum(each["counts"] for each in ids)


def has_any(word: str, marks: Sequence[str]) -> bool:
    return any(mark in word for mark in marks)


class Bench:
    """The rows of each line, and the lines that are there."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.lines = args, lines_of(args)
        self.model = ModelRef.parse(args.model, None, Path.cwd())
        self.corpus = Corpus(args)
        most = max(line.warmup.rows for name, line in self.lines.items() if self._draws(name))
        wanted = most + self.lines[REFERENCE].warmup.rows + MEASURED
        of_prompts = [(row["id"], row["prompt"]) for row in self.corpus.texts]
        sample = samples(of_prompts, rows=wanted, folds=FOLDS, seed=0)[0]
        if len(sample.train) < wanted or len(sample.held_out) < args.rows:
            raise SystemExit(
                f"{args.source.name}: {len(sample.train)} and {len(sample.held_out)} rows to train "
                f"and to evaluate on, {wanted} and {args.rows} are needed: see --limit."
            )
        self.evaluated = sample.held_out[: args.rows]
        self._first = sample.train[:most]
        self._reference = sample.train[most:-MEASURED]
        self._measured = sample.train[-MEASURED:]
        size = "-quick" if args.quick else ""
        self._folder = args.folder / f"{args.recipe.stem}{size}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.rows = self.corpus.rows(self.evaluated)
        self.examples = examples_of(self.rows)

    def _draws(self, name: str) -> bool:
        """Whether a line trains on the first rows."""
        return self.lines[name].warmup is not None and name != REFERENCE

    def _trained_on(self, name: str) -> list[str]:
        line = self.lines[name]
        if line.warmup is not None:
            ids = self._reference if name == REFERENCE else self._first
            return ids[: line.warmup.rows]
        return self._first if line.context else []

    def _origin(self, name: str) -> str:
        """What decides a line's numbers: of another than this it is made again."""
        line = self.lines[name]
        settings = line.warmup.identity() if line.warmup else None
        rows = [self.evaluated, self._trained_on(name)]
        return digest([self.model.identity(), settings, line.context, *rows])

    def found(self, name: str) -> dict[str, Any] | None:
        path = self._folder / f"{name}.json"
        if not path.is_file():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept if kept["origin"] == self._origin(name) else None

    def make(self, name: str) -> None:
        """Train and score for a line, and keep it."""
        line = self.lines[name]
        say(f"{name}: {line.about}")
        made: dict[str, Any] = {"about": line.about, "origin": self._origin(name)}
        with tempfile.TemporaryDirectory(prefix="pausedata-warmup-") as folder:
            model, examples = self.model, self.examples
            if line.context:
                examples = self._after_others(line.context)
            if line.warmup is not None:
                model, made["training"] = self._train(name, line.warmup, Path(folder) / "model")
            logprobs, made["scoring"] = score(model, examples)
        made["machine"] = machine()
        made["logprobs"] = [[round(float(x), 5) for x in row] for row in logprobs]
        write_json(self._folder / f"{name}.json", made)

    def _train(self, name: str, warmup: Warmup, out: Path) -> tuple[ModelRef, dict[str, Any]]:
        rows, measured = (self.corpus.examples(x) for x in (self._trained_on(name), self._measured))
        out.mkdir()
        with Clock() as clock:
            outcome = train(
                *(self.model, warmup, rows, measured, out),
                dtype="float32",
                device="cpu",
                title=name,
                progress=Log(),
            )
        if warmup.method == "full":
            model = ModelRef("folder", name, out)
        else:
            model = ModelRef("adapter", name, out, base=self.model)
        return model, outcome.facts() | clock.read()

    def _after_others(self, count: int) -> list[Example]:
        """The evaluation rows, each after ``count`` others that are trained on elsewhere."""
        others = cycle(self.corpus.examples(self._first))
        return [
            Example([*ids_of(islice(others, count)), *map(int, row.prompt_ids)], row.response_ids)
            for row in self.examples
        ]

    # The table

    def places(self, kept: dict[str, Any]) -> list[set[int]]:
        """Where the pauses of each row go."""
        offsets, start = list_parts(self.rows, "char_start")
        _, end = list_parts(self.rows, "char_end")
        batch = Batch(
            ids=self.evaluated,
            offsets=offsets,
            begins_character=begins_character(start, end, offsets),
            logprob=np.array(list(chain(*kept["logprobs"])), np.float32),
        )
        strategy, parameters = strategies.of("lowest_logprob", {"positions": POSITIONS}, "warmup")
        placed, _ = strategies.place(strategy, batch, parameters)
        found: list[set[int]] = [set() for _ in self.evaluated]
        for example, position in zip(placed.example, placed.positions, strict=True):
            found[example].add(int(position))
        return found

    def table(self) -> Iterator[str]:
        """The lines that are there, as Markdown."""
        args, corpus = self.args, self.corpus
        kept = {name: found for name in self.lines if (found := self.found(name))}
        reference = self.places(kept[REFERENCE]) if REFERENCE in kept else None
        tokens = sum(len(e.response_ids) for e in self.examples)
        yield f"{self.model.name}, {args.recipe.stem}, {args.source.name}: " \
              f"{len(self.evaluated)} rows of {tokens:,} response tokens"  # fmt: skip
        yield f"format ({sum(corpus.format.values()):.0%} of all tokens): " + ", ".join(
            f"{word!r} {share:.1%}" for word, share in corpus.format.items()
        )
        yield f"marks ({corpus.share(args.marks):.0%} of all tokens): {' '.join(args.marks)}"
        yield ""
        yield "| scored by | mean log-probability | before format | before marks | shared places " \
              "| seconds of training | of scoring | most paused |"  # fmt: skip
        yield "|---|---|---|---|---|---|---|---|"
        for line in kept.values():
            places = self.places(line)
            paused = [
                word
                for row, example in zip(places, self.examples, strict=True)
                for word in corpus.words(example.response_ids[sorted(row)])
            ]
            by_format = sum(word in corpus.format for word in paused) / len(paused)
            by_marks = sum(has_any(word, args.marks) for word in paused) / len(paused)
            shared = "–"
            if reference is not None:
                parts = [
                    len(a & b) / max(1, len(b)) for a, b in zip(places, reference, strict=True)
                ]
                shared = f"{np.mean(parts):.2f}"
            often = sorted(set(paused), key=lambda w: (-paused.count(w), w))[:5]
            cells = [
                line["about"],
                f"{np.mean(list(chain(*line['logprobs']))):.2f}",
                f"{by_format:.0%}",
                f"{by_marks:.0%}",
                shared,
                seconds(line.get("training")),
                seconds(line["scoring"]),
                " ".join(f"`{json.dumps(w)[1:-1]}` {paused.count(w)}" for w in often),
            ]
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def ids_of(examples: Iterator[Example]) -> Iterator[int]:
    for example in examples:
        yield from map(int, example.prompt_ids)
        yield from map(int, example.response_ids)


class Clock:
    """Seconds by the clock, and of the processor."""

    def __enter__(self) -> Clock:
        self._begun = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        ended = time.perf_counter(), time.process_time()
        self._took = [end - begun for begun, end in zip(self._begun, ended, strict=True)]

    def read(self) -> dict[str, float]:
        return {"seconds": round(self._took[0], 2), "cpu_seconds": round(self._took[1], 2)}


def seconds(took: dict[str, float] | None) -> str:
    return "–" if took is None else f"{took['seconds']:.0f} ({took['cpu_seconds']:.0f})"


def score(model: ModelRef, examples: list[Example]) -> tuple[list[Any], dict[str, float]]:
    """Log-probabilities of each response, and how long that took, loading apart."""
    scorer = load_scorer("transformers", model, device="cpu", longest=max(map(len, examples)))
    try:
        with Clock() as clock:
            scores = scorer.score(examples)
    finally:
        scorer.close()
    return [each.logprob for each in scores], clock.read()


def main() -> None:
    args = arguments()
    bench = Bench(args)
    for name in args.only or bench.lines:
        if bench.found(name) is None:
            bench.make(name)
    print()
    for line in bench.table():
        print(line)
    print(f"\n{machine()}; {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"transformers {transformers.__version__}")  # fmt: skip


if __name__ == "__main__":
    main()
