"""`./reproduce.sh theorem`: numerical checks of Theorem 4.1 and of the gradient facts (arXiv 2603.04948).

Writes `results_dir/theory/`, the tables anew after each group, so that a run that is stopped leaves what it finished:

    checks.csv   name, value, tolerance, noise_floor, passed   passes when value <= tolerance, without exception;
                                                               `passed` is True, False, or "skipped: REASON"
    terms.csv    norms and shares of the three gradient terms, by position of every response (see facts.TermRow)
    curves.csv   curve, series, x, y, floor                    what the figures draw besides
    theorem.png, gradients.png (and .pdf), summary.json

In rows ending in `_seen` a difference has to be there: value is the noise floor over it, tolerance a third. The exit
status is 1 when any check fails; a skipped one does not fail and is not a pass.
"""

import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
import transformers
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from ..config.schema import CONFIGS
from ..evaluation import provenance
from ..reporting import figures, wandb_runs
from ..theory import figures as theory_figures
from ..theory.check import Check, Point, describe
from ..theory.context import SPACES, Findings, TheoryContext
from ..theory.gradient_checks import TermRow
from ..theory.suite import GROUPS

WRONG, FAILED, INTERRUPTED = 2, 1, 130
COLUMNS = ["name", "value", "tolerance", "noise_floor", "passed"]
WHOLE = (
    "particles",
    "limit_particles",
    "scan_particles",
    "cells",
    "bins",
    "argmin_cells",
    "nodes",
    "steps",
    "problems",
    "samples",
    "candidates",
    "directions",
    "points",
    "simulated",
)
POSITIVE = ("step", "limit_step", "exact_step", "coarse_step", "limit_time", "time", "probe_width", "scale")


def read_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """configs/theorem.yaml with a command's settings.

    Raises:
        ValueError: a setting that does not exist or cannot be read, or a value out of range; the valid ones are named.
    """
    known = OmegaConf.load(CONFIGS / "theorem.yaml")
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise ValueError(f'settings are written key=value; got {override!r}, e.g. seed=1 "checks=[argmin]".')
        parent = OmegaConf.select(known, key.rpartition(".")[0]) if "." in key else known
        if not isinstance(parent, DictConfig) or key.rpartition(".")[2] not in parent:
            valid = ", ".join(map(str, parent if isinstance(parent, DictConfig) else known))
            raise ValueError(f"unknown setting {key!r}; settings: {valid}.")
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            settings = OmegaConf.to_container(compose("theorem", list(overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{' '.join(str(error).split())} Write key=value, and a list as key=[a,b].") from error
    return _checked(settings)


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    wandb_runs.check_mode(settings["wandb"])
    for key, least in (("seed", 0), ("threads", 1)):
        if type(settings[key]) is not int or settings[key] < least:
            raise ValueError(f"{key} must be a whole number >= {least}; got {settings[key]!r}.")
    sections = {name: section for name, section in settings.items() if isinstance(section, dict)}
    for name, section in sections.items():
        for key, value in section.items():
            listed = key == "nodes" and isinstance(value, list) and len(value) == 2
            values = value if listed else [value]
            if key in WHOLE and not all(type(one) is int and one >= 1 for one in values):
                raise ValueError(f"{name}.{key} must be a whole number >= 1; got {value!r}.")
            absent = key == "limit_step" and value is None
            if key in POSITIVE and not absent and not (type(value) in (int, float) and value > 0):
                raise ValueError(f"{name}.{key} must be a number > 0; got {value!r}.")
            if key in ("times", "separations") and (
                not isinstance(value, list) or not value or value != sorted(set(value)) or min(value) <= 0
            ):
                raise ValueError(f"{name}.{key} must be a list of numbers > 0, ascending; got {value!r}.")
    for name in SPACES:
        if settings[name]["cells"] % settings[name]["bins"]:
            raise ValueError(f"{name}.cells must be a multiple of {name}.bins; got {settings[name]['cells']}.")
    models = settings["prop_c1"]["models"]
    if not isinstance(models, list) or not all(isinstance(one, str) and one.count("/") == 1 for one in models):
        raise ValueError(
            f"prop_c1.models must be a list of POLICY/REWARD, e.g. [tiny-base/likelihood]; got {models!r}."
        )
    chosen = list(GROUPS) if settings["checks"] is None else settings["checks"]
    unknown = [name for name in chosen if name not in GROUPS] if isinstance(chosen, list) else [chosen]
    if unknown or not chosen:
        names = ", ".join(map(str, unknown)) or "an empty list"
        raise ValueError(f"checks must be a list of {', '.join(GROUPS)}; got {names}. Write checks=[NAME].")
    return {**settings, "checks": [name for name in GROUPS if name in chosen]}


def checks_table(checks: Sequence[Check]) -> pd.DataFrame:
    """checks.csv."""
    rows = [(*one[:4], f"skipped: {one.skipped}" if one.skipped else str(one.passed)) for one in checks]
    return pd.DataFrame(rows, columns=COLUMNS)


def write(folder: Path, found: Findings) -> None:
    """Write the three tables."""
    tables = {
        "checks": checks_table(found.checks),
        "terms": pd.DataFrame(found.terms, columns=TermRow._fields),
        "curves": pd.DataFrame(found.points, columns=Point._fields),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")


def draw(source: Path, folder: Path, prefix: str = "") -> list[str]:
    """Draw what the tables `PREFIXcurves.csv` and `PREFIXterms.csv` of a folder hold; the names of the figures."""
    curves, terms = (pd.read_csv(source / f"{prefix}{name}.csv") for name in ("curves", "terms"))
    drawn = []
    for name, figure in (
        ("theorem", theory_figures.theorem(curves)),
        ("gradients", theory_figures.gradients(curves, terms)),
    ):
        if figure is not None:
            figures.save(figure, folder, name)
            plt.close(figure)
            drawn.append(name)
    return drawn


def run(settings: dict[str, Any], command: str) -> int:
    """Make the chosen checks; returns the exit status."""
    torch.set_num_threads(1)  # tiny tensors: a second thread mostly waits; particles have theirs
    transformers.logging.disable_progress_bar()
    folder = Path(settings["results_dir"], "theory")
    for name in (
        "checks.csv",
        "terms.csv",
        "curves.csv",
        "summary.json",
        "theorem.png",
        "theorem.pdf",
        "gradients.png",
        "gradients.pdf",
    ):
        (folder / name).unlink(missing_ok=True)
    record = provenance.Summary(
        folder, command, settings, {"seed": [settings["seed"]], "checks": settings["checks"]}, "cpu"
    )
    record.content.pop("settings_of_each_cell")  # there are no records here
    lab, found, broken = TheoryContext(settings), Findings([], [], []), []
    weights, begin, done = sum(GROUPS[name].weight for name in settings["checks"]), time.perf_counter(), 0.0
    bar = tqdm(total=weights, bar_format="{desc} {percentage:3.0f}% {bar} {elapsed}<{remaining}", disable=None)
    try:
        for number, name in enumerate(settings["checks"], start=1):
            place = f"[{number}/{len(settings['checks'])}] {name}"
            bar.set_description_str(place)
            try:
                own = GROUPS[name].make(lab)
            except Exception as error:  # one group that breaks must not cost the others
                traceback.print_exc()
                broken.append(name)
                own = Findings([Check(f"{name}_broke_off_{type(error).__name__}", float("nan"), 0.0)])
            found = Findings(*([*mine, *other] for mine, other in zip(found, own, strict=True)))
            write(folder, found)
            done, spent = done + GROUPS[name].weight, time.perf_counter() - begin
            left = spent * (weights / done - 1)
            bar.update(GROUPS[name].weight)
            bar.write("\n".join(describe(check) for check in own.checks))
            bar.write(f"{place} done; {spent:.0f} s so far, about {left:.0f} s left")
    except KeyboardInterrupt:
        record.close("interrupted")
        raise
    finally:
        bar.close()
    drawn = draw(folder, folder)
    failed = [check.name for check in found.checks if not check.passed and not check.skipped]
    skipped = [check.name for check in found.checks if check.skipped]
    record.close("failures" if failed else "finished", threads=settings["threads"], failed=failed, skipped=skipped)
    passed = len(found.checks) - len(failed) - len(skipped)
    wandb_runs.mirror_tables(
        folder,
        settings,
        experiment="theory",
        scale="tiny",
        names=("checks", "terms", "curves"),
        metrics={"passed": passed, "failed": len(failed), "skipped": len(skipped)},
    )
    files = ["checks.csv", "terms.csv", "curves.csv", *(f"{name}.png" for name in drawn)]
    print(f"\n{passed} checks passed, {len(failed)} failed, {len(skipped)} skipped")
    print(f"Results in {folder}: {', '.join(files)}")
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return FAILED if failed else 0


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    try:
        settings = read_settings(arguments)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG
    try:
        return run(settings, shlex.join(["./reproduce.sh", "theorem", *arguments]))
    except KeyboardInterrupt:
        print("interrupted; the finished checks are in the results folder.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
