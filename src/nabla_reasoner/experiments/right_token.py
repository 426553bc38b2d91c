"""Effect of DTO on the probability of the right token, beside updates of equal KL.

Positions are the uncertain ones of worked solutions: the text before is right, the rest is a rollout, and the right
token is known. Sharpening raises the right token wherever greedy decoding is right already. Only positions where greedy
decoding is wrong show whether an update corrects the policy. Of the positions where it is right, about as many are
used, evenly spaced.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..config import build
from ..config.cell import Cell
from ..config.sweeps import Sweep
from ..decoding.settings import NablaSettings
from ..dto import equal_kl_moves, gradient_passes, objective, optimizer
from ..dto.reward_forms import TERMS
from ..engine import generation, numerics
from ..engine.sampling import keyed_uniforms
from ..evaluation.outcomes import Row
from ..evaluation.statistics import ratio_interval
from ..evaluation.stored_cells import split_suffix
from ..models.language_models import Policy, RewardModel
from ..tasks.worked_solutions import worked_solution
from ..training.data import solution_ids
from ..types import Problem
from . import side_tables

MOVES = {  # update of the row: the gradient terms that DTO keeps, or None for an update of equal KL
    "gradient": TERMS,
    "past_only": ("prefix", "reward_prefix"),
    "future_only": ("postfix", "reward_postfix"),
    "likelihood_only": ("prefix", "postfix"),
    "sharpen": None,
    "random": None,
}
COLUMNS = (
    "policy",
    "task",
    "greedy_is",
    "arm",
    "num_positions",
    "num_problems",
    "kl",
    "right_before",
    "right_after",
    "difference",
    "ci_low",
    "ci_high",
    "minus_sharpen",
    "minus_low",
    "minus_high",
    "argmax_is_right",
)
NULL = "sharpen"
NOTE = (
    "Probability of the right token before and after the update, at uncertain positions of worked solutions where "
    "greedy decoding is wrong or right (number of positions). Sharpening and the random update have the KL of "
    "the gradient's update if they can reach it: sharpening ends with all mass on the policy's likeliest token. "
    "Intervals are over problems."
)
HEADER = (
    "task",
    "greedy is",
    "arm",
    "right before, %",
    "right after, %",
    "minus sharpening",
    "argmax is right, %",
    "KL, nats",
)


class Position(NamedTuple):
    """A position of a worked solution.

    Attributes:
        number: index of the problem.
        prefix: right tokens before the position.
        right: the right token.
        greedy: the policy's most likely token.
    """

    number: int
    prefix: list[int]
    right: int
    greedy: int


def positions(
    policy: Policy, problems: Sequence[Problem], confidence_threshold: float, max_new_tokens: int
) -> list[Position]:
    """Return the positions of the problems' worked solutions at which the policy is uncertain.

    Args:
        max_new_tokens: longest solution prefix that is read; the end token counts as one.
    """
    uncertain = []
    for number, problem in enumerate(problems):
        text = solution_ids(policy.tokenizer, problem, policy.eos_ids[0])[:max_new_tokens]
        prompt = policy.prompt_ids(problem.messages)
        with torch.no_grad():
            ids = torch.tensor([prompt + text], device=policy.device)
            hidden = policy.hidden_states(policy.embedding[ids])[0, len(prompt) - 1 : -1]
            probabilities = torch.softmax(numerics.at_least_float32(policy.logits(hidden)), -1)
        for position in (probabilities.amax(-1) <= confidence_threshold).nonzero()[:, 0].tolist():
            greedy = probabilities[position].argmax().item()
            uncertain.append(Position(number, text[:position], text[position], greedy))
    wrong, right = ([p for p in uncertain if (p.greedy == p.right) == same] for same in (False, True))
    return wrong + right[:: max(1, -(-len(right) // max(1, len(wrong))))]


def rows(
    policy: Policy,
    reward: RewardModel,
    problems: Sequence[Problem],
    selected: Sequence[Position],
    settings: NablaSettings,
    seed: int,
) -> dict[str, Float[Tensor, "positions vocab"]]:
    """Return the logits at each position before ("first") and after every update, all with the same rollout."""
    keys = [(problems[position.number].id, f"heading {len(position.prefix)}") for position in selected]
    messages = [problems[position.number].messages for position in selected]
    rollouts = generation.sample(
        policy,
        [policy.prompt_ids(chat) + position.prefix for chat, position in zip(messages, selected, strict=True)],
        [keyed_uniforms(seed, problem_id, 0, stage, settings.max_new_tokens) for problem_id, stage in keys],
        settings.rollout,
        [settings.max_new_tokens - len(position.prefix) for position in selected],
    )
    cases = (messages, [position.prefix for position in selected], [rollout.token_ids for rollout in rollouts])
    sequences = [objective.make_sequence(policy, reward, *case) for case in zip(*cases, strict=True)]
    hidden = [g.hidden[0] for g in gradient_passes.evaluate(policy, reward, sequences, **settings.dto.weights)]
    moved = {"first": numerics.at_least_float32(policy.logits(torch.stack(hidden)))}
    dto = settings.dto.replace(update="first", flip="argmax")
    for move, terms in MOVES.items():
        if terms is not None:
            results = optimizer.optimize(policy, reward, *cases, settings=dto, terms=terms)
            moved[move] = torch.cat([result.logits for result in results])
    size = moved["first"].shape[1]
    uniforms = np.stack([keyed_uniforms(seed, problem_id, 0, f"{stage} direction", size) for problem_id, stage in keys])
    for move in (NULL, "random"):
        moved[move] = equal_kl_moves.apply_move(move, moved["first"], moved["gradient"], uniforms)
    return moved


def table_rows(
    names: Row, selected: Sequence[Position], moved: dict[str, Float[Tensor, "positions vocab"]]
) -> list[Row]:
    """Return rows of `COLUMNS`: changes in the right token's probability, in points, with intervals over problems.

    Args:
        names: policy and task.
    """
    right = torch.tensor([position.right for position in selected])[:, None]
    numbers = np.array([position.number for position in selected])
    percent = {move: 100 * torch.softmax(z, -1).gather(1, right)[:, 0].numpy() for move, z in moved.items()}
    wrong = np.array([position.greedy != position.right for position in selected])
    result = []
    for greedy_is, mask in (("wrong", wrong), ("right", ~wrong)):
        if not mask.any():
            continue
        _, problem_of = np.unique(numbers[mask], return_inverse=True)
        counts = np.bincount(problem_of)

        def mean(values, problem_of=problem_of, counts=counts, mask=mask):
            return ratio_interval(np.bincount(problem_of, weights=values[mask]), counts)

        for move in MOVES:
            gain, beyond = mean(percent[move] - percent["first"]), mean(percent[move] - percent[NULL])
            best = moved[move].argmax(-1).numpy() == right[:, 0].numpy()
            kl = equal_kl_moves.divergence(moved[move].double(), moved["first"].double()).numpy()
            result.append(
                names
                | {
                    "greedy_is": greedy_is,
                    "arm": move,
                    "num_positions": int(mask.sum()),
                    "num_problems": len(counts),
                    "kl": float(kl[mask].mean()),
                    "right_before": float(percent["first"][mask].mean()),
                    "right_after": float(percent[move][mask].mean()),
                    "difference": gain.value,
                    "ci_low": gain.low,
                    "ci_high": gain.high,
                    "minus_sharpen": beyond.value,
                    "minus_low": beyond.low,
                    "minus_high": beyond.high,
                    "argmax_is_right": 100 * float(best[mask].mean()),
                }
            )
    return result


def chosen(cells: Sequence[Cell]) -> list[tuple[Cell, int]]:
    """Return the cells that are measured if they have worked solutions, each with its number of problems."""
    counts = [(cell, min(cell.grid["worked_problems"], cell.num_problems or 0)) for cell in cells]
    return [(cell, count) for cell, count in counts if count and cell.seed == cells[0].seed]


def has_solutions(cell: Cell) -> bool:
    """Return whether the cell's problems have worked solutions."""
    if cell.task.dataset is None:
        return False
    problems = build.build_problems(cell)
    try:
        for problem in problems:
            worked_solution(problem)
    except ValueError:
        return False
    return True


def names_of(cell: Cell) -> Row:
    """Return policy and task as rows name them."""
    return {"policy": cell.policy.name, "task": cell.task.name + split_suffix(cell.split)}


def wanted(sweep: Sweep) -> dict[str, side_tables.Settings]:
    """Return the settings of the cells that a complete table has."""
    return {
        TABLE.cell_of(names_of(cell)): side_tables.settings_of(cell, count)
        for cell, count in chosen(sweep.cells)
        if has_solutions(cell)
    }


def write(sweep: Sweep, folder: Path) -> None:
    """Measure on the first problems of each policy and task; write right_token.csv and right_token.md.

    Args:
        sweep: the default setting; tasks without worked solutions are left out.
    """
    measured = {}
    for cell, count in chosen(sweep.cells):
        if not has_solutions(cell):
            print(f"right token: {cell.task.name} is left out, as its problems have no worked solutions.")
            continue
        policy, reward = build.load_models(cell.unserved())
        problems, settings = build.build_problems(cell)[:count], build.build_method(cell).settings
        selected = positions(policy, problems, settings.confidence_threshold, settings.max_new_tokens)
        names, result = names_of(cell), []
        if selected:
            result = table_rows(names, selected, rows(policy, reward, problems, selected, settings, cell.seed))
        measured[TABLE.cell_of(names)] = side_tables.Part(result, side_tables.settings_of(cell, count))
        print(f"right token, {TABLE.cell_of(names)}: {len(selected)} positions of {count} problems", flush=True)
    side_tables.write(TABLE, folder, measured)


def format_row(row: Row) -> list[str]:
    """Return a row as text, for the columns of `HEADER`."""
    beyond = f"{row['minus_sharpen']:+.1f}"
    if row["minus_low"] is not None:  # of sharpening from itself there is no interval
        beyond += f" ({row['minus_low']:+.1f} to {row['minus_high']:+.1f})"
    greedy = f"{row['greedy_is']} ({row['num_positions']:.0f})"
    probabilities = [f"{row['right_before']:.1f}", f"{row['right_after']:.1f}"]
    return [
        row["task"],
        greedy,
        row["arm"],
        *probabilities,
        beyond,
        f"{row['argmax_is_right']:.1f}",
        f"{row['kl']:.2f}",
    ]


TABLE = side_tables.SideTable("right_token", ("policy", "task"), COLUMNS, HEADER, format_row, NOTE)
