"""Training with Lightning: batches, losses of causal LMs and scalar reward models, the optimiser, and the loop."""

import json
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from jaxtyping import Float
from torch import Tensor

from .data import Mixture, Padded
from .losses import next_token_loss


class Schedule(NamedTuple):
    """AdamW with linear warm-up and cosine decay to 5 % of the peak.

    Attributes:
        num_steps: optimiser steps, all of them.
        learning_rate: peak.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's, on every parameter.
    """

    num_steps: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.05

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at a step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.num_steps))))


class Training(lightning.LightningModule):
    """What all kinds of training share: the model, the optimiser, logging. Final classes give `loss`."""

    def __init__(self, model: torch.nn.Module, schedule: Schedule):
        super().__init__()
        self.model, self.schedule = model.train(), schedule

    def loss(self, blocks: Sequence[Padded]) -> Float[Tensor, ""]:
        """The training loss of one batch."""
        raise NotImplementedError

    def training_step(self, batch: list[Padded], index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=self.schedule.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=self.schedule.weight_decay,
            fused=True,
        )
        # a plain function: torch tries to write any other callable into the checkpoint
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LanguageModelTraining(Training):
    """Supervised fine-tuning: cross-entropy of the worked solutions."""

    def loss(self, blocks: Sequence[Padded]) -> Float[Tensor, ""]:
        return next_token_loss(self.model, blocks)


class BestWeights(lightning.Callback):
    """Keeps the weights whose `validation/accuracy` was highest, the earliest of equals; the start counts too.

    The file outlives a kill: what it holds is what a resumed training has to beat.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        accuracy = trainer.callback_metrics["validation/accuracy"].item()
        if not self.path.is_file() or accuracy > torch.load(self.path, weights_only=True)["accuracy"]:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            kept = {"accuracy": accuracy, "step": trainer.global_step, "state_dict": pl_module.state_dict()}
            torch.save(kept, part)
            os.replace(part, self.path)


class Fitted(NamedTuple):
    """How a training ended: the step whose weights the module has, and their validation accuracy where measured."""

    step: int
    accuracy: float | None


def fit(
    module: Training,
    data: Mixture,
    *,
    device: str,
    folder: str,
    name: str,
    identity: dict[str, Any],
    every: int = 100,
    validation: Sequence[Any] | None = None,
) -> Fitted:
    """Run a training to its last step. A killed run goes on from its last checkpoint; a finished one leaves none.

    Args:
        folder: for the log (`log/version_*/metrics.csv`) and checkpoints.
        identity: what was trained from what, as JSON values; a checkpoint of another identity is refused.
        every: steps between checkpoints, and between validations.
        validation: batches for the module's `validation_step`. With them the module ends with its best weights (see
            `BestWeights`), not its last.

    Raises:
        ValueError: the checkpoint found was made by another recipe, model or tokenizer.
    """
    state = Path(folder, "state")
    saved, best = state / f"{name}.ckpt", state / f"{name}-best.pt"
    resume = saved if _resumes(state / f"{name}.json", saved, identity) else None
    if resume:
        data.first_batch = torch.load(saved, weights_only=True, map_location="cpu")["global_step"]
    else:
        best.unlink(missing_ok=True)
    # with validation a checkpoint is written after it, so that no measurement is lost between the two
    rhythm = {"every_n_train_steps": every} if validation is None else {"save_on_train_epoch_end": False}
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(
        dirpath=state, filename=name, save_top_k=1, enable_version_counter=False, **rhythm
    )
    trainer = lightning.Trainer(
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        max_steps=module.schedule.num_steps,
        gradient_clip_val=1.0,
        logger=lightning.pytorch.loggers.CSVLogger(folder, name="log"),
        callbacks=[
            checkpoint,
            lightning.pytorch.callbacks.TQDMProgressBar(refresh_rate=10),
            *([] if validation is None else [BestWeights(best)]),
        ],
        enable_model_summary=False,
        log_every_n_steps=50 if validation is None else 1,
        num_sanity_val_steps=0,
        val_check_interval=every,
        check_val_every_n_epoch=None,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # that is what resuming means
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # batches come ready-made
        warnings.filterwarnings("ignore", message=".*but have no `val_dataloader`.*")  # nobody asked for validation
        loader = torch.utils.data.DataLoader(data, batch_size=None)
        examined = None if validation is None else torch.utils.data.DataLoader(list(validation), batch_size=None)
        if examined is not None and not resume:
            trainer.validate(module, examined, verbose=False)
        trainer.fit(module, loader, examined, ckpt_path=resume)
    ended = Fitted(module.schedule.num_steps, None)
    if validation is not None:
        kept = torch.load(best, weights_only=True)
        module.load_state_dict(kept["state_dict"])
        ended = Fitted(kept["step"], kept["accuracy"])
    for file in (saved, best, state / f"{name}.json"):
        file.unlink(missing_ok=True)
    return ended


def _resumes(sidecar: Path, saved: Path, identity: dict[str, Any]) -> bool:
    """Whether there is a checkpoint to go on from; what it was made from lies beside it."""
    if not saved.is_file():
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        sidecar.write_text(json.dumps(identity, indent=1), encoding="utf-8")
        return False
    old = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.is_file() else {}
    new = json.loads(json.dumps(identity))
    changed = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)]
    if changed:
        raise ValueError(
            f"{saved} must come from the same recipe, model and tokenizer; got {'; '.join(changed)}. "
            "Go back to those, or delete the file to begin anew."
        )
    return True
