"""A forward pass in the middle of a training that leaves the training as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def eval_mode_preserving_rng(model: Any) -> Iterator[None]:
    """The model in evaluation mode, without gradients; afterwards it, and every source of random
    numbers, are as they were.
    """
    training = [module for module in model.modules() if module.training]
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model.eval()
            yield
    finally:
        for module in training:
            module.training = True
        random.setstate(states[0])
        np.random.set_state(states[1])
