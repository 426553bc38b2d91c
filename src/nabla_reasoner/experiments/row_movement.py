"""How far DTO moves the logits of confident and of uncertain rows, at every position of first responses.

Eq. 25 says that the gradient of a confident row vanishes. Adam divides a small gradient by its own size, so this alone
does not keep the row where it is.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..config import build, compose
from ..config.cell import Cell
from ..config.sweeps import Sweep
from ..decoding.settings import NablaSettings
from ..dto import equal_kl_moves, objective, optimizer, reference
from ..engine import generation, numerics
from ..engine.sampling import keyed_uniforms
from ..evaluation.outcomes import Row
from ..evaluation.statistics import Ratio, ratio_interval
from ..evaluation.stored_cells import split_suffix
from ..models.language_models import Policy, RewardModel
from ..types import Problem
from . import side_tables

COLUMNS = (
    *("policy", "task", "reward", "confident", "num_rows", "num_problems", "largest_change", "median_kl"),
    *("largest_kl", "flipped", "ci_low", "ci_high"),
)
HEADER = ("task", "reward", "rows", "largest change of a logit", "median KL, nats", "largest KL, nats", "flipped, %")
NOTE = (
    "Rows of logits at every position of first responses, before and after DTO with the default settings. Confident: "
    "the policy's probability of its likeliest token is above the threshold below which ∇-Reasoner optimises. Flipped: "
    "the likeliest token is another one afterwards, with a 95 % interval over problems."
)


def move_rows(
    policy: Policy, reward: RewardModel, problems: Sequence[Problem], settings: NablaSettings, seed: int
) -> tuple[list[int], Float[Tensor, "rows vocab"], Float[Tensor, "rows vocab"]]:
    """Return each row's problem, and the rows before and after DTO at every position of a sampled response."""
    limit = settings.max_new_tokens
    prompts = [policy.prompt_ids(problem.messages) for problem in problems]
    noise = [keyed_uniforms(seed, problem.id, 0, "row movement", limit) for problem in problems]
    responses = generation.sample(policy, prompts, noise, settings.rollout, [limit] * len(problems))
    numbers, first, moved = [], [], []
    dto = settings.dto.replace(update="first", flip="argmax")
    for number, (problem, response) in enumerate(zip(problems, responses, strict=True)):
        tokens = list(response.token_ids)
        sequence = objective.make_sequence(policy, reward, problem.messages, [], tokens)
        with torch.no_grad():
            first.append(numerics.at_least_float32(policy.logits(reference.first_latents(policy, sequence))))
        cuts = range(len(tokens))
        results = optimizer.optimize(
            policy,
            reward,
            [problem.messages for _ in cuts],
            [tokens[:cut] for cut in cuts],
            [tokens[cut:] for cut in cuts],
            settings=dto,
        )
        moved += [result.logits for result in results]
        numbers += [number] * len(tokens)
    return numbers, torch.cat(first), torch.cat(moved)


def movement_rows(
    names: Row,
    numbers: Sequence[int],
    first: Float[Tensor, "rows vocab"],
    moved: Float[Tensor, "rows vocab"],
    confidence_threshold: float,
) -> list[Row]:
    """Return a row of `COLUMNS` for confident and for uncertain rows.

    Args:
        names: policy, task and reward.
        numbers: problem of each row.
    """
    confident = (numerics.confidence(first) > confidence_threshold).numpy()
    change = (moved - first).abs().amax(-1).numpy()
    kl = equal_kl_moves.divergence(moved.double(), first.double()).numpy()
    flipped = (moved.argmax(-1) != first.argmax(-1)).numpy()
    result = []
    for is_confident, chosen in ((True, confident), (False, ~confident)):
        if chosen.any():
            share = _share(np.asarray(numbers)[chosen], flipped[chosen])
            result.append(
                names
                | {
                    "confident": is_confident,
                    "num_rows": int(chosen.sum()),
                    "num_problems": len(set(np.asarray(numbers)[chosen].tolist())),
                    "largest_change": float(change[chosen].max()),
                    "median_kl": float(np.median(kl[chosen])),
                    "largest_kl": float(kl[chosen].max()),
                    "flipped": 100 * share.value,
                    "ci_low": 100 * share.low,
                    "ci_high": 100 * share.high,
                }
            )
    return result


def _share(numbers: Int[np.ndarray, " rows"], flipped: Bool[np.ndarray, " rows"]) -> Ratio:
    _, problem_of = np.unique(numbers, return_inverse=True)
    counts = np.bincount(problem_of)
    return ratio_interval(np.bincount(problem_of, weights=flipped), counts, share=True)


def format_row(row: Row) -> list[str]:
    """Return a row of the file as text, for the columns of `HEADER`."""
    rows = f"{'confident' if row['confident'] == 'True' else 'uncertain'} ({row['num_rows']:.0f})"
    kl = [f"{row['median_kl']:.2g}", f"{row['largest_kl']:.2g}"]
    flipped = f"{row['flipped']:.1f} ({row['ci_low']:.1f} to {row['ci_high']:.1f})"
    return [row["task"], row["reward"], rows, f"{row['largest_change']:.2f}", *kl, flipped]


def cells_by_reward(overrides: Sequence[str], rewards: str) -> list[Cell]:
    """Return the cells of a sweep under each of several rewards, or under the reward that the command line names."""
    if any(override.partition("=")[0].partition(".")[0] == "reward" for override in overrides):
        return compose.compose_cells(overrides)
    return compose.compose_cells([*overrides, f"reward={rewards}"])


def chosen(sweep: Sweep) -> list[tuple[Cell, int]]:
    """Return the cells that can be measured, each with its number of problems."""
    first = sweep.cells[0]
    cells = cells_by_reward(sweep.overrides, first.grid["moved_rewards"])
    counts = [
        (cell, min(cell.grid["moved_problems"], cell.num_problems or cell.grid["moved_problems"])) for cell in cells
    ]
    return [(cell, count) for cell, count in counts if count and cell.seed == first.seed]


def names_of(cell: Cell) -> Row:
    """Return policy, task and reward as rows name them."""
    task = cell.task.name + split_suffix(cell.split)
    return {"policy": cell.policy.name, "task": task, "reward": cell.reward.name}


def wanted(sweep: Sweep) -> dict[str, side_tables.Settings]:
    """Return the settings of the cells that a complete table has."""
    return {TABLE.cell_of(names_of(cell)): side_tables.settings_of(cell, count) for cell, count in chosen(sweep)}


def write(sweep: Sweep, folder: Path) -> None:
    """Measure on the first problems of each policy, task and reward; write row_movement.csv and row_movement.md.

    Args:
        sweep: over policies and tasks.
    """
    measured = {}
    for cell, count in chosen(sweep):
        policy, reward = build.load_models(cell.unserved())
        problems, settings = build.build_problems(cell)[:count], build.build_method(cell).settings
        moved, names = move_rows(policy, reward, problems, settings, cell.seed), names_of(cell)
        result = movement_rows(names, *moved, settings.confidence_threshold)
        measured[TABLE.cell_of(names)] = side_tables.Part(result, side_tables.settings_of(cell, count))
        print(f"rows moved, {TABLE.cell_of(names)}: {len(moved[0])} of {count} problems", flush=True)
    side_tables.write(TABLE, folder, measured)


TABLE = side_tables.SideTable("row_movement", ("policy", "task", "reward"), COLUMNS, HEADER, format_row, NOTE)
