"""Where DTO's move goes: what it does to the right token, beside moves of equal KL (`./reproduce.sh ablations`).

Positions are those of worked solutions at which the policy is uncertain: the text so far is right, the rest is a
rollout, and the right token is known. Plain sharpening raises it wherever greedy decoding is right already; whether a
move knows better than the policy shows only where greedy decoding is wrong. Of the places where it is right as many are
taken as there are wrong ones, evenly spaced.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..config import build
from ..config.schema import Cell
from ..decoding.settings import NablaSettings
from ..dto import equal_kl_moves, gradient_passes, gradients, objective, optimizer
from ..engine import generation, numerics
from ..engine.sampling import keyed_uniforms
from ..evaluation.statistics import ratio_interval
from ..models.language_models import Policy, RewardModel
from ..reporting import tables
from ..training.data import solution_ids
from ..types import Problem

MOVES = {  # what is done to the row: terms that DTO keeps, or a move as far as the whole gradient's
    "gradient": gradients.TERMS,
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
    "Probability of the right token before and after the move, at uncertain positions of worked solutions where greedy "
    "decoding is wrong or right (number of positions). Sharpening and the random move go as far (KL) as the gradient's "
    "where they can: no sharpening goes beyond all mass on the policy's own favourite. Intervals over problems."
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
        number: of its problem.
        prefix: right tokens before it.
        right: the right token.
        greedy: the policy's most likely one.
    """

    number: int
    prefix: list[int]
    right: int
    greedy: int


def positions(
    policy: Policy, problems: Sequence[Problem], confidence_threshold: float, max_new_tokens: int
) -> list[Position]:
    """Positions of the problems' worked solutions at which the policy is uncertain.

    Args:
        max_new_tokens: no position lies further back; the end token counts as one.
    """
    found = []
    for number, problem in enumerate(problems):
        text = solution_ids(policy.tokenizer, problem, policy.eos_ids[0])[:max_new_tokens]
        prompt = policy.prompt_ids(problem.messages)
        with torch.no_grad():
            ids = torch.tensor([prompt + text], device=policy.device)
            hidden = policy.hidden_states(policy.embedding[ids])[0, len(prompt) - 1 : -1]
            chances = torch.softmax(numerics.at_least_float32(policy.logits(hidden)), -1)
        for position in (chances.amax(-1) <= confidence_threshold).nonzero()[:, 0].tolist():
            greedy = chances[position].argmax().item()
            found.append(Position(number, text[:position], text[position], greedy))
    wrong, right = ([p for p in found if (p.greedy == p.right) == same] for same in (False, True))
    return wrong + right[:: max(1, -(-len(right) // max(1, len(wrong))))]


def rows(
    policy: Policy,
    reward: RewardModel,
    problems: Sequence[Problem],
    selected: Sequence[Position],
    settings: NablaSettings,
    seed: int,
) -> dict[str, Float[Tensor, "positions vocab"]]:
    """Return the logits at each position before ("first") and after every move, all with the same rollout."""
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
    names: dict[str, str], found: Sequence[Position], moved: dict[str, Float[Tensor, "place vocab"]]
) -> list[dict[str, Any]]:
    """Rows of `COLUMNS`: changes in the right token's probability, in points, with intervals over problems.

    Args:
        names: policy and task.
    """
    right = torch.tensor([place.right for place in found])[:, None]
    numbers = np.array([place.number for place in found])
    chance = {arm: 100 * torch.softmax(z, -1).gather(1, right)[:, 0].numpy() for arm, z in moved.items()}
    wrong = np.array([place.greedy != place.right for place in found])
    result = []
    for word, chosen in (("wrong", wrong), ("right", ~wrong)):
        if not chosen.any():
            continue
        _, owner = np.unique(numbers[chosen], return_inverse=True)
        counts = np.bincount(owner)

        def mean(values, owner=owner, counts=counts, chosen=chosen):
            return ratio_interval(np.bincount(owner, weights=values[chosen]), counts)

        for arm in MOVES:
            gain, beyond = mean(chance[arm] - chance["first"]), mean(chance[arm] - chance[NULL])
            best = moved[arm].argmax(-1).numpy() == right[:, 0].numpy()
            kl = equal_kl_moves.divergence(moved[arm].double(), moved["first"].double()).numpy()
            result.append(
                names
                | {
                    "greedy_is": word,
                    "arm": arm,
                    "num_positions": int(chosen.sum()),
                    "num_problems": len(counts),
                    "kl": float(kl[chosen].mean()),
                    "right_before": float(chance["first"][chosen].mean()),
                    "right_after": float(chance[arm][chosen].mean()),
                    "difference": gain.value,
                    "ci_low": gain.low,
                    "ci_high": gain.high,
                    "minus_sharpen": beyond.value,
                    "minus_low": beyond.low,
                    "minus_high": beyond.high,
                    "argmax_is_right": 100 * float(best[chosen].mean()),
                }
            )
    return result


def write(cells: Sequence[Cell], folder: Path) -> None:
    """Measure on the first problems of each policy and task; right_token.csv and right_token.md are left in the folder.

    Args:
        cells: of the default, whose settings apply; those of tasks without worked solutions are left out.
    """
    found_rows = []
    for cell in cells:
        count = min(cell["grid"]["worked_problems"], cell["num_problems"] or 0)
        if not count or "dataset" not in cell["task"] or cell["seed"] != cells[0]["seed"]:
            continue
        policy, reward = build.load_models(cell)
        problems, settings = build.build_problems(cell)[:count], build.build_method(cell).settings
        found = positions(policy, problems, settings.confidence_threshold, settings.max_new_tokens)
        if not found:
            continue
        moved = rows(policy, reward, problems, found, settings, cell["seed"])
        names = {"policy": cell["policy"]["name"], "task": cell["task"]["name"]}
        found_rows += table_rows(names, found, moved)
        print(f"right token, {names['policy']} {names['task']}: {len(found)} positions of {count} problems", flush=True)
    if not found_rows:
        return
    (folder / "right_token.csv").write_text(tables.csv_text(COLUMNS, found_rows), encoding="utf-8")
    text = f"{tables.markdown(HEADER, [format_row(row) for row in found_rows])}\n{NOTE}\n"
    (folder / "right_token.md").write_text(text, encoding="utf-8")


def format_row(row: dict[str, Any]) -> list[str]:
    """A row under `HEADER`."""
    beyond = f"{row['minus_sharpen']:+.1f} ({row['minus_low']:+.1f} to {row['minus_high']:+.1f})"
    word = f"{row['greedy_is']} ({row['num_positions']})"
    chances = [f"{row['right_before']:.1f}", f"{row['right_after']:.1f}"]
    return [row["task"], word, row["arm"], *chances, beyond, f"{row['argmax_is_right']:.1f}", f"{row['kl']:.2f}"]
