"""A linear layer with its weights laid out once for oneDNN's matrix product.

A plain layer on a CPU lays its weights out anew at every call; for the head, which is called for
each block of positions, doing it once is quicker. The layers of the model's body stay plain: packed
ones are quicker too, but add up in another order, and moved single scores of real examples by up
to 1.1e-4 from a plain float32 forward, beyond the promised 1e-4. These operators are what torch's
own compiler emits; where a build of torch lacks them, the head stays plain.
"""

from __future__ import annotations

from typing import Any

import torch

# oneDNN picks a layout for about this many rows; any number of rows can be multiplied after.
_ROWS = 1024


class PackedLinear(torch.nn.Module):
    """Computes what ``linear`` (float32, on a CPU) does, for inference only."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Neither parameter nor buffer: a packed tensor can be neither saved nor moved.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        return torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, "none", [], "")


def can_pack(linear: Any) -> bool:
    """Whether ``linear`` is a plain layer in float32 on a CPU, and this torch can pack it."""
    return (
        type(linear) is torch.nn.Linear
        and linear.weight.device.type == "cpu"
        and linear.weight.dtype == torch.float32
        and _works()
    )


_known: list[bool] = []


def _works() -> bool:
    """Whether this torch packs, and then computes, a small layer rightly; tried once."""
    if not _known:
        # Weights that are not drawn: loading a model must not move the user's random state.
        layer: Any = torch.nn.utils.skip_init(torch.nn.Linear, 48, 40, bias=False)
        layer.weight.data = torch.linspace(-9, 9, 40 * 48).sin().reshape(40, 48)
        inputs = torch.linspace(-1, 1, 3 * 5 * 48).reshape(3, 5, 48)
        try:
            with torch.no_grad():
                difference = (PackedLinear(layer)(inputs) - layer(inputs)).abs().max()
            _known.append(torch.backends.mkldnn.is_available() and bool(difference < 1e-5))
        except (AttributeError, RuntimeError, NotImplementedError):
            _known.append(False)
    return _known[0]
