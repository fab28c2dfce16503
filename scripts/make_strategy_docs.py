"""Write docs/strategies.md from what the strategies say of themselves, and from running them.

python scripts/make_strategy_docs.py            write it
python scripts/make_strategy_docs.py --check    exit 1 where it is not what would be written
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from generated import write_or_check

from pausedata import strategies
from pausedata.cli.render.registry import parameters_in_words, reads_in_words
from pausedata.core.options import default_of, values_of
from pausedata.strategies.example import EOS, EXAMPLES, PLACEMENTS, QUESTIONS, Token, Worked, worked

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "strategies.md"
PLUGIN = ROOT / "tests" / "plugin"

HEAD = """\
# Strategies

<!-- Made by `make docs` from the code, which it runs. Edit pausedata/strategies, not this. -->

A strategy turns a response's tokens, and where it needs them their scores, into *positions* and \
*counts*. Position k means right before response token k; the position equal to the response's \
length means after the last. `pausedata strategies` lists what this installation has, `pausedata \
strategies NAME` tells of one in full; `--json` adds types and limits.

In a recipe the strategy's parameters stand beside its name:

```yaml
placements:
  dit: {strategy: lowest_logprob, positions: 5, tokens: 1}
```

On the command line they are `--param`, and their values YAML:

```sh
pausedata place build/gsm8k three --strategy lowest_logprob --param positions=3 \
--param 'eligible={without: [eos]}'
```

What holds for all:

- **Eligible** is every response token that begins a character, positions 0 to n-1, unless \
`eligible` says less. A token that begins inside one (byte-level BPE splits emoji) gets no pause. \
What a strategy would have chosen there is counted as `kept_off_characters` in the manifest. Only \
what places *after* something uses position n, the one after the last token. `eligible` judges \
the token that a pause would stand before, also there; at position n there is none to judge.
- A strategy that takes a number of places gives min(asked, eligible) of them.
- Positions depend on the tokens, the scores, the parameters and the example's id: not on shards, \
batches, workers or machine, and not on the other examples, unless a strategy says that it looks \
at all of a split first.
- No strategy loads a model. What each reads stands with it: of scores, those of one run (`run`, \
by default `scoring.run`).
- Places are **known before** where the prompt and the tokens before a token decide whether a \
pause stands before it. Where they are not, the places tell something of the tokens, and the \
[gate](gate.md#what-the-places-tell) takes that off the gain. `eligible` rules that read the \
token's text make them unknown.
- A parameter that is null by default is not recorded where it is left out.
"""
COMMON = """\
## Common options

All{but} take these. They are applied in this order: what is eligible; the strategy's own choice, \
the best first (without a score, in the order of the text), none nearer to one before it than \
`min_gap`; at most `max_positions`.
"""
BATCH = """\
## The worked examples

They come from running the strategies on two responses, in the manner of GSM8K. The numbers are \
made up: log-probabilities (of the run, and of a second run as the reference) and entropies are \
in nats. A worked example shows the first response; where a strategy looks at all of a split \
before it places, both.
"""
PLUGINS = """\
## On arrays of your own

A strategy is a function of NumPy arrays, and needs no dataset:

```python
import numpy as np

from pausedata import strategies

batch = strategies.Batch(
    ids=["ex-1", "ex-2"],
    offsets=np.array([0, 4, 6]),  # ex-1 has four tokens, ex-2 two
    begins_character=np.ones(6, bool),
    logprob=np.array([-1.0, -3.0, -0.5, -2.0, -0.25, -4.0], np.float32),
)
strategy, parameters = strategies.of("lowest_logprob", {{"positions": 2}}, "mine")
placed, kept_off_characters = strategies.place(strategy, batch, parameters)
print(placed.example, placed.positions, placed.counts)  # [0 0 1 1] [1 3 0 1] [1 1 1 1]
```

## Your own strategy

A strategy of yours is used like those above, by its name, once a package that names it in the \
entry-point group `pausedata.strategies` is installed beside pausedata. This one is what the tests \
of pausedata install and use. Its module:

```python
{module}```

Its `pyproject.toml`, with whichever build backend you like:

```toml
{project}```

```sh
pip install ./pausedata-steepest-drop
pausedata strategies steepest_drop
pausedata place build/gsm8k long --strategy steepest_drop --param positions=3
```

- The name of the entry point is the strategy's name. It may not be one of pausedata's own.
- Parameters are a pydantic model derived from `Choosing`, which brings the common options, from \
`Ranked`, which brings `positions` and `fraction` too, or from `Parameters`, which brings nothing. \
The model checks the recipe, and is what `pausedata strategies` prints: describe its fields. What \
a type cannot say, a validator says with a `ValueError`.
- `place(batch, parameters)` is a pure function. A `Batch` is the response tokens of some \
examples, one after another, in NumPy arrays: `ids` [examples], `offsets` [examples + 1] \
(example i has the tokens `offsets[i]` to `offsets[i + 1]`), `lengths` [examples], `example` and \
`position` [tokens], `begins_character` [tokens], and what `needs`, or the parameters' `reads`, \
name: `logprob`, `rank`, `entropy` and `special` [tokens], `text` (`responses` [examples], \
`char_start` and `char_end` [tokens]). Where pauses go in an example may depend on that example \
alone.
- `choose(batch, parameters, key=…, among=…, most=…)` takes of each example the `most` \
[examples] eligible tokens with the smallest `key` [tokens], of those that are `among` [tokens, \
true or false], and applies the common options. `choose_places(batch, parameters, example, \
position, after=…)` takes places in the order of the text, given ascending, and applies them \
likewise.
- What makes its positions by other means asks `batch.eligible(parameters)` [tokens] and gives \
`Placed(example, positions, counts)`: whole numbers, ascending by example and position, once \
each. What is not that, or would split a character, is an error that names the package.
- With `fit(batches, parameters)` a strategy sees all of a split before any of it is placed: \
`batches()` gives its batches, as often as it is called. The dictionary that it returns is \
recorded, and is there as `batch.fitted`.
- `known_before` says whether the prompt and the tokens before a token decide whether a pause \
stands before it: true, false (by default), or a function of the parameters.
- The manifest records the package and its version with the placement. Where the package is not \
installed, datasets that it had a part in are read, verified and exported as ever; the placement \
alone cannot be made again.
- A package that cannot be imported, or offers something else than a `Strategy`, is left out with \
a warning; `pausedata doctor` lists what there is and what is wrong with it.

Formats are added likewise: a `pausedata.exporters.Format` in the group `pausedata.exporters`.
"""


def render() -> str:
    """The whole of docs/strategies.md."""
    described = [strategies.about(name) for name in strategies.own()]
    parts = [HEAD, _contents(described), _common(described), _examples()]
    parts += [_section(about, worked(about["name"])) for about in described]
    module = (PLUGIN / "steepest_drop.py").read_text(encoding="utf-8")
    project = (PLUGIN / "pyproject.toml").read_text(encoding="utf-8")
    project = project.partition("\n[build-system]")[0]  # the test's own, which needs no network
    parts.append(PLUGINS.format(module=module, project=project))
    return "\n".join(parts)


def _contents(described: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"[`{about['name']}`](#{about['name']})",
            about["summary"],
            reads_in_words(about["reads"]),
            about["known_before"],
        ]
        for about in described
    ]
    return _table(["strategy", "places pauses", "reads", "known before"], rows)


def _common(described: list[dict[str, Any]]) -> str:
    common = [[o for o in about["options"] if o["common"]] for about in described]
    without = [f"`{a['name']}`" for a, o in zip(described, common, strict=True) if not o]
    text = COMMON.format(but=f" but {' and '.join(without)}" if without else "")
    return f"{text}\n{_options(max(common, key=len))}"


def _examples() -> str:
    parts = [BATCH]
    for name, tokens in EXAMPLES.items():
        parts.append(f'`{name}`, the answer to "{QUESTIONS[name]}":\n')
        parts.append(_table(_HEADINGS, [_token(k, token) for k, token in enumerate(tokens)]))
    placed = [
        f"`{name}` is `{parameters_in_words({'strategy': strategy} | values)}`"
        for name, (strategy, values) in PLACEMENTS.items()
    ]
    parts.append(f"Of the other placements that a strategy may read, {', '.join(placed)}.\n")
    return "\n".join(parts)


_HEADINGS = ["position", "token", "log-probability", "rank", "entropy", "reference"]


def _token(position: int, token: Token) -> list[str]:
    text = "EOS" if token.text == EOS else "`{}`".format(token.text.replace("\n", "\\n"))
    numbers = [f"{x:g}" for x in (token.logprob, token.rank, token.entropy, token.reference)]
    return [str(position), text, *numbers]


def _section(about: dict[str, Any], examples: list[Worked]) -> str:
    parts = [f"## `{about['name']}`\n", f"{about['summary']}\n"]
    parts.append(f"{about['formula']}\n")
    if about["source"]:
        parts.append(f"Source: {about['source']}.\n")
    known = f"Places known before the token: {about['known_before']}."
    parts.append(f"Reads {reads_in_words(about['reads'])}. {known}\n")
    own = [option for option in about["options"] if not option["common"]]
    if own:
        parts.append(_options(own))
    if about["notes"]:
        parts.append(f"{about['notes'].rstrip()}\n")
    parts += [part for example in examples for part in _worked(example)]
    return "\n".join(parts)


def _worked(example: Worked) -> Iterator[str]:
    parameters = f"`{parameters_in_words(example.parameters)}`"
    if example.fitted:
        yield f"{parameters} finds `{parameters_in_words(example.fitted)}`, then:\n"
    for name, positions, text in zip(EXAMPLES, example.positions, example.texts, strict=False):
        where = f"position{'s'[: len(positions) != 1]} {', '.join(map(str, positions)) or 'none'}"
        subject = f"`{name}`" if len(example.texts) > 1 else parameters
        yield f"{subject} → {where}:\n\n```text\n{text}\n```\n"


def _options(options: list[dict[str, Any]]) -> str:
    rows: list[list[str]] = []

    def add(option: dict[str, Any], before: str) -> None:
        name = f"{before}{option['name']}"
        rows.append([f"`{name}`", default_of(option), values_of(option), option["description"]])
        for inner in option["keys"]:
            add(inner, f"{name}.")

    for option in options:
        add(option, "")
    return _table(["parameter", "default", "values", "meaning"], rows)


def _table(headings: list[str], rows: Iterable[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def main() -> int:
    """Write, or check, docs/strategies.md."""
    return write_or_check(TARGET, render, __doc__ or "", "the strategies say")


if __name__ == "__main__":
    sys.exit(main())
