"""Training loop: optimiser and schedule, resumable checkpoints, and selection of the best weights, with Lightning."""

import abc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor

from ..models.quiet import quiet_libraries
from .checkpoints import AtomicCheckpoints, read_checkpoint
from .data import Mixture, Padded
from .losses import next_token_loss


class Schedule(NamedTuple):
    """AdamW with linear warm-up and cosine decay to 5 % of the peak learning rate.

    Attributes:
        num_steps: total number of optimiser steps.
        learning_rate: peak learning rate.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's weight decay, applied to every trained parameter.
    """

    num_steps: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.05

    def factor(self, step: int) -> float:
        """Return the share of the peak learning rate at a step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.num_steps))))


class Training(lightning.LightningModule, abc.ABC):
    """A model in training, with its optimiser and schedule; subclasses define the loss."""

    def __init__(self, model: torch.nn.Module, schedule: Schedule):
        super().__init__()
        self.model = model.train()
        self.schedule = schedule

    @abc.abstractmethod
    def loss(self, batch: list[Any]) -> Float[Tensor, ""]:
        """Return the training loss of one batch."""

    def training_step(self, batch: list[Any], index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
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
    """Supervised training of a causal LM: cross-entropy of the responses over `vocab_size` token ids."""

    def __init__(self, model: torch.nn.Module, schedule: Schedule, vocab_size: int):
        super().__init__(model, schedule)
        self.vocab_size = vocab_size

    def loss(self, batch: list[Padded]) -> Float[Tensor, ""]:
        return next_token_loss(self.model, batch, self.vocab_size)


class BestWeights(lightning.Callback):
    """Keeps the weights with the highest `validation/accuracy`, the earliest of equals; the start counts too.

    Lightning writes a callback's state into every checkpoint, so a resumed training still has them.

    Attributes:
        accuracy: highest accuracy measured so far.
        step: optimiser steps before that measurement.
        weights: state of the module at that step, in CPU memory.
    """

    def __init__(self) -> None:
        self.load_state_dict({"accuracy": -math.inf, "step": 0, "weights": {}})

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        accuracy = trainer.callback_metrics["validation/accuracy"].item()
        if accuracy > self.accuracy:
            self.accuracy = accuracy
            self.step = trainer.global_step
            self.weights = {name: value.to("cpu", copy=True) for name, value in pl_module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.accuracy = state_dict["accuracy"]
        self.step = state_dict["step"]
        self.weights = state_dict["weights"]


class FitResult(NamedTuple):
    """The weights with which a training ended.

    Attributes:
        step: optimiser steps before these weights.
        accuracy: their validation accuracy in percent; None without validation.
    """

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
    interval: int = 100,
    validation: Sequence[Any] | None = None,
) -> FitResult:
    """Run a training to its last step; a killed one resumes from its last checkpoint.

    The caller deletes the checkpoint (`discard_checkpoint`) once the weights are written elsewhere: a kill between the
    two loses nothing.

    Args:
        folder: receives the log (`log/version_*/metrics.csv`) and the checkpoint (`state/NAME.ckpt`).
        identity: recipe and starting point, as JSON values; a checkpoint of another identity is refused.
        interval: steps between checkpoints, and between validations.
        validation: batches for the module's `validation_step`. With them the module ends with its best weights (see
            `BestWeights`), not its last.

    Raises:
        ValueError: the checkpoint found is damaged, or was made by another recipe, model or tokenizer.
    """
    checkpoint = _checkpoint(folder, name)
    resumes = checkpoint.is_file()
    data.first_batch = _checked_steps(checkpoint, identity) if resumes else 0
    module.hparams.update(identity)  # Lightning writes them into every checkpoint
    best = BestWeights() if validation is not None else None
    loader = torch.utils.data.DataLoader(data, batch_size=None)
    validation_loader = torch.utils.data.DataLoader(list(validation), batch_size=None) if best else None
    with quiet_libraries():
        trainer = _trainer(module.schedule.num_steps, checkpoint, best, device=device, folder=folder, interval=interval)
        if best and not resumes:
            trainer.validate(module, validation_loader, verbose=False)
        trainer.fit(module, loader, validation_loader, ckpt_path=checkpoint if resumes else None)
    if best is None:
        return FitResult(module.schedule.num_steps, None)
    module.load_state_dict(best.weights)
    return FitResult(best.step, best.accuracy)


def discard_checkpoint(folder: str, name: str) -> None:
    """Delete the checkpoint of a finished training."""
    _checkpoint(folder, name).unlink(missing_ok=True)


def _checkpoint(folder: str, name: str) -> Path:
    return Path(folder, "state", f"{name}.ckpt")


def _trainer(
    num_steps: int, checkpoint: Path, best: BestWeights | None, *, device: str, folder: str, interval: int
) -> lightning.Trainer:
    # With validation, the checkpoint is written after it: the state of `best` in the file includes that measurement.
    timing = {"save_on_train_epoch_end": False} if best else {"every_n_train_steps": interval}
    saving = ModelCheckpoint(
        dirpath=checkpoint.parent, filename=checkpoint.stem, save_top_k=1, enable_version_counter=False, **timing
    )
    return lightning.Trainer(
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        max_steps=num_steps,
        gradient_clip_val=1.0,
        logger=lightning.pytorch.loggers.CSVLogger(folder, name="log"),
        plugins=[AtomicCheckpoints()],
        callbacks=[saving, TQDMProgressBar(refresh_rate=10), *([best] if best else [])],
        enable_model_summary=False,
        log_every_n_steps=1 if best else 50,
        num_sanity_val_steps=0,
        val_check_interval=interval,
        check_val_every_n_epoch=None,
    )


def _checked_steps(checkpoint: Path, identity: dict[str, Any]) -> int:
    """Return the optimiser steps done at a checkpoint; raise ValueError if it was made by another recipe."""
    saved = read_checkpoint(checkpoint)
    old = saved.get("hyper_parameters", {})
    changed = [
        f"{key}: {old.get(key)} -> {identity.get(key)}"
        for key in {**old, **identity}
        if old.get(key) != identity.get(key)
    ]
    if changed:
        raise ValueError(
            f"{checkpoint} must come from the same recipe, model and tokenizer; got {'; '.join(changed)}. "
            "Go back to those, or delete the file to start over."
        )
    return saved["global_step"]
