"""What `measure` found, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pausedata.core.held_out import HeldOut
from pausedata.inference.eligibility import Answer, Eligibility
from pausedata.measure.figures import Figures
from pausedata.measure.generate import Generating, Record
from pausedata.measure.judge import Judged
from pausedata.measure.trained_on import TrainedOn
from pausedata.pipeline.rules import Rules


@dataclass(frozen=True)
class MeasuredPart:
    """The figures of all examples, or of one group, and the gate's verdict on them."""

    figures: Figures
    judged: Judged | None = None  # None without gate rules
    ruled_out: int | None = None  # after so many units help was

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        judged = {
            "verdict": self.judged.verdict if self.judged else None,
            "reasons": self.judged.reasons if self.judged else [],
            "not_covered": self.judged.not_covered if self.judged else [],
            "ruled_out_after": self.ruled_out,
        }
        return self.figures.as_json() | judged


@dataclass(frozen=True)
class Generated:
    """The answers that were generated, and what they come to: `generate.summary`."""

    how: Generating
    whole: dict[str, Any]
    groups: dict[str, dict[str, Any]]
    records: list[Record]

    def as_json(self) -> dict[str, Any]:
        """For programs; the answers themselves are left out."""
        return self.how.as_json() | self.whole | {"groups": self.groups}


@dataclass(frozen=True)
class Measurement:
    """One measurement of a placement with a trained model."""

    dataset: str
    version: int
    placement: str
    models: list[dict[str, Any]]  # as a manifest records them; alike but for their seed
    baselines: list[dict[str, Any]]  # none: the same models, without pauses
    same_as: list[dict[str, Any]]
    held_out: HeldOut
    examples_there: int  # held-out examples, measured or not
    overlong: int  # left out: with the pauses longer than the model takes
    seed: int
    confidence: float
    group_by: str | None
    cluster: str | None
    rules: Rules | None
    whole: MeasuredPart
    groups: dict[str, MeasuredPart] = field(default_factory=dict)
    stopped_early: bool = False
    generated: Generated | None = None
    trained_on: TrainedOn = field(default_factory=TrainedOn)  # as far as is known

    @property
    def model(self) -> dict[str, Any]:
        """The trained model, the first of several."""
        return self.models[0]

    @property
    def baseline(self) -> dict[str, Any] | None:
        """What it is compared with, the first of several; None: itself, without pauses."""
        return self.baselines[0] if self.baselines else None

    @property
    def verdict(self) -> str | None:
        """The gate's verdict on the whole; None without rules."""
        return self.whole.judged.verdict if self.whole.judged else None

    def eligibility(self) -> Eligibility:
        """Which groups may have pauses, as the processors of `pausedata.inference` read it.

        A group that is judged by itself gets its own verdict; one that cannot be judged yet, and
        one that is not named, gets that of the whole.
        """
        default: Answer = "pause" if self.verdict == "go" else "no-pause"
        decided: dict[str, Answer] = {"go": "pause", "no-go": "no-pause"}
        return Eligibility(
            group_by=self.group_by,
            default=default,
            groups={
                name: decided.get(part.judged.verdict, default)
                for name, part in self.groups.items()
                if part.judged is not None
            },
            made_by={
                "dataset": self.dataset,
                "version": self.version,
                "placement": self.placement,
                "model": self.model,
                "verdict": self.verdict,
                "rules": self.rules.model_dump() if self.rules else None,
            },
        )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        told: dict[str, Any] = {
            "dataset": self.dataset,
            "version": self.version,
            "placement": self.placement,
            "model": self.model,
            "baseline": self.baseline,
            "models": self.models,
            "baselines": self.baselines,
            "same_as": self.same_as,
            "split": self.held_out.split,
            "fifth_of_split": self.held_out.seed is not None,
            "seed": self.seed,
            "confidence": self.confidence,
            "examples_held_out": self.examples_there,
            "overlong": self.overlong,
            "trained_on": self.trained_on.as_json(),
            "stopped_early": self.stopped_early,
        }
        told |= self.whole.as_json()
        told |= {
            "group_by": self.group_by,
            "cluster": self.cluster,
            "groups": {name: part.as_json() for name, part in self.groups.items()},
            "gate": self.rules.model_dump() if self.rules else None,
        }
        if self.generated is not None:
            told["generated"] = self.generated.as_json()
        return told
