"""A model with the pause in it, what it generates, and where its pauses are due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pausedata.inference import PauseLogitsProcessor, PauseParams
from pausedata.inference.decide import PauseDecision, PauseState, is_unsure
from pausedata.models.prepare import prepare_model
from pausedata.models.ref import ModelRef
from pausedata.models.tokenizer import Pieces

CLOSE = 1e-4  # batches and engines move a probability by less


def prepared(model: Path, out: Path) -> Pausing:
    """A model with the pause added to it, in the folder ``out``."""
    prepare_model(ModelRef.parse(str(model), None, Path()), out)
    return Pausing(out)


class Pausing:
    """A model with the pause, its tokenizer, and what it generates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.pause = int(self.tokenizer.convert_tokens_to_ids("[PAUSE]"))

    def encode(self, prompts: list[str]) -> Any:
        return self.tokenizer(prompts, return_tensors="pt", padding=True)

    def generate(
        self, prompts: list[str], processor: Any = None, length: int = 32, **options: Any
    ) -> list[list[int]]:
        """The new ids of every row, up to and without its end of sequence."""
        inputs = self.encode(prompts)
        made = self.model.generate(
            **inputs,
            **({"do_sample": False, "max_new_tokens": length} | options),
            logits_processor=[processor] if processor else None,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        rows = made[:, inputs["input_ids"].shape[1] :].tolist()
        end = self.tokenizer.eos_token_id
        return [row[: row.index(end)] if end in row else row for row in rows]

    def processor(self, threshold: float = 0.5, **options: Any) -> PauseLogitsProcessor:
        return PauseLogitsProcessor(self.tokenizer, threshold, **options)

    def expected(self, prompt: str, row: list[int], params: PauseParams) -> list[bool]:
        """Where a pause is due in ``row``: from one forward pass over it, without the processor.

        Within ``CLOSE`` of a threshold rounding decides: there it is where the row has one.
        """
        start = self.tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            logits = self.model(torch.tensor([start + row])).logits[0, len(start) - 1 : -1]
        probabilities = logits.double().softmax(-1)
        others = probabilities.clone()
        others[:, self.pause] = 0
        logs = probabilities.clamp_min(1e-300).log()
        entropies = -(probabilities * logs).sum(-1)
        pieces, answer, due = Pieces(self.tokenizer), PauseState(params), []
        for k, token in enumerate(row):
            highest, entropy = float(others[k].max()), float(entropies[k])
            unsure = is_unsure(params, highest, entropy)
            limits = (params.threshold, highest), (params.entropy_threshold or 0, entropy)
            if any(abs(limit - found) < CLOSE for limit, found in limits):
                unsure = token == self.pause
            verdict = answer.verdict
            due.append(
                verdict is PauseDecision.ALWAYS or (verdict is PauseDecision.IF_UNSURE and unsure)
            )
            if token == self.pause:
                answer.add_pause()
            else:
                answer.add_token(pieces[token])
        return due

    def check(self, prompt: str, row: list[int], **params: Any) -> int:
        """The row has its pauses just where they are due; how many."""
        pauses = [token == self.pause for token in row]
        assert pauses == self.expected(prompt, row, PauseParams(**params))
        return sum(pauses)
