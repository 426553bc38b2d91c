"""Expected revisions of ∇-Reasoner: against a simulation of the same process, and their limits."""

import numpy as np
import pytest

from nabla_reasoner.planning.revisions import expected

LENGTH = 40.0


def simulate(proposals: float, max_rollouts: int, num_passes: int, later: float, batch: int) -> tuple[float, ...]:
    """Draw the positions of proposals directly; return means of the fields of `Revisions` but the steps."""
    generator = np.random.default_rng(0)
    counts, tokens, rounds, any_proposal = [], [], [], []
    for _ in range(4000 // batch):
        made = []
        for _ in range(batch):
            rests = []
            for number in range(num_passes):
                positions = np.sort(generator.uniform(0, LENGTH, generator.poisson(proposals * later**number)))
                rests += list(LENGTH - positions)
            rests = rests[: max_rollouts - 1]
            made.append(len(rests))
            counts.append(len(rests))
            tokens.append(sum(rests))
            any_proposal.append(bool(rests))
        rounds.append(max(made))
    return tuple(float(np.mean(values)) for values in (counts, tokens, rounds, any_proposal))


@pytest.mark.parametrize(
    ("proposals", "max_rollouts", "num_passes", "batch"),
    [(1.3, 8, 1, 1), (1.3, 8, 4, 20), (15.0, 8, 1, 20), (4.0, 3, 2, 5)],
)
def test_expectations_are_those_of_a_simulation(proposals: float, max_rollouts: int, num_passes: int, batch: int):
    revised = expected(
        LENGTH, proposals, max_rollouts=max_rollouts, num_passes=num_passes, later_passes=0.5, batch=batch
    )
    simulated = simulate(proposals, max_rollouts, num_passes, 0.5, batch)
    assert (revised.count, revised.tokens, revised.rounds, revised.any) == pytest.approx(simulated, rel=0.06)


def test_one_rollout_leaves_nothing_to_revise():
    revised = expected(LENGTH, 5.0, max_rollouts=1, num_passes=1, later_passes=0.5, batch=4)
    assert revised == (0.0, 0.0, 0.0, 0.0, 0.0)


def test_steps_of_one_problem_are_its_tokens():
    revised = expected(LENGTH, 3.0, max_rollouts=6, num_passes=2, later_passes=0.5, batch=1)
    assert revised.steps == pytest.approx(revised.tokens)
    assert revised.rounds == pytest.approx(revised.count)


def test_a_larger_limit_never_costs_less():
    tokens = [
        expected(LENGTH, 20.0, max_rollouts=limit, num_passes=1, later_passes=0.5, batch=4).tokens
        for limit in (1, 2, 4, 8, 16)
    ]
    assert tokens == sorted(tokens)
    assert tokens[-1] > 2 * tokens[1]


def test_no_more_proposals_than_there_are():
    """800 proposals on average: exp(-800) is 0 in float64."""
    revised = expected(1000, 800, max_rollouts=2000, num_passes=1, later_passes=0.5, batch=1)
    assert revised.count == pytest.approx(800)
