"""Table 5 and Figure 3: what a method spends per problem, by what it is spent on, from the records of Table 1."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import grid, tables
from .records import Outcome, read_outcomes, stored_cells
from .statistics import ratio_interval

NABLA = ("nabla_without_gradient", "nabla_reasoner", "nabla_reasoner_multipass")
COMPARED = ("best_of_n", "nabla_reasoner")  # of the paper's Table 5
QUANTITIES = {"seconds": "seconds", "flops": "FLOPs", "decode_tokens": "tokens", "peak_bytes": "bytes"}
COLUMNS = (
    "policy", "task", "quantity", "best_of_n", "nabla_reasoner", "ratio", "ci_low", "ci_high", "paper_best_of_n",
    "paper_nabla_reasoner", "paper_ratio", "num_problems", "num_seeds", "note",
)  # fmt: skip
HEADER = (
    "policy", "task", "quantity", "Best-of-8", "∇-Reasoner", "ratio", "95 % interval", "paper: Best-of-8",
    "paper: ∇-Reasoner", "paper: ratio", "problems x seeds",
)  # fmt: skip
PROMPTS = 83  # of AMC, which the paper's totals are over
PARTS = ("decoding", "passes", "gradients")
COST_COLUMNS = (
    "policy", "task", "method", "model_calls", *PARTS, "flops", "gradient_flops", "saving_percent", "num_problems",
    "num_seeds",
)  # fmt: skip

Row = dict[str, Any]


def read_cells(folder: Path) -> dict[tuple[str, str, str], list[Outcome]]:
    """Outcomes of every cell of a folder of records.

    Raises:
        ValueError: no records there.
    """
    cells = {key: [o for path in paths for o in read_outcomes(path)] for key, paths in stored_cells(folder).items()}
    if not cells:
        raise ValueError(f"{folder} must hold records; got none. Run ./reproduce.sh table1 first.")
    return cells


def table_rows(folder: Path) -> list[Row]:
    """Table 5: rows of `COLUMNS`, each quantity of each policy and task, over problems and seeds that both solved.

    Args:
        folder: results of a scale, with `table1/records`.

    Raises:
        ValueError: no policy and task with records of both methods.
    """
    cells = read_cells(folder / "table1" / "records")
    reported = {(c["method"], c["unit"]): c["value"] for c in tables.paper_cells("table5")}
    rows = []
    for policy, task in dict.fromkeys(key[:2] for key in cells):
        both = [{o.key: o.cost for o in cells.get((policy, task, m), []) if o.ok} for m in COMPARED]
        keys = sorted(both[0].keys() & both[1].keys())
        for quantity, unit in QUANTITIES.items() if keys else ():
            sides = [[own[key][quantity] for key in keys] for own in both]
            rows.append({"policy": policy, "task": task, "quantity": quantity} | _compared(keys, *sides, quantity))
            paper = [reported.get((method, unit)) for method in COMPARED]
            known = None not in paper
            rows[-1] |= {
                "paper_best_of_n": paper[0] / PROMPTS if known else None,
                "paper_nabla_reasoner": paper[1] / PROMPTS if known else None,
                "paper_ratio": paper[1] / paper[0] if known else None,
            }
    if not rows:
        raise ValueError(
            f"{folder / 'table1' / 'records'} must hold records of {' and '.join(COMPARED)} for one policy and task; "
            "got none. Run ./reproduce.sh table1 first."
        )
    return rows


def _compared(keys: list[tuple], base: Sequence[float | int], own: Sequence[float | int], quantity: str) -> Row:
    problems = sorted({key[0] for key in keys})
    counts = {"num_problems": len(problems), "num_seeds": len({key[1] for key in keys}), "note": ""}
    if quantity == "peak_bytes":  # of a process that ran several methods: no quantity of single problems
        note = "largest of the process up to then, which later methods inherit"
        pair = {"best_of_n": max(base), "nabla_reasoner": max(own)}
        return {**pair, "ratio": None, "ci_low": None, "ci_high": None, **counts, "note": note}
    place = {problem: index for index, problem in enumerate(problems)}
    totals = np.zeros((2, len(problems)))
    for key, below, above in zip(keys, base, own, strict=True):
        totals[:, place[key[0]]] += above, below
    ratio = ratio_interval(*totals)
    return {
        "best_of_n": float(np.mean(base)), "nabla_reasoner": float(np.mean(own)), "ratio": ratio.value,
        "ci_low": ratio.low, "ci_high": ratio.high, **counts,
    }  # fmt: skip


def hardware(folder: Path) -> str:
    """The machine of Table 1's run, as its summary.json says."""
    path = folder / "table1" / "summary.json"
    if not path.exists():
        return "Hardware: unknown, there is no summary.json."
    run = json.loads(path.read_text(encoding="utf-8"))
    config, peak = run["config"], run.get("peak_bytes")
    threads = "torch's own number of" if config["threads"] is None else config["threads"]
    words = f"Hardware: {run['device']}, {run['count']} visible; device {config['device']}, {config['dtype']}, "
    words += f"{threads} threads, batches of {config['batch_size']}"
    return words + (f"; peak of the whole run {peak / 2**20:.0f} MiB." if peak else ".")


def notes(folder: Path) -> list[str]:
    """Sentences below Table 5."""
    return [
        "Per problem, means over problems and seeds that both methods solved; seconds are a problem's share of its "
        "batch. Ratio: ∇-Reasoner over Best-of-8, of totals, with its interval by bootstrap over problems. Peak memory "
        "is the process's largest up to then, which later methods inherit: no ratio.",
        f"Paper: totals over {PROMPTS} AMC prompts (arXiv 2603.04948) divided by {PROMPTS}, of other models on unknown "
        "hardware: only the ratio compares. ? unknown.",
        hardware(folder),
    ]


def shown(row: Row) -> list[str]:
    """A row of Table 5 as text under `HEADER`."""
    def number(name: str, unknown: str = "") -> str:
        return unknown if row[name] is None else f"{row[name]:.3g}"

    interval = "" if row["ratio"] is None else f"{row['ci_low']:.3g} to {row['ci_high']:.3g}"
    return [
        row["policy"], row["task"], row["quantity"], number("best_of_n"), number("nabla_reasoner"), number("ratio"),
        interval, number("paper_best_of_n", "?"), number("paper_nabla_reasoner", "?"), number("paper_ratio", "?"),
        f"{row['num_problems']} x {row['num_seeds']}",
    ]  # fmt: skip


def base_policies(cells: Sequence[tuple[str, str, str]]) -> list[str]:
    """Policies that are not the trained form (`NAME-sft`, `NAME-grpo`) of another one in the records."""
    names = list(dict.fromkeys(key[0] for key in cells))
    return [name for name in names if not any(name.startswith(f"{base}-{k}") for base in names for k in tables.TRAINED)]


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
    for method in grid.METHODS:
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
    paper = next(c for c in tables.paper_cells("figure3") if c["method"] == "max_saving_vs_baselines")["value"]
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
