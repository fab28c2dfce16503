"""The card's page, from a template: what a person wants to know before they use a dataset."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import yaml

from pausedata.analysis import provenance
from pausedata.core.held_out import cut_split
from pausedata.core.names import NAME_PATTERN
from pausedata.hub.card.header import config_names, first_export, patterns
from pausedata.hub.card.own import PAGE_MARK, PersonsPart
from pausedata.store.choice import describe_choice
from pausedata.store.manifest import Manifest, TableEntry

if TYPE_CHECKING:
    from jinja2 import Template

    from pausedata.analysis.stats import Stats

_BLOCKS = " ▏▎▍▌▋▊▉"
_LONGEST = 40  # blocks of the longest bar
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def page(
    manifest: Manifest,
    own: PersonsPart,
    tables: Collection[str] | None = None,
    *,
    figures: Stats | None = None,
    repo: str | None = None,
) -> str:
    """Markdown. Without ``figures`` those are left out; without ``repo`` it says ORG/NAME."""
    named = [name for name in manifest.tables if tables is None or name in tables]
    names = config_names(manifest)
    text = _template().render(
        manifest=manifest,
        license=own.front.get("license"),
        source=provenance.source(manifest),
        runs=[provenance.run(manifest, name) for name in manifest.names("scores")],
        limit=provenance.length_limit(manifest),
        held_out=cut_split(manifest.tables["tokens"].provenance),
        figures=figures,
        pictures=_pictures(figures) if figures else {},
        tables=[(name, manifest.tables[name], _made_from(manifest.tables[name])) for name in named],
        configs=[names[n] for n in named if patterns(manifest.tables[n])],
        first=_example(manifest, named),
        repo=repo or "ORG/NAME",
        folder=manifest.name if re.fullmatch(NAME_PATTERN, manifest.name) else "data",
        recipe=yaml.safe_dump(manifest.recipe, sort_keys=False, allow_unicode=True, width=100),
    )
    body = own.body.strip("\n")
    if PAGE_MARK in body:
        return body.replace(PAGE_MARK, text.strip("\n"), 1) + "\n"
    return text if not body else f"{body}\n\n{text}"


def escaped(text: Any) -> str:
    """``text`` as one line of Markdown that says it and does nothing."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def code(text: Any) -> str:
    """``text`` as inline code, whatever backticks are in it."""
    line = " ".join(str(text).split()).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", line)), default=0)
    ticks, pad = "`" * (longest + 1), " " if longest else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def block(text: str, language: str = "") -> str:
    """``text`` as a code block, whatever fences are in it."""
    longest = max(map(len, re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pausedata.hub.card", ""),
        autoescape=False,  # it writes Markdown: the filters below are the escapes
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": escaped, "code": code, "block": block}
    return environment.get_template("page.md.j2")


def _made_from(entry: TableEntry) -> str:
    """What a table was made from, in words."""
    inputs = entry.provenance.get("inputs", {})
    if "strategy" in inputs:
        run = f" of run {code(inputs['run'])}" if inputs.get("run") else ""
        parameters = inputs.get("parameters") or {}
        given = ", ".join(f"{key} {value}" for key, value in parameters.items())
        return f"{code(inputs['strategy'])}{run}" + (f": {escaped(given)}" if given else "")
    if "result" in entry.provenance:
        return escaped(provenance.gate(entry))
    if "placement" in inputs:
        masked = entry.provenance.get("pause_label_masked", True)
        split = f", split {code(inputs['split'])} alone" if inputs.get("split") else ""
        left_out = "".join(
            f"; without the {count:,} examples of {code(held)}"
            for held, count in entry.provenance.get("left_out", {}).items()
        )
        return (
            f"placement {code(describe_choice(inputs['placement']))}, "
            f"format {code(inputs['format'])}{split}{left_out}"
            + ("" if masked else "; its pauses bear loss too")
        )
    return ", ".join(code(name) for name in entry.provenance.get("made_from", []))


def _example(manifest: Manifest, named: list[str]) -> dict[str, str] | None:
    """The table that the examples of loading use: an export where there is one."""
    loadable = [name for name in named if patterns(manifest.tables[name])]
    if not loadable:
        return None
    name = first_export(manifest, loadable) or loadable[0]
    split, pattern = next(iter(patterns(manifest.tables[name]).items()))
    return {"config": config_names(manifest)[name], "split": split, "pattern": pattern}


def _pictures(figures: Stats) -> dict[str, str]:
    """For each run, a bar chart of how likely its tokens are."""
    edges = figures.histogram_edges
    if edges is None:
        return {}
    return {
        name: picture(run.histogram, edges.probability)
        for name, run in figures.runs.items()
        if run.histogram and sum(run.histogram)
    }


def picture(counts: list[int], edges: list[float]) -> str:
    """A bar for each range of probabilities, as long as its share of the tokens."""
    most, total = max(counts), sum(counts)
    labels = [f"{low:g} – {high:g}" for low, high in pairwise(edges)]
    widest = max(map(len, labels))
    lines = ["probability of a token, and the share of tokens that have it"]
    for label, count in zip(labels, counts, strict=True):
        full, part = divmod(round(8 * _LONGEST * count / most), 8)
        bar = "█" * full + (_BLOCKS[part] if part else "")
        lines.append(f"{label:>{widest}}  {count / total:>6.1%}  {bar}".rstrip())
    return "\n".join(lines)
