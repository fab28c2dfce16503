"""``pausedata measure``: figures, groups and the verdict, for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pausedata.cli.render.table import make_table
from pausedata.cli.render.visible import visible
from pausedata.measure.answers import LENIENT
from pausedata.measure.figures import Figures, Interval
from pausedata.measure.result import Generated, MeasuredPart, Measurement

_STYLES = {"go": "bold green", "no-go": "bold red", "not-enough-data": "bold yellow"}


def render_measurement(found: Measurement) -> RenderableType:
    """What the pauses bring and cost, by group too, and the verdict with its reasons."""
    parts: list[RenderableType] = [_title(found), _figures(found), *_groups(found)]
    if found.generated is not None:
        parts += [Text(), *_generated(found.generated)]
    judged = found.whole.judged
    if judged is not None:
        parts += [Text(), Text(judged.verdict, _STYLES[judged.verdict])]
        parts += [Text(f"  {reason}") for reason in judged.reasons]
        parts += [Text(f"  not covered: {what}", "dim") for what in judged.not_covered]
    return Group(*parts)


def _title(found: Measurement) -> Text:
    against = _ids(found.baselines) if found.baselines else "itself"
    whole = found.whole.figures
    of = f" of {found.examples_there:,}" if whole.examples != found.examples_there else ""
    fifth = "a fifth of split" if found.held_out.seed is not None else "split"
    exports = found.trained_on.exports
    early = ", stopped early" if found.stopped_early else ""
    return Text.assemble(
        (visible(found.dataset), "bold"),
        f"  version {found.version}, placement {visible(found.placement)}: "
        f"{_ids(found.models)} against {against} without pauses, on "
        f"{whole.examples:,}{of} examples of {fifth} '{visible(found.held_out.split)}' "
        f"({whole.tokens:,} tokens){early}",
        *[(f"; exports/{visible(n)} has its rows to train on", "red") for n in exports],
    )


def _ids(models: list[dict[str, Any]]) -> str:
    """The first model, and how many others there are."""
    others = f" and {len(models) - 1} more of it" if len(models) > 1 else ""
    return visible(str(models[0]["id"])) + others


def _figures(found: Measurement) -> RenderableType:
    own = found.whole.figures
    sure = f"{found.confidence:.0%} sure between"
    table = make_table(["", "measured", sure], [False, True, True])

    def row(
        name: str,
        value: float | None,
        interval: Interval | None,
        shown: Callable[[float], str],
    ) -> None:
        between = f"{shown(interval[0])} … {shown(interval[1])}" if interval else "–"
        table.add_row(name, shown(value) if value is not None else "–", between)

    row("gain, nats for each real token", own.gain, own.gain_interval, _nats)
    row("  right after a pause", own.gain_after_pause, own.gain_after_pause_interval, _nats)
    row("  elsewhere", own.gain_elsewhere, own.gain_elsewhere_interval, _nats)
    if own.leak:
        row("  what the places tell, at most", own.leak, None, _nats)
        row("  the rest", own.gain_beyond_leak, own.gain_beyond_leak_interval, _nats)
    seeds = own.seeds
    if seeds.margin is not None:
        row("  other seeds, either way", seeds.margin, None, _nats)
    for gain in seeds.same_as:
        row("  --same-as, by its seed alone", gain, None, _nats)
    row("pauses for each real token", own.token_overhead, None, _share)
    row("further time", own.latency_overhead, own.latency_overhead_interval, _percent)
    return table


def _generated(found: Generated) -> list[RenderableType]:
    """How many answers are right, of all and of each group, read strictly and leniently."""
    heads = [f"answers, {found.how.task}", "right with pauses", "without", "gain", "between"]
    table = make_table([*heads, "pauses", "further time"], [False, *[True] * 6])
    for name, own in {"all": found.whole, **found.groups}.items():
        cost = f"{own['pauses']:.1f}", _percent(own["latency_overhead"])
        table.add_row(visible(name), *_accuracies(own, "accuracy"), *cost)
        if found.how.task in LENIENT:
            table.add_row(Text("  read leniently"), *_accuracies(own, "accuracy_lenient"), "", "")
    return [table, Text(f"for each right answer: {_for_each_right(found.whole)}")]


def _for_each_right(own: dict[str, Any]) -> str:
    """What all answers take for each that is right, with pauses and without."""
    told = []
    for which, words in (("with", "with pauses"), ("without", "without")):
        tokens, seconds = (own[f"{what}_per_right_{which}"] for what in ("tokens", "seconds"))
        spent = "none is" if tokens is None else f"{tokens:,.1f} tokens, {seconds:,.2f} s"
        told.append(f"{words} {spent}")
    return "; ".join(told)


def _accuracies(own: dict[str, Any], name: str) -> list[str]:
    """The shares of right answers, with pauses and without, their gain and its interval."""
    low, high = own[f"{name}_gain_interval"] or (0.0, 0.0)
    return [
        f"{own[f'{name}_with']:.1%}",
        f"{own[f'{name}_without']:.1%}",
        _percent(own[f"{name}_gain"]),
        f"{_percent(low)} … {_percent(high)}" if own[f"{name}_gain_interval"] else "–",
    ]


def _groups(found: Measurement) -> list[RenderableType]:
    if not found.groups:
        return []
    judged = any(part.judged for part in found.groups.values())
    heads = [visible(found.group_by or ""), "examples", "gain", "between", "pauses/token"]
    numeric = [False, True, True, True, True]
    table = make_table(
        [*heads, *(["verdict"] if judged else [])], [*numeric, *([False] if judged else [])]
    )
    for name, part in found.groups.items():
        table.add_row(visible(name), *_row(part.figures), *_verdict(part, judged))
    return [Text(), table]


def _row(own: Figures) -> list[str]:
    low, high = own.gain_interval or (0.0, 0.0)
    return [
        f"{own.examples:,}",
        _nats(own.gain) if own.gain is not None else "–",
        f"{_nats(low)} … {_nats(high)}" if own.gain_interval else "–",
        _share(own.token_overhead) if own.token_overhead is not None else "–",
    ]


def _verdict(part: MeasuredPart, judged: bool) -> list[Text]:
    if not judged:
        return []
    verdict = part.judged.verdict if part.judged else ""
    return [Text(verdict, _STYLES.get(verdict, ""))]


def _nats(value: float) -> str:
    return f"{value:+.4f}"


def _share(value: float) -> str:
    return f"{value:.4f}"


def _percent(value: float) -> str:
    return f"{value:+.1%}"
