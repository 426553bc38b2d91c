"""Table 4: our settings beside the paper's and the released scripts', with a reason for every one that differs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import compose
from ..config.schema import Cell
from ..reporting import paper_numbers, tables
from ..reporting.paper_numbers import released_settings
from .command import Command
from .from_results import write_result_table

COLUMNS = ("scale", "task", "setting", "ours", "paper", "released", "verdict", "why")
HEADER = ("setting", "paper", "released scripts", "task", "scale=paper", "verdict", "why")
Row = dict[str, Any]


class Setting(NamedTuple):
    """Where one setting is read: from a composed cell, and from the released scripts' `common` and task settings."""

    name: str
    ours: Callable[[Cell], Any]
    released: Callable[[dict[str, Any]], Any]


def _method(name: str) -> Callable[[Cell], Any]:
    return lambda cell: cell["method"][name]


SETTINGS = (
    Setting("num_iterations", _method("num_iterations"), lambda s: s["num_iterations"]),
    Setting("max_rollouts", _method("max_rollouts"), lambda s: s["max_rollouts"]),
    Setting("temperature", _method("resample_temperature"), lambda s: s["resample"]["temperature"]),
    Setting("top_p", _method("resample_top_p"), lambda s: s["resample"]["top_p"]),
    Setting("entropy_threshold", _method("entropy_threshold"), lambda s: None),
    Setting("grad_threshold", _method("grad_threshold"), lambda s: s["grad_threshold"]),
    Setting("step_size", _method("step_size"), lambda s: s["step_size"]),
    Setting(
        "step_size_final",
        lambda cell: round(cell["method"]["step_size"] * cell["method"]["min_step_ratio"], 12),
        lambda s: round(s["step_size"] * s["final_lr_ratio"], 12),
    ),
    Setting("max_new_tokens", _method("max_new_tokens"), lambda s: s["max_new_tokens"]),
    Setting(
        "reward_weight / nll_weight",
        lambda cell: round(cell["method"]["reward_weight"] / cell["method"]["nll_weight"], 9),
        lambda s: s["implied_reward_weight"],
    ),
    Setting("ste_temperature", _method("ste_temperature"), lambda s: s["ste_temperature"]),
    Setting("parameter", _method("parameter"), lambda s: s["parameter"]),
    Setting("confidence_threshold", _method("confidence_threshold"), lambda s: s["confidence_threshold"]),
    Setting("rollout_temperature", _method("rollout_temperature"), lambda s: s["rollout"]["temperature"]),
    Setting("rollout_top_p", _method("rollout_top_p"), lambda s: s["rollout"]["top_p"]),
    Setting("rollout_top_k", _method("rollout_top_k"), lambda s: s["rollout"]["top_k"] or 20),  # the model's default
    Setting("dtype", lambda cell: cell["dtype"], lambda s: s["autocast"]),
    Setting("repeats", lambda cell: cell["task"]["repeats"], lambda s: s["repeats"]),
    Setting("variant", lambda cell: cell["variant"]["name"], lambda s: "release"),
    Setting("seed", lambda cell: cell["seed"], lambda s: s["seed"]),
)


class Reason(NamedTuple):
    """Why a setting is neither the paper's nor the released scripts': it holds for this value only."""

    value: Any
    words: str


_CHOSEN = "our choice for small models and short answers (configs/scale)"
REASONS = {  # by scale and setting
    ("paper", "seed"): [Reason(0, "draws are keyed by seed, problem and stage; the released seed gives others")],
    ("paper", "variant"): [Reason("fixed", "the released algorithm without its mistakes; variant=release has them")],
    ("tiny", "grad_threshold"): [Reason(0.0, "switched off: the gate's size belongs to the 7B policies")],
    ("tiny", "step_size"): [Reason(0.3, "0.01 hardly moves a logit of these models; chosen on validation questions")],
    ("tiny", "step_size_final"): [Reason(0.03, "a tenth of step_size, as in the paper")],
    ("tiny", "max_new_tokens"): [Reason(n, "a limit that fits the short answers of the task") for n in (24, 72)],
    ("tiny", "rollout_temperature"): [Reason(0.7, _CHOSEN)],
    ("tiny", "rollout_top_p"): [Reason(1.0, _CHOSEN)],
    ("tiny", "rollout_top_k"): [Reason(0, "a vocabulary of a few hundred tokens; no limit")],
    ("small", "grad_threshold"): [Reason(0.0, "switched off: the gate's size belongs to the 7B policies")],
    ("small", "step_size"): [Reason(0.1, "of 0.1, 0.3 and 1.0 the best on validation questions")],
    ("small", "step_size_final"): [Reason(0.01, "a tenth of step_size, as in the paper")],
    ("small", "max_new_tokens"): [Reason(48, "a limit that fits the short answers of the task")],
    ("small", "rollout_top_p"): [Reason(1.0, _CHOSEN)],
    **{(s, "dtype"): [Reason("float32", "computed on CPUs")] for s in ("tiny", "small")},
    **{(s, "seed"): [Reason(n, "several seeds show the spread") for n in (0, 1, 2)] for s in ("tiny", "small")},
    **{(s, "variant"): [Reason("fixed", "as at scale=paper")] for s in ("tiny", "small")},
}


def table_rows(scale: str, overrides: Sequence[str] = ()) -> list[Row]:
    """Rows of `COLUMNS`: every setting of ∇-Reasoner for every task of a scale's Table 1.

    Verdicts: same (as the paper; as the released scripts where the paper says nothing), released (as the released
    script of that benchmark, where the paper says otherwise), differs (with a reason), and "differs, no reason noted".

    Raises:
        ValueError: an unknown scale; the valid ones are listed.
    """
    cells = compose.compose_cells(
        ["experiment=table1", f"scale={scale}", "method=nabla_reasoner", "seed=0", *overrides]
    )
    paper = {cell["method"]: cell["value"] for cell in paper_numbers.paper_cells("table4")}
    rows = []
    for task, cell in {cell["task"]["name"]: cell for cell in cells}.items():
        script = released_settings().get(cell["task"]["paper"])
        for setting in SETTINGS:
            theirs = setting.released(script) if script else None
            rows.append(_row(scale, task, setting, setting.ours(cell), paper.get(setting.name), theirs))
    return rows


def _row(scale: str, task: str, setting: Setting, ours: Any, paper: Any, released: Any) -> Row:
    names = {"scale": scale, "task": task, "setting": setting.name, "ours": ours, "paper": paper, "released": released}
    if paper is not None and ours == paper:
        return {**names, "verdict": "same", "why": ""}
    if released is not None and ours == released:
        if paper is None:
            return {**names, "verdict": "same", "why": "not reported in the paper; the released scripts' value"}
        return {**names, "verdict": "released", "why": "the released script of this benchmark has it, the paper not"}
    if paper is None and released is None:
        return {**names, "verdict": "not reported", "why": "no source gives it"}
    noted = [reason.words for reason in REASONS.get((scale, setting.name), []) if reason.value == ours]
    return {**names, "verdict": "differs" if noted else "differs, no reason noted", "why": noted[0] if noted else ""}


def format_row(rows: Sequence[Row]) -> list[list[str]]:
    """Rows as text under `HEADER`; tasks with the same values share a line."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        key = [_text(row[name]) for name in ("setting", "paper", "released", "ours", "verdict", "why")]
        lines.setdefault(tuple(key), []).append(row["task"])
    return [[*key[:3], ", ".join(own), *key[3:]] for key, own in lines.items()]


def _text(value: Any) -> str:
    return "?" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def markdown(scale: str, rows: dict[str, list[Row]]) -> str:
    """table.md: the settings at scale=paper, then those of another scale."""
    parts = [
        "Settings of ∇-Reasoner. Paper: its Table 4 (arXiv 2603.04948), as far as known; temperature and top_p are "
        "taken for those of resampling. Released scripts: VITA-Group/Nabla-Reasoner@46a1571, per benchmark; for "
        "generated tasks the benchmark whose cell stands beside ours. ? unknown. The optimiser is Adam, which is the "
        "paper's AdamW with the released weight decay of 0.\n"
    ]
    for name in dict.fromkeys(("paper", scale)):
        header = [*HEADER[:4], f"scale={name}", *HEADER[5:]]
        parts.append(f"## scale={name}\n\n{tables.markdown(header, format_row(rows[name]))}")
    return "\n".join(parts)


def table4(results: Path, scale: str, command: str) -> dict[str, str]:
    """Settings beside the paper's."""
    rows = {name: table_rows(name) for name in dict.fromkeys(("paper", scale))}
    merged = [row for own in rows.values() for row in own]
    text = markdown(scale, rows) + f"\nMade by {command}\n"
    return {"table.csv": tables.csv_text(COLUMNS, merged), "table.md": text}


def run(command: Command, settings: Mapping[str, str]) -> int:
    """Write the table; returns the exit status."""
    return write_result_table(command, settings, table4)
