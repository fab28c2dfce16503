"""What is to be made? The one place that says: of every table what happens to it, and why.

A recipe or a command becomes targets (`targets`); `decide` looks at them, at the version that is
there and at its damage. It reads and writes nothing. `carry_out` does what it says, and `plan`
prints it, so that `plan` cannot say other than `build` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pausedata.core.errors import UsageError, listing
from pausedata.pipeline.transaction import Transaction, layout
from pausedata.store.dataset import KINDS, Table, Version
from pausedata.store.manifest import TableEntry

CORPUS = ("examples", "vocab", "tokens")  # the tables that one step makes
# What a table that is no export or placement may be made from beside tables: the pause's text and
# id, which the manifest's header has.
PAUSE = "pause"

Action = Literal["keep", "make", "remake", "repair", "carry over", "drop", "leave"]
Inputs = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A table that is asked for, or that is there: what it is made from, and how."""

    name: str
    reads: tuple[str, ...]  # tables, or `PAUSE`
    # All that decides it, given the content hashes of the tables that there are.
    inputs: Callable[[Mapping[str, str]], Inputs] | None = None
    make: Callable[[Transaction, Inputs], Table] | None = None  # None: it cannot be made again here
    asked: bool = False  # by name, and so made as asked; else it follows what it is made from
    label: str = ""  # what it is, in a few words
    shown: tuple[str, ...] = ()  # what making it reads, for people

    @property
    def kind(self) -> str:
        """``scores``, ``placements`` …"""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class StoredRun(Target):
    """A run that nobody asks for: no model is known for it, but its scores were paid for.

    There are two of each: ``scores/RUN`` and, for when there are examples that it did not score,
    ``kept/RUN``. ``have``: how many of the ``rows`` examples that there will be it has scores of;
    None where that is not known yet.
    """

    have: int | None = None
    rows: int = 0
    lost: str = ""  # what is said of scores in damaged shards
    again: str = ""  # the command that scores the rest


@dataclass(frozen=True)
class Superseded(Target):
    """``kept/RUN`` of a run that is asked for: it goes where the run itself is there.

    ``inputs`` are those that the run would have.
    """


@dataclass(frozen=True)
class Corpus:
    """What a recipe asks of examples, vocab and tokens, which are made together."""

    root: object  # what errors call the dataset
    source: str
    different: Sequence[str]  # between the inputs of those that are there and the recipe's
    cut: tuple[int | None, int | None]  # the `shard_rows` that they have, and would have
    replace: bool
    unless: str = ""  # what keeping them rests on, where not all is known


@dataclass
class State:
    """What there is, and what has become of it so far."""

    there: Mapping[str, TableEntry] = field(default_factory=dict)
    number: int = 0  # of the version that is there
    damaged: set[str] = field(default_factory=set)  # tables with files that no version has whole
    changed: set[str] = field(default_factory=set)  # tables that are not what they were
    gone: dict[str, str] = field(default_factory=dict)  # table → why it is not there any more
    replace: bool = True  # what is asked for may replace what is there, made otherwise

    @classmethod
    def of(
        cls, base: Version | None, damaged: Iterable[str] = (), *, replace: bool = True
    ) -> State:
        """What there is before anything is done."""
        if base is None:
            return cls(replace=replace)
        return cls(base.manifest.tables, base.number, set(damaged), replace=replace)

    def copy(self) -> State:
        """A copy that can be changed without changing this one."""
        apart = {"damaged": {*self.damaged}, "changed": {*self.changed}, "gone": {**self.gone}}
        return replace(self, **apart)

    def contents(self) -> dict[str, str]:
        """The content hash of every table; of one that is made anew it is not known yet."""
        there = {name: entry.content for name, entry in self.there.items()}
        return there | dict.fromkeys(self.changed, "made anew")

    def note(self, step: Step) -> None:
        """Take it that ``step`` is done, and went as it should."""
        if step.action == "drop" or (step.action == "leave" and step.table not in self.there):
            self.gone[step.table] = step.why
        if step.action in ("make", "remake", "carry over"):
            self.changed.add(step.table)
            self.gone.pop(step.table, None)
        if step.action not in ("keep", "leave"):
            self.damaged.discard(step.table)


@dataclass(frozen=True)
class Step:
    """What happens to one table."""

    target: Target
    action: Action
    why: str
    cause: str | None = None  # the table that it is because of

    @property
    def table(self) -> str:
        """The table's name."""
        return self.target.name


def decide(targets: Sequence[Target], state: State) -> Iterator[Step]:
    """What is to become of each of ``targets``, in an order in which it can be done.

    ``state`` follows, as if each step had been done when the next is asked for; who does them
    tells it what went otherwise. UsageError where something may not be done.
    """
    for target in _in_order(targets):
        step = _DECIDE.get(type(target), _decide)(target, state)
        if step is not None:
            yield step
            state.note(step)


def _decide(target: Target, state: State) -> Step:
    name, there = target.name, state.there.get(target.name)
    if name in state.gone:
        return Step(target, "drop", state.gone[name])
    gone = next((read for read in target.reads if read in state.gone), None)
    if gone is not None:
        return Step(target, "drop", _without(target, gone), gone)
    lost = next((read for read in target.reads if read in state.damaged), None)
    if lost is not None:
        return Step(target, "leave", f"made from {lost}, which is damaged", lost)
    if there is None:
        return Step(target, "make", target.label)
    changed = next((read for read in target.reads if read in state.changed), None)
    if target.make is None or target.inputs is None:
        if changed is not None:
            return Step(target, "drop", _without(target, changed), changed)
        return _unchanged(target, state)
    wanted = target.inputs(state.contents())
    _refuse_later(target, there, wanted)
    different = differences(recorded(there), wanted) if target.asked else []
    if changed is None and not different:
        return _unchanged(target, state)
    if target.asked and not state.replace:
        raise UsageError(
            f"{name} is there already, made otherwise ({'; '.join(different)}). "
            "Give --replace to remake it, or choose another name."
        )
    why = [f"{changed} is made anew"] if changed else different
    told = [target.label, *(why if target.kind != "scores" else [])]  # hashes of weights say little
    return Step(target, "remake", "; ".join(told), changed)


def _unchanged(target: Target, state: State) -> Step:
    """A table that is what it would be, if it is whole."""
    if target.name not in state.damaged:
        return Step(target, "keep", f"as in version {state.number}")
    if isinstance(target, StoredRun):
        why = f"damaged, and no model is named for this run. Score it again: {target.again}"
        return Step(target, "leave", why)
    if target.make is None:
        return Step(target, "leave", "damaged, and nothing here can make it again")
    return Step(target, "repair", f"damaged; {target.label}")


def _without(target: Target, origin: str) -> str:
    """Why a table goes whose ``origin`` changed, or went."""
    kind, _, own = origin.partition("/")
    if target.make is None or kind not in KINDS:
        return f"made from {origin}, which changed; this release cannot remake it"
    how = "carried over" if kind == "scores" else "remade"
    return f"{KINDS[kind]} '{own}' could not be {how}"


def _decide_run(run: StoredRun, state: State) -> Step | None:
    """A run that nobody asks for. Its scores are kept as far as its examples are there."""
    there, is_kept = run.name in state.there, run.kind == "kept"
    if run.name in state.gone:
        return Step(run, "drop", state.gone[run.name])
    if "tokens" not in state.changed:
        return _unchanged(run, state) if there else None
    if run.have is None:
        told = "if it has scores of all examples that there will be; else those that it has are"
        own = run.name.partition("/")[2]
        return None if is_kept and not there else Step(run, "carry over", f"{told} in kept/{own}")
    some = f"the scores of {run.have:,} of {run.rows:,} examples{run.lost}"
    if run.have == run.rows and is_kept:
        return Step(run, "drop", "all of it is in scores again") if there else None
    if run.have == run.rows or (is_kept and run.have):
        return Step(run, "carry over", some)
    if not there:
        return None
    left = run.rows - run.have
    new = f"{left:,} example{' is' if left == 1 else 's are'} without scores"
    new += ", and the recipe names no model for this run"
    if not run.have:
        new = f"none of its scores are of the examples that there are now{run.lost}: {new}"
    return Step(run, "drop", f"{new}. Score them with: {run.again}")


def _decide_superseded(kept: Target, state: State) -> Step | None:
    own = kept.name.partition("/")[2]
    there, run = state.there.get(kept.name), f"scores/{own}"
    if there is None or kept.inputs is None:
        return None
    if run not in state.changed and run not in state.there:
        return _decide(kept, state)
    wanted = kept.inputs(state.contents())
    different = differences(but_tokens(recorded(there)), but_tokens(wanted))
    if different and not state.replace:
        raise UsageError(
            f"{kept.name} has scores of '{own}' that were made otherwise ({'; '.join(different)}). "
            "Give --replace to let them go, or choose another name."
        )
    otherwise = f": the others were made otherwise ({'; '.join(different)})" if different else ""
    return Step(kept, "drop", f"the run is in {run} again{otherwise}")


_DECIDE: dict[type[Target], Callable[[Any, State], Step | None]] = {
    StoredRun: _decide_run,
    Superseded: _decide_superseded,
}


def decide_corpus(corpus: Corpus, state: State) -> list[Step]:
    """What is to become of examples, vocab and tokens; UsageError where they may not change."""
    targets = [Target(name, (), label=f"from {corpus.source}") for name in CORPUS]
    if not state.there:
        return [Step(target, "make", target.label) for target in targets]
    lost = [name for name in CORPUS if name in state.damaged]
    was, would_be = corpus.cut
    cut = f"they were cut with shard_rows {was or 'null'}: --set shard_rows={was or 'null'}"
    if corpus.different and not corpus.replace:
        raise UsageError(
            f"{corpus.root}: the recipe would change the examples that are there:\n"
            + "".join(f"  {line}\n" for line in corpus.different)
            + "Give --replace to make a version with the new ones (scores of examples whose "
            "tokens are unchanged are carried over), or another --output."
        )
    if lost and was != would_be and not corpus.replace:
        raise irreparable(corpus, lost, cut)
    if corpus.different or (lost and was != would_be):
        why = "; ".join(corpus.different) or f"damaged, and {cut}"
        return [_remade(target, corpus, lost, why) for target in targets]
    kept = f"as in version {state.number}{corpus.unless}"
    return [
        Step(t, "repair", f"damaged; {t.label}") if t.name in lost else Step(t, "keep", kept)
        for t in targets
    ]


def _remade(target: Target, corpus: Corpus, lost: Sequence[str], why: str) -> Step:
    """What becomes of a table when examples change: ``why``, which is long, is said of these alone.

    The vocabulary is the tokenizer's alone.
    """
    same = not any(line.startswith("tokenizer:") for line in corpus.different)
    if target.name == "vocab" and "vocab" in lost and same:
        return Step(target, "repair", f"damaged; {target.label}")
    return Step(target, "remake", why if target.name == "examples" else "examples is made anew")


def irreparable(corpus: Corpus, lost: Iterable[str], why: str) -> UsageError:
    """The error where damaged examples, vocab or tokens cannot be made again as they were."""
    return UsageError(
        f"{corpus.root}: {listing(lost)} cannot be repaired: {why}. --replace makes a version "
        "with new ones."
    )


def changed_corpus(base: Version | None, tables: Mapping[str, Table]) -> set[str]:
    """Which of examples, vocab and tokens are not what they were: other values or other shards.

    What stands beside them has the same examples in the same shards.
    """
    return {
        name
        for name in CORPUS
        if base is None or layout(tables[name].entry) != layout(base.manifest.tables[name])
    }


def _refuse_later(target: Target, there: TableEntry, wanted: Inputs) -> None:
    """UsageError where a later release scored a run from more than this one knows.

    Scoring it again as this release would is dear, and would lose what that one added.
    """
    # Of what this release knows only a warm-up is no input of every run.
    unknown = set(recorded(there)) - set(wanted) - {"warmup"}
    if target.kind == "scores" and unknown:
        raise UsageError(
            f"{target.name} was made by a later release of pausedata, from what this one does not "
            f"know ({', '.join(sorted(unknown))}). Upgrade: pip install -U pausedata; or score "
            "under another name."
        )


def recorded(entry: TableEntry) -> Inputs:
    """The inputs that a table was made from."""
    return entry.provenance.get("inputs", {})


def but_tokens(inputs: Inputs) -> Inputs:
    """The inputs of a run, or of what is kept of one, without what was scored."""
    return {key: value for key, value in inputs.items() if key not in ("tokens", "scores")}


def _in_order(targets: Sequence[Target]) -> list[Target]:
    """``targets`` as they stand, but each after those that it is made from."""
    left, found = {target.name: target for target in targets}, list[Target]()

    def visit(name: str) -> None:
        target = left.pop(name, None)  # so that a circle, which no release wrote, has an end
        if target is not None:
            for read in target.reads:
                visit(read)
            found.append(target)

    for target in targets:
        visit(target.name)
    return found


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """``source.limit: 64 → 100`` for every value that differs between two nested mappings."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for name in dict.fromkeys([*before, *now]):
            inner = f"{key}.{name}" if key else name
            found += differences(before.get(name), now.get(name), inner)
        return found
    return [] if before == now else [f"{key}: {_short(before)} → {_short(now)}"]


def _short(value: Any) -> str:
    if isinstance(value, str) and value.startswith("sha256:"):
        return f"{value[:15]}…"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
