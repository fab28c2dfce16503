"""Scores that are there: what can be used again, and what becomes of runs nobody asks for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pausedata.core.errors import DataError
from pausedata.pipeline.planner import StoredRun, Superseded, Target, but_tokens, recorded
from pausedata.pipeline.steps import score as score_step
from pausedata.pipeline.steps.reuse import ReusableScores
from pausedata.pipeline.steps.score import CheckedPass, cut
from pausedata.pipeline.transaction import Transaction
from pausedata.scorers import Scorer
from pausedata.store.dataset import Table, Version, read_version
from pausedata.store.opening import version_folder, version_numbers
from pausedata.store.repair import find_damage


def scored_from(base: Version | None, run: str) -> dict[str, Any]:
    """What the scores of a run that is there were made from; ``tokens`` only where it has all."""
    scores = stored_scores(base, run) if base is not None else None
    if scores is None:
        return {}
    all_of = {} if scores.name.startswith("scores/") else {"tokens": None}
    return recorded(scores.entry) | all_of


def find_reusable(
    root: Path, base: Version | None, run: str, wanted: dict[str, Any], tokens: Table
) -> ReusableScores | None:
    """What of the scores of ``tokens`` there is in versions up to ``base``, the newest first.

    A version has the run, or what was kept of it (``kept/RUN``). Only scores are taken that were
    made as ``wanted`` says, of whatever tokens. Older versions are looked at as long as examples
    are missing; none is where the base version has the run itself, whole or damaged.
    """
    found, seen = None, set[tuple[str, str]]()
    for version in _versions(root, base):
        scores = stored_scores(version, run)
        if scores is None:
            continue
        before = recorded(scores.entry)
        stored = version.table("tokens")
        # Of the base version they can be the very same only where they are damaged.
        damaged = version is base and before == wanted and cut(stored) == cut(tokens)
        if damaged or but_tokens(before) != but_tokens(wanted):
            break
        contents = (stored.entry.content, scores.entry.content)
        if contents in seen or (version is not base and scores.absent):
            continue
        seen.add(contents)
        if found is not None and next(found.missing(tokens), None) is None:
            break
        if version is not base:  # what is damaged there, a build puts right before it comes here
            version, _ = find_damage(version, ["tokens", scores.name])
        both = version.table("tokens"), version.table(scores.name)
        if found is None:
            found = ReusableScores(*both)
        else:
            found.add(*both)
    return found


def _versions(root: Path, base: Version | None) -> Iterator[Version]:
    """``base`` and the versions before it, the newest first, but for those that are damaged."""
    if base is None:
        return
    for number in reversed(version_numbers(root)):
        if number == base.number:
            yield base
        elif number < base.number:
            with suppress(DataError):
                yield read_version(root, version_folder(root, number))


def stored_scores(version: Version, run: str) -> Table | None:
    """The table that has the run's scores, of all examples or of some."""
    names = [name for name in (f"scores/{run}", f"kept/{run}") if name in version.manifest.tables]
    return version.table(names[0]) if names else None


def stored(
    root: Path, base: Version, asked: Iterable[Target], tokens: Table | None
) -> list[Target]:
    """The runs that are there and not ``asked`` for; and what is kept of any.

    ``tokens`` are those that there will be, where they are known and not what they were.
    """
    named, runs, kept = {target.name: target for target in asked}, list[Target](), list[Target]()
    for run in dict.fromkeys([*base.runs, *base.manifest.names("kept")]):
        name = f"kept/{run}"
        if (target := named.get(f"scores/{run}")) is not None:
            kept.append(Superseded(name, ("tokens",), target.inputs))
            continue
        scores = stored_scores(base, run)
        assert scores is not None
        facts: dict[str, Any] = {"again": _command(root, run, scores.entry.provenance)}
        reuse = None
        if tokens is not None:
            wanted = recorded(scores.entry) | {"tokens": tokens.entry.content}
            reuse, rows = find_reusable(root, base, run, wanted, tokens), tokens.entry.rows
            assert reuse is not None  # the base version's at least: its tokens are others
            have = rows - sum(1 for _ in reuse.missing(tokens))
            facts |= {"have": have, "rows": rows, "lost": reuse.lost(tokens)}
        reads = ("tokens",)
        runs.append(StoredRun(f"scores/{run}", reads, None, partial(_carry, run, reuse), **facts))
        kept.append(StoredRun(name, reads, None, partial(_keep, run, reuse), **facts))
    return [*runs, *kept]


def kept_runs(base: Version) -> dict[str, str]:
    """What to say of each run that is there as ``kept/RUN`` alone, by the table that it lacks."""
    rows = base.table("tokens").entry.rows
    found: dict[str, str] = {}
    for run in base.manifest.names("kept"):
        entry = base.table(f"kept/{run}").entry
        found[f"scores/{run}"] = (
            f"Of run '{run}' the scores of {entry.rows:,} of {rows:,} examples are kept: "
            f"`{_command(base.root, run, entry.provenance)}` scores the rest."
        )
    return found


def _carry(run: str, reuse: ReusableScores | None, tx: Transaction, _: Any) -> Table:
    """A run of which every example that there is now was scored: no model is needed."""
    assert reuse is not None
    tokens, facts = tx.tables["tokens"], reuse.provenance

    def load(logs: Path) -> Scorer:
        raise DataError(f"scores/{run}: no model is known for this run.")

    wanted = but_tokens(facts["inputs"]) | {"tokens": tokens.entry.content}
    known = {key: facts[key] for key in ("model", "tokenizer", "warmup") if key in facts}
    return score_step.score(
        *(tx.staging, run, wanted, tokens, [CheckedPass(load)], reuse, tx.progress, known)
    )


def _keep(run: str, reuse: ReusableScores | None, tx: Transaction, _: Any) -> Table:
    """What there is of a run of which some examples were never scored."""
    assert reuse is not None
    tokens, before = tx.tables["tokens"], reuse.provenance["inputs"]
    wanted = before | {"tokens": tokens.entry.content, "scores": reuse.content}
    warn_of_lost(f"kept/{run}", reuse, tx)
    return score_step.keep(tx.staging, run, wanted, tokens, reuse)


def warn_of_lost(table: str, reuse: ReusableScores, tx: Transaction) -> None:
    """Say that scores which were paid for are lost, where they are."""
    if lost := reuse.lost(tx.tables["tokens"]):
        tx.progress.warn(f"{table}: the scores of unchanged examples are carried over{lost}")


def _command(root: Path, run: str, facts: dict[str, Any]) -> str:
    """The command that scores a run again, as far as a dataset knows its model."""
    inputs = facts.get("inputs", {})
    model, own = inputs.get("model"), facts.get("model")
    words = ["pausedata", "score", str(root), "--run", run]
    if isinstance(model, dict) and "revision" in model:
        words += ["--model", model["id"], "--revision", str(model["revision"])]
    else:  # of a folder or a file a dataset records no path
        words += ["--model", f"PATH-OF-{own.get('id') if isinstance(own, dict) else 'MODEL'}"]
    for key in ("dtype", "backend"):
        words += [f"--{key}", inputs[key]] if key in inputs else []
    for key, value in inputs.get("engine", {}).items():
        words += ["--engine", f"{key}={json.dumps(value)}"]
    if inputs.get("backend") == "server":
        words += ["--url", "ADDRESS-OF-THE-SERVER"]
    return shlex.join(words)
