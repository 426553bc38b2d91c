"""`./reproduce.sh ppo`: the optimum of Eq. 3 against everything that approaches it, amortised and not.

Writes `results/tiny/ppo/`: ppo.csv (a row per method, amount, λ and set of prompts), curves.csv (amortised policies
during training), break_even.csv, ppo.md (tables and verdict, from those rows), ppo.png and ppo.pdf, summary.json, and
the two models the space was made with (`models/`).

Columns of ppo.csv; all are means over `num_measured` prompts:

    side, method        amortised: a network was trained; deamortised: compute spent on each prompt; reference
    amount              draws, steps, sweeps, iterations, or optimiser steps
    reward_weight       λ
    trained_on          prompts that an amortised policy was trained on
    measured_on         compared (trained on, too), trained, held_out
    kl, kl_low, kl_high KL(ρ‖ρ*) in nats: mean, smallest and largest over prompts; L_PPO(ρ) - L_PPO(ρ*) is the same
    tv, reward          total variation to ρ*; E_ρ[r] in nats
    kl_to_policy        KL(ρ‖π) in nats
    bound               Best-of-N: log N - (N - 1)/N, which kl_to_policy cannot exceed
    flops               expected FLOPs of one answer, training left out
    training_flops      FLOPs of the training so far
    gradient_evaluations  expected number for one answer
    samples             0: the law is exact; otherwise draws behind an estimate
    kl_floor, tv_floor  what the same number of exact draws from ρ* shows
"""

import logging
import shlex
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
import transformers
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from ..config.schema import CONFIGS
from ..evaluation import provenance
from ..ppo import letter_task, tables, verdict
from ..ppo.comparison import PPOComparison
from ..ppo.figure import comparison
from ..reporting import figures, wandb_runs

WRONG, INTERRUPTED = 2, 130
FILES = ("ppo.csv", "curves.csv", "break_even.csv", "ppo.md", "ppo.png", "ppo.pdf", "summary.json")


def read_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """configs/ppo.yaml with a command's settings.

    Raises:
        ValueError: a setting that does not exist or cannot be read, or a value out of range; the valid ones are named.
    """
    known = OmegaConf.load(CONFIGS / "ppo.yaml")
    if [word for word in overrides if word.startswith("scale=") and word != "scale=tiny"]:
        raise ValueError("scale must be tiny; got another. The comparison needs a space whose every answer is scored.")
    given = [word for word in overrides if word != "scale=tiny"]  # `scale` is a group too, of other settings
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            settings = OmegaConf.to_container(compose("ppo", given), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(
            f"{' '.join(str(error).split())} Write key=value with a key of {', '.join(known)}, or part.key=value."
        ) from error
    return _checked(settings)


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    wandb_runs.check_mode(settings["wandb"])
    total = len(letter_task.ALPHABET) ** settings["length"]
    for key in ("length", "compared", "held_out"):
        if type(settings[key]) is not int or settings[key] < 1:
            raise ValueError(f"{key} must be a whole number >= 1; got {settings[key]!r}.")
    lists = {"reward_weights": settings["reward_weights"], "targets": settings["targets"]} | {
        key: settings["deamortised"][key] for key in ("draws", "steps")
    }
    for key, values in {**lists, "trained": settings["trained"]}.items():
        if not isinstance(values, list) or not values or min(values) <= 0:
            raise ValueError(f"{key} must be a list of positive numbers; got {values!r}. Write {key}=[1,2].")
        if key != "targets" and values != sorted(set(values)):
            raise ValueError(f"{key} must ascend; got {values!r}.")
    if settings["main"] not in settings["reward_weights"]:
        raise ValueError(f"main must be one of reward_weights {settings['reward_weights']}; got {settings['main']}.")
    if settings["trained"][-1] + settings["held_out"] > total or settings["compared"] > settings["trained"][-1]:
        raise ValueError(
            f"trained[-1] + held_out must be <= {total} prompts and compared <= trained[-1]; got "
            f"{settings['trained'][-1]}, {settings['held_out']}, {settings['compared']}."
        )
    return settings


def execute(settings: dict[str, Any], command: str) -> int:
    """Run the comparison; returns the exit status."""
    folder = Path(settings["results_dir"], settings["scale"], "ppo")
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "models", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    record = provenance.Summary(folder, command, settings, {"seed": [settings["seed"]]}, "cpu")
    record.content.pop("settings_of_each_cell")  # there are no records here
    run = PPOComparison(settings, folder)
    work = 100.0 + 8.0 * len(run.trainings())
    bar = tqdm(total=work, bar_format="{desc} {percentage:3.0f}% {bar} {elapsed}<{remaining}", disable=None)
    begin = time.perf_counter()
    try:
        for name, share, part in run.stages():
            bar.set_description_str(name)
            before = bar.n
            part(lambda fraction, share=share: bar.update(share * fraction))
            bar.update(before + share - bar.n)
            bar.write(f"{name}: done after {time.perf_counter() - begin:.0f} s")
    except KeyboardInterrupt:
        record.close("interrupted")
        raise
    finally:
        bar.close()
    table, curves = pd.DataFrame(run.rows), pd.DataFrame(run.curves)
    table = table[tables.COLUMNS]
    crossing = tables.break_even(table, curves, settings["main"], settings["targets"])
    text = verdict.markdown(table, crossing, run.engine, settings["main"], command)
    for name, frame in (("ppo", table), ("curves", curves), ("break_even", crossing)):
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    (folder / "ppo.md").write_text(text, encoding="utf-8")
    read = [pd.read_csv(folder / f"{name}.csv") for name in ("ppo", "curves", "break_even")]
    figure = comparison(*read, settings["main"])
    figures.save(figure, folder, "ppo")
    plt.close(figure)
    record.close("finished", threads=torch.get_num_threads(), engine=run.engine)
    wandb_runs.mirror_tables(
        folder,
        settings,
        experiment="ppo",
        scale=settings["scale"],
        names=("ppo", "curves", "break_even"),
        metrics={
            f"kl/{row.method}/{row.amount:g}": row.kl
            for row in table[(table.reward_weight == settings["main"]) & (table.measured_on == "compared")].itertuples()
        },
    )
    print(f"\n{text}\nResults in {folder}: {', '.join(FILES)}")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # lightning 2.6.6 under torch 2.13
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    try:
        return execute(read_settings(arguments), shlex.join(["./reproduce.sh", "ppo", *arguments]))
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("interrupted; give the same command again, it starts anew.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Lightning would only take note of it
    sys.exit(main(sys.argv[1:]))
