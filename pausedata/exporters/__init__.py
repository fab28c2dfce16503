"""Exports: placements written as trainers read them. Each format is registered with its options.

`get` finds a format, `export_rows.ExportRows` makes its rows, `trainers` checks what a trainer has
in its tensors. A format is a file here; `base` says what one is.
"""

from __future__ import annotations

from typing import Any

from pausedata.core.registry import Registry
from pausedata.exporters import (
    alpaca,
    axolotl,
    hf_disk,
    messages,
    prompt_completion,
    sharegpt,
    shifted,
    swift,
    tokenized,
)
from pausedata.exporters.base import Format, Options
from pausedata.exporters.sequences import Sequences, insert_pauses

__all__ = [
    "Format",
    "Options",
    "Sequences",
    "describe",
    "get",
    "insert_pauses",
    "names",
    "origin",
    "own",
    "parse",
    "plugins",
    "recorded",
]

_registry = Registry(
    "format",
    [
        tokenized.FORMAT,
        hf_disk.FORMAT,
        shifted.FORMAT,
        axolotl.SEGMENTS,
        axolotl.CHAT,
        swift.FORMAT,
        prompt_completion.FORMAT,
        messages.FORMAT,
        alpaca.FORMAT,
        sharegpt.FORMAT,
    ],
    group="pausedata.exporters",
    accepts=Format,
    base=Options,
)
names = _registry.names
own = _registry.own
plugins = _registry.plugins
origin = _registry.origin
get = _registry.get

_INPUTS = {"format", "options", "placement", "placement_content", "tokens", "pause", "split"}


def parse(format: Format, values: dict[str, Any], where: str) -> Options:
    """``values`` as the format's typed options; UsageError begins with ``where``."""
    return _registry.parse(format, values, where)


def describe(name: str) -> dict[str, Any]:
    """What the format ``name`` says of itself, JSON-able, with the trainers that read it."""
    format = get(name)
    return _registry.describe(name) | {
        "readers": format.readers,
        "loss": format.loss,
        "pause_label_masked": format.pause_label_masked,
    }


def recorded(inputs: dict[str, Any]) -> tuple[Format, Options] | None:
    """The format and options of a stored export, from its provenance's ``inputs``.

    None where a later release made it, in a way that this one does not know.
    """
    return _registry.recorded(inputs, _INPUTS, "options")
