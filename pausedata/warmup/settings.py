"""The settings of a warm-up, as a recipe or the command line gives them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pausedata.core.options import NO_LIMIT

# By method; measured with SmolLM2-135M on GSM8K.
DEFAULT_LR = {"lora": 1e-3, "full": 3e-5}
# Padded tokens that go through the model at once in training, by kind of device: what they leave
# for the gradient is most of the memory.
DEFAULT_BATCH_TOKENS = {"cpu": 1024, "cuda": 2048}
ROWS_A_STEP = 8
ALPHA = 2  # of the adapter, in ranks: what its product is multiplied by


class Warmup(BaseModel):
    """A short fine-tuning on rows of the corpus, before it scores those that it has not seen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(
        default=256,
        ge=16,
        le=NO_LIMIT,
        description="rows that each fold's model trains on, at most",
    )
    epochs: int = Field(default=1, ge=1, le=100)
    folds: int = Field(
        default=2, ge=2, le=8, description="each is scored by a model that trained on the others"
    )
    method: Literal["lora", "full"] = Field(
        default="lora", description="a LoRA adapter on all linear layers, or all weights"
    )
    rank: int = Field(default=16, ge=1, le=1024, description="of the LoRA adapter")
    lr: float | None = Field(
        default=None, gt=0, le=1, description="null: 1e-3 for lora, 3e-5 for full"
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="padded tokens at once; a step is always 8 rows, cut up by this",
    )
    seed: int = Field(default=0, ge=0, le=NO_LIMIT)
    keep: str | None = Field(
        default=None, min_length=1, description="a folder for the warmed models"
    )

    @property
    def learning_rate(self) -> float:
        """The highest learning rate, which the first steps rise to and the others fall from."""
        return DEFAULT_LR[self.method] if self.lr is None else self.lr

    def tokens_at_once(self, device: str) -> int:
        """Padded tokens that go through the model at once on a kind of device."""
        return self.batch_tokens or DEFAULT_BATCH_TOKENS.get(device, DEFAULT_BATCH_TOKENS["cpu"])

    def identity(self) -> dict[str, Any]:
        """What decides the warmed weights, but for last bits; JSON-able.

        ``batch_tokens`` only cuts a step up and ``keep`` only copies; neither is in it.
        """
        given = {
            "rows": self.rows,
            "epochs": self.epochs,
            "folds": self.folds,
            "method": self.method,
            "lr": self.learning_rate,
            "rows_a_step": ROWS_A_STEP,
            "seed": self.seed,
        }
        lora = {"rank": self.rank, "alpha": ALPHA * self.rank}
        return given | (lora if self.method == "lora" else {})
