"""What a plan tells: steps, figures, what cannot be known."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pausedata.pipeline.plan.fetches import Fetch
from pausedata.pipeline.plan.forecast import Forecast


@dataclass(frozen=True)
class StepPlan:
    """What would happen to one table."""

    table: str
    action: str  # keep, make, resume, remake, repair, carry over, drop, leave
    why: str
    reads: list[str] = field(default_factory=list)  # tables, models, the source
    bytes: int | None = None  # that it would write, about; None where that is not known

    @property
    def writes(self) -> bool:
        """Whether there would be anything to write."""
        return self.action not in ("keep", "drop", "leave")


@dataclass
class Plan:
    """All that can be told beforehand; what cannot stands in ``unknown``."""

    output: str
    state: str
    steps: list[StepPlan] = field(default_factory=list)
    rows: dict[str, int | None] = field(default_factory=dict)
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    tokens_are: str = "unknown"  # exact, or estimated with the standard error
    tokens_to_score: int | None = None
    seconds: float | None = None  # of scoring
    seconds_from: str = ""
    warmup_seconds: float | None = None  # of all warm-ups, before
    new_bytes: int | None = None  # in the dataset
    free_bytes: int | None = None  # where the dataset is, or would be
    fetches: list[Fetch] = field(default_factory=list)  # from the Hub
    conversions: dict[str, int] = field(default_factory=dict)  # bytes in the model cache
    backend: str | None = None
    backend_why: str | None = None  # why it is what `auto` stands for
    runs: list[Forecast] = field(default_factory=list)  # those that are to be scored
    tokenizer: dict[str, str] | None = None  # how it was found to give the stored ids
    unknown: list[str] = field(default_factory=list)

    @property
    def rows_of_first_split(self) -> int | None:
        """Those that a warm-up may train on; None where nobody knows."""
        return next(iter(self.rows.values()), None)

    @property
    def tokens_each(self) -> float | None:
        """Of prompt and response together, on average; None where nobody knows."""
        total = (self.prompt_tokens or 0) + (self.response_tokens or 0)
        rows = sum(count or 0 for count in self.rows.values())
        return total / rows if total and rows else None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def figures(self) -> dict[str, str]:
        """The figures, for people."""
        found = {}
        for split, rows in self.rows.items():
            found[f"rows, {split}"] = "unknown" if rows is None else f"{rows:,}"
        if self.prompt_tokens is not None and self.response_tokens is not None:
            total = self.prompt_tokens + self.response_tokens
            found["tokens"] = (
                f"{total:,}: {self.prompt_tokens:,} of prompts, {self.response_tokens:,} of "
                f"responses ({self.tokens_are})"
            )
        if self.tokenizer is not None:
            how = {"hash": "its hash", "every row": "encoding every stored row again"}
            found["tokenizer"] = f"gives the same ids, by {how[self.tokenizer['checked']]}"
        if self.tokens_to_score is not None:
            found["to score"] = f"{self.tokens_to_score:,} tokens"
        if self.backend is not None:
            why = f" (auto: {self.backend_why})" if self.backend_why else ""
            found["backend"] = self.backend + why
        for run in self.runs:
            found |= run.figures()
        if self.seconds is not None:
            before = ""
            if self.warmup_seconds:
                before = f"{_duration(self.warmup_seconds)} of warming up and "
            told = f"about {before}{_duration(self.seconds)} of scoring"
            found["time"] = f"{told} ({self.seconds_from})"
        if self.new_bytes is not None:
            free = "" if self.free_bytes is None else f", {self.free_bytes / 1e9:,.1f} GB free"
            found["disk"] = f"about {readable(self.new_bytes)} new{free}"
        for what in dict.fromkeys(fetch.what for fetch in self.fetches):
            of = [_fetched(fetch) for fetch in self.fetches if fetch.what == what]
            found[f"{what} of the Hub"] = "; ".join(of)
        if self.conversions:
            found["model cache"] = "; ".join(
                f"{name} is converted once: about {readable(size)}"
                for name, size in self.conversions.items()
            )
        return found


def readable(count: int) -> str:
    """Bytes, for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


def _fetched(fetch: Fetch) -> str:
    """What is fetched of a repository, in words."""
    if fetch.cached:
        return f"{fetch.name}: in the cache"
    what = f"{fetch.files} files" if fetch.files else "files"
    size = f", {readable(fetch.bytes)}" if fetch.bytes is not None else ", of unknown size"
    return f"{fetch.name}: {what}{size} to fetch"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
