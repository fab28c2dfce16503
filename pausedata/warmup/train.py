"""A short fine-tuning of a causal language model, and the adapter or model that comes of it."""

from __future__ import annotations

import json
import math
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pausedata.core.errors import DataError, UsageError, missing_extra

try:
    import torch
    import transformers
except ImportError as error:
    raise missing_extra("torch and transformers", "transformers", "A warm-up") from error

from pausedata.core.progress import Progress
from pausedata.models.adapter import CONFIG
from pausedata.models.cache import in_cache, load_tokenizer, save_tokenizer
from pausedata.models.load import is_out_of_memory, load_model, torch_device
from pausedata.models.ref import ModelRef, quiet
from pausedata.scorers import Example
from pausedata.scorers.heads import vocabulary_of
from pausedata.store.files import write_json
from pausedata.warmup.loss import ResponseLoss
from pausedata.warmup.refused import no_peft, quantised
from pausedata.warmup.settings import ALPHA, ROWS_A_STEP, Warmup

CLIP = 1.0  # the most that the norm of a step's gradient may be
RISE = 0.1  # of the steps, in which the learning rate rises to what is set
_DETAILS = 8  # lines that tell of the loss meanwhile


@dataclass(frozen=True)
class Outcome:
    """What a training did: losses are means over response tokens, in nats.

    ``loss_first`` and ``loss_last`` are of the first and the last step, before its update;
    ``loss_before`` and ``loss_after`` of the rows held out. ``tokens``: of prompts and responses
    that were trained on, in each epoch.
    """

    steps: int
    tokens: int
    loss_first: float
    loss_last: float
    loss_before: float
    loss_after: float
    seconds: float
    device: str
    batch_tokens: int
    versions: dict[str, str]

    def facts(self) -> dict[str, Any]:
        """For a record, with losses and seconds rounded."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def train(
    model: ModelRef,
    settings: Warmup,
    rows: Sequence[Example],
    held_out: Sequence[Example],
    out: Path,
    *,
    dtype: str,
    device: str,
    title: str,
    progress: Progress,
) -> Outcome:
    """Fine-tune ``model`` on ``rows`` and write what comes of it to the folder ``out``.

    For lora an adapter as PEFT saves it, for full a model with its tokenizer, in ``dtype``. The
    same arguments give the same bytes on the same machine; nobody's random numbers are touched.
    ``title`` names the progress step. UsageError for a model that cannot be trained or does not
    fit, DataError for a loss that is not finite.
    """
    where = torch_device(device)
    begun = time.monotonic()
    try:
        with _reproducible(where, settings.seed):
            loaded = load_model(in_cache(model, progress.say), _computed_in(settings, dtype), where)
            if model.kind != "gguf" and getattr(loaded, "hf_quantizer", None) is not None:
                raise quantised(model.name)
            _check_ids(loaded, [*rows, *held_out], model)
            trained, weights = _trainable(loaded, settings, model)
            total = settings.epochs * _tokens(rows) + 2 * _tokens(held_out)
            with progress.step(title, total, "tokens") as advance, _mixed(settings, dtype, where):
                loss = ResponseLoss(loaded, settings.tokens_at_once(where.type), advance)
                before = _finite(loss.mean(held_out), "before the warm-up", model, settings)
                losses = _fit(loss, weights, rows, settings, model, progress)
                after = _finite(loss.mean(held_out), "after the warm-up", model, settings)
            _save(trained, model, settings, dtype, out)
    except Exception as error:
        if is_out_of_memory(error):
            raise _out_of_memory(model, settings, where) from error
        raise
    return Outcome(
        steps=len(losses),
        tokens=_tokens(rows),
        loss_first=losses[0],
        loss_last=losses[-1],
        loss_before=before,
        loss_after=after,
        seconds=time.monotonic() - begun,
        device=where.type,
        batch_tokens=settings.tokens_at_once(where.type),
        versions=_versions(settings),
    )


def _check_ids(loaded: Any, rows: Sequence[Example], ref: ModelRef) -> None:
    """DataError for token ids that the model has no embedding of."""
    size = vocabulary_of(loaded)
    highest = max(int(np.max(ids)) for row in rows for ids in (row.prompt_ids, row.response_ids))
    if highest >= size:
        raise DataError(
            f"{ref.name}: a row has token id {highest}, the model's ids are below {size}: were the "
            "tokens made with another model's tokenizer?"
        )


def _computed_in(settings: Warmup, dtype: str) -> torch.dtype:
    """What the weights are held in while training.

    All weights are trained in float32: a step is less than a bfloat16 resolves. float16 overflows
    in gradients.
    """
    half = dtype == "bfloat16" and settings.method == "lora"
    return torch.bfloat16 if half else torch.float32


@contextmanager
def _mixed(settings: Warmup, dtype: str, device: torch.device) -> Iterator[None]:
    """Matrix products in bfloat16 where all weights are trained for that type."""
    wanted = dtype == "bfloat16" and settings.method == "full"
    # Without its cache, in which weights would stay as they were before the first step.
    with torch.autocast(device.type, torch.bfloat16, enabled=wanted, cache_enabled=False):
        yield


@contextmanager
def _reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers from ``seed``, and kernels that add up in a fixed order; all as before after.

    A CPU's kernels are so in any case, for a number of threads.
    """
    devices = [device] if device.type == "cuda" else []
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        if device.type != "cpu":
            # Where there is no such kernel, last bits may differ: that stops nobody.
            warnings.filterwarnings("ignore", message=".*deterministic")
            torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            torch.manual_seed(seed)
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=only_warns)


def _trainable(loaded: Any, settings: Warmup, ref: ModelRef) -> tuple[Any, list[Any]]:
    """What is saved in the end, and the weights that are trained; ``loaded`` is altered.

    It stays in evaluation mode: dropout would only make a short training less sure.
    """
    if settings.method == "full":
        weights = [weight.requires_grad_() for weight in loaded.parameters()]
        return loaded, weights
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise no_peft() from error
    head = loaded.get_output_embeddings()
    if not any(_is_linear(module) and module is not head for module in loaded.modules()):
        raise UsageError(
            f"{ref.name} has no linear layers, which LoRA is put on: train all of its weights "
            "with `method: full`, or score without a warm-up (`warmup: false`)."
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=ALPHA * settings.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        revision=ref.revision,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about layers that are stored the other way round
        adapted: Any = get_peft_model(loaded, config)
    adapted.eval()
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    return adapted, weights


def _is_linear(module: Any) -> bool:
    return isinstance(module, (torch.nn.Linear, transformers.pytorch_utils.Conv1D))


def _fit(
    loss: ResponseLoss,
    weights: list[Any],
    rows: Sequence[Example],
    settings: Warmup,
    ref: ModelRef,
    progress: Progress,
) -> list[float]:
    """Train ``weights``; the loss of each step, before its update."""
    steps = list(_steps(len(rows), settings))
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    for number, step in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * slope(number, len(steps))
        value = loss.backward([rows[i] for i in step])
        losses.append(_finite(value, f"at step {number + 1}", ref, settings))
        norm = float(torch.nn.utils.clip_grad_norm_(weights, CLIP))
        _finite(norm, f"at step {number + 1}", ref, settings, what="gradient's norm")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (number + 1) % max(1, len(steps) // _DETAILS) == 0:
            progress.detail(f"step {number + 1} of {len(steps)}: loss {value:.3f}")
    return losses


def _steps(rows: int, settings: Warmup) -> Iterator[list[int]]:
    """Which rows each step takes: every row once an epoch, in an order of the epoch's own."""
    for epoch in range(settings.epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(rows).tolist()
        for start in range(0, rows, ROWS_A_STEP):
            yield order[start : start + ROWS_A_STEP]


def slope(step: int, steps: int) -> float:
    """The part of the learning rate at a step (from 0): it rises, then falls to near zero."""
    rise = max(1, round(RISE * steps))
    if step < rise:
        return (step + 1) / rise
    return (steps - step) / (steps - rise + 1)


def _finite(value: float, when: str, ref: ModelRef, settings: Warmup, what: str = "loss") -> float:
    """``value``; DataError where it is none."""
    if math.isfinite(value):
        return value
    raise DataError(
        f"{ref.name}: the {what} is {value} {when}: lower `warmup.lr` (now "
        f"{settings.learning_rate:g}), try `model.dtype: float32`, or score without a warm-up "
        "(`warmup: false`)."
    )


def _save(trained: Any, ref: ModelRef, settings: Warmup, dtype: str, out: Path) -> None:
    """Write the adapter, or the model with its tokenizer, to ``out``."""
    if settings.method == "full":
        with quiet():
            trained.to(getattr(torch, dtype)).save_pretrained(out)
        if not save_tokenizer(load_tokenizer(ref), out, ref.name):
            raise UsageError(
                f"{ref.name}: its tokenizer cannot be saved beside the trained weights: use "
                "`method: lora`, which needs none."
            )
        return
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a base whose configuration it does not find
        trained.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's template, which names the base's folder
    path = out / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = ref.name
    if isinstance(config.get("target_modules"), list):  # a set, in the order of its hashes
        config["target_modules"].sort()
    write_json(path, dict(sorted(config.items())))


def _tokens(rows: Sequence[Example]) -> int:
    return sum(map(len, rows))


def _versions(settings: Warmup) -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
    if settings.method == "lora":
        import peft

        found["peft"] = peft.__version__
    return found


def _out_of_memory(ref: ModelRef, settings: Warmup, device: torch.device) -> UsageError:
    tokens = settings.tokens_at_once(device.type)
    todo = ["a smaller model", "another `scoring.device`"]
    if settings.method == "full":
        todo.insert(0, "`method: lora`")
    return UsageError(
        f"{ref.name}: the warm-up ran out of memory on {device}: lower `warmup.batch_tokens` (now "
        f"{tokens}), or try {', '.join(todo[:-1])} or {todo[-1]}."
    )
