"""Tables: accuracy and cost of every cell beside the paper's numbers, and paired comparisons at matched cost.

Everything is computed from the records; a cell without records says "not run". A row of the grid is a dict with
`policy`, `task`, `method`, `seeds` (list), `paper_cell` ({policy, benchmark} of the paper's cell that stands beside
ours, either may be None; `method` where the paper calls it otherwise) and, if it has no records for a reason, `absent`.
"""

import csv
import importlib.resources
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .records import Outcome, read_outcomes, record_path
from .statistics import accuracy_interval, cut_at_cost, paired_difference

NABLA = ("nabla_reasoner", "nabla_reasoner_multipass")
TRAINED = ("sft", "grpo")  # the greedy row of policy `<base>-sft` fills the base policy's `sft` cell
COSTS = ("model_calls", "decode_tokens", "flops", "seconds")
MATCHED_ON = ("rollouts", "model_calls", "flops", "seconds")  # in the order of `Outcome.steps`
COLUMNS = (
    "policy", "task", "method", "accuracy", "ci_low", "ci_high", "num_problems", "num_seeds", "num_failed", *COSTS,
    "paper_value", "paper_source", "status",
)  # fmt: skip
COMPARISON_COLUMNS = (
    "policy", "task", "method", "baseline", "matched_on", "difference", "ci_low", "ci_high", "p_value", "num_problems",
    "verdict", "note",
)  # fmt: skip

Row = dict[str, Any]


def table_rows(records: Path, grid: Sequence[Row], paper: Sequence[Row]) -> list[Row]:
    """One row of `COLUMNS` per row of the grid; what is not known is None.

    Failed problems count as wrong. Costs are means per problem and repeat, over those that did not fail.

    Args:
        records: folder of the record files.
        grid: see the module's docstring.
        paper: the paper's cells, as from `paper_cells`.
    """
    loaded = [_outcomes(records, row) for row in grid]
    expected: dict[str, int] = {}  # records per seed: as many as the most complete file of the task has
    for row, outcomes in zip(grid, loaded, strict=True):
        for seed in row["seeds"]:
            count = sum(outcome.key[1] == seed for outcome in outcomes)
            expected[row["task"]] = max(expected.get(row["task"], 0), count)
    return [
        _table_row(row, outcomes, expected.get(row["task"], 0) * len(row["seeds"]), paper)
        for row, outcomes in zip(grid, loaded, strict=True)
    ]


def _table_row(row: Row, outcomes: list[Outcome], expected: int, paper: Sequence[Row]) -> Row:
    result: Row = dict.fromkeys(COLUMNS) | {key: row[key] for key in ("policy", "task", "method")}
    result["paper_value"], result["paper_source"] = paper_value(row, paper)
    result["status"] = row.get("absent", "not run")
    if not outcomes:
        return result
    problems = sorted({outcome.key[0] for outcome in outcomes})
    repeats = sorted({outcome.key[1:] for outcome in outcomes})
    correct = np.full((len(problems), len(repeats)), np.nan)
    where = {name: index for index, name in enumerate(problems)}, {pair: index for index, pair in enumerate(repeats)}
    for outcome in outcomes:
        correct[where[0][outcome.key[0]], where[1][outcome.key[1:]]] = outcome.correct
    interval = accuracy_interval(correct)
    solved = [outcome for outcome in outcomes if outcome.ok]
    result |= {
        "accuracy": interval.mean,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "num_problems": len(problems),
        "num_seeds": len({seed for seed, _ in repeats}),
        "num_failed": len(outcomes) - len(solved),
        "status": "ok" if len(outcomes) >= expected else f"partial: {len(outcomes)} of {expected}",
    }
    if solved:
        result |= {name: float(np.mean([outcome.cost[name] for outcome in solved])) for name in COSTS}
    return result


def _outcomes(folder: Path, row: Row) -> list[Outcome]:
    """All outcomes of a cell that lie in a folder, over its seeds."""
    policy, method = row["policy"], row["method"]
    if method in TRAINED:
        policy, method = f"{policy}-{method}", "greedy"
    paths = [record_path(folder, policy, row["task"], method, seed) for seed in row["seeds"]]
    return [outcome for path in paths if path.exists() for outcome in read_outcomes(path)]


def paper_cells(table: str = "table1") -> list[Row]:
    """The paper's reported cells of one table, from the package's `paper.yaml`; unknown values are None."""
    text = importlib.resources.files(__package__).joinpath("paper.yaml").read_text(encoding="utf-8")
    return [cell for cell in yaml.safe_load(text)["cells"] if cell["table"] == table]


def paper_value(row: Row, paper: Sequence[Row]) -> tuple[float | None, str]:
    """The paper's number for a row of the grid, and where it is known from (or why there is none)."""
    policy, benchmark = row["paper_cell"]["policy"], row["paper_cell"]["benchmark"]
    method = row["paper_cell"].get("method", row["method"])
    match = [c for c in paper if (c["policy"], c["benchmark"], c["method"]) == (policy, benchmark, method)]
    if not match:
        return None, "not in the paper"
    cell, pairs = match[0], {"policy": (row["policy"], policy), "task": (row["task"], benchmark)}
    other = [name for name, (ours, theirs) in pairs.items() if ours != theirs]
    where = f"{policy}, {benchmark}" + (f"; another {' and '.join(other)} than ours" if other else "")
    if cell["value"] is None:
        return None, f"unknown ({where})" if cell["note"] is None else f"unknown: {cell['note']} ({where})"
    return cell["value"], f"{cell['source']} ({where})"


def comparison_rows(records: Path, budget: Path, grid: Sequence[Row]) -> list[Row]:
    """Each ∇-Reasoner row against every other method of its policy and task, paired by problem, seed and repeat.

    Matched on rollouts: the records as they are. Matched on a cost: the baseline is cut at the smallest number of
    rollouts whose mean cost is at least ∇-Reasoner's, so that it never gets less. It is read from its larger pool in
    `budget` where there is one, otherwise from its records. The `note` says at what size it was cut, or that even its
    largest costs less.

    Args:
        records: folder of the record files.
        budget: folder of the larger pools, same format.
        grid: see the module's docstring.
    """
    rows = []
    for row in grid:
        if row["method"] not in NABLA:
            continue
        own = _outcomes(records, row)
        for other in grid:
            if (other["policy"], other["task"]) != (row["policy"], row["task"]) or other["method"] == row["method"]:
                continue
            plain = _outcomes(records, other)
            pool = _outcomes(budget, other) or plain
            for matched_on in MATCHED_ON:
                names = {"policy": row["policy"], "task": row["task"], "method": row["method"]}
                names |= {"baseline": other["method"], "matched_on": matched_on}
                rows.append(names | _compare(own, plain if matched_on == "rollouts" else pool, matched_on))
    return rows


def _compare(own: list[Outcome], other: list[Outcome], matched_on: str) -> Row:
    common = {outcome.key for outcome in own} & {outcome.key for outcome in other}
    repeats = sorted({key[1:] for key in common})
    problems = sorted({key[0] for key in common})
    problems = [problem for problem in problems if all((problem, *pair) in common for pair in repeats)]
    if not problems:
        nothing = dict.fromkeys(("difference", "ci_low", "ci_high", "p_value"))
        return nothing | {"num_problems": 0, "verdict": "not run", "note": ""}
    keys = [(problem, *pair) for problem in problems for pair in repeats]
    mine, theirs = ({o.key: o for o in outcomes} for outcomes in (own, other))
    a = np.array([mine[key].correct for key in keys])
    if matched_on == "rollouts":
        b = np.array([theirs[key].correct for key in keys])
        spent = [np.mean([o.steps[-1][0] for o in map(side.get, keys)]) for side in (theirs, mine)]
        note = f"{spent[0]:.3g} rollouts against {spent[1]:.3g}"
    else:
        costs = [mine[key].cost[matched_on] for key in keys if mine[key].ok]
        steps = [theirs[key].steps if theirs[key].ok else [] for key in keys]
        target = float(np.mean(costs)) if costs else 0.0
        b, size, mean = cut_at_cost(steps, target, MATCHED_ON.index(matched_on))
        where = f"baseline at n = {size}" if mean >= target else f"baseline's largest budget, n = {size}"
        note = f"{where}: {mean / target:.2g}x the cost" if target > 0 else where
    shape = (len(problems), len(repeats))
    result = paired_difference(a.reshape(shape), b.reshape(shape))
    return {
        "difference": result.difference,
        "ci_low": result.low,
        "ci_high": result.high,
        "p_value": result.p_value,
        "num_problems": len(problems),
        "verdict": result.verdict,
        "note": note,
    }


def write_table(folder: Path, *, grid: Sequence[Row], table: str = "table1", notes: Sequence[str] = ()) -> None:
    """Write `table.csv`, `table.md`, `table.tex` and `comparisons.csv` from the records in `folder`.

    May be called at any time: cells that were not run say so, and each file is replaced whole.

    Args:
        folder: the experiment's folder, with `records/` and possibly `budget/`.
        grid: see the module's docstring.
        table: which of the paper's tables stands beside ours.
        notes: sentences printed below the table, e.g. the reward model's kind and accuracy.
    """
    folder = Path(folder)
    rows = table_rows(folder / "records", grid, paper_cells(table))
    comparisons = comparison_rows(folder / "records", folder / "budget", grid)
    _replace(folder / "table.csv", csv_text(COLUMNS, rows))
    _replace(folder / "comparisons.csv", csv_text(COMPARISON_COLUMNS, comparisons))
    sources = list(dict.fromkeys(row["paper_source"] for row in rows if row["paper_value"] is not None))
    notes = [NOTE, *notes, *(f"[{i}] {source}" for i, source in enumerate(sources, start=1))]
    body = [_shown(row, sources) for row in rows]
    text = markdown(HEADER, body) + "".join(f"\n{note}\n" for note in notes)
    compared = _shown_comparisons(comparisons)
    if compared:
        text += f"\nDifference in points [95 % interval], p-value and verdict:\n\n{markdown(COMPARED, compared)}"
    _replace(folder / "table.md", text)
    _replace(folder / "table.tex", latex(HEADER, body, notes))


def combine(folder: Path, rewards: Sequence[str]) -> None:
    """One table of the tables that lie in a folder per reward: a column `reward` before all others.

    Args:
        folder: holds a folder with `table.csv` and `comparisons.csv` for each reward.
        rewards: their names, in the order of the rows.
    """
    merged = {}
    for file, columns in (("table.csv", COLUMNS), ("comparisons.csv", COMPARISON_COLUMNS)):
        merged[file] = []
        for reward in rewards:
            with (folder / reward / file).open(newline="", encoding="utf-8") as stream:
                merged[file] += [{"reward": reward, **row} for row in csv.DictReader(stream)]
        _replace(folder / file, csv_text(("reward", *columns), merged[file]))
    shown = ("policy", "task", "method", "reward", "accuracy", "ci_low", "ci_high", "flops", "paper_value", "status")
    rows = merged["table.csv"]
    places = {key: place for place, key in enumerate(dict.fromkeys(tuple(row[n] for n in shown[:3]) for row in rows))}
    rows.sort(key=lambda row: (row["policy"], row["task"], places[row["policy"], row["task"], row["method"]]))
    body = [[row[name] for name in shown] for row in rows]
    parts = [(folder / reward / "table.md").read_text(encoding="utf-8") for reward in rewards]
    text = "\n".join([markdown(shown, body), "One reward at a time, with comparisons:\n", *parts])
    _replace(folder / "table.md", text)
    _replace(folder / "table.tex", latex(shown, body, [NOTE]))


HEADER = (
    "policy", "task", "method", "accuracy, %", "95 % interval", "paper, %", "model calls", "decoded", "FLOPs",
    "seconds", "failed", "problems x seeds", "status",
)  # fmt: skip
COMPARED = ("policy", "task", "method", "baseline", "equal rollouts", "equal FLOPs")
NOTE = (
    "Accuracy: failed problems count as wrong; interval over problems (bootstrap, repeats and seeds clustered). Model "
    "calls, decoded tokens, FLOPs and seconds: means per problem. Paper: reported in arXiv 2603.04948, never ours; "
    "? unknown, - not in the paper."
)


def _shown(row: Row, sources: list[str]) -> list[str]:
    """A table row as text."""
    paper = "-" if row["paper_source"] == "not in the paper" else "?"
    if row["paper_value"] is not None:
        paper = f"{row['paper_value']:.1f} [{sources.index(row['paper_source']) + 1}]"
    names = [row["policy"], row["task"], row["method"]]
    if row["accuracy"] is None:
        return [*names, "", "", paper, *[""] * 6, row["status"]]
    costs = ["" if row[name] is None else f"{row[name]:.3g}" for name in COSTS]
    interval = f"{row['ci_low']:.1f} to {row['ci_high']:.1f}"
    counts = [str(row["num_failed"]), f"{row['num_problems']} x {row['num_seeds']}"]
    return [*names, f"{row['accuracy']:.1f}", interval, paper, *costs, *counts, row["status"]]


def _shown_comparisons(rows: Sequence[Row]) -> list[list[str]]:
    """Comparisons as text, equal rollouts and equal FLOPs side by side; those not run are left to the CSV file."""
    pairs: dict[tuple, dict[str, str]] = {}
    for row in rows:
        if row["verdict"] != "not run":
            text = f"{row['difference']:+.1f} [{row['ci_low']:+.1f}, {row['ci_high']:+.1f}] p={row['p_value']:.2g} "
            less = " (baseline spent less)" if "largest" in row["note"] else ""
            key = tuple(row[name] for name in COMPARED[:4])
            pairs.setdefault(key, {})[row["matched_on"]] = text + row["verdict"] + less
    return [[*key, texts["rollouts"], texts["flops"]] for key, texts in pairs.items()]


def csv_text(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Rows as CSV; floats with six digits, None as nothing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([f"{row[c]:.6g}" if isinstance(row[c], float) else row[c] for c in columns])
    return stream.getvalue()


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, so that it reads in a terminal too."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A LaTeX tabular (package booktabs), the notes as paragraphs below it."""
    lines = ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{lll{'r' * (len(header) - 4)}l}}", "\\toprule"]
    body = [" & ".join(map(_escaped, line)) + r" \\" for line in [header, *rows]]
    lines += [body[0], "\\midrule", *body[1:], "\\bottomrule", "\\end{tabular}"]
    return "\n".join([*lines, *(f"\n{_escaped(note)}" for note in notes)]) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
