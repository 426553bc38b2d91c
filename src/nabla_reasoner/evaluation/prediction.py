"""Prediction with Lightning: `predict_step` around a method's `solve`, a record writer and a progress bar.

Problems are cut into chunks in list order. A chunk is solved as a whole or not at all. So a run that was stopped and
resumed computes the same batches, and writes the same records, as one that was not.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..config.schema import SAME
from ..cost import Cost
from ..models.language_models import Policy, RewardModel
from ..models.quiet import quiet_libraries
from ..serving.mismatch import ComparedServer
from ..serving.rollouts import ServedPolicy
from ..tasks.grading import grade
from ..types import Method, Problem, Solution
from . import processes
from .error_text import error_text
from .records import append_records, failed_record, make_record, read_records, sort_records
from .rollout_engine import append_mismatch
from .solution_checks import checked_solution


class Chunk(NamedTuple):
    """Problems solved together, in list order.

    Attributes:
        repeat: index of the repeat of these problems, >= 0.
    """

    repeat: int
    problems: list[Problem]


def chunks(problems: Sequence[Problem], repeats: int, batch_size: int) -> list[Chunk]:
    """Cut the problems into chunks of up to `batch_size`, once for each repeat."""
    starts = range(0, len(problems), batch_size)
    return [Chunk(repeat, list(problems[start : start + batch_size])) for repeat in range(repeats) for start in starts]


class Inference(lightning.LightningModule):
    """A method with its models; each prediction step solves one chunk.

    If a chunk raises, its problems are solved one by one, so that only the failing problem becomes a failed solution.

    Args:
        method: the method.
        policy, reward: the models; registered here so that Lightning moves them to its device.
        seed: key of every random draw, together with problem id and repeat.
        reward_device: where the reward model lies: "same", "next" or "cpu" (see `processes.reward_device`).
    """

    def __init__(self, method: Method, policy: Policy, reward: RewardModel, seed: int, reward_device: str = SAME):
        super().__init__()
        self.method = method
        self.policy = policy
        self.reward = reward
        self.seed = seed
        self.reward_device = reward_device
        reward_models = [model.model for model in (reward, reward.reference) if model is not None]
        self.models = torch.nn.ModuleList([policy.model, *(reward_models if reward_device == SAME else [])])
        self.placed = [] if reward_device == SAME else reward_models  # no submodules: Lightning leaves them alone

    def on_predict_start(self) -> None:
        """Move a reward model that has a device of its own there."""
        for model in self.placed:
            model.to(processes.reward_device(self.device, self.reward_device))

    def transfer_batch_to_device(self, batch: Chunk, device: torch.device, dataloader_idx: int) -> Chunk:
        """Return the chunk unchanged: it holds text only."""
        return batch

    def predict_step(self, batch: Chunk) -> list[Solution]:
        """Return the solutions of the chunk's problems, in their order.

        Raises:
            ValueError: the trainer is in inference mode, where no gradient can be computed.
        """
        if torch.is_inference_mode_enabled():
            raise ValueError(
                "inference needs gradients; got a Trainer in inference mode. Build it with inference_mode=False."
            )
        with torch.enable_grad():
            try:
                return self._solve(batch.problems, batch.repeat)
            except Exception:  # solved one by one, each failure is recorded with its reason
                for engine in _engines(self).values():
                    engine.take_mismatch()  # each token is compared once more
                return [self._solve_alone(problem, batch.repeat) for problem in batch.problems]

    def _solve(self, problems: list[Problem], repeat: int) -> list[Solution]:
        returned = self.method.solve(list(problems), self.policy, self.reward, seed=self.seed, repeat=repeat)
        solutions = [checked_solution(solution) for solution in returned]
        problem_ids, solved = ([item.id for item in problems], [item.problem_id for item in solutions])
        if problem_ids != solved:
            raise ValueError(
                f"a method must return one solution per problem, in their order; got problems {problem_ids} and "
                f"solutions of {solved}. Correct its `solve`."
            )
        return solutions

    def _solve_alone(self, problem: Problem, repeat: int) -> Solution:
        try:
            return self._solve([problem], repeat)[0]
        except Exception as error:
            return Solution(problem.id, "", [], None, Cost(), {}, error=error_text(error))


class RecordWriter(BasePredictionWriter):
    """Appends one record per problem as soon as its chunk is solved.

    Args:
        path: JSONL file.
        make: returns the record of (problem, solution, repeat).
        done: (problem id, repeat) of the records in the file, which are not written again.
    """

    def __init__(self, path: Path, make: Callable[[Problem, Solution, int], dict], done: set[tuple[str, int]]):
        super().__init__("batch")
        self.path = path
        self.make = make
        self.done = done

    def write_on_batch_end(
        self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx
    ) -> None:
        """Append the records that the file does not have yet."""
        pairs = zip(batch.problems, prediction, strict=True)
        missing = [(p, s) for p, s in pairs if (p.id, batch.repeat) not in self.done]
        append_records(self.path, [self.make(problem, solution, batch.repeat) for problem, solution in missing])


class MismatchWriter(lightning.Callback):
    """Appends the differences between servers and the models here, measured while a chunk was solved.

    Args:
        path: JSONL file of the records.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        problems = [problem.id for problem in batch.problems]
        append_mismatch(self.path, problems, batch.repeat, _engines(pl_module))


class ProgressBar(lightning.Callback):
    """Problems solved, rate and time left of the first process; not shown if the output is not a terminal."""

    def __init__(self, label: str | None):
        self.label = label
        self.bar: tqdm | None = None

    def on_predict_start(self, trainer, pl_module) -> None:
        """Make the bar: here, because a bar on a terminal cannot be sent to another process."""
        loader = trainer.predict_dataloaders
        total = sum(len(loader.dataset[index].problems) for index in loader.sampler)  # of this process
        hidden = self.label is None or trainer.global_rank > 0 or not sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=self.label, unit="problem", leave=False, disable=hidden)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.bar.update(len(batch.problems))

    def on_predict_end(self, trainer, pl_module) -> None:
        self.bar.close()
        self.bar = None


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
    threads: int | None,
    label: str | None,
) -> None:
    """Solve the problems that `path` has no record of, and append their records.

    Args:
        module: method and models.
        problems: all problems of the cell, including those already recorded.
        path: JSONL file of the cell.
        policy, method: names in the records.
        repeats, batch_size: see `chunks`.
        device: "cpu" or a CUDA device.
        devices: processes of the trainer, one GPU each, or two with the reward's; each solves its share of the chunks.
        threads: torch threads of each of several processes on the CPU; None: Lightning's choice.
        label: text before the progress bar; None shows no bar.

    Raises:
        KeyboardInterrupt: the run was interrupted; all finished chunks are on disk.
        ProcessError: one of several processes was killed, did not start in time, or raised.
        OSError: records can no longer be written.
    """
    done = {(record["problem_id"], record["repeat"]) for record in read_records(path)} if path.exists() else set()
    all_chunks = chunks(problems, repeats, batch_size)
    todo = [chunk for chunk in all_chunks if any((problem.id, chunk.repeat) not in done for problem in chunk.problems)]
    if not todo:
        return
    make = functools.partial(_record, policy=policy, method=method, seed=module.seed)
    callbacks = [processes.WorkerProcess(threads), *_writers(module, path, make, done), ProgressBar(label)]
    count = min(devices, len(todo))  # no more processes than there are chunks
    with quiet_libraries(), processes.described_errors():
        trainer = _trainer(device, count, module.reward_device, callbacks)
        loader = DataLoader(todo, batch_size=1, collate_fn=_only)
        try:
            trainer.predict(module, loader, return_predictions=False)
        except (SystemExit, KeyboardInterrupt) as stopped:
            processes.stop_children()
            if isinstance(stopped, SystemExit) and not isinstance(stopped.__context__, KeyboardInterrupt):
                raise  # of a handler of signals, e.g. submitit's: its status says that the job is to be queued again
            raise KeyboardInterrupt from stopped  # Lightning turns an interrupt into an exit
    sort_by_problem(path, all_chunks)


def sort_by_problem(path: Path, all_chunks: Sequence[Chunk]) -> None:
    """Put a cell's records into the order of one process; several append in any order, in an earlier run too."""
    sort_records(path, [(problem.id, chunk.repeat) for chunk in all_chunks for problem in chunk.problems])


def _trainer(device: str, count: int, reward_device: str, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    """Return the trainer of `count` processes that predict and write nothing by themselves."""
    return lightning.Trainer(
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=processes.devices(count, reward_device),
        strategy=processes.make_strategy(count),
        plugins=processes.environment(),
        inference_mode=False,  # with torch.enable_grad() in predict_step: DTO needs gradients
        deterministic="warn",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )


def _writers(
    module: Inference, path: Path, make: Callable[[Problem, Solution, int], dict], done: set[tuple[str, int]]
) -> list[lightning.Callback]:
    """Return what writes the files of a cell while it runs."""
    return [RecordWriter(path, make, done), *([MismatchWriter(path)] if _engines(module) else [])]


def _engines(module: Inference) -> dict[str, ComparedServer]:
    """Return what serves the module's policy and reward, as far as they are served."""
    engines = {"policy": module.policy.rollouts} if isinstance(module.policy, ServedPolicy) else {}
    return engines if module.reward.text_scores is None else {**engines, "reward": module.reward.text_scores}


def _record(problem: Problem, solution: Solution, repeat: int, *, policy: str, method: str, seed: int) -> dict:
    names = {"policy": policy, "method": method, "seed": seed, "repeat": repeat}
    try:
        return make_record(problem, solution, **names, grade=grade)
    except Exception as error:  # if the grader raises, only this problem fails
        return failed_record(problem, f"grading: {error_text(error)}", **names, cost=solution.cost)


def _only(batch: list[Chunk]) -> Chunk:
    return batch[0]
