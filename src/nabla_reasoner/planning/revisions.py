"""Expected revisions of ∇-Reasoner: how many rollouts it makes, how long they are, and in how many rounds.

Model: along a response of L tokens, positions with a new token come as a Poisson process, `proposals` of them in the
first pass and a constant share of the pass before in each later one. Every one costs a rollout of the rest of the
response, until N_max is used up. Problems of a batch are alike and independent.
"""

from typing import NamedTuple

from scipy.special import gammainc

CELLS = 100  # in which a pass is cut for the sums
PASSES = 50  # later ones have next to no proposals


class Revisions(NamedTuple):
    """Expectations for a batch of problems.

    Attributes:
        count: proposals per problem, each with a rollout; at most N_max - 1.
        tokens: tokens of these rollouts per problem.
        rounds: proposals of the problem that makes the most, which is the number of rounds of the batch.
        steps: decoding steps of these rounds, if every response has L tokens.
        any: probability that a problem has a proposal at all.
    """

    count: float | int
    tokens: float | int
    rounds: float | int
    steps: float | int
    any: float | int


def expected(
    length: float | int,
    proposals: float | int,
    *,
    max_rollouts: int,
    num_passes: int,
    later_passes: float | int,
    batch: int,
) -> Revisions:
    """Return the expectations of the module's model.

    Args:
        length: L, tokens of a response.
        proposals: of the first pass, without a limit.
        max_rollouts: N_max, the first response included.
        later_passes: proposals of a pass as a share of those of the pass before.
        batch: problems solved together.
    """
    num_passes = min(num_passes, PASSES)
    rates = [proposals * later_passes**number / CELLS for number in range(num_passes) for _ in range(CELLS)]
    rests = [length * (1 - (cell + 0.5) / CELLS) for cell in range(CELLS)] * num_passes
    totals = [0.0]
    for rate in rates:
        totals.append(totals[-1] + rate)
    count = tokens = rounds = steps = any_proposal = 0.0
    for number in range(1, max_rollouts):
        reached = gammainc(number, totals).tolist()  # P(a Poisson variable of this mean is at least `number`)
        earliest = [1 - (1 - share) ** batch for share in reached]
        count += reached[-1]
        rounds += earliest[-1]
        tokens += _mean(reached, rests)
        steps += _mean(earliest, rests)
        if number == 1:
            any_proposal = reached[-1]
        if earliest[-1] < 1e-6:
            break
    return Revisions(count, tokens, rounds, steps, any_proposal)


def _mean(reached: list[float], rests: list[float]) -> float | int:
    """Return the expected rest of the response at an event, from its distribution function at the borders of cells."""
    return sum((after - before) * rest for before, after, rest in zip(reached, reached[1:], rests, strict=False))
