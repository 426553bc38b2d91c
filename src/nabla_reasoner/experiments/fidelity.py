"""Fidelity of reward gradients: what a reward's gradient predicts, what is exact, and whether following it helps.

For each policy and task: one response to each problem, some of its uncertain positions (the confidence gate of
∇-Reasoner), and the policy's most likely candidates there. A candidate is right if the grader accepts the policy's
greedy completion after it. Every reward is then measured on the same positions (`evaluation/fidelity.py`).
"""

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ..config import build
from ..config.parts import ModelSettings
from ..config.sweeps import Sweep
from ..config.target_cells import FidelityCell
from ..decoding.nabla_reasoner import NablaReasoner
from ..engine import scoring
from ..evaluation.fidelity import Case, changes
from ..evaluation.token_values import prefix_rewards
from ..models.language_models import RewardModel
from ..reporting import fidelity, figures, tables
from ..reporting.evidence import Row
from ..reporting.fidelity import COLUMNS, Measured, Quality
from ..reporting.fidelity_figure import draw
from ..reporting.frames import read_frame
from ..training.recipes import manifest
from .command import Command, refusing
from .fidelity_samples import RANKED, Sampled, sample
from .recording import Progress, Recording

FILES = ("table.csv", "table.md", "fidelity.png", "fidelity.pdf", "fidelity.md", "summary.json")


def measure(reward: RewardModel, sampled: Sampled) -> list[Measured]:
    """Return what the reward says at every position."""
    prompts = [reward.prompt_ids(problem.messages) for problem in sampled.problems]
    cases = [
        Case(prompts[number], sampled.responses[number], position, candidates)
        for number, position, candidates, _ in sampled.positions
    ]
    return [
        Measured(
            problem=sampled.problems[position.number].id,
            place=case.position / len(case.response),
            changes=change,
            is_own=np.array(case.candidates) == case.response[case.position],
            is_right=np.array(position.is_right),
        )
        for position, case, change in zip(sampled.positions, cases, changes(reward, cases), strict=True)
    ]


def quality(reward: RewardModel, sampled: Sampled) -> Quality:
    """Return how well the reward ranks the policy's responses."""
    prompts = [reward.prompt_ids(problem.messages) for problem in sampled.problems]
    flat = [(prompt, tokens) for prompt, row in zip(prompts, sampled.ranked, strict=True) for tokens in row]
    values, _ = scoring.rewards(reward, [prompt for prompt, _ in flat], [tokens for _, tokens in flat])
    scores, verdicts = np.array(values).reshape(-1, RANKED), np.array(sampled.verdicts)
    rows = prefix_rewards(reward, prompts, sampled.responses)
    is_right = np.repeat(verdicts[:, 0], [len(row) for row in rows])
    by_token = np.concatenate(rows)
    return Quality(
        auc_within=manifest.auc_within(scores, verdicts),
        token_auc=manifest.auc(by_token[is_right], by_token[~is_right]) if len(set(is_right)) == 2 else float("nan"),
    )


def label(model: ModelSettings, command: Command, group: str) -> str:
    """Return a model's name in the table: its choice, or its folder or hub name if the command gives `GROUP.path`."""
    return Path(os.path.abspath(model.path)).name if is_typed(command, group) else model.name


def is_typed(command: Command, group: str) -> bool:
    """Return whether the command gives `GROUP.path`."""
    return any(override.startswith(f"{group}.path=") for override in command.overrides)


def distinct_cells(command: Command, sweeps: Sequence[Sweep]) -> list[FidelityCell]:
    """Return one cell per policy, task and reward; the sweep varies the reward fastest, so a policy is loaded once.

    With `reward.path` on the command line every choice of `reward` is the same model, which is measured once.

    Raises:
        ValueError: several seeds, a setting that is null, a method without a confidence gate, or a policy or task with
            the name of the rows over all of them.
    """
    cells = [cell for sweep in sweeps for cell in sweep.cells]
    seeds = sorted({cell.seed for cell in cells})
    if len(seeds) > 1:
        raise ValueError(f"fidelity takes one seed; got {seeds}. Write seed={seeds[0]}.")
    for name in ("positions", "candidates"):
        if getattr(cells[0], name) is None:
            raise ValueError(f"{name} must be a whole number; got null. Write {name}=4.")
    distinct: dict[tuple[str | None, ...], FidelityCell] = {}
    for cell in cells:
        if not isinstance(build.build_method(cell), NablaReasoner):
            raise ValueError(f"fidelity needs a method with a confidence gate; got {cell.method.name}. Drop method=.")
        for group, name in (("policy", label(cell.policy, command, "policy")), ("task", cell.task.name)):
            if name == fidelity.ALL:
                raise ValueError(f"a {group} must not be called {name!r}, which names the rows over all. Rename it.")
        reference = None if is_typed(command, "reward") else cell.reward.reference
        key = (cell.policy.path, cell.task.name, cell.reward.path, cell.reward.kind, reference)
        distinct.setdefault(key, cell)
    return list(distinct.values())


def check(cells: Sequence[FidelityCell]) -> None:
    """Load every pair of models once; raises ValueError as `build.load_models`."""
    for cell in {(cell.policy.path, cell.reward.path, cell.reward.kind): cell for cell in cells}.values():
        build.prepare_models(cell)
        policy, reward = build.load_models(cell)
        if cell.candidates > policy.vocab_size:
            raise ValueError(f"candidates must be at most {policy.vocab_size}, the vocabulary; got {cell.candidates}.")
        problems = build.build_problems(cell)
        for model in (policy, reward):
            model.check_length(max(len(model.prompt_ids(p.messages)) for p in problems), cell.response_limit)


def measured_rows(cells: Sequence[FidelityCell], command: Command) -> list[Row]:
    """Measure every reward and return the rows of the table, the rewards in the order of the command."""
    measured: dict[tuple[str, str], dict[tuple[str, str], list[Measured]]] = {}
    qualities: dict[tuple[str, str], list[Quality]] = {}
    sampled: dict[tuple[str, str], Sampled] = {}
    with Progress(float(len(cells)), len(cells)) as progress:
        for cell in cells:
            where = label(cell.policy, command, "policy"), cell.task.name
            which = label(cell.reward, command, "reward"), cell.reward.kind
            with progress.part(f"{which[0]} on {' '.join(where)}", 1.0) as part:
                policy, reward = build.load_models(cell)
                if where not in sampled:
                    settings = build.build_method(cell).settings
                    sampled[where] = sample(policy, build.build_problems(cell), settings, cell)
                measured.setdefault(which, {})[where] = measure(reward, sampled[where])
                qualities.setdefault(which, []).append(quality(reward, sampled[where]))
                part.note = f"{len(sampled[where].positions)} positions"
    return [
        row
        for (name, kind), members in measured.items()
        for row in fidelity.reward_rows({"reward": name, "kind": kind}, members, qualities[name, kind])
    ]


def note(cell: FidelityCell, line: str) -> str:
    """Return the sentences below the table."""
    method = cell.method.keywords()
    count = "all" if cell.num_problems is None else f"the first {cell.num_problems}"
    return (
        f"One response to each of {count} {cell.split} problems of a task (temperature "
        f"{method['rollout_temperature']:g}, seed {cell.seed}); at most {cell.positions} positions of it at which the "
        f"policy is no more certain than {method['confidence_threshold']:g}; the policy's {cell.candidates} most "
        "likely tokens there. Right: the grader accepts the policy's greedy completion after the candidate. In the "
        "outcome and process forms the rest of the response is kept. Rank correlation and top-1 are over a "
        "position's candidates, its own token included; slope, bias and RMS (of the exact change) are over the other "
        "tokens, in units of the reward. Decided: positions at which some candidates are right and some are wrong. "
        "Intervals are over problems.\n\n"
        f"Made by `{line}`."
    )


def write(folder: Path, rows: Sequence[Row], below: str) -> str:
    """Write table.csv, table.md, the figure and its caption; return the text of the table."""
    (folder / "table.csv").write_text(tables.csv_text(COLUMNS, rows), encoding="utf-8")
    text = fidelity.text(rows, below)
    (folder / "table.md").write_text(text, encoding="utf-8")
    figure = draw(read_frame(folder / "table.csv"))
    figures.save(figure, folder, "fidelity")
    plt.close(figure)
    caption = (
        "# fidelity.png\n\nLeft: rank correlation of the first-order prediction and the exact reward, by form, with "
        "95 % intervals over problems. Middle: how often the best candidate is right, by prediction (filled), exact "
        "score (open) and the policy's probability (bar). Right: right choices minus the policy's in the prefix form, "
        f"against the reward's AUC on {RANKED} responses to the same problem. Rows in data/fidelity.csv.\n\n{below}\n"
    )
    (folder / "fidelity.md").write_text(caption, encoding="utf-8")
    return text


def run(command: Command, sweeps: Sequence[Sweep]) -> int:
    """Measure the rewards and write table and figure; return the exit status."""
    with refusing():
        cells = distinct_cells(command, sweeps)
        check(cells)
    first = cells[0]
    varied = {
        group: list(dict.fromkeys(getattr(c, group).name for c in cells)) for group in ("policy", "task", "reward")
    }
    varied |= {"seed": [first.seed]}
    scope = {"scale": first.scale_name, "varied": varied, "device": first.device}
    with Recording(command, first.content(), **scope, replaces=FILES) as recording:
        rows = measured_rows(cells, command)
        print(write(recording.folder, rows, note(first, command.recipe)))
        pooled = [row for row in rows if row["verdict"] is not None and row["rank_correlation"] is not None]
        metrics = {f"rank_correlation/{row['reward']}/{row['form']}": row["rank_correlation"] for row in pooled}
        facts = {"verdicts": fidelity.verdict_lines(rows)}
        return recording.finish(tables=("table",), metrics=metrics, facts=facts)
