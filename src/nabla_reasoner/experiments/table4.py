"""Table 4: our settings beside the paper's and the released scripts', with a reason for each difference."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import compose
from ..config.cell import Cell
from ..config.settings import ResultsSettings
from ..reporting import paper_numbers, tables
from .command import Command
from .from_results import write_result_table

COLUMNS = ("scale", "task", "setting", "ours", "paper", "released", "verdict", "why")
HEADER = ("setting", "paper", "released scripts", "task", "scale=paper", "verdict", "why")
Row = dict[str, Any]


class Setting(NamedTuple):
    """One row of the table for each task.

    Attributes:
        name: name in the table and in the paper's Table 4.
        ours: value in a composed cell.
        released: value in the released script of a benchmark; None if the scripts do not set it.
    """

    name: str
    ours: Callable[[Cell], Any]
    released: Callable[[dict[str, Any]], Any]


def _method(name: str) -> Callable[[Cell], Any]:
    return lambda cell: cell.method.keywords()[name]


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
        lambda cell: round(cell.method.keywords()["step_size"] * cell.method.keywords()["min_step_ratio"], 12),
        lambda s: round(s["step_size"] * s["final_lr_ratio"], 12),
    ),
    Setting("max_new_tokens", _method("max_new_tokens"), lambda s: s["max_new_tokens"]),
    Setting(
        "reward_weight / nll_weight",
        lambda cell: round(cell.method.keywords()["reward_weight"] / cell.method.keywords()["nll_weight"], 9),
        lambda s: s["implied_reward_weight"],
    ),
    Setting("ste_temperature", _method("ste_temperature"), lambda s: s["ste_temperature"]),
    Setting("parameter", _method("parameter"), lambda s: s["parameter"]),
    Setting("confidence_threshold", _method("confidence_threshold"), lambda s: s["confidence_threshold"]),
    Setting("rollout_temperature", _method("rollout_temperature"), lambda s: s["rollout"]["temperature"]),
    Setting("rollout_top_p", _method("rollout_top_p"), lambda s: s["rollout"]["top_p"]),
    Setting("rollout_top_k", _method("rollout_top_k"), lambda s: s["rollout"]["top_k"] or 20),  # the model's default
    Setting("dtype", lambda cell: cell.dtype, lambda s: s["autocast"]),
    Setting("repeats", lambda cell: cell.task.repeats, lambda s: s["repeats"]),
    Setting("variant", lambda cell: cell.variant.name, lambda s: "release"),
    Setting("seed", lambda cell: cell.seed, lambda s: s["seed"]),
)


OUR_CHOICE = "our choice for small models and short answers (configs/scale)"
FITS = "a limit that fits the short answers of the task"
SWITCHED_OFF = "switched off: the gate's size belongs to the 7B policies"
# Why a setting is neither the paper's nor the released scripts', by scale and setting; valid for the given value only.
REASONS = {
    ("paper", "seed"): {0: "draws are keyed by seed, problem and stage; the released seed gives others"},
    ("paper", "variant"): {"fixed": "the released algorithm without its mistakes; variant=release has them"},
    ("tiny", "grad_threshold"): {0.0: SWITCHED_OFF},
    ("tiny", "step_size"): {
        0.1: "0.01 hardly moves a logit of these models; chosen on validation questions (./reproduce.sh tune)"
    },
    ("tiny", "step_size_final"): {0.01: "a tenth of step_size, as in the paper"},
    ("tiny", "max_new_tokens"): dict.fromkeys((24, 72), FITS),
    ("tiny", "rollout_temperature"): {0.7: OUR_CHOICE},
    ("tiny", "rollout_top_p"): {1.0: OUR_CHOICE},
    ("tiny", "rollout_top_k"): {0: "a vocabulary of a few hundred tokens; no limit"},
    ("small", "grad_threshold"): {0.0: SWITCHED_OFF},
    ("small", "step_size"): {0.03: "of 0.03, 0.1 and 0.3 the best on validation questions (./reproduce.sh tune)"},
    ("small", "step_size_final"): {0.003: "a tenth of step_size, as in the paper"},
    ("small", "max_new_tokens"): {48: FITS},
    ("small", "rollout_top_p"): {1.0: OUR_CHOICE},
    **{(s, "dtype"): {"float32": "computed on CPUs"} for s in ("tiny", "small")},
    **{(s, "seed"): dict.fromkeys((0, 1, 2), "several seeds show the spread") for s in ("tiny", "small")},
    **{(s, "variant"): {"fixed": "as at scale=paper"} for s in ("tiny", "small")},
}


def table_rows(scale: str, overrides: Sequence[str] = ()) -> list[Row]:
    """Return rows of `COLUMNS`: every setting of ∇-Reasoner for every task of a scale's Table 1.

    Verdicts:
        same: equal to the paper; to the released script if the paper does not report the setting.
        released: equal to the released script of the benchmark, but not to the paper.
        differs: equal to neither, with a reason; "differs, no reason noted" without one.
        not reported: neither source gives the setting.

    Raises:
        ValueError: an unknown scale; the valid ones are listed.
    """
    cells = compose.compose_cells(
        ["experiment=table1", f"scale={scale}", "method=nabla_reasoner", "seed=0", *overrides]
    )
    papers = {cell["method"]: cell["value"] for cell in paper_numbers.paper_cells("table4")}
    rows = []
    for task, cell in {cell.task.name: cell for cell in cells}.items():
        script = paper_numbers.released_settings().get(cell.task.paper)
        for setting in SETTINGS:
            ours, paper = setting.ours(cell), papers.get(setting.name)
            released = setting.released(script) if script else None
            verdict, why = _verdict(ours, paper, released, REASONS.get((scale, setting.name), {}))
            values = (scale, task, setting.name, ours, paper, released, verdict, why)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _verdict(ours: Any, paper: Any, released: Any, reasons: Mapping[Any, str]) -> tuple[str, str]:
    """Return the verdict on one setting, and why."""
    if paper is not None and ours == paper:
        return "same", ""
    if released is not None and ours == released:
        if paper is None:
            return "same", "not reported in the paper; the released scripts' value"
        return "released", "the released script of this benchmark has it, the paper not"
    if paper is None and released is None:
        return "not reported", "no source gives it"
    return ("differs", reasons[ours]) if ours in reasons else ("differs, no reason noted", "")


def format_rows(rows: Sequence[Row]) -> list[list[str]]:
    """Return rows as text under `HEADER`; tasks with the same values share a line."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        key = [_text(row[name]) for name in ("setting", "paper", "released", "ours", "verdict", "why")]
        lines.setdefault(tuple(key), []).append(row["task"])
    return [[*key[:3], ", ".join(tasks), *key[3:]] for key, tasks in lines.items()]


def _text(value: Any) -> str:
    return "?" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def markdown(rows: Mapping[str, Sequence[Row]]) -> str:
    """Return table.md: a section for each scale."""
    parts = [
        "Settings of ∇-Reasoner. Paper: its Table 4 (arXiv 2603.04948), as far as it is known; its temperature and "
        "top_p are read as those of resampling. Released scripts: VITA-Group/Nabla-Reasoner@46a1571, by benchmark; a "
        "generated task is compared with the benchmark whose numbers are printed beside ours. ?: unknown. The "
        "optimiser is Adam, which equals the paper's AdamW at the released weight decay of 0.\n"
    ]
    for scale, section in rows.items():
        header = [*HEADER[:4], f"scale={scale}", *HEADER[5:]]
        parts.append(f"## scale={scale}\n\n{tables.markdown(header, format_rows(section))}")
    return "\n".join(parts)


def table4(results: Path, scale: str, command: str) -> dict[str, str]:
    """Return the text of table.csv and table.md: the settings at scale=paper, then those of another scale."""
    rows = {name: table_rows(name) for name in dict.fromkeys(("paper", scale))}
    merged = [row for section in rows.values() for row in section]
    return {
        "table.csv": tables.csv_text(COLUMNS, merged),
        "table.md": f"{markdown(rows)}\nMade by {command}\n",
    }


def run(command: Command, settings: ResultsSettings) -> int:
    """Write the table; return the exit status."""
    return write_result_table(command, settings, table4)
