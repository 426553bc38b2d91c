"""Figure 1: loss over two tokens of a response, with draws of the policy and the path of DTO."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ..config import build
from ..config.cell import Cell
from ..engine.sampling import keyed_uniforms
from ..models.language_models import Policy
from . import token_pairs
from .case_figure import Row, Rows, printable, write_case_figure
from .command import Command
from .figure1_drawing import alphabet_texts, draw, indices
from .token_pairs import Pair, Step

NUM_DRAWS = 32  # the largest N of Figure 4
SHARES = np.linspace(0, 1, 31)
BUDGETS = (1, 2, 8, 32)  # numbers of draws with which DTO is compared
NAMES = ("search", "pairs", "square", "path")  # tables of the figure, in the order of `draw`'s parameters
PairTable = Float[np.ndarray, "first second"]  # a number for every pair of tokens of the alphabet


class SearchedResponse(NamedTuple):
    """A response of which every pair of tokens at two positions was evaluated.

    Attributes:
        pair: response and positions.
        losses: L of every pair, in nats.
        chances: the policy's probability of every pair.
        row: row of figure1_search.csv.
    """

    pair: Pair
    losses: PairTable
    chances: PairTable
    row: Row


def best_of(losses: PairTable, chances: PairTable, count: int) -> float:
    """Return the expected lowest L of `count` independent draws, exactly, given that all are in the alphabet."""
    order = np.argsort(losses, axis=None)
    above = 1 - np.cumsum(chances.ravel()[order] / chances.sum()).clip(max=1)
    tail = np.concatenate([[1.0], above]) ** count
    return float((losses.ravel()[order] * (tail[:-1] - tail[1:])).sum())


def search(cell: Cell) -> tuple[list[SearchedResponse], list[int]]:
    """Return the searched response of each problem that has one, and the token ids of the alphabet."""
    policy, reward = build.load_models(cell)
    settings = build.build_method(cell).settings
    pairs, alphabet = token_pairs.find(build.build_problems(cell), policy, reward, settings, cell.seed)
    searched = []
    for pair in pairs:
        losses = token_pairs.losses(pair, policy, reward, alphabet, **settings.dto.weights)
        chances = token_pairs.chances(pair, policy, alphabet, settings.rollout)
        first, second = np.unravel_index(losses.argmin(), losses.shape)
        path = token_pairs.descend(pair, policy, reward, settings.dto, (0, 1))
        alone = token_pairs.one_by_one(pair, policy, reward, settings.dto)
        best = alphabet[first], alphabet[second]
        tokens = {"own": pair.tokens, "best": best, "dto": path[-1].tokens, "one_by_one": alone.tokens}
        row = {
            "problem_id": pair.problem.id,
            "response": printable(policy.response_text(pair.sequence.rollout)),
            "first": pair.positions[0],
            "second": pair.positions[1],
            **{name: printable(policy.decode(list(ids))) for name, ids in tokens.items()},
            **{f"{name}_ids": " ".join(map(str, ids)) for name, ids in tokens.items()},
            "own_loss": path[0].loss,
            "best_loss": losses.min(),
            "dto_loss": path[-1].loss,
            "one_by_one_loss": alone.loss,
            "evaluations": len({step.tokens for step in path}),
            "chance": chances[first, second],
            **{f"best_of_{count}_loss": best_of(losses, chances, count) for count in BUDGETS},
            "drawn": False,
        }
        searched.append(SearchedResponse(pair=pair, losses=losses, chances=chances, row=row))
    return searched, alphabet


def select_case(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the first row in which DTO ends at the best pair and that pair differs from the response's in both tokens.

    Raises:
        ValueError: there is none.
    """
    for number, row in enumerate(rows):
        sampled, best, end = (row[f"{name}_ids"].split() for name in ("own", "best", "dto"))
        if best == end and all(a != b for a, b in zip(sampled, best, strict=True)):
            return number
    raise ValueError(
        "DTO corrects both tokens in none of the searched responses. Search more with num_problems=NUMBER."
    )


def figure_rows(cell: Cell) -> Rows:
    """Return the rows of Figure 1 by table: the search, every pair of tokens, the relaxed square, DTO's steps."""
    searched, alphabet = search(cell)
    rows = [response.row for response in searched]
    case = searched[select_case(rows)]
    case.row["drawn"] = True
    policy, reward = build.load_models(cell)
    dto = build.build_method(cell).settings.dto
    path = token_pairs.descend(case.pair, policy, reward, dto, (0, 1))
    end = path[-1].tokens
    square = token_pairs.relaxed(case.pair, policy, reward, end, SHARES.tolist(), **dto.weights)
    draws = _count_draws(case, cell.seed)
    texts = [printable(policy.decode([token])) for token in alphabet]
    return {
        "search": rows,
        "pairs": [
            {"first": texts[i], "second": texts[j], "loss": loss, "chance": case.chances[i, j], "draws": draws[i, j]}
            | {"first_id": alphabet[i], "second_id": alphabet[j]}
            for (i, j), loss in np.ndenumerate(case.losses)
        ],
        "square": [
            {"u_first": SHARES[i], "u_second": SHARES[j], "loss": loss} for (i, j), loss in np.ndenumerate(square)
        ],
        "path": [_path_row(number, step, case.pair.tokens, end, policy) for number, step in enumerate(path)],
    }


def _count_draws(case: SearchedResponse, seed: int) -> Int[np.ndarray, "first second"]:
    """Draw pairs of tokens from the policy and count them; draws outside the alphabet are left out."""
    # the word is part of the random key: with another one the kept figure would have other draws
    uniforms = keyed_uniforms(seed, case.pair.problem.id, 0, "darts", NUM_DRAWS)
    indices = np.searchsorted(case.chances.cumsum(), uniforms)
    counts = np.bincount(indices[indices < case.chances.size], minlength=case.chances.size)
    return counts.reshape(case.chances.shape)


def _path_row(number: int, step: Step, start: tuple[int, int], end: tuple[int, int], policy: Policy) -> Row:
    """Return a row of figure1_path.csv.

    By position: `inside`, the probability of the start and end token together, and `u`, the end token's share of it.
    """
    row: Row = {"step": number, "tokens": printable(policy.decode(list(step.tokens))), "loss": step.loss}
    for name, old, new, probabilities in zip(("first", "second"), start, end, step.logits.softmax(-1), strict=True):
        inside = (probabilities[old] + probabilities[new]).item()
        row |= {f"u_{name}": probabilities[new].item() / inside, f"inside_{name}": inside}
    return row


def caption(rows: Rows, command: str, cell: Cell) -> str:
    """Return figure1.md."""
    table = pd.DataFrame(rows["search"])
    case = table[table.drawn].iloc[0]
    wrong = table[table.best_ids != table.own_ids]
    pairs = pd.DataFrame(rows["pairs"])
    own_first, own_second = (alphabet_texts(pairs)[index] for index in indices(case, "own", pairs))
    start, end = rows["path"][0], rows["path"][-1]
    method = cell.method.keywords()

    def ends_at_best(column: str) -> str:
        return f"{100 * (wrong[f'{column}_ids'] == wrong.best_ids).mean():.0f} %"

    def above_best(column: str) -> str:
        return f"{(wrong[f'{column}_loss'] - wrong.best_loss).mean():.1f}"

    def budget_row(count: int) -> str:
        chance = 100 * (1 - (1 - wrong.chance) ** count).mean()
        draws = f"best of {count} draw{'s' * (count > 1)} (exact expectation)"
        return f"| {draws} | {chance:.0f} % | {above_best(f'best_of_{count}')} |\n"

    return f"""# figure1.png

Made by `{command}`; rows in `figures/data/figure1_*.csv`.

Zeroth-order search beside first-order descent on the loss over two tokens. The response `{case.response}` \
({cell.policy.name}, {case.problem_id}) is fixed except for the tokens at positions {case["first"]} and \
{case.second}, `{own_first}` and `{own_second}`. L = −λ r − ν log π in nats, with λ = {method["reward_weight"]} and \
ν = {method["nll_weight"]}; r comes from {cell.reward.name} and log π from the policy.

Left: L of every pair of tokens, with {NUM_DRAWS} draws of the policy (temperature {method["rollout_temperature"]}; \
the second token is drawn after the first). Sampling sees these values only. Right: the same L for mixtures of two \
embeddings at each position, from the response's own token (u = 0) to the token of the best pair (u = 1). The path \
shows DTO's T = {method["num_iterations"]} steps on both rows of logits, which start at the policy's own. There u is \
the new token's share of the probability of the two tokens. The two tokens hold {100 * start["inside_first"]:.0f} and \
{100 * start["inside_second"]:.0f} % of the probability of the two rows at the start, and \
{100 * end["inside_first"]:.0f} and {100 * end["inside_second"]:.0f} % at the end. DTO evaluates its gradient at the \
hard tokens, which is a corner of the square and not the position of the marker.

The responses are those to the first {cell.num_problems} problems ({cell.task.name}, {cell.split}) whose \
first rollout has two tokens below the confidence gate; the two least confident tokens are searched. The case is the \
first of these {len(table)} responses in which the best pair differs in both tokens and DTO ends there. It is not \
typical. In the {len(wrong)} responses whose own pair is not the best one:

| from the response's own tokens | ends at the best pair | mean L above the best pair, nats |
|---|---|---|
| as sampled | 0 % | {above_best("own")} |
| DTO, both rows together, {wrong.evaluations.mean():.1f} gradient evaluations on average | {ends_at_best("dto")} | \
{above_best("dto")} |
| DTO, one row after the other, each change kept only if L falls | {ends_at_best("one_by_one")} | \
{above_best("one_by_one")} |
""" + "".join(map(budget_row, BUDGETS))


def run(command: Command, cell: Cell) -> int:
    """Compute the rows, draw the figure and write its caption; return the exit status."""
    return write_case_figure(command, cell, figure_rows, caption, draw)
