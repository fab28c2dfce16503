"""How a trainer is described, so that its tensors can be checked against an export."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pausedata.exporters.base import Format
from pausedata.exporters.reader import Reader

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class TensorRow(NamedTuple):
    """One example as a trainer has it, without padding; labels unshifted, -100: no loss."""

    input_ids: list[int]
    labels: list[int]


class Finding(NamedTuple):
    """The result of something else that was tried."""

    what: str
    holds: bool
    found: str = ""


@dataclass(frozen=True)
class TrainerInput:
    """What a trainer is given to load: one split of an export."""

    format: Format
    options: Any
    path: Path  # what the export's layout tells a trainer to read
    split: str  # as the export calls it
    reader: Reader  # the tokenizer, with the pause added
    longest: int  # tokens of the longest row
    scratch: Path  # an empty folder

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """With the pause added, and something to pad with."""
        tokenizer = self.reader.tokenizer.hf
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or self.reader.pause
        return tokenizer

    @property
    def packed(self) -> bool:
        """Whether rows are several examples each."""
        return bool(getattr(self.options, "pack", None))

    def model(self) -> PreTrainedModel:
        """A tiny random model for one training step; its vocabulary has the pause."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        with torch.random.fork_rng():
            torch.manual_seed(0)
            return LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=max(len(self.tokenizer), self.reader.pause_id + 1),
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    max_position_embeddings=max(self.longest, 16),
                    tie_word_embeddings=True,
                )
            )

    @cached_property
    def model_folder(self) -> Path:
        """The same as a folder, with the tokenizer."""
        folder = self.scratch / "model"
        self.model().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder

    def rows(self) -> Any:
        """The export's rows as a ``datasets.Dataset``, as its README loads them."""
        import datasets

        if self.path.is_dir():
            return datasets.load_from_disk(str(self.path))[self.split]
        cache = str(self.scratch / "cache")
        return datasets.load_dataset(
            "json", data_files=str(self.path), split="train", cache_dir=cache
        )


@dataclass(frozen=True)
class LoadPath:
    """One way in which a trainer can be told to read an export."""

    name: str
    load: Callable[[TrainerInput], Iterable[TensorRow | Finding]]
    ordered: bool = True  # else its rows come in an order of its own
    applies: Callable[[TrainerInput], bool] = lambda given: True


@dataclass(frozen=True)
class Trainer:
    """A trainer, the formats of export that it reads, and the ways to try."""

    name: str
    packages: tuple[str, ...]  # distributions, the trainer's own first
    formats: tuple[str, ...]
    ways: tuple[LoadPath, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  # set before it is imported


def unpadded(batch: Mapping[str, Any]) -> Iterable[TensorRow]:
    """The examples of a batch of tensors: padding cut off, packed rows taken apart.

    By ``position_ids`` where there is no ``attention_mask``, which then begin at 0 in each example.
    """
    columns = (batch[name].tolist() for name in ("input_ids", "labels"))
    mask, positions = batch.get("attention_mask"), batch.get("position_ids")
    for k, (ids, labels) in enumerate(zip(*columns, strict=True)):
        if mask is not None:
            keep = mask[k].bool().tolist()
            yield TensorRow(
                [token for token, kept in zip(ids, keep, strict=True) if kept],
                [label for label, kept in zip(labels, keep, strict=True) if kept],
            )
        else:
            assert positions is not None, "neither a mask nor positions"
            yield from cut(ids, labels, positions[k].tolist())


def cut(ids: list[int], labels: list[int], positions: list[int]) -> Iterable[TensorRow]:
    """A packed row's examples, each of which begins where ``positions`` is 0."""
    starts = [k for k, position in enumerate(positions) if position == 0]
    for first, last in zip(starts, [*starts[1:], len(ids)], strict=True):
        yield TensorRow(ids[first:last], labels[first:last])


def one_step(trainer: Any) -> Finding:
    """One step of its optimiser: is the loss a finite number?"""
    loss = trainer.train().training_loss
    return Finding("a step of training, its loss finite", math.isfinite(loss), f"{loss:.4g}")
