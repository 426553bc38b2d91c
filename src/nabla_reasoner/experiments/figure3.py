"""Figure 3: model calls by method and purpose."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..config.settings import ResultsSettings
from ..evaluation.lineage import start_policies
from ..evaluation.outcomes import Outcomes, Row
from ..evaluation.records import CellKey
from ..reporting import paper_numbers, tables
from ..reporting.figures import Drawing, legend_below, paragraphs
from ..reporting.method_names import METHODS, NABLA_METHODS, NABLA_REASONER, NULL_ARM, STYLES
from .command import Command
from .from_results import read_table1, write_result_figure


def figure3(results: Path, scale: str, command: str) -> Drawing:
    """Return figure, caption and rows."""
    experiment = read_table1(results)
    rows = cost_rows(experiment.records)
    figure = costs(pd.DataFrame(rows))
    text = cost_caption(rows, command) + paragraphs([*left_out(experiment.records), *experiment.notes()])
    return Drawing({"": figure}, text, tables.csv_text(COST_COLUMNS, rows))


PARTS = {
    "decoding": ("decoded tokens", "#0072B2"),
    "passes": ("prefills, rewards and other whole-sequence passes", "#56B4E9"),
    "gradients": ("gradient evaluations", "#D55E00"),
}


def costs(rows: pd.DataFrame) -> Figure:
    """Draw stacked bars of model calls by method; one panel per policy and task.

    Args:
        rows: columns `COST_COLUMNS`.

    Raises:
        ValueError: there are no rows.
    """
    if rows.empty:
        raise ValueError("a figure needs at least one finished cell; got none. Run ./reproduce.sh table1 first.")
    policies = list(dict.fromkeys(rows.policy))
    tasks = list(dict.fromkeys(rows.task))
    shape = {"figsize": (4.2 * len(tasks) + 1.6, 2.9 * len(policies) + 0.2), "squeeze": False, "sharey": True}
    figure, panels = plt.subplots(len(policies), len(tasks), **shape)
    methods = [method for method in STYLES if method in set(rows.method)]
    for policy, panel_row in zip(policies, panels, strict=True):
        for task, panel in zip(tasks, panel_row, strict=True):
            _bars(panel, rows[(rows.policy == policy) & (rows.task == task)].set_index("method"), methods)
            panel.set_title(f"{policy}, {task}", fontsize=9, parse_math=False)
    for panel in panels[-1]:
        panel.set_xlabel("model calls per problem")
    legend_below(figure, ncol=3)
    return figure


def _bars(panel: Axes, rows: pd.DataFrame, methods: list[str]) -> None:
    """Draw one bar per method, its gradient evaluations last."""
    heights, rows = range(len(methods)), rows.reindex(methods)
    left = pd.Series(0.0, index=methods)
    for part, (label, colour) in PARTS.items():
        width = rows[part].fillna(0.0)
        panel.barh(heights, width, left=left, color=colour, label=label, height=0.7)
        left = left + width
    for height, total in zip(heights, rows.model_calls, strict=True):
        panel.annotate(
            "not run" if pd.isna(total) else f" {total:.0f}",
            (0 if pd.isna(total) else total, height),
            va="center",
            fontsize=7,
        )
    panel.set_yticks(heights, [STYLES[method].label for method in methods], fontsize=7)
    panel.set_ylim(len(methods) - 0.4, -0.6)
    if rows.model_calls.notna().any():
        panel.set_xlim(0, 1.15 * rows.model_calls.max())
    panel.grid(alpha=0.3, axis="x")


COST_COLUMNS = (
    "policy task method model_calls decoding passes gradients flops gradient_flops saving_percent num_problems "
    "num_seeds"
).split()


def cost_rows(outcomes: Outcomes) -> list[Row]:
    """Return rows of `COST_COLUMNS`: mean model calls per problem by purpose.

    A decoded token is one call and a gradient evaluation as many as the passes it ran (see `cost`). The rest are
    passes over whole sequences (prefills, rewards, reading by the selection and the revision), one call each.
    `saving_percent` is the share of a method's calls that ∇-Reasoner in one pass saves.

    Args:
        outcomes: of Table 1's records.
    """
    rows = []
    policies = start_policies(key.policy for key in outcomes)
    for policy, task in dict.fromkeys(key[:2] for key in outcomes if key.policy in policies):
        cell_rows = [{"policy": policy, "task": task} | row for row in _cost_rows(outcomes, policy, task)]
        ours = [row["model_calls"] for row in cell_rows if row["method"] == NABLA_REASONER]
        for row in cell_rows:
            others = ours and row["method"] not in NABLA_METHODS
            row["saving_percent"] = 100 * (1 - ours[0] / row["model_calls"]) if others else None
        rows += cell_rows
    return rows


def _cost_rows(outcomes: Outcomes, policy: str, task: str) -> list[Row]:
    rows = []
    for method in METHODS:
        solved = [outcome for outcome in outcomes.get(CellKey(policy, task, method), []) if outcome.ok]
        if not solved:
            continue
        names = ("model_calls", "decode_tokens", "flops", "gradient_flops")
        calls, decoded, flops, gradient_flops = (
            float(np.mean([outcome.cost[name] for outcome in solved])) for name in names
        )
        gradients = float(np.mean([gradient_calls(outcome.cost) for outcome in solved]))
        parts = {"decoding": decoded, "passes": calls - decoded - gradients, "gradients": gradients}
        keys = [outcome.key for outcome in solved]
        counts = {"num_problems": len({key.problem for key in keys}), "num_seeds": len({key.seed for key in keys})}
        totals = {"model_calls": calls, "flops": flops, "gradient_flops": gradient_flops}
        rows.append({"method": method, **totals, **parts, **counts})
    return rows


def gradient_calls(cost: Mapping[str, float | int]) -> float | int:
    """Return the model calls of a record's gradient evaluations.

    A record made before they were counted has two calls an evaluation for each model that ran backward: exact, but for
    evaluations without a backward pass, whose forward pass then stays among the other passes.
    """
    if "gradient_calls" in cost:
        return cost["gradient_calls"]
    backward = [cost.get(f"{model}_backward_tokens", 0) > 0 for model in ("policy", "reward")]
    return 2 * sum(backward) * cost["gradient_evaluations"]


def left_out(outcomes: Outcomes) -> list[str]:
    """Return a sentence that names the rows which the figure has no bar for; none if it has all."""
    names = sorted({key.method for key in outcomes} - set(METHODS))
    return [f"Not drawn, as they have other names than the methods shipped here: {', '.join(names)}."] if names else []


def cost_caption(rows: Sequence[Row], command: str) -> str:
    """Return the text of figure3.md: a description of the figure, and the largest saving beside the paper's."""
    paper = next(c for c in paper_numbers.paper_cells("figure3") if c["method"] == "max_saving_vs_baselines")["value"]
    baselines = [
        r for r in rows if r["saving_percent"] is not None and r["method"] not in (NULL_ARM, *NABLA_METHODS, "greedy")
    ]
    text = (
        f"# figure3.png\n\nMade by `{command}` from the records of Table 1; rows in `figures/data/figure3.csv`.\n\n"
        "Model calls per problem by the paper's rule (Section 5.2) with nothing left out: a decoded token is one call, "
        "a pass over a whole sequence one. A gradient evaluation is four passes, forward and backward of both models; "
        "in prefix form it is two of the classifier, or at most one of a likelihood reward. Means over problems and "
        "seeds. FLOPs weigh a pass by its length, which this count does not: see Table 5 and Figure 4.\n\n"
    )
    if not baselines:
        return text + f"No baseline beside ∇-Reasoner in these records (the paper's largest saving: {paper} %).\n"
    best, worst = (pick(baselines, key=lambda row: row["saving_percent"]) for pick in (max, min))

    def describe(row: Row) -> str:
        cell = row["policy"], row["task"], NABLA_REASONER
        ours = next(other for other in rows if (other["policy"], other["task"], other["method"]) == cell)
        return (
            f"{row['saving_percent']:.1f} % (against {row['method']}, {row['policy']} on {row['task']}, for "
            f"{ours['flops'] / row['flops']:.2g} times its FLOPs)"
        )

    return (
        f"{text}The paper's largest saving is {paper} % (which baseline is unclear). Here one pass of ∇-Reasoner saves "
        f"between {describe(worst)} and {describe(best)}; a negative saving is a surplus. One pass uses as many "
        "rollouts as it finds revisions to try, mostly fewer than N_max. So it saves by doing less; Figure 4 shows "
        "what that costs in accuracy.\n"
    )


def run(command: Command, settings: ResultsSettings) -> int:
    """Draw the figure; return the exit status."""
    return write_result_figure(command, settings, figure3)
