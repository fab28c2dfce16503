"""Commands to try next, with the names that are there, ready to be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pausedata.core.errors import PausedataError
from pausedata.store.dataset import Version


def dataset_word(root: Path) -> str:
    """A dataset's folder as it was given, as one word of a shell that is no option."""
    text = str(root)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def next_commands(root: Path, version: Version, made: Sequence[str]) -> list[str]:
    """What to try with ``version``, of which the tables ``made`` are new; the likeliest first."""
    where = dataset_word(root)
    placements, runs = _own(made, "placements"), _own(made, "scores")
    all_new = "examples" in made
    found = []
    if placements:
        found.append(_show(where, version, "placement", placements[0]))
    elif runs and not all_new:
        found.append(_show(where, version, "run", runs[0]))
    else:
        found.append(_show(where, version))
    if runs and not all_new:
        others = [run for run in version.runs if run not in runs]
        if others:
            found.append(f"pausedata diff {where} scores/{others[0]} scores/{runs[0]}")
        if not placements:
            name = _free(f"by-{runs[0]}", version.placements)
            found.append(
                f"pausedata place {where} {name} --run {runs[0]} --strategy lowest_logprob "
                "--param positions=3"
            )
    elif version.runs and not placements:
        found.append(
            f'pausedata sql {where} "select token, count(*) n, avg(logprob) from tokens '
            'group by 1 having n > 9 order by 3 limit 9"'
        )
    if all_new or placements:
        found.append(f"pausedata report {where} -o report.html")
    if len(version.placements) > 1:
        found.append(f"pausedata stats {where} --placements")
    placed = placements or version.placements
    if placed and (not all_new or not version.exports) and not _own(made, "exports"):
        found.append(f"pausedata export {where} --placement {placed[0]} --format tokenized")
    return found


def after_export(root: Path, version: Version, placement: str, readme: Path) -> list[str]:
    """What to try when an export was written: look at it, and read how a trainer loads it."""
    where = dataset_word(root)
    read = f"cat {dataset_word(readme)}"
    return [_show(where, version, "placement", placement), read]


def _show(where: str, version: Version, kind: str = "", name: str = "") -> str:
    id = _example(version, f"placements/{name}" if kind == "placement" else None)
    chosen = f" --{kind} {name}" if kind else ""
    # An id may be any text: also one that looks like an option.
    of = "" if id is None else f" {'-- ' if id.startswith('-') else ''}{shlex.quote(id)}"
    return f"pausedata show {where}{chosen}{of}"


def _example(version: Version, placement: str | None) -> str | None:
    """An example with pauses where the first shard has one, else the first of all.

    None where there is none to be had: what was made is no worse for it.
    """
    table = version.table(placement or "tokens")
    shard = next((shard for shard in table.shards if shard.rows), None)
    if shard is None or table.absent:
        return None
    try:
        rows = table.read(shard, ["id", "position"] if placement else ["id"])
    except PausedataError:
        return None
    ids = rows["id"].to_pylist()
    if placement is None:
        return ids[0]
    return next((i for i, at in zip(ids, rows["position"], strict=True) if len(at)), ids[0])


def _own(tables: Sequence[str], kind: str) -> list[str]:
    return [name.split("/", 1)[1] for name in tables if name.startswith(f"{kind}/")]


def _free(name: str, taken: Sequence[str]) -> str:
    """``name``, shortened to what a name may be, with a number where it is taken."""
    name, number = name[:60], 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free
