"""Processes that share the chunks of a cell: how they start, how long they wait, and how they end.

Each process appends its own records as soon as a chunk is solved. Processes wait for one another only while they start.
After that they do not communicate, so that one may work for hours longer than the others.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ..config.schema import CPU, NEXT, SAME
from ..models.quiet import quiet_libraries

START_SECONDS = 600  # that a process waits for the others at its start, where each copies the models to its device
ENDING = (signal.SIGTERM, signal.SIGINT)  # signals that end a process at once; records are appended whole
RESUMES = "Finished problems are on disk; the same command resumes."
SYSTEM_ERROR = re.compile(r"^(?:\w+\.)*\w*Error: \[Errno (\d+)\] (.*?)(?:: '(.*)')?$", re.MULTILINE)


class ProcessError(RuntimeError):
    """One of the processes that share a cell's chunks has died, hangs or has raised."""


def make_strategy(count: int) -> str | Strategy:
    """Return what Lightning's Trainer runs on one machine: this process alone, or `count` processes of its own.

    Lightning's default, "popen", would start the whole command again in each process.
    """
    if count == 1:
        return "auto"
    return _EndWithParentStrategy(timeout=timedelta(seconds=START_SECONDS), start_method=start_method())


class _EndWithParentStrategy(DDPStrategy):
    """Processes that end with the one that started them, even while they wait for the others to start."""

    def setup_environment(self) -> None:
        """Watch the process that started this one, then wait for the others."""
        end_with_parent()
        super().setup_environment()


def start_method() -> str:
    """Return how processes start: on Linux without a GPU, as copies of one that has imported the package and no more.

    The libraries are then imported once, not in each process. GPUs, and libraries of macOS, may not work in copies.
    """
    if torch.cuda.is_available() or sys.platform != "linux":
        return "spawn"
    multiprocessing.set_forkserver_preload(["nabla_reasoner.evaluation.cell_runner"])
    return "forkserver"


class _LocalEnvironment(LightningEnvironment):
    """Processes on this machine, whatever rank and address an outer launcher has left in the environment."""

    main_address = "127.0.0.1"

    @property
    def main_port(self) -> int:
        """A port that is free when it is first asked for."""
        if self._main_port == -1:
            self._main_port = find_free_network_port()
        return self._main_port

    def node_rank(self) -> int:
        """Return 0: there is one machine."""
        return 0


def environment() -> LightningEnvironment:
    """Return the surroundings of the processes: this command starts them itself, within a job of SLURM too."""
    return _LocalEnvironment()


def devices(count: int, reward: str) -> int | list[int]:
    """Return Lightning's devices of `count` processes: their number, or every second GPU if the reward has the next.

    Raises:
        ValueError: fewer GPUs than that takes.
    """
    if reward != NEXT:
        return count
    if torch.cuda.device_count() < 2 * count:
        raise ValueError(
            f"reward_device=next takes two GPUs for each of {count} processes; found {torch.cuda.device_count()}. Use "
            "fewer with devices=N, or reward_device=same."
        )
    return list(range(0, 2 * count, 2))


def reward_device(policy_device: torch.device, reward: str) -> torch.device:
    """Return the device of the reward model by the device of its policy: the same, the next GPU, or the CPU."""
    return {SAME: policy_device, NEXT: torch.device("cuda", (policy_device.index or 0) + 1), CPU: torch.device("cpu")}[
        reward
    ]


class WorkerProcess(lightning.Callback):
    """Prepares a process that solves a share of the chunks; does nothing where there is one process only.

    Args:
        threads: torch threads of each process on the CPU; None: Lightning's choice.
    """

    def __init__(self, threads: int | None):
        self.threads = threads

    def __setstate__(self, state: dict[str, int | None]) -> None:
        """Hide Lightning's notices in the process that this arrives in, from its start to its end."""
        self.__dict__.update(state)
        self.quiet = ExitStack()
        self.quiet.enter_context(quiet_libraries())

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Set threads, and let the process end at once on a signal.

        Lightning's own handler of SIGTERM would wait for the other processes, which may be dead, and would raise in
        the middle of a solution, which would then count as failed.
        """
        if multiprocessing.parent_process() is None or trainer.world_size == 1:
            return
        for name in ENDING:
            signal.signal(name, signal.SIG_DFL)
        if self.threads is not None:
            torch.set_num_threads(self.threads)


def end_with_parent() -> None:
    """End this process when the one that started it ends, however it does."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def described_errors() -> Iterator[None]:
    """Turn an error of another process into one line here, and free its port for the next cell.

    Raises:
        ProcessError: a process was killed, did not start in time, or raised.
        OSError: a process could not write its records.
        KeyboardInterrupt: the run was interrupted.
    """
    port = os.environ.get("MASTER_PORT")
    try:
        yield
    except ProcessExitedException as error:
        how = f"was killed by {error.signal_name}" if error.signal_name else f"ended with status {error.exit_code}"
        raise ProcessError(
            f"process {error.error_index} of this cell {how} (SIGKILL mostly means that the machine's memory ran out); "
            f"the others were stopped. {RESUMES}"
        ) from None
    except ProcessRaisedException as error:
        raise _raised(error) from None
    finally:
        if port is None:
            os.environ.pop("MASTER_PORT", None)


def _raised(error: ProcessRaisedException) -> Exception:
    """Return the error here that stands for one that a process raised."""
    text = str(error).strip()
    if found := SYSTEM_ERROR.search(text):
        return OSError(int(found[1]), found[2], found[3])
    last = " ".join(text.splitlines()[-1].split())
    if "Timed out" in text or "timed out" in text or "DistStoreError" in last:
        return ProcessError(
            f"the processes of this cell did not all start within {START_SECONDS} s ({last}). Look for a process that "
            f"hangs or a full GPU, or use fewer with devices=N. {RESUMES}"
        )
    return ProcessError(f"process {error.error_index} of this cell raised {last} {RESUMES}")


def stop_children() -> None:
    """Kill the processes that this one has started: they would solve on. Their records are appended whole."""
    for child in multiprocessing.active_children():
        child.kill()
