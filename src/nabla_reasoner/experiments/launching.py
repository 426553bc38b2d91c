"""Cells as jobs of one of Hydra's launchers: submitit's for SLURM, or its local one.

A job that is pre-empted gets a signal (SIGUSR2). Submitit's handler puts the job into the queue again and ends its
process; the new one solves the problems that have no record yet.
"""

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from ..config import build, compose
from ..config.overrides import LAUNCHER
from ..config.schema import CONFIGS
from ..config.sweeps import Sweep
from ..evaluation.cell_runner import CellRunner, cell_name
from ..evaluation.rollout_engine import put_records_back, set_records_aside

PLUGIN = "hydra_plugins.hydra_submitit_launcher"


def launcher(overrides: Sequence[str]) -> str:
    """Return the launcher that the settings name; empty if there is none."""
    return next((word.removeprefix(LAUNCHER) for word in overrides if word.startswith(LAUNCHER)), "")


def check(overrides: Sequence[str]) -> None:
    """Raise ValueError if the settings name a launcher of submitit and that package or SLURM is missing."""
    name = launcher(overrides)
    if name.startswith("submitit") and not _installed():
        raise ValueError(
            f"hydra/launcher={name} needs the package hydra-submitit-launcher, which is missing. Install it: "
            ".venv/bin/pip install -e '.[paper]'."
        )
    if name == "submitit_slurm" and shutil.which("srun") is None:
        raise ValueError(
            f"hydra/launcher={name} needs SLURM: the command srun must be on the PATH. Start this where SLURM's "
            "commands are, or choose hydra/launcher=submitit_local, which runs the jobs on this machine."
        )


def _installed() -> bool:
    try:
        return importlib.util.find_spec(PLUGIN) is not None
    except ModuleNotFoundError:  # no plugin of Hydra at all
        return False


def launch_all(sweeps: Sequence[Sweep], runner: CellRunner) -> None:
    """Hand the sweeps to the launcher that their settings name, and wait for its jobs.

    A job that fails is told in a line; the problems that it has not solved are missing from the records.
    """
    for part in sweeps:
        overrides = list(part.overrides)
        replaced = list(part.cells) if part.cells[0].overwrite else []
        for cell in replaced:  # here and once: a job that is queued again must keep what it has solved
            set_records_aside(cell)
        try:
            _launch([*overrides, *(["overwrite=false"] if replaced else [])], runner)
        except (Exception, SystemExit) as error:  # Hydra has printed a job's error and exits; submitit raises its own
            reason = " ".join(str(error).split()[:40])
            print(
                f"a job failed ({type(error).__name__}: {reason}). The jobs' own words are in "
                f"{Path(part.cells[0].folder, '.submitit')}, unless hydra.launcher.submitit_folder names another "
                "folder. Other jobs may still run: see squeue, and wait for them before the command is run again.",
                file=sys.stderr,
            )
        finally:
            for cell in replaced:
                if put_records_back(cell):
                    runner.broken.append(f"{cell_name(cell)}, whose earlier records are kept")


def _launch(overrides: Sequence[str], runner: CellRunner) -> None:
    def job(config: DictConfig) -> None:
        runner.run_in_job(build.build_cell(compose.plain_cell(config)))

    arguments, sys.argv = sys.argv, [sys.argv[0], "--multirun", *compose.swept(overrides)]
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(job)()
    finally:
        sys.argv = arguments
