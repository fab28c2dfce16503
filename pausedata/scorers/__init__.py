"""Token log-probabilities: what a scorer takes and gives, and which backends there are.

From here: `Example`, `Scores`, `Job`, `Scorer`, `load_scorer`; `memory` and `devices` say what
fits, `reference` and `agreement` how far scores may be from a reference. Importing this loads no
torch: a backend is named here and imported when it is asked for.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pausedata.core.errors import DataError, UsageError, listing, nearest
from pausedata.core.progress import ignore_message
from pausedata.scorers import devices, installed

if TYPE_CHECKING:
    from pausedata.models.ref import ModelRef

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

# What a rounding may leave on the wrong side of zero, in nats; more than this is a fault.
ROUNDING = 1e-4

# 'module:function'; the function makes a `Scorer` for a `Job`.
BACKENDS: dict[str, str] = {
    "transformers": "pausedata.scorers.transformers:load",
    "vllm": "pausedata.scorers.vllm:load",
    "server": "pausedata.scorers.server:load",
}

INSTALL_VLLM = "pip install 'pausedata[vllm]' (on a CPU: see docs/scoring.md)"


@dataclass(frozen=True)
class Example:
    """Token ids of one prompt (at least one) and of the response that is scored given it."""

    prompt_ids: Sequence[int] | Ints
    response_ids: Ints

    def __len__(self) -> int:
        """Tokens of prompt and response together."""
        return len(self.prompt_ids) + len(self.response_ids)

    def digest(self) -> bytes:
        """16 bytes that tell the example from others, by its ids alone."""
        prompt, response = (np.asarray(ids, "<i4") for ids in (self.prompt_ids, self.response_ids))
        head = len(prompt).to_bytes(8, "little")
        return hashlib.sha256(head + prompt.tobytes() + response.tobytes()).digest()[:16]


@dataclass
class Scores:
    """One entry for each response token, given the prompt and all earlier response tokens.

    ``logprob`` is a natural logarithm; ``rank`` is 1 + the number of tokens with a strictly
    higher logit; ``entropy``, in nats, is of the distribution that predicts the token. A backend
    that cannot give ``rank`` or ``entropy`` leaves None.
    """

    logprob: Floats
    rank: Ints | None = None
    entropy: Floats | None = None


def ignore_progress(tokens: int) -> None:
    """An ``on_tokens`` that does nothing."""


@dataclass(frozen=True)
class Job:
    """What a scorer is made for: the model, and how it is to run.

    ``longest``: tokens of the longest example that will come. ``batch_tokens``: a batch's tokens,
    None for the backend's default. ``engine`` goes to vLLM. ``url`` is a server's address.
    ``logs`` is a folder for what an engine says; None: a temporary one. ``say`` and ``warn`` hear
    what a person should know.
    """

    model: ModelRef
    dtype: str = "float32"
    device: str = "auto"
    batch_tokens: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    engines: int | None = None
    url: str | None = None
    longest: int | None = None
    logs: Path | None = None
    say: Callable[[str], None] = ignore_message
    warn: Callable[[str], None] = ignore_message


class EngineLostError(DataError):
    """The engine that was to score some examples has ended; another may take them."""


class Scorer(Protocol):
    """A loaded model that scores examples, or several alike."""

    name: str
    rank_ties: str | None  # 'excluded': tokens that tie with the target do not raise its rank

    @property
    def workers(self) -> int:
        """How many calls of `score` may be under way at once, from as many threads.

        It falls where an engine is lost, to 0 where none is left.
        """
        ...

    @property
    def engines(self) -> int:
        """How many engines there are; calls one after the other go to each in turn."""
        ...

    @property
    def context_length(self) -> int | None:
        """The most tokens an example may have; None where the model sets no limit."""
        ...

    def score(
        self, examples: Sequence[Example], on_tokens: Callable[[int], None] = ignore_progress
    ) -> list[Scores]:
        """Scores in the order given; the same examples give the same bits.

        ``on_tokens`` hears, after each batch, how many tokens (prompt and response, no padding)
        were done. DataError for an example that cannot be scored; EngineLostError where it was
        the engine that failed, and others may be left.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """How this scorer computes, for the manifest: what can change a score's last bits."""
        ...

    def versions(self) -> dict[str, str]:
        """The versions of the libraries that can change a score's last bits."""
        ...

    def close(self) -> None:
        """Free the model's memory, end what was started; calls under way fail.

        The scorer is of no use afterwards.
        """
        ...


def resolve_backend(name: str, where: str = "scoring.backend", device: str = "auto") -> str:
    """The backend that ``name`` stands for; UsageError if unknown or not installed.

    ``where`` is what the error calls the setting; ``device`` is `scoring.device`. The transformers
    backend tells itself what it lacks.
    """
    check_backend(name, where)
    if name == "auto":
        return choose_backend(device)[0]
    if name == "vllm" and installed.find_vllm() is None:
        raise UsageError(f"{where}: vLLM is not installed. Install it: {INSTALL_VLLM}")
    return name


def check_backend(name: str, where: str = "scoring.backend") -> None:
    """UsageError unless ``name`` is ``auto`` or a backend, installed or not."""
    if name != "auto" and name not in BACKENDS:
        names = ["auto", *BACKENDS]
        hint = nearest(name, names) or f" There: {listing(names)}."
        raise UsageError(f"{where}: unknown backend '{name}'.{hint}")


def choose_backend(device: str = "auto") -> tuple[str, str]:
    """What ``auto`` stands for here, and why: vLLM where it is installed and a GPU is there.

    ``device`` is `scoring.device`: where that is not a GPU, transformers it is.
    """
    vllm = installed.find_vllm()
    if vllm is None:
        return "transformers", "vLLM is not installed"
    if device.partition(":")[0] not in ("auto", "cuda"):
        return "transformers", f"scoring.device is {device}"
    if vllm.cpu:
        return "transformers", f"{vllm.label} is the build for CPUs, where transformers is quicker"
    gpus = devices.visible_gpus()
    if not gpus:
        return "transformers", f"{vllm.label} is installed, but there is no GPU to be used"
    more = f" and {len(gpus) - 1} more" if len(gpus) > 1 else ""
    return "vllm", f"{vllm.label} is installed and there is a GPU: {gpus[0].name}{more}"


def load_scorer(backend: str, model: ModelRef, **settings: Any) -> Scorer:
    """Load ``model`` with ``backend`` (a name or ``auto``); ``settings`` are the fields of `Job`.

    UsageError for a wrong argument, a missing extra or a model that cannot be loaded.
    """
    found = resolve_backend(backend, device=settings.get("device", "auto"))
    module, _, function = BACKENDS[found].partition(":")
    load: Callable[[Job], Scorer] = getattr(importlib.import_module(module), function)
    return load(Job(model, **settings))


def check_scores(example: Example, scores: Scores, where: str) -> Scores:
    """``scores``, once checked against ``example``; values rounded past zero are set to zero.

    DataError, in which ``where`` names the example, for a wrong number of scores and for values
    that are not finite or out of range. Called for every example whatever the backend: a score that
    is wrong and does not show it is worse than none.
    """
    wanted = len(example.response_ids)
    for name in ("logprob", "rank", "entropy"):
        values = getattr(scores, name)
        if values is not None and values.shape != (wanted,):
            raise DataError(
                f"{where}: the backend returned {len(values)} values of {name} for {wanted} "
                "response tokens: this is a fault of the backend, try `scoring.backend: "
                "transformers` and report it."
            )
    logprob = _clamped(scores.logprob, "logprob", where, below=True)
    entropy = scores.entropy
    if entropy is not None:
        entropy = _clamped(entropy, "entropy", where, below=False)
    if scores.rank is not None and wanted and int(scores.rank.min()) < 1:
        at = int(scores.rank.argmin())
        raise DataError(
            f"{where}: rank {int(scores.rank[at])} at response token {at}, ranks begin at 1: "
            "this is a fault of the backend, try `scoring.backend: transformers` and report it."
        )
    return Scores(logprob, scores.rank, entropy)


def _clamped(values: Floats, name: str, where: str, *, below: bool) -> Floats:
    """``values`` (n) clamped to one side of zero; DataError if not finite or far on the other."""
    finite = np.isfinite(values)
    if not finite.all():
        at = int(finite.argmin())
        raise DataError(
            f"{where}: {name} {values[at]} at response token {at}. The model overflows or its "
            "weights are damaged: try `model.dtype: float32`, or fetch the model again."
        )
    wrong = values > ROUNDING if below else values < -ROUNDING
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(
            f"{where}: {name} {values[at]} at response token {at} has the wrong sign: this is a "
            "fault of the backend, try `scoring.backend: transformers` and report it."
        )
    return np.minimum(values, np.float32(0)) if below else np.maximum(values, np.float32(0))
