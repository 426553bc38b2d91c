"""A small Table 1 run on random models, its records without timings, and artificial trajectories."""

import json
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import toys

from nabla_reasoner.evaluation import provenance
from nabla_reasoner.evaluation.records import read_records

TIMINGS = ("seconds", "peak_bytes")


def command(results: Path, *more: str) -> list[str]:
    """Return a table1 command of one policy and task with random models; `more` adds settings."""
    return [
        "table1",
        "policy=tiny-base",
        f"policy.path={toys.model_folder('qwen2')}",
        "task=products",
        "reward=likelihood",
        f"reward.path={toys.model_folder('llama', seed=7)}",
        "num_problems=5",
        "batch_size=2",
        "max_new_tokens=6",
        "threads=1",
        f"results_dir={results}",
        *([] if any(word.startswith("seed=") for word in more) else ["seed=0"]),
        *more,
    ]


def write_summary(
    folder: Path, command: str = "c", runs: Sequence[dict[str, object]] = ({},), **changes: object
) -> None:
    """Write the `summary.json` of a finished command into a folder.

    Args:
        runs: further entries of each invocation.
        changes: further entries of the summary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with patch.object(provenance, "commit", return_value={"commit": None, "dirty": None}):
        provenance.Summary(folder, command, {}, {"seed": [0]}, "cpu").close("finished")
    path = folder / "summary.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["invocations"] = [{"command": command, **run} for run in runs]
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def without_timings(value: object) -> object:
    """Return a record without its timing fields, at any depth."""
    if isinstance(value, dict):
        return {key: without_timings(entry) for key, entry in value.items() if key not in TIMINGS}
    return [without_timings(entry) for entry in value] if isinstance(value, list) else value


def records_below(folder: Path) -> dict[str, object]:
    return {str(p.relative_to(folder)): without_timings(read_records(p)) for p in sorted(folder.rglob("*.jsonl"))}


def ladder(correct_at, calls=10):
    """Return a trajectory with one rollout per entry, each of the same cost."""
    return [
        {"rollouts": n, "model_calls": calls * n, "flops": 1000.0 * n, "seconds": 0.01 * n, "correct": bool(right)}
        for n, right in enumerate(correct_at, start=1)
    ]
