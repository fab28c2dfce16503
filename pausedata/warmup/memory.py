"""How much memory and time a warm-up takes, from headers and configuration alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pausedata.core.errors import UsageError
from pausedata.core.system_memory import readable
from pausedata.models.shape import Shape, model_shape
from pausedata.scorers import Job
from pausedata.scorers.memory import layout
from pausedata.scorers.sizes import LOGITS_BYTES
from pausedata.warmup.folds import HELD_OUT_ROWS
from pausedata.warmup.settings import Warmup

if TYPE_CHECKING:
    from pausedata.models.ref import ModelRef

# Python, torch, transformers and PEFT.
_LIBRARIES = 600 << 20
# Numbers that a layer keeps of a token for the gradient, in hidden and intermediate sizes, as
# counted in SmolLM2 (with LoRA a tenth fewer).
_KEPT_HIDDEN, _KEPT_INTERMEDIATE = 9, 4
# Logits, their float32 copy, their softmax and its gradient.
_LOGITS_COPIES = 4
_USUAL_ROW = 512  # tokens, where nobody knows the longest
# What a token of training costs, in tokens that are scored: measured with SmolLM2 on a CPU.
_COST = {"lora": 2.6, "full": 3.5}


def trained_parameters(shape: Shape, settings: Warmup) -> int:
    """How many weights are trained: all, or those of an adapter on every layer's seven matrices."""
    if settings.method == "full":
        return shape.parameters
    hidden, inner = shape.hidden, shape.intermediate
    keys = shape.kv // (2 * shape.layers)
    sides = [(hidden, hidden)] * 2 + [(hidden, keys)] * 2 + [(hidden, inner)] * 3
    return settings.rank * shape.layers * sum(a + b for a, b in sides)


def bytes_needed(
    shape: Shape, settings: Warmup, dtype: str, *, batch_tokens: int, longest: int, device: str
) -> dict[str, int]:
    """Bytes by what they are: weights, what training adds to them, activations, logits, libraries.

    ``batch_tokens``: padded tokens at once; ``longest``: tokens of the longest row, which is a
    batch of its own where it is longer. ``device``: cpu or cuda.
    """
    half = dtype == "bfloat16"
    # In float32 but for the base of an adapter: see `pausedata.warmup.train`.
    weight = 2 if half and settings.method == "lora" else 4
    trained = trained_parameters(shape, settings)
    tokens = max(batch_tokens, longest)
    layer = _KEPT_HIDDEN * shape.hidden + _KEPT_INTERMEDIATE * shape.intermediate
    row = 4 * shape.vocabulary
    rows = max(1, LOGITS_BYTES.get(device, LOGITS_BYTES["cpu"]) // row)
    adapter = 4 * trained if settings.method == "lora" else 0
    return {
        "weights": weight * shape.parameters + adapter,
        "gradients and optimizer": (4 + 8) * trained,
        "activations": (2 if half else 4) * tokens * shape.layers * layer,
        "logits": _LOGITS_COPIES * rows * row,
        "libraries": _LIBRARIES,
    }


def check(
    model: ModelRef, settings: Warmup, dtype: str, device: str, longest: int | None = None
) -> dict[str, int] | None:
    """`bytes_needed` on the device that ``device`` stands for; None where the sizes are unknown.

    UsageError, with the numbers, where there is not so much. ``longest`` None: some 512 tokens.
    """
    shape = model_shape(model)
    if shape is None:
        return None
    place = layout("transformers", Job(model, dtype=dtype, device=device))
    tokens = settings.tokens_at_once(place.kind)
    parts = bytes_needed(
        *(shape, settings, dtype),
        batch_tokens=tokens,
        longest=longest or _USUAL_ROW,
        device=place.kind,
    )
    total = sum(parts.values())
    if place.most is None or not shape.certain or total <= place.most:
        return parts
    todo = [f"a lower `warmup.batch_tokens` (now {tokens})"]
    todo += ["`method: lora`"] if settings.method == "full" else []
    todo += ["`model.dtype: bfloat16`"] if dtype == "float32" else []
    weights = parts["weights"] + parts["gradients and optimizer"]
    raise UsageError(
        f"{model.name}: its warm-up takes {readable(total)} ({readable(weights)} of them weights, "
        f"gradients and optimizer), and {readable(place.most)} are there. Try "
        f"{', '.join([*todo, 'a smaller model'])} or no warm-up (`warmup: false`)."
    )


def scoring_tokens(settings: Warmup, tokens_a_row: float, rows: int) -> int:
    """The work of all folds' training, in tokens that are scored in the same time on the device.

    ``rows``: those of the split that is trained on; ``tokens_a_row``: prompt and response.
    """
    elsewhere = rows * (settings.folds - 1) // settings.folds
    trained = settings.epochs * min(settings.rows, elsewhere) * _COST[settings.method]
    measured = 2 * min(HELD_OUT_ROWS, rows // settings.folds)
    return round(settings.folds * (trained + measured) * tokens_a_row)
