"""Training loop: optimiser and schedule, resumable checkpoints, and selection of the best weights, with Lightning."""

import abc
import contextlib
import contextvars
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import Tensor

from ..models.quiet import quiet_libraries
from .checkpoints import AtomicCheckpoints, data_digest, read_checkpoint, weights_digest
from .data import Mixture, Padded
from .losses import next_token_loss

# Makes further loggers of a training from its name, its folder and its identity.
LoggerFactory = Callable[[str, str, Mapping[str, Any]], Sequence[Logger]]
_further: contextvars.ContextVar[LoggerFactory | None] = contextvars.ContextVar("further_loggers", default=None)


@contextlib.contextmanager
def further_loggers(make: LoggerFactory) -> Iterator[None]:
    """Let every training within the context also log to these loggers, beside its CSV file."""
    token = _further.set(make)
    try:
        yield
    finally:
        _further.reset(token)


PRECISIONS = {None: "32-true", "bfloat16": "bf16-mixed"}  # Lightning's name of each precision


class Schedule(NamedTuple):
    """AdamW with linear warm-up, then cosine decay to 5 % of the peak learning rate or a constant rate.

    Attributes:
        num_steps: total number of optimiser steps.
        learning_rate: peak learning rate.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's weight decay, applied to every trained parameter.
        decay: whether the rate decays; False keeps the peak, for a training that validation ends.
    """

    num_steps: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.05
    decay: bool = True

    def factor(self, step: int) -> float:
        """Return the share of the peak learning rate at a step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if not self.decay:
            return warm
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

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient, before it is clipped."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=self.schedule.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=self.schedule.weight_decay,
            # Lightning clips no gradients beside a fused optimiser in mixed precision
            fused=self.trainer.precision == "32-true",
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
        last_step: optimiser steps of the whole training.
    """

    step: int
    accuracy: float | None
    last_step: int


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
    patience: int | None = None,
    until: int | None = None,
    precision: str | None = None,
) -> FitResult:
    """Run a training to its end; a killed one resumes from its last checkpoint.

    The caller deletes the checkpoint (`discard_checkpoint`) once the weights are written elsewhere: a kill between the
    two loses nothing.

    Args:
        folder: receives the log (`log/version_*/metrics.csv`) and the checkpoint (`state/NAME.ckpt`).
        identity: recipe and starting point, as JSON values. A checkpoint of another identity is refused, and one that
            began with other weights or learned from other data.
        interval: steps between checkpoints, and between validations.
        validation: batches for the module's `validation_step`. With them the module ends with its best weights (see
            `BestWeights`), not its last.
        patience: steps without a higher validation accuracy after which the training ends; None: at the last step.
        until: step at which this call stops at the latest; another call goes on from there. None: no such step.
        precision: "bfloat16" for matrix products in it, while weights and their updates stay in float32; None: float32.

    Raises:
        ValueError: an unknown precision; no validation before the end; the checkpoint found is damaged, or was made by
            another recipe, model or tokenizer.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be bfloat16 or null (float32); got {precision!r}.")
    stop = min(until or module.schedule.num_steps, module.schedule.num_steps)
    if validation is not None and interval > stop:
        raise ValueError(
            f"a training must have a validation after its start; got one every {interval} steps of {stop}. Lower "
            "`every`, or raise num_steps or trial_steps."
        )
    identity = {**identity, "weights": weights_digest(module.model), "data": data_digest(data.pools)}
    module.hparams.update(identity)  # Lightning writes them into every checkpoint
    checkpoint = _checkpoint(folder, name)
    saved = _state_to_resume(checkpoint, folder, identity)
    resumes = saved is not None
    saved = saved or {"global_step": 0}
    data.first_batch = saved["global_step"]
    best = BestWeights() if validation is not None else None
    loader = torch.utils.data.DataLoader(data, batch_size=None)
    validation_loader = torch.utils.data.DataLoader(list(validation), batch_size=None) if best else None
    make = _further.get()
    with quiet_libraries():
        callbacks = [best] if best else []
        if patience is not None:
            checks = math.ceil(patience / interval)
            callbacks.append(EarlyStopping("validation/accuracy", mode="max", patience=checks))
        ended = patience is not None and _has_stopped(saved, checks)
        trainer = _trainer(
            saved["global_step"] if ended else stop,
            checkpoint,
            callbacks,
            [CSVLogger(folder, name="log"), *(make(name, folder, identity) if make else [])],
            device=device,
            interval=interval,
            precision=PRECISIONS[precision],
        )
        module.model.train()  # a loss may have put it into eval mode in an earlier call
        if best and not resumes:
            trainer.validate(module, validation_loader, verbose=False)
        trainer.fit(module, loader, validation_loader, ckpt_path=checkpoint if resumes else None)
    if best is None:
        return FitResult(trainer.global_step, None, trainer.global_step)
    module.load_state_dict(best.weights)
    return FitResult(best.step, best.accuracy, trainer.global_step)


def _state_to_resume(checkpoint: Path, folder: str, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the state in a checkpoint, checked; without one clear the log, which would be read as this training's."""
    if checkpoint.is_file():
        return _checked(checkpoint, identity)
    shutil.rmtree(Path(folder, "log"), ignore_errors=True)
    return None


def discard_checkpoint(folder: str, name: str) -> None:
    """Delete the checkpoint of a finished training."""
    _checkpoint(folder, name).unlink(missing_ok=True)


def _checkpoint(folder: str, name: str) -> Path:
    return Path(folder, "state", f"{name}.ckpt")


def _trainer(
    num_steps: int,
    checkpoint: Path,
    validating: Sequence[lightning.Callback],
    loggers: Sequence[Logger],
    *,
    device: str,
    interval: int,
    precision: str,
) -> lightning.Trainer:
    # With validation, the checkpoint is written after it: the states of `validating` in it include that measurement.
    timing = {"save_on_train_epoch_end": False} if validating else {"every_n_train_steps": interval}
    saving = ModelCheckpoint(
        dirpath=checkpoint.parent, filename=checkpoint.stem, save_top_k=1, enable_version_counter=False, **timing
    )
    return lightning.Trainer(
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        max_steps=num_steps,
        precision=precision,
        gradient_clip_val=1.0,
        logger=list(loggers),
        plugins=[AtomicCheckpoints()],
        callbacks=[saving, TQDMProgressBar(refresh_rate=10), *validating],
        enable_model_summary=False,
        log_every_n_steps=1 if validating else 50,
        num_sanity_val_steps=0,
        val_check_interval=interval,
        check_val_every_n_epoch=None,
    )


def _has_stopped(saved: dict[str, Any], checks: int) -> bool:
    """Return whether a checkpoint was written when validation ended the training."""
    states = saved.get("callbacks", {}).items()
    return any(state["wait_count"] >= checks for name, state in states if name.startswith("EarlyStopping"))


def _checked(checkpoint: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint; raise ValueError if it was made by another recipe."""
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
    return saved
