"""From hidden states to logits: the output head, alone where the model does no more than that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pausedata.scorers.packed import PackedLinear, can_pack
from pausedata.scorers.sizes import PACK_BYTES

# Hidden states (rows, size) to float32 logits (rows, vocabulary), valid until the next call.
Head = Callable[[torch.Tensor], torch.Tensor]

# Scaling hidden states up makes a soft cap show that ordinary logits would hardly reach.
_LOUD = 50.0


class LinearHead:
    """The model's output matrix by itself, computing in float32."""

    def __init__(self, linear: torch.nn.Linear, max_rows: int) -> None:
        weight = linear.weight
        self._packed = None
        if can_pack(linear) and weight.nbytes <= PACK_BYTES:
            self._packed = PackedLinear(linear)
            return
        # Half-precision logits would throw away what the model knows: 8 bits of a bfloat16 are a
        # step of 0.06 at a logit of 10. A GPU multiplies halves and adds up in float32; a CPU,
        # which does halves slowly in any case, gets a float32 copy.
        self._mixed = weight.device.type == "cuda" and weight.dtype != torch.float32
        self._weight = weight if self._mixed else weight.float()
        self._bias = None if linear.bias is None else linear.bias.float()
        # Kept between calls: fresh pages for each block of logits would cost several per cent.
        self._room = torch.empty(max_rows, len(weight), dtype=torch.float32, device=weight.device)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of at most ``max_rows`` rows."""
        if self._packed is not None:
            return self._packed(hidden)
        logits = self._room[: len(hidden)]
        if self._mixed:
            torch.mm(hidden, self._weight.t(), out_dtype=torch.float32, out=logits)
        else:
            torch.mm(hidden.float(), self._weight.t(), out=logits)
        return logits if self._bias is None else logits.add_(self._bias)


class ModelHead:
    """The model's own forward with its body replaced by the hidden states that are there already.

    So whatever the model does to logits, soft-capping or scaling, happens, and yet only the rows
    that are wanted go through the head.
    """

    def __init__(self, model: Any, output_type: Callable[..., Any]) -> None:
        self._model = model
        self._output_type = output_type

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of any number of rows."""
        body = self._model.base_model
        given = self._output_type(last_hidden_state=hidden[None])
        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        before = vars(body).get("forward")  # that something else put on the instance
        body.forward = lambda *_, **__: given  # the class's own comes back below
        try:
            return self._model(input_ids=ids, use_cache=False).logits[0].float()
        finally:
            del body.forward
            if before is not None:
                body.forward = before


def vocabulary_of(model: Any) -> int:
    """The rows of the embedding, also where peft has put something around it."""
    layer = model.get_input_embeddings()
    return int(getattr(layer, "original_module", layer).num_embeddings)


def model_head(model: Any) -> ModelHead | None:
    """The model's own head on hidden states; None where that differs from the whole forward.

    Compared on a probe. Gradients go through it, as through the model's forward.
    """
    found = _head_and_probe(model)
    return None if found is None else found[0]


def choose_head(model: Any, max_rows: int) -> Head | None:
    """The quickest head that gives the model's own logits on a probe; None where none does.

    None means that logits can only come from the model's whole forward.
    """
    found = _head_and_probe(model)
    if found is None:
        return None
    (own, hidden), linear = found, model.get_output_embeddings()
    # Only of a plain matrix is it known what it computes: one that is quantised is no Linear.
    if type(linear) is not torch.nn.Linear:
        return own
    try:
        alone = LinearHead(linear, max_rows)
        same = all(_close(alone(x), own(x), _within(model)) for x in (hidden, hidden * _LOUD))
    except (TypeError, NotImplementedError):  # a torch without out_dtype
        return own
    return alone if same else own


def _head_and_probe(model: Any) -> tuple[ModelHead, torch.Tensor] | None:
    """The model's own head, and the hidden states (rows, size) that it was tried on."""
    body, size = model.base_model, vocabulary_of(model)
    ids = torch.linspace(1, size - 1, 8, device=model.device).long()[None]
    try:
        if body is model:
            return None
        outputs = body(input_ids=ids, use_cache=False)
        hidden = outputs.last_hidden_state[0]
        own = ModelHead(model, type(outputs))
        logits = model(input_ids=ids, use_cache=False).logits[0]
        return (own, hidden) if _close(own(hidden), logits, _within(model)) else None
    except (AttributeError, TypeError, ValueError, NotImplementedError):
        return None  # a model of an unusual build; its whole forward is always right


def _within(model: Any) -> float:
    """How far roundings may move a logit, as a part of the largest."""
    return 1e-4 if model.dtype == torch.float32 else 3e-2


def _close(ours: torch.Tensor, theirs: torch.Tensor, within: float) -> bool:
    """Whether logits (rows, vocabulary) differ by at most ``within`` of the largest."""
    if ours.shape != theirs.shape:
        return False
    difference = (ours - theirs.float()).abs().max()
    return bool(difference <= within * theirs.float().abs().max().clamp_min(1e-3))
