"""`./reproduce.sh bench`: speed, FLOPs and memory, each beside a yardstick measured in the same run.

Writes `results/<scale>/bench/`: bench.csv, spread.csv (every single timing), profile.csv (where the time goes) and
bench.md, anew after each case, so that a run that is stopped leaves what it finished; summary.json; and at the end the
figure, bench.png and bench.pdf.

A case of bench.csv is named NAME or NAME__POINT (a policy and a task, a length, a batch). Its first row is the
yardstick, its second what is compared with it, and `ratio_to_reference` divides the second's quantity by the first's:

    gradient_flops                FLOPs of gradient evaluations; fast engine / plain engine with a cache within each DTO
                                  call (Alg. 4)
    printed_gradient_flops        the same; fast engine / plain engine that evaluates at each of T steps (Alg. 2)
    lookup_and_gradient_flops     FLOPs besides rollouts and scores; fast engine / plain engine (Alg. 4)
    best_of_n_flops               all FLOPs; ∇-Reasoner, one pass / Best-of-8 (the paper's Table 5: 25.8)
    best_of_n_seconds             seconds; ∇-Reasoner, one pass / Best-of-8
    engine_seconds                seconds; fast engine on a batch / plain engine, one problem at a time
    evaluation_seconds            seconds; one gradient evaluation of a batch / bare passes of the same models
    dto_memory                    peak bytes besides weights; one DTO call / bare passes of the same models
    evaluation_against_decoding   seconds; one gradient evaluation / decoding the same sequence; by length
    evaluation_by_length          seconds; one gradient evaluation / bare passes; by length, one sequence
    evaluation_by_batch           seconds; one gradient evaluation / bare passes; by number of sequences
    utilisation                   FLOP/s; one gradient evaluation / a large matrix product (a GPU, 7 B and 4 B models)

`seconds` are medians, per problem where problems are solved. `flops` are those that the case compares; the columns of
tokens count whole runs (forward: whatever was read, prompts included). Bare passes are a loss of plain Hugging Face
modules, back to the input embeddings.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from ..benchmark import results
from ..benchmark.cases import CASES, cells
from ..benchmark.context import NABLA, BenchContext, Comparison
from ..benchmark.figure import draw_bench
from ..config.schema import CONFIGS, choices
from ..evaluation import provenance
from ..reporting import figures, wandb_runs

WRONG, FAILED, INTERRUPTED = 2, 1, 130
SCALES = ("tiny", "small")
COUNTS = (
    "repeats",
    "num_problems",
    "printed_problems",
    "batch_problems",
    "batch_size",
    "reference_problems",
    "sequences",
    "growth_length",
)


def read_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """configs/bench.yaml with a command's settings.

    Raises:
        ValueError: a setting that does not exist or cannot be read, or a value out of range; the valid ones are named.
    """
    known = OmegaConf.load(CONFIGS / "bench.yaml")
    given = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f'settings are written key=value; got {override!r}, e.g. repeats=3 "cases=[dto_memory]".')
        parent = OmegaConf.select(known, key.rpartition(".")[0]) if "." in key else known
        if not isinstance(parent, DictConfig) or key.rpartition(".")[2] not in parent:
            valid = ", ".join(key for key in (parent if isinstance(parent, DictConfig) else known) if key != "sizes")
            raise ValueError(f"unknown setting {key!r}; settings: {valid}.")
        given[key] = value
    if given.get("scale", "tiny") not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {given['scale']!r}.")
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            # `scale` is a group too, of other settings; Hydra would look for bench's value there
            config = compose("bench", [word for word in overrides if not word.startswith("scale=")])
        config.scale = given.get("scale", config.scale)
        settings = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{' '.join(str(error).split())} Write key=value, and a list as key=[a,b].") from error
    return _checked(settings)


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    wandb_runs.check_mode(settings["wandb"])
    for key in COUNTS:
        if type(settings[key]) is not int or settings[key] < 1:
            raise ValueError(f"{key} must be a whole number >= 1; got {settings[key]!r}.")
    for key in ("decoded_lengths", "growth_lengths", "growth_batches"):
        values = settings[key]
        whole = isinstance(values, list) and values and all(type(value) is int and value >= 1 for value in values)
        if not whole or values != sorted(set(values)) or (key != "growth_batches" and values[0] < 3):
            least = 1 if key == "growth_batches" else 3
            raise ValueError(f"{key} must be a list of whole numbers >= {least}, ascending; got {values!r}.")
    for key, group in (("policies", "policy"), ("tasks", "task")):
        if not isinstance(settings[key], list) or not settings[key]:
            raise ValueError(f"{key} must be a list; got {settings[key]!r}. Write {key}=[{choices(group)[0]}].")
    valid = [name for name, case in CASES.items() if settings["scale"] == "tiny" or case.small]
    chosen = valid if settings["cases"] is None else settings["cases"]
    unknown = [name for name in chosen if name not in valid] if isinstance(chosen, list) else [chosen]
    if unknown or not chosen:
        names = ", ".join(map(str, unknown)) or "an empty list"
        raise ValueError(
            f"cases must be a list of {', '.join(valid)} at scale={settings['scale']}; got {names}. Write cases=[NAME]."
        )
    if settings["device"] not in ("cpu", "cuda") or (settings["device"] == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device must be cpu, or cuda where there is an NVIDIA GPU; got {settings['device']!r}.")
    return {**settings, "cases": [name for name in valid if name in chosen]}


class Report:
    """The files of a run; `results` holds by case and point the measurement, or in words why there is none."""

    def __init__(self, folder: Path, settings: dict[str, Any], facts: str):
        self.folder, self.facts, self.scale = folder, facts, settings["scale"]
        self.results: dict[str, dict[str, Comparison | str]] = {}
        for name in ("bench.csv", "spread.csv", "profile.csv", "bench.md", "bench.png", "bench.pdf", "summary.json"):
            (folder / name).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)

    def verdict(self, name: str) -> results.Verdict:
        """What a case shows."""
        case = CASES[name]
        return results.verdict(name, self.results[name], case.kind, case.targets.get(self.scale))

    def write(self) -> str:
        """Write bench.csv, spread.csv, profile.csv and bench.md of the finished cases; returns the last."""
        table, spread = results.rows(self.results, CASES), results.spread_rows(self.results)
        text = results.markdown(self.results, CASES, self.scale, self.facts)
        profile = results.profile_rows(self.results)
        for name, frame in (("bench", table), ("spread", spread), ("profile", profile)):
            frame.to_csv(self.folder / f"{name}.csv", index=False, float_format="%.6g")
        (self.folder / "bench.md").write_text(text, encoding="utf-8")
        return text

    def draw(self) -> None:
        """Write the figure, if anything was measured."""
        table, spread = (pd.read_csv(self.folder / f"{name}.csv") for name in ("bench", "spread"))
        if table.ratio_to_reference.notna().any():
            targets = {name: case.targets[self.scale] for name, case in CASES.items() if self.scale in case.targets}
            figure = draw_bench(table, spread, targets)
            figures.save(figure, self.folder, "bench")
            plt.close(figure)


def run(settings: dict[str, Any], command: str) -> int:
    """Measure the chosen cases; returns the exit status."""
    bench = BenchContext(settings)
    for policy, task in (place.split("__") for place in cells(settings)):
        bench.cell(policy, task, NABLA)  # a wrong name is answered before anything is computed
    folder = Path(settings["results_dir"], settings["scale"], "bench")
    bench.models(settings["policies"][0])
    report = Report(folder, settings, _facts(settings))
    record = provenance.Summary(folder, command, settings, {"seed": [0], "case": settings["cases"]}, settings["device"])
    record.content.pop("settings_of_each_cell")  # there are no records here
    weights = sum(CASES[name].weight for name in settings["cases"])
    bar = tqdm(total=weights, bar_format="{desc} {percentage:3.0f}% {bar} {elapsed}<{remaining}", disable=None)
    failed, begin, done = 0, time.perf_counter(), 0.0
    try:
        for number, name in enumerate(settings["cases"], start=1):
            measured, points, place = {}, CASES[name].points(settings), f"[{number}/{len(settings['cases'])}] {name}"
            for point in points:
                bar.set_description_str(f"{place} {point}")
                measured[point] = _measure(bench, name, point)
                bar.update(CASES[name].weight / len(points))
            failed += any(isinstance(each, str) and each.startswith("failed") for each in measured.values())
            report.results[name] = measured
            text, done, spent = report.write(), done + CASES[name].weight, time.perf_counter() - begin
            left = f"{spent:.0f} s so far, about {spent * (weights / done - 1):.0f} s left"
            bar.write(f"{place}: {report.verdict(name).value}; {left}")
    except KeyboardInterrupt:
        record.close("interrupted")
        raise
    finally:
        bar.close()
    report.draw()
    record.close("failures" if failed else "finished", threads=torch.get_num_threads())
    ratios = pd.read_csv(folder / "bench.csv").dropna(subset=["ratio_to_reference"])
    metrics = {f"ratio/{row.case}/{row.variant}": row.ratio_to_reference for row in ratios.itertuples()}
    wandb_runs.mirror_tables(
        folder, settings, experiment="bench", scale=settings["scale"], names=("bench", "spread"), metrics=metrics
    )
    print(f"\n{text}\nResults in {folder}: bench.csv, spread.csv, profile.csv, bench.md, bench.png|pdf, summary.json")
    return FAILED if failed else 0


def _measure(bench: BenchContext, name: str, point: str) -> Comparison | str:
    """A measurement, or in words why there is none: one case that fails must not cost the others."""
    if name == "utilisation" and bench.device.type != "cuda":
        return "not run: needs an NVIDIA GPU and device=cuda"
    try:
        return CASES[name].measure(bench, point)
    except Exception as error:
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())}"


def _facts(settings: dict[str, Any]) -> str:
    """The circumstances, in a line."""
    hardware, state = provenance.device_facts(settings["device"]), provenance.commit()
    commit = f", commit {state['commit'][:8]}{'-dirty' if state['dirty'] else ''}" if state["commit"] else ""
    where = f"{torch.get_num_threads()} thread(s) of {hardware['count']}" if settings["device"] == "cpu" else "GPU"
    return (
        f"scale={settings['scale']}; {where} ({hardware['device']}), torch {torch.__version__}{commit}; medians of "
        f"{settings['repeats']} repeats, both sides in turns after a warm-up of each."
    )


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    try:
        settings = read_settings(arguments)
        return run(settings, shlex.join(["./reproduce.sh", "bench", *arguments]))
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("interrupted; the finished cases are in the results folder.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
