"""Charts as SVG that takes its colours from the page: lines and bars, for light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pausedata.cli.render.visible import visible

SERIES = 6  # that are drawn: each has a colour and, where it is a line, a dash of its own
_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 10, 44
_FLOOR = _HEIGHT - _BOTTOM
_DASHES = ["none", "7 4", "2 3", "9 3 2 3", "4 2", "1 3"]
_CHARACTER = 6.5  # how wide one of a label is, about

Series = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Chart:
    """A picture, and the same as numbers."""

    title: str
    note: str
    svg: Markup
    head: str  # what the labels are
    labels: Sequence[str]
    figures: Mapping[str, Sequence[str]]  # of each series, one for each label
    left_out: int  # series that the picture has no room for


def bars(
    title: str, note: str, head: str, labels: Sequence[str], series: Series, percent: bool = False
) -> Chart:
    """For each label a bar of each series. ``percent``: values are shares of 1."""
    shown, top = _shown(series)
    slot = _slot(labels)
    thick = slot * 0.8 / max(len(shown), 1)
    drawn = []
    for k, (name, values) in enumerate(shown.items()):
        for i, value in enumerate(values):
            if value:
                tall = _tall(value, top)
                drawn.append(
                    Markup(
                        '<rect class="s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                        "<title>{}</title></rect>"
                    ).format(
                        k,
                        _LEFT + (i + 0.1) * slot + k * thick,
                        _FLOOR - tall,
                        max(thick - 0.5, 0.5),
                        tall,
                        f"{visible(name)}, {labels[i]}: {_figure(value, percent)}",
                    )
                )
    key = Markup('<rect class="s{}" width="24" height="10"/>')
    keys = [key.format(k) for k in range(len(shown))]
    return _chart(title, note, head, labels, series, drawn, keys, top, percent)


def lines(
    title: str, note: str, head: str, labels: Sequence[str], series: Series, percent: bool = False
) -> Chart:
    """A line for each series, with a gap where it has no value. ``percent``: shares of 1."""
    shown, top = _shown(series)
    slot = _slot(labels)
    line = Markup('<path class="line s{}" d="{}" stroke-dasharray="{}"/>')
    point = Markup('<circle class="s{}" cx="{:.1f}" cy="{:.1f}" r="2.5"><title>{}</title></circle>')
    drawn = []
    for k, (name, values) in enumerate(shown.items()):
        path: list[str] = []
        points, before = [], None
        for i, value in enumerate(values):
            if value is not None:
                x, y = _LEFT + (i + 0.5) * slot, _FLOOR - _tall(value, top)
                path.append(f"{'M' if before is None else 'L'}{x:.1f} {y:.1f}")
                said = f"{visible(name)}, {labels[i]}: {_figure(value, percent)}"
                points.append(point.format(k, x, y, said))
            before = value
        drawn += [line.format(k, " ".join(path), _DASHES[k]), *points]
    keys = [line.format(k, "M0 5H24", _DASHES[k]) for k in range(len(shown))]
    return _chart(title, note, head, labels, series, drawn, keys, top, percent)


def bar(share: float) -> Markup:
    """One lying bar, for a cell of a table; 1 is its whole width."""
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="s0" width="{:.1f}" height="8"/></svg>'
    ).format(100 * share)


def _chart(
    title: str,
    note: str,
    head: str,
    labels: Sequence[str],
    series: Series,
    drawn: list[Markup],
    keys: list[Markup],
    top: float,
    percent: bool,
) -> Chart:
    picture = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>')
    key = Markup('<li><svg viewBox="0 0 24 10" aria-hidden="true">{}</svg> {}</li>')
    listed = [key.format(k, visible(name)) for k, name in zip(keys, series, strict=False)]
    said = f"{title}. The numbers are in the table below."
    return Chart(
        title=title,
        note=note,
        svg=picture.format(
            _WIDTH, _HEIGHT, said, _axes(head, labels, top, percent), Markup("").join(drawn)
        )
        + Markup('<ul class="keys">{}</ul>').format(Markup("").join(listed)),
        head=head,
        labels=labels,
        figures={
            name: ["–" if value is None else _figure(value, percent) for value in values]
            for name, values in series.items()
        },
        left_out=len(series) - len(keys),
    )


def _axes(head: str, labels: Sequence[str], top: float, percent: bool) -> Markup:
    """Lines across at quarters, labels below as far as there is room, and what they are."""
    text = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    across = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    parts = []
    for value in (top * step / 4 for step in range(5)):
        y = _FLOOR - _tall(value, top)
        parts.append(across.format(_LEFT, _WIDTH - _RIGHT, y, y))
        parts.append(text.format(_LEFT - 5, y + 4, "end", _figure(value, percent)))
    slot = _slot(labels)
    every = max(1, math.ceil(max(map(len, labels), default=0) * _CHARACTER / slot))
    for i in range(0, len(labels), every):
        parts.append(text.format(_LEFT + (i + 0.5) * slot, _FLOOR + 15, "middle", labels[i]))
    parts.append(text.format((_WIDTH + _LEFT) / 2, _HEIGHT - 8, "middle", head))
    return Markup("").join(parts)


def _shown(series: Series) -> tuple[Series, float]:
    """The series that are drawn, and a round number that none of their values exceeds."""
    shown = dict(list(series.items())[:SERIES])
    most = max((v for values in shown.values() for v in values if v is not None), default=0.0)
    if most <= 0:
        return shown, 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return shown, next(
        power * step for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if most <= power * step
    )


def _slot(labels: Sequence[str]) -> float:
    return (_WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)


def _tall(value: float, top: float) -> float:
    return max(0.0, value) / top * (_FLOOR - _TOP)


def _figure(value: float, percent: bool) -> str:
    return f"{100 * value:.3g}%" if percent else f"{value:.3g}"
