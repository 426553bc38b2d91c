"""Figure 3: model calls by method and by what they are spent on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.outcomes import base_policies, read_cells
from ..evaluation.records import Outcome
from ..reporting import paper_numbers, tables
from ..reporting.method_names import METHODS, STYLES
from .command import Command
from .from_results import write_result_figure
from .table5 import Row


def figure3(results: Path, scale: str, command: str) -> tuple[Figure, str, str]:
    """Model calls by method: figure, caption, rows."""
    rows = cost_rows(results)
    figure = costs(pd.DataFrame(rows))
    return figure, cost_caption(rows, command), tables.csv_text(COST_COLUMNS, rows)


PARTS = {
    "decoding": ("decoded tokens", "#0072B2"),
    "passes": ("prefills, rewards and other whole-sequence passes", "#56B4E9"),
    "gradients": ("gradient evaluations, 4 each", "#D55E00"),
}


def costs(rows: pd.DataFrame) -> Figure:
    """Stacked bars of model calls by method; one panel per policy and task.

    Args:
        rows: of `expenses.COST_COLUMNS`.

    Raises:
        ValueError: no rows.
    """
    if rows.empty:
        raise ValueError("a figure needs at least one finished cell; got none. Run ./reproduce.sh table1 first.")
    policies, tasks = list(dict.fromkeys(rows.policy)), list(dict.fromkeys(rows.task))
    shape = {"figsize": (4.2 * len(tasks) + 1.6, 2.9 * len(policies) + 0.6), "squeeze": False, "sharey": True}
    figure, panels = plt.subplots(len(policies), len(tasks), **shape)
    methods = [method for method in STYLES if method in set(rows.method)]
    for policy, line in zip(policies, panels, strict=True):
        for task, panel in zip(tasks, line, strict=True):
            _bars(panel, rows[(rows.policy == policy) & (rows.task == task)].set_index("method"), methods)
            panel.set_title(f"{policy}, {task}", fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel("model calls per problem")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    columns = 1 if len(tasks) == 1 else 3
    figure.legend(handles, labels, ncol=columns, loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, (0.7 if columns == 1 else 0.35) / figure.get_figheight(), 1, 1))
    return figure


def _bars(panel: Axes, own: pd.DataFrame, methods: list[str]) -> None:
    """One bar per method, what gradients take last."""
    places, own = range(len(methods)), own.reindex(methods)
    left = pd.Series(0.0, index=methods)
    for part, (label, colour) in PARTS.items():
        width = own[part].fillna(0.0)
        panel.barh(places, width, left=left, color=colour, label=label, height=0.7)
        left = left + width
    for place, total in zip(places, own.model_calls, strict=True):
        panel.annotate(
            "not run" if pd.isna(total) else f" {total:.0f}",
            (0 if pd.isna(total) else total, place),
            va="center",
            fontsize=7,
        )
    panel.set_yticks(places, [STYLES[method][0] for method in methods], fontsize=7)
    panel.set_ylim(len(methods) - 0.4, -0.6)
    panel.set_xlim(0, 1.15 * own.model_calls.max())
    panel.grid(alpha=0.3, axis="x")


NABLA = ("nabla_without_gradient", "nabla_reasoner", "nabla_reasoner_multipass")
COST_PARTS = ("decoding", "passes", "gradients")
COST_COLUMNS = (
    "policy",
    "task",
    "method",
    "model_calls",
    *COST_PARTS,
    "flops",
    "gradient_flops",
    "saving_percent",
    "num_problems",
    "num_seeds",
)


def cost_rows(folder: Path) -> list[Row]:
    """Figure 3: rows of `COST_COLUMNS`, mean model calls per problem by what they are spent on.

    A decoded token is one call and a gradient evaluation four; what is left are passes over whole sequences (prefills,
    rewards, the selector's and the revision's reading), one call each. `saving_percent` is what ∇-Reasoner in one pass
    spends less than this method.

    Raises:
        ValueError: no records.
    """
    cells, rows = read_cells(folder / "table1" / "records"), []
    kept = base_policies(list(cells))
    for policy, task in dict.fromkeys(key[:2] for key in cells if key[0] in kept):
        own = [{"policy": policy, "task": task} | row for row in _cost_rows(cells, policy, task)]
        ours = [row["model_calls"] for row in own if row["method"] == "nabla_reasoner"]
        for row in own:
            others = ours and row["method"] not in ("nabla_reasoner", "nabla_reasoner_multipass")
            row["saving_percent"] = 100 * (1 - ours[0] / row["model_calls"]) if others else None
        rows += own
    return rows


def _cost_rows(cells: dict[tuple[str, str, str], list[Outcome]], policy: str, task: str) -> list[Row]:
    rows = []
    for method in METHODS:
        solved = [o for o in cells.get((policy, task, method), []) if o.ok]
        if not solved:
            continue
        names = ("model_calls", "decode_tokens", "gradient_evaluations", "flops", "gradient_flops")
        calls, decoded, gradients, flops, gradient_flops = (
            float(np.mean([outcome.cost[name] for outcome in solved])) for name in names
        )
        parts = {"decoding": decoded, "passes": calls - decoded - 4 * gradients, "gradients": 4 * gradients}
        counts = {"num_problems": len({o.key[0] for o in solved}), "num_seeds": len({o.key[1] for o in solved})}
        spent = {"model_calls": calls, "flops": flops, "gradient_flops": gradient_flops}
        rows.append({"method": method, **spent, **parts, **counts})
    return rows


def cost_caption(rows: Sequence[Row], command: str) -> str:
    """figure3.md: what is drawn, and the largest saving beside the paper's."""
    paper = next(c for c in paper_numbers.paper_cells("figure3") if c["method"] == "max_saving_vs_baselines")["value"]
    baselines = [r for r in rows if r["saving_percent"] is not None and r["method"] not in (*NABLA, "greedy")]
    text = (
        f"# figure3.png\n\nMade by `{command}` from the records of Table 1; rows in `figures/data/figure3.csv`.\n\n"
        "Model calls per problem by the paper's rule (Section 5.2) with nothing left out: a decoded token is one call, "
        "a pass over a whole sequence one, a gradient evaluation four. Means over problems and seeds. FLOPs weigh a "
        "pass by its length, which this count does not: see Table 5 and Figure 4.\n\n"
    )
    if not baselines:
        return text + f"No baseline beside ∇-Reasoner in these records (the paper's largest saving: {paper} %).\n"
    best, worst = (pick(baselines, key=lambda row: row["saving_percent"]) for pick in (max, min))

    def words(row: Row) -> str:
        calls = next(r for r in rows if r["method"] == "nabla_reasoner" and _place(r) == _place(row))
        return (
            f"{row['saving_percent']:.1f} % (against {row['method']}, {row['policy']} on {row['task']}, for "
            f"{calls['flops'] / row['flops']:.2g} times its FLOPs)"
        )

    return (
        f"{text}The paper's largest saving is {paper} % (which baseline is unclear). Here one pass of ∇-Reasoner saves "
        f"between {words(worst)} and {words(best)}; a negative saving is a surplus. One pass uses as many rollouts as "
        "it finds revisions to try, mostly fewer than 8; that is a saving by doing less, and what it costs in accuracy "
        "is Figure 4's matter.\n"
    )


def _place(row: Row) -> tuple[str, str]:
    return row["policy"], row["task"]


def run(command: Command, settings: Mapping[str, str]) -> int:
    """Draw the figure; returns the exit status."""
    return write_result_figure(command, settings, figure3)
