"""Checkpoints and logs of trainings on disk, and what a kill or a full disk leaves of them."""

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.fabric.plugins import TorchCheckpointIO


def weights_digest(model: torch.nn.Module) -> str:
    """Return a digest of a model's weights, by name, which a checkpoint of a training from them notes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def data_digest(pools: dict[str, list[Any]]) -> str:
    """Return a digest of what a training learns from, which its checkpoint notes."""
    return hashlib.sha256(repr(pools).encode()).hexdigest()[:16]


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written beside their final path and renamed.

    Lightning itself writes to the system's temporary folder and moves the file. If that folder is on another disk, a
    kill during the move leaves a cut file in the place of the previous checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, on the CPU.

    Raises:
        ValueError: a file that is no complete checkpoint.
    """
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} must be a complete checkpoint; got a damaged file. Delete it to train from the start."
        ) from error


def read_log(folder: Path) -> pd.DataFrame:
    """Return the logged lines of a training as text, a row per step with the last value of each column.

    Args:
        folder: the training's log; a resumed training has several versions of it. A line cut by a kill is left out: the
            resumed training logs its step again.
    """
    files = sorted(folder.glob("version_*/metrics.csv"), key=lambda file: int(file.parent.name.split("_")[1]))
    texts = [file.read_text(encoding="utf-8") for file in files]
    complete = [text[: text.rfind("\n") + 1] for text in texts]
    tables = [
        pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_values=[""]) for text in complete if text
    ]
    return pd.concat(tables).astype({"step": int}).groupby("step").last()
