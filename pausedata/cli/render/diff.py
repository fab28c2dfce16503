"""``pausedata diff``: how two versions, runs or placements differ, in figures and examples."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from pausedata.analysis.diff import PlacementsDiff, RunsDiff, VersionsDiff
from pausedata.analysis.diff.join import Found
from pausedata.analysis.diff.placements import PausePosition
from pausedata.cli.render.stats import making_of, of_occurrences
from pausedata.cli.render.table import cell, make_table, number
from pausedata.cli.render.visible import visible


def render_diff(diff: VersionsDiff | RunsDiff | PlacementsDiff) -> RenderableType:
    """What ``diff`` found."""
    if isinstance(diff, VersionsDiff):
        return _versions(diff)
    return _runs(diff) if isinstance(diff, RunsDiff) else _placements(diff)


def _versions(diff: VersionsDiff) -> RenderableType:
    lines: list[RenderableType] = [
        Text(f"version {diff.a} → version {diff.b}", "bold"),
        Text(f"examples: {diff.examples_a:,} → {diff.examples_b:,}"),
    ]
    for what, found in (
        ("added", diff.added),
        ("removed", diff.removed),
        ("changed: other token ids", diff.changed),
        ("in another split", diff.moved),
    ):
        if found.count:
            lines.append(Text(f"  {found.count:,} {what}: {_ids(found)}"))
    tables = {
        "tables added": diff.tables_added,
        "tables removed": diff.tables_removed,
        "tables that differ": diff.tables_differ,
    }
    lines += [Text(f"{what}: {', '.join(map(visible, t))}") for what, t in tables.items() if t]
    if not any(tables.values()):
        lines.append(Text("nothing differs"))
    for table in diff.tables:
        lines += [Text(""), render_diff(table)]
    return Group(*lines)


def _ids(found: Found) -> str:
    more = " …" if found.count > len(found.ids) else ""
    return ", ".join(map(visible, found.ids)) + more


def _placements(diff: PlacementsDiff) -> RenderableType:
    lines: list[RenderableType] = []
    for label, side in (("A", diff.a), ("B", diff.b)):
        made_by = side.made_by
        parameters = [f"{key} {value}" for key, value in made_by.get("parameters", {}).items()]
        run = [f"of {made_by['run']}"] if made_by.get("run") else []
        how = ", ".join([*([made_by["strategy"]] if "strategy" in made_by else []), *parameters])
        lines.append(
            Text.assemble(
                f"{label}  ",
                (f"{visible(side.table)}", "bold"),
                f"  {visible(' '.join([how, *run]))}  "
                f"(version {side.version}): {side.positions:,} positions, {side.pauses:,} pauses",
            )
        )
    lines += _examples(diff)
    lines.append(
        Text(
            f"kept: {diff.kept:,} positions: {_percent(diff.share_of_a)} of A's, "
            f"{_percent(diff.share_of_union)} of A's and B's together"
        )
    )
    if diff.recounted:
        lines.append(Text(f"  {diff.recounted:,} of them with another number of pauses"))
    if diff.mean_distance is not None:
        lines.append(
            Text(
                f"moved: {diff.moved:,} positions of A, on average {diff.mean_distance:.2f} tokens "
                "to the nearest new one of B in the same example"
            )
        )
    if diff.most_paused:
        lines += [Text(""), Text("most paused tokens: how often, of how many in the responses")]
        table = make_table(["token", "A", "B"], [False, True, True])
        for each in diff.most_paused:
            token = f"id {each.token_id}" if each.token is None else f"'{visible(each.token)}'"
            sides = [of_occurrences(count, each.occurrences) for count in (each.a, each.b)]
            table.add_row(token, *sides)
        lines.append(table)
    if diff.most_changed:
        lines += [Text(""), Text("most changed (position: the token that follows, × pauses)")]
    for example in diff.most_changed:
        lines.append(
            Text.assemble(("  " + visible(example.id), "bold"), f"  {example.kept:,} kept")
        )
        for label, pauses in (
            ("left", [(p, _times(p.a)) for p in example.left]),
            ("came", [(p, _times(p.b)) for p in example.came]),
            ("count", [(p, f" ×{p.a} → ×{p.b}") for p in example.recounted]),
        ):
            if pauses:
                said = "  ".join(_place(p) + times for p, times in pauses)
                lines.append(Text(f"    {label:5} {said}"))
    return Group(*lines)


def _place(pauses: PausePosition) -> str:
    return f"{pauses.pos}:" + ("end" if pauses.token is None else f"'{visible(pauses.token)}'")


def _times(count: int) -> str:
    return f" ×{count}" if count > 1 else ""


def _runs(diff: RunsDiff) -> RenderableType:
    lines: list[RenderableType] = []
    for label, side in (("A", diff.a), ("B", diff.b)):
        by = side.scored_by
        facts = [*([by["model"]] if "model" in by else []), *making_of(by)]
        lines.append(
            Text.assemble(
                f"{label}  ",
                (visible(side.table), "bold"),
                f"  {visible(', '.join(facts))}  (version {side.version}): "
                f"mean log-probability {_number(side.mean_logprob)}",
            )
        )
    lines += _examples(diff)
    lines.append(
        Text(
            f"shift of the mean log-probability, B - A: {_signed(diff.shift_per_token)} per token "
            f"({diff.tokens:,}), {_signed(diff.shift_per_example)} per example"
        )
    )
    first = diff.rank_one
    if first is not None:
        lines.append(
            Text(
                f"rank 1: {_percent(first.a)} of the tokens in A, {_percent(first.b)} in B; "
                f"{_percent(first.became)} became it, {_percent(first.ceased)} ceased to be"
            )
        )
    lines += [Text(""), Text("quantiles of the tokens' differences, B - A")]
    names = {"0": "least", "1": "most"}
    # A row each: an exponent that a narrow terminal cuts off would make a rounding look like nats.
    table = make_table(["quantile", "B - A"], [False, True])
    for quantile, value in diff.quantiles.items():
        table.add_row(names.get(quantile, quantile), cell(_signed(value)))
    lines.append(table)
    if diff.most_changed:
        lines += [Text(""), Text("most changed, by mean; and the token that differs most")]
        columns = ["id", "tokens", "mean A", "mean B", "pos", "token", "A", "B"]
        table = make_table(columns, [c not in ("id", "token") for c in columns])
        for e in diff.most_changed:
            row = (e.id, e.tokens, e.mean_a, e.mean_b, e.pos, e.token, e.logprob_a, e.logprob_b)
            table.add_row(*map(cell, row))
        lines.append(table)
    return Group(*lines)


def _examples(diff: RunsDiff | PlacementsDiff) -> list[Text]:
    lines = [Text(f"examples: {diff.examples:,} compared, {diff.differing:,} differ")]
    if diff.not_compared:
        lines.append(
            Text(
                f"  {diff.not_compared:,} not compared: in one version alone, or with another "
                "response"
            )
        )
    return lines


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "none" if value is None else number(value)


def _signed(value: float | None) -> str:
    return "none" if value is None else ("+" if value > 0 else "") + number(value)
