"""A small Table 1 run on random models, its records without timings, and made-up trajectories."""

from pathlib import Path

import toys

from nabla_reasoner.evaluation.records import read_records

TIMINGS = ("seconds", "peak_bytes")


def command(results: Path, *more: str) -> list[str]:
    """A table1 command of one policy and task with random models; `more` narrows or breaks it."""
    return [
        "table1",
        "policy=tiny-base",
        f"policy.path={toys.model_folder('qwen2')}",
        "task=products",
        f"reward.path={toys.model_folder('llama', seed=7)}",
        "num_problems=5",
        "batch_size=2",
        "max_new_tokens=6",
        "threads=1",
        f"results_dir={results}",
        *([] if any(word.startswith("seed=") for word in more) else ["seed=0"]),
        *more,
    ]


def without_timings(value: object) -> object:
    """A record without its timing fields, at any depth."""
    if isinstance(value, dict):
        return {key: without_timings(entry) for key, entry in value.items() if key not in TIMINGS}
    return [without_timings(entry) for entry in value] if isinstance(value, list) else value


def records_below(folder: Path) -> dict[str, object]:
    return {str(p.relative_to(folder)): without_timings(read_records(p)) for p in sorted(folder.rglob("*.jsonl"))}


def ladder(correct_at, calls=10):
    """A trajectory of as many rollouts as there are entries, each rollout costing the same."""
    return [
        {"rollouts": n, "model_calls": calls * n, "flops": 1000.0 * n, "seconds": 0.01 * n, "correct": bool(right)}
        for n, right in enumerate(correct_at, start=1)
    ]
