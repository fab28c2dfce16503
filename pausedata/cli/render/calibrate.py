"""``pausedata calibrate``: what was found, and the curve, as a table and as a picture."""

from __future__ import annotations

from html import escape

from rich.console import Group, RenderableType
from rich.text import Text

from pausedata.cli.render.table import make_table
from pausedata.cli.render.visible import visible
from pausedata.measure.calibrate import Calibration, GeneratedSpending, Point, Tried
from pausedata.measure.calibrate.counts import Spent

_SHOWN = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)  # budgets of the table


def render_calibration(found: Calibration) -> RenderableType:
    """The thresholds, how they do on the held-out examples, and the curve."""
    heads = ["by", "threshold", "predicted", "held out", "difference"]
    table = make_table(heads, [False, True, True, True, True])
    held = found.held_out
    here = held.by_probability if held else None
    row = ["probability", f"{found.threshold:g}", _spent(found.predicted), _spent(here)]
    table.add_row(*row, _hundred(found.difference, sign=True))
    if found.entropy_threshold is not None:
        here = held.by_entropy if held else None
        row = ["entropy", f"{found.entropy_threshold:g} nats", _spent(found.entropy_predicted)]
        table.add_row(*row, _spent(here), _hundred(found.entropy_difference, sign=True))
    curve = make_table(
        ["pauses for 100 tokens", "probability", "covers", "entropy", "covers", "limit"],
        [True] * 6,
    )
    for point in found.curve:
        if any(abs(point.budget - shown) < 1e-9 for shown in (*_SHOWN, found.budget)):
            curve.add_row(*_row(point))
    return Group(
        Text.assemble(
            (visible(found.dataset), "bold"),
            f"  version {found.version}, run {visible(found.run)}: "
            f"{found.examples:,} examples, {found.tokens:,} response tokens",
        ),
        Text(_asked(found)),
        Text(_held_out(found)),
        Text(""),
        table,
        Text("pauses for 100 tokens; in brackets the least and the most that it can", "dim"),
        Text("be, as not every highest probability is stored; entropies are counted", "dim"),
        Text(""),
        curve,
        Text("covers: the share of all surprisal that stands after the pauses;", "dim"),
        Text("limit: of as many pauses before the least likely tokens", "dim"),
        Text(""),
        *(_generated(found, found.generated) if found.generated else _not_generated(found)),
    )


def _asked(found: Calibration) -> str:
    each = found.tokens_per_place
    at_each = "a pause" if each == 1 else f"{each} pauses"
    return f"budget: {100 * found.budget:g} pauses for 100 tokens, {at_each} at each place"


def _not_generated(found: Calibration) -> list[RenderableType]:
    return [
        Text(
            "All of this is of the corpus's text. In text that a model writes the same thresholds"
        ),
        Text("spend several times as much where it is new to the format, and less where it was"),
        Text(f"trained on it: {_NEXT} measures how much"),
    ]


_NEXT = "--generate 50 --model TRAINED"


def _generated(found: Calibration, spending: GeneratedSpending) -> list[RenderableType]:
    """What the thresholds spend in the model's own text, and which are proposed."""
    heads = ["by", "threshold", "spent", "of the budget", ""]
    table = make_table(heads, [False, True, True, True, False])
    kinds = (
        ("probability", "", spending.by_probability, spending.threshold),
        ("entropy", " nats", spending.by_entropy, spending.entropy_threshold),
    )
    for name, unit, tried, proposed in kinds:
        for number, one in enumerate(tried):
            said = [] if number else ["found above"]
            said += ["nearest"] if one.threshold == proposed else []
            times = f"{one.pauses_per_token / found.budget:.0%}"
            row = [name, f"{one.threshold:g}{unit}", _with_interval(one), times, ", ".join(said)]
            table.add_row(*row)
    model = visible(str(spending.model["id"]))
    first = spending.by_probability[0]
    notes = [
        f"generated: {spending.examples:,} answers by {model}, {first.tokens:,} tokens at first"
    ]
    if spending.unfinished:
        notes.append(
            f"{spending.unfinished} of the first were cut at {spending.max_new_tokens} tokens"
        )
    if spending.overlong:
        notes.append(f"{spending.overlong} prompts were too long for the model, and passed over")
    return [
        Text("; ".join(notes)),
        table,
        Text(
            "pauses for 100 real tokens of the answers; in brackets the interval at 95%, by", "dim"
        ),
        Text("bootstrap over the answers; nearest to the budget of those that were tried", "dim"),
    ]


def _with_interval(one: Tried) -> str:
    share = _hundred(one.pauses_per_token)
    if one.interval is None:
        return share
    low, high = one.interval
    return f"{share} ({_hundred(low)} to {_hundred(high)})"


def _held_out(found: Calibration) -> str:
    held = found.held_out
    if held is None:
        return "held out: nothing, there are too few examples"
    what = (
        f"split {visible(held.split)}"
        if held.split is not None
        else f"a fifth of the examples (there is one split), chosen by seed {held.seed}"
    )
    return f"held out: {what}: {held.examples:,} examples, {held.tokens:,} response tokens"


def _row(point: Point) -> list[str]:
    entropy = "-" if point.entropy_threshold is None else f"{point.entropy_threshold:g}"
    covered = "-" if point.entropy_surprisal is None else f"{point.entropy_surprisal:.1%}"
    row = [f"{100 * point.budget:g}", f"{point.threshold:g}", f"{point.surprisal:.1%}"]
    return [*row, entropy, covered, f"{point.limit:.1%}"]


def _hundred(share: float | None, sign: bool = False) -> str:
    if share is None:
        return "-"
    return f"{100 * share:+.2f}" if sign else f"{100 * share:.2f}"


def _spent(spent: Spent | None) -> str:
    if spent is None:
        return "-"
    share = _hundred(spent.pauses_per_token)
    if spent.at_least == spent.at_most:
        return share
    return f"{share} ({_hundred(spent.at_least)} to {_hundred(spent.at_most)})"


_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 16, 44, 52
_STYLE = """
text{font:13px system-ui,sans-serif;fill:#1c2128}
.faint{stroke:#d0d7de;stroke-width:1}.axis{stroke:#57606a;stroke-width:1}
.line{fill:none;stroke-width:2.5}.probability{stroke:#0550ae}.entropy{stroke:#bc4c00}
.limit{stroke:#57606a;stroke-dasharray:2 4}.entropy{stroke-dasharray:9 4}
.ground{fill:#ffffff}.mark{fill:#0550ae}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.faint{stroke:#30363d}.axis{stroke:#9198a1}
.probability{stroke:#79c0ff}.entropy{stroke:#ffa657}.limit{stroke:#9198a1}
.ground{fill:#0d1117}.mark{fill:#79c0ff}}
"""


def draw_curve(found: Calibration) -> str:
    """The curve as an SVG, on a light or a dark ground as its reader prefers."""
    most = min(0.5, max(0.2, 2 * found.budget))
    points = [p for p in found.curve if p.budget <= most + 1e-9]
    if found.budget > most:  # nearly every place has its pauses
        most, points = max(1.0, found.budget), found.curve
    lines = {
        "probability": [(p.budget, p.surprisal) for p in points],
        "entropy": [
            (p.budget, p.entropy_surprisal) for p in points if p.entropy_surprisal is not None
        ],
        "limit": [(p.budget, p.limit) for p in points],
    }
    names = {
        "probability": "by probability",
        "entropy": "by entropy",
        "limit": "limit: before the least likely",
    }

    def x(budget: float) -> float:
        return _LEFT + budget / most * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    title = f"{found.dataset}, run {found.run}: surprisal that pauses cover"
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{_HEIGHT}"/>',
    ]
    for k in range(6):
        share, budget = k / 5, most * k / 5
        drawn += [
            f'<line class="faint" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
            f'y1="{y(share):.1f}" y2="{y(share):.1f}"/>',
            f'<text x="{_LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>',
            f'<text x="{x(budget):.1f}" y="{y(0) + 20:.1f}" text-anchor="middle">'
            f"{100 * budget:g}</text>",
        ]
    drawn.append(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>'
    )
    across = _LEFT
    for name, line in lines.items():
        if not line:
            continue
        path = " ".join(f"{x(budget):.1f},{y(share):.1f}" for budget, share in line)
        drawn += [
            f'<polyline class="line {name}" points="{path}"/>',
            f'<line class="line {name}" x1="{across}" x2="{across + 28}" y1="22" y2="22"/>',
            f'<text x="{across + 34}" y="26">{names[name]}</text>',
        ]
        across += 34 + 9 * len(names[name])
    at = next(p for p in found.curve if p.budget == found.budget)
    drawn += [
        f'<circle class="mark" r="5" cx="{x(at.budget):.1f}" cy="{y(at.surprisal):.1f}">'
        f"<title>threshold {found.threshold:g}</title></circle>",
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">'
        f"pauses for 100 response tokens; threshold {found.threshold:g} spends "
        f"{100 * found.predicted.pauses_per_token:.3g}</text>",
        "</svg>",
    ]
    return "\n".join(drawn) + "\n"
