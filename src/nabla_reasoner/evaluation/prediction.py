"""Runs a method over problems with Lightning: `predict_step` around `solve`, a writer of records, a progress bar.

Problems are cut into chunks in list order. A chunk is solved whole or not at all, so that a run that was stopped and
started again computes on the same batches as one that was not, and writes the same records.
"""

import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..cost import Cost
from ..tasks.grading import grade
from ..types import Problem, Solution
from .records import append_records, failed_record, make_record, read_records


class Chunk(NamedTuple):
    """Problems solved together.

    Attributes:
        repeat: which of the repeats of these problems, >= 0.
        problems: in list order.
    """

    repeat: int
    problems: list[Problem]


def chunks(problems: Sequence[Problem], repeats: int, batch_size: int) -> list[Chunk]:
    """Every problem `repeats` times, in chunks of up to `batch_size`; the cut depends on nothing else."""
    starts = range(0, len(problems), batch_size)
    return [Chunk(r, list(problems[start : start + batch_size])) for r in range(repeats) for start in starts]


class Inference(lightning.LightningModule):
    """A method with its models; each prediction step solves one chunk.

    A problem whose chunk raises is solved alone, so that only the failing problem becomes a failed solution.

    Args:
        method: an object with `solve(problems, policy, reward, seed=, repeat=)`.
        policy, reward: the models; registered here so that Lightning moves them to its device.
        seed: keys every random draw together with problem id and repeat.
    """

    def __init__(self, method: Any, policy: Any, reward: Any, seed: int):
        super().__init__()
        self.method, self.policy, self.reward, self.seed = method, policy, reward, seed
        self.models = torch.nn.ModuleList([policy.model, reward.model])

    def transfer_batch_to_device(self, batch: Chunk, device: torch.device, dataloader_idx: int) -> Chunk:
        """A chunk holds text only."""
        return batch

    def predict_step(self, batch: Chunk) -> list[Solution]:
        """Solutions in the order of the chunk's problems.

        Raises:
            ValueError: under a trainer in inference mode, where no gradient can be had.
        """
        if torch.is_inference_mode_enabled():
            raise ValueError(
                "inference needs gradients; got a Trainer in inference mode. Build it with inference_mode=False."
            )
        with torch.enable_grad():
            try:
                return self._solve(batch.problems, batch.repeat)
            except Exception:  # the problems are then tried one by one, and each failure is recorded with its reason
                return [self._solve_alone(problem, batch.repeat) for problem in batch.problems]

    def _solve(self, problems: list[Problem], repeat: int) -> list[Solution]:
        return self.method.solve(problems, self.policy, self.reward, seed=self.seed, repeat=repeat)

    def _solve_alone(self, problem: Problem, repeat: int) -> Solution:
        try:
            return self._solve([problem], repeat)[0]
        except Exception as error:
            return Solution(problem.id, "", [], None, Cost(), {}, error=_reason(error))


class RecordWriter(BasePredictionWriter):
    """Appends one record per problem as soon as its chunk is solved.

    Args:
        path: the JSONL file.
        make: record of (problem, solution, repeat).
        done: (problem id, repeat) already in the file; never written again.
    """

    def __init__(self, path: Path, make: Callable[[Problem, Solution, int], dict], done: set[tuple[str, int]]):
        super().__init__("batch")
        self.path, self.make, self.done = path, make, done

    def write_on_batch_end(
        self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx
    ) -> None:
        """Write the chunk's missing records in one append."""
        pairs = zip(batch.problems, prediction, strict=True)
        missing = [(p, s) for p, s in pairs if (p.id, batch.repeat) not in self.done]
        append_records(self.path, [self.make(problem, solution, batch.repeat) for problem, solution in missing])


class ProgressBar(lightning.Callback):
    """Problems solved, rate and time left of one cell; silent where the output is not a terminal."""

    def __init__(self, label: str, total: int):
        self.bar = tqdm(total=total, desc=label, unit="problem", leave=False, disable=not sys.stderr.isatty())

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.bar.update(len(batch.problems))

    def on_predict_end(self, trainer, pl_module) -> None:
        self.bar.close()


def run(
    module: Inference,
    problems: Sequence[Problem],
    path: Path,
    *,
    policy: str,
    method: str,
    repeats: int,
    batch_size: int,
    device: str,
    devices: int,
    num_nodes: int,
    label: str,
) -> None:
    """Solve what `path` does not hold yet and append the records.

    Args:
        module: method and models.
        problems: all problems of the cell, those already recorded included.
        path: the cell's JSONL file.
        policy, method: their names in the records.
        repeats, batch_size: how the problems are cut (see `chunks`).
        device: "cpu" or a CUDA device.
        devices, num_nodes: processes of the trainer; each solves its share of the chunks.
        label: shown before the progress bar.

    Raises:
        KeyboardInterrupt: the run was interrupted; all finished chunks are on disk.
    """
    done = {(record["problem_id"], record["repeat"]) for record in read_records(path)} if path.exists() else set()
    todo = [
        chunk
        for chunk in chunks(problems, repeats, batch_size)
        if any((problem.id, chunk.repeat) not in done for problem in chunk.problems)
    ]
    if not todo:
        return
    make = functools.partial(_record, policy=policy, method=method, seed=module.seed)
    with _quiet_lightning():
        trainer = lightning.Trainer(
            accelerator="cpu" if device == "cpu" else "gpu",
            devices=devices,
            num_nodes=num_nodes,
            strategy="auto" if devices * num_nodes == 1 else "ddp_spawn",  # other launchers start the command line anew
            inference_mode=False,  # with torch.enable_grad() in predict_step: DTO needs gradients
            deterministic="warn",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[RecordWriter(path, make, done), ProgressBar(label, sum(len(chunk.problems) for chunk in todo))],
        )
        loader = DataLoader(todo, batch_size=1, collate_fn=_only)
        try:
            trainer.predict(module, loader, return_predictions=False)
        except SystemExit as stopped:  # Lightning turns an interrupt into an exit
            raise KeyboardInterrupt from stopped


def _record(problem: Problem, solution: Solution, repeat: int, *, policy: str, method: str, seed: int) -> dict:
    names = {"policy": policy, "method": method, "seed": seed, "repeat": repeat}
    try:
        return make_record(problem, solution, **names, grade=grade)
    except Exception as error:  # a response that the grader cannot take fails its own problem only
        return failed_record(problem, f"grading: {_reason(error)}", **names, cost=solution.cost)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _only(batch: list[Chunk]) -> Chunk:
    return batch[0]


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's per-trainer notices (hardware found, loader workers), which a grid would repeat per cell."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
