"""Results of every method: independent of batches and order, each random stream used for one purpose."""

import functools
from collections import Counter

import numpy as np
import pytest
import toys

from nabla_reasoner import Problem
from nabla_reasoner.baselines import (
    discrete_langevin,
    judge_decoding,
    mh_resampling,
    particle_filter,
    repeated_sampling,
    sample_pool,
    tree_search,
)
from nabla_reasoner.config.build import build_method
from nabla_reasoner.config.cell import Cell
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.config.schema import choices
from nabla_reasoner.decoding import state
from nabla_reasoner.engine.sampling import keyed_uniforms

PROBLEMS = [Problem(f"p{number}", "+".join("7" * (number % 4 + 1)) + "=?", None, "free") for number in range(5)]
METHODS = [name for name in choices("method") if name != "tpo"]  # its critiques exceed a toy model's context

DRAWING = (
    discrete_langevin,
    judge_decoding,
    mh_resampling,
    particle_filter,
    repeated_sampling,
    sample_pool,
    tree_search,
    state,
)


@functools.cache
def composed(method: str) -> Cell:
    (cell,) = compose_cells([*f"method={method}".split(), "max_new_tokens=6", "scale=tiny"])
    return cell


def results(method: str, problems: list[Problem], batch_size: int) -> dict[str, tuple]:
    """Token ids, outcome counts, decoded tokens and FLOPs by problem; `method` may have further settings behind it."""
    policy, reward = toys.shared_policy(), toys.shared_reward()
    solved = {}
    for start in range(0, len(problems), batch_size):
        batch = problems[start : start + batch_size]
        for solution in build_method(composed(method)).solve(batch, policy, reward, seed=3):
            counts = {key: value for key, value in solution.search.items() if isinstance(value, int | bool)}
            spent = solution.cost.decode_tokens, round(solution.cost.flops)
            solved[solution.problem_id] = (solution.token_ids, counts, spent)
    return solved


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, "nabla_reasoner variant=release"])
def test_results_do_not_depend_on_batch_or_order(method: str):
    whole = results(method, PROBLEMS, 64)
    assert results(method, PROBLEMS, 1) == whole
    shuffled = [PROBLEMS[index] for index in np.random.default_rng(0).permutation(len(PROBLEMS))]
    assert results(method, shuffled, 7) == whole


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_each_random_stream_serves_one_purpose(method: str, monkeypatch):
    keys: Counter[tuple] = Counter()

    def noted(seed: int, problem_id: str, repeat: int, stage: str, count: int) -> np.ndarray:
        keys[seed, problem_id, repeat, stage] += 1
        return keyed_uniforms(seed, problem_id, repeat, stage, count)

    for module in DRAWING:
        monkeypatch.setattr(module, "keyed_uniforms", noted)
    results(method, PROBLEMS, 64)
    assert {key: count for key, count in keys.items() if count > 1} == {}
    streams = {tuple(keyed_uniforms(*key, 4)) for key in keys}
    assert len(streams) == len(keys)
