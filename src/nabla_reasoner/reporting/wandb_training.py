"""Curves of trainings in Weights & Biases, written while they run.

One run per training. With `wandb=online` it is sent as it grows, if the server answers; otherwise it is written
offline. An error of W&B ends the run, with a warning, and never the training.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from ..evaluation.error_text import error_text
from . import wandb_log, wandb_upload

INIT_SECONDS = 20  # time that the server has to open a run
FINISH_SECONDS = 60  # and to take the rest of it at its end; what it did not take stays in the run's file


class TrainingRun(Logger):
    """The W&B run of one training.

    Args:
        connect: opens the run; called at the first value.
        folder: named in warnings.
    """

    def __init__(self, connect: Callable[[], WandbLogger], folder: str):
        super().__init__()
        self._connect = connect
        self._folder = folder
        self._run: WandbLogger | None = None
        self._failed: set[str] = set()  # kinds of content that are no longer sent

    @property
    def name(self) -> str:
        return wandb_log.PROJECT

    @property
    def version(self) -> None:
        """None: the folder of logs is numbered by the CSV logger."""

    def log_hyperparams(self, params: Mapping[str, Any] | argparse.Namespace, *args: Any, **kwargs: Any) -> None:
        self._try("settings", lambda run: run.log_hyperparams(params))

    def log_metrics(self, metrics: Mapping[str, float | int], step: int | None = None) -> None:
        self._try("curves", lambda run: run.log_metrics(metrics, step))

    def log_text(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], step: int) -> None:
        """Log rows as a table."""
        table = {"columns": list(columns), "data": [list(row) for row in data]}
        self._try("samples", lambda run: run.log_text(key, **table, step=step))

    def finalize(self, status: str) -> None:
        """Keep the run open: Lightning also calls this after the validation before a training."""

    def end(self) -> None:
        """End the run, so that a later training of this process opens its own."""
        if self._run is not None:
            self._try("the end", lambda run: run.experiment.finish())
        self._run = None

    def _try(self, kind: str, act: Callable[[WandbLogger], object]) -> None:
        if kind in self._failed:
            return
        try:
            self._run = self._run or self._connect()
            act(self._run)
        except Exception as error:
            self._failed.add(kind)
            print(
                f"warning: {kind} not copied to W&B any more ({error_text(error)}); the files in {self._folder} are "
                "complete.",
                file=sys.stderr,
            )


def loggers(mode: str, scale: str) -> Callable[[str, str, Mapping[str, Any]], list[Logger]]:
    """Return what makes the W&B loggers of a training from its name, its folder and its identity.

    Args:
        mode: offline, online or disabled.
        scale: a tag, and part of each run's name.
    """

    started: list[TrainingRun] = []  # at most one; wandb ends the last one when Python exits

    def make(name: str, folder: str, identity: Mapping[str, Any]) -> list[Logger]:
        if mode == "disabled":
            return []
        while started:
            started.pop().end()
        run_id = wandb_log.identity(["models", scale, name], dict(identity))
        started.append(TrainingRun(lambda: _connect(mode, scale, name, run_id, folder), folder))
        return list(started)

    return make


def _connect(mode: str, scale: str, name: str, run_id: str, folder: str) -> WandbLogger:
    """Open a run; offline if the server of an online one does not answer."""
    wandb = wandb_log.import_wandb()
    if mode == "online":
        try:
            wandb_upload.check_server(wandb_upload.server_address())
            return _open(mode, scale, name, run_id, folder)
        except (wandb_upload.UploadError, wandb.errors.Error) as error:
            pattern = Path(folder) / "wandb" / "offline-run-*"
            print(
                f"warning: {' '.join(str(error).split())}. The curves of {name} are written offline; send them later: "
                f"wandb sync {pattern}",
                file=sys.stderr,
            )
    return _open("offline", scale, name, run_id, folder)


def _open(mode: str, scale: str, name: str, run_id: str, folder: str) -> WandbLogger:
    settings = wandb_log.run_settings()
    settings.init_timeout, settings.finish_timeout = INIT_SECONDS, FINISH_SECONDS
    Path(folder).mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        project=wandb_log.PROJECT,
        id=run_id,
        name=f"models-{scale}-{name}",
        group="models",
        job_type="training",
        tags=wandb_log.tags(scale, "models"),
        mode=mode,
        save_dir=folder,
        resume="allow",
        settings=settings,
    )
    assert logger.experiment  # opens the run
    return logger
