"""The callback for transformers' ``Trainer`` and TRL: placements that follow the model."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from pausedata.core.errors import UsageError
from pausedata.core.progress import Progress, Silent
from pausedata.store.dataset import open_version
from pausedata.training.eval_mode import eval_mode_preserving_rng
from pausedata.training.refresh import TrainingState, refresh, refreshable
from pausedata.training.rows import PlacedRows


class RefreshPlacement(TrainerCallback, ExportableState):
    """Scores the dataset with the current weights, commits, and goes on with the new rows.

    After each epoch, or every so many steps, the dataset gets a version with the run ``epoch-K``
    (``step-N``) and the placement ``PLACEMENT-epoch-K``, made as the first one was. The rows are
    exchanged in place. A training that is resumed from one of the trainer's checkpoints takes up
    the placement that belongs to it.
    """

    def __init__(
        self,
        rows: PlacedRows,
        every: str | int = "epoch",
        *,
        sample: int | None = None,
        seed: int = 0,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """``rows`` is the trainer's ``train_dataset``. ``every``: ``epoch``, or a number of steps.

        ``sample``: score so many examples, chosen by ``seed``; the others keep the scores that the
        first placement was made from. ``batch_tokens``: padded tokens of a batch in scoring.
        UsageError for a placement that no scores decide.
        """
        if every != "epoch" and not (isinstance(every, int) and every > 0):
            raise UsageError(f"every={every!r}: give 'epoch' or a number of steps.")
        if sample is not None and sample < 1:
            raise UsageError(f"sample={sample}: give a number of examples above 0, or None.")
        refreshable(open_version(rows.root), rows.placement)
        self.rows, self.every = rows, every
        self._first = rows.placement
        self._settings = {"sample": sample, "seed": seed, "batch_tokens": batch_tokens}
        self._progress = progress or Silent()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what cannot work; of a training that goes on take up its placement."""
        if args.world_size > 1:
            raise UsageError(
                "RefreshPlacement scores in one process, and this training has "
                f"{args.world_size}. Score between epochs instead: `pausedata score`, `place`."
            )
        if args.dataloader_num_workers and (
            args.dataloader_persistent_workers or self.every != "epoch"
        ):
            raise UsageError(
                "dataloader workers keep the rows that they started with: set "
                "dataloader_num_workers=0, or refresh every epoch without persistent workers."
            )
        learns_prompts = getattr(kwargs.get("model"), "active_peft_config", None)
        if getattr(learns_prompts, "is_prompt_learning", False):
            raise UsageError(
                "RefreshPlacement scores the model's own weights, and a learned prompt is none of "
                "them: positions would not be those of what is trained. Use LoRA, or no callback."
            )
        if not state.global_step or state.global_step < state.max_steps:
            self._take_up(state, kwargs.get("model"))

    def _take_up(self, state: TrainerState, model: Any) -> None:
        """The rows that a training begins with, or goes on with from a checkpoint."""
        name = self._name_at(state) if state.global_step else None
        wanted = self._first if name is None else f"{self._first}-{name}"
        callbacks: Any = state.stateful_callbacks  # a dictionary, whatever its annotation says
        saved = callbacks.get(type(self).__name__, {}).get("attributes", {})
        there = open_version(self.rows.root)
        if saved.get("placement") == wanted:
            # Another training may have made one of that name since: the version is the one.
            self.rows.use(wanted, open_version(self.rows.root, saved["version"]))
        elif name is not None and (saved or wanted not in there.placements):
            # The checkpoint was saved at the epoch's last step, and training ended right after it.
            self._refresh(name, state, model)
        elif wanted != self.rows.placement:
            self.rows.use(wanted)

    def state(self) -> dict[str, Any]:
        """What the trainer keeps in its checkpoints: the rows that it was at."""
        return {
            "args": {},
            "attributes": {"placement": self.rows.placement, "version": self.rows.version},
        }

    @classmethod
    def from_state(cls, state: Any) -> Any:
        """Nothing can be made of it without the rows."""
        raise UsageError(
            "restore_callback_states_from_checkpoint: leave it out. RefreshPlacement takes up its "
            "placement by itself."
        )

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refresh, unless that was the last epoch."""
        if self.every == "epoch" and state.global_step < state.max_steps:
            self._refresh(f"epoch-{round(state.epoch or 0)}", state, kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refresh, unless that was the last step."""
        at = isinstance(self.every, int) and state.global_step % self.every == 0
        if at and state.global_step < state.max_steps:
            self._refresh(f"step-{state.global_step}", state, kwargs["model"])

    def _name_at(self, state: TrainerState) -> str | None:
        """The last refresh before a checkpoint; None: there was none."""
        if isinstance(self.every, int):
            step = state.global_step // self.every * self.every
            return f"step-{step}" if step else None
        # A checkpoint in the middle of epoch 2 was trained on what the end of epoch 1 gave.
        epochs = int((state.epoch or 0) + 1e-6)
        return f"epoch-{epochs}" if epochs else None

    def _refresh(self, name: str, state: TrainerState, model: Any) -> None:
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        called = getattr(plain.config, "_name_or_path", "").rstrip("/").rsplit("/", 1)[-1]
        moment = TrainingState(
            name, called or type(plain).__name__, state.global_step, **self._settings
        )
        with eval_mode_preserving_rng(model):
            version, placement = refresh(self.rows.root, self._first, plain, moment, self._progress)
        self.rows.use(placement, version)
