"""Samplers of the reward-weighted policy: against exact laws on an enumerable task, other batches, and recounts."""

import itertools

import letter_models
import numpy as np
import pytest
import torch
import toys
from enumerated_answers import enumerate_answers, models_with_end, problems, sampling_floor, total_variation
from pass_counter import PassCounter

from nabla_reasoner import cost
from nabla_reasoner.baselines import mh_resampling
from nabla_reasoner.baselines.discrete_langevin import DiscreteLangevin, langevin_proposal
from nabla_reasoner.baselines.mh_resampling import MHResampling
from nabla_reasoner.baselines.particle_filter import ParticleFilter, systematic
from nabla_reasoner.baselines.tree_search import TreeSearch
from nabla_reasoner.engine import scoring
from nabla_reasoner.engine.numerics import NonFiniteError
from nabla_reasoner.ppo import exact_distributions, markov_chains
from nabla_reasoner.types import Problem

QUESTIONS = ["What is 12 + 34?", "6", "Add 5 and 6, then take 7.", "99 + 1?", "1 2 3", "4+4", "take 7"]
PROBLEMS = [Problem(f"toy/{i}", text, "1", "chain_sum") for i, text in enumerate(QUESTIONS)]
LIMIT = 6
MARKS = list("aeiou0123456789 ")
METHODS = {
    "mh": lambda **more: MHResampling(num_steps=4, reward_weight=0.3, temperature=1.0, max_new_tokens=LIMIT, **more),
    "langevin": lambda **more: DiscreteLangevin(
        num_steps=3, step_size=0.3, reward_weight=0.1, temperature=1.0, max_new_tokens=LIMIT, **more
    ),
    "particles": lambda **more: ParticleFilter(
        num_particles=5, reward_weight=0.3, step_marks=MARKS, temperature=1.0, max_new_tokens=LIMIT, **more
    ),
}
BETA, HEAT, LENGTH = 0.4, 0.7, 3


def suffix_log_probability(enumerated, answer: tuple[int, ...], cut: int) -> float:
    """log π(y_≥t | y_<t): the answer's log-probability minus that of all answers with its beginning."""
    alike = [number for other, number in enumerated.index.items() if other[:cut] == answer[:cut] and len(other) > cut]
    return (enumerated.log_policy[enumerated.index[answer]] - enumerated.log_policy[alike].logsumexp(0)).item()


def resampling_matrix(enumerated) -> torch.Tensor:
    """Transition probabilities of one step, with Hastings' ratio written out; checks `log_acceptance` on the way."""
    answers, target = list(enumerated.index), enumerated.target(BETA).log()
    matrix = torch.zeros(len(answers), len(answers), dtype=torch.float64)
    suffixes = {(y, t): suffix_log_probability(enumerated, y, t) for y in answers for t in range(len(y))}
    for (i, y), (j, other) in itertools.product(enumerate(answers), repeat=2):
        for cut in range(min(len(y), len(other))):
            if y[:cut] != other[:cut]:
                break
            forward = suffixes[other, cut] - np.log(len(y))
            ratio = (target[j] + suffixes[y, cut] - np.log(len(other)) - target[i] - forward).item()
            rewards = enumerated.rewards[[i, j]].tolist()
            assert mh_resampling.log_acceptance(BETA, *rewards, len(y), len(other)) == pytest.approx(ratio, abs=1e-9)
            matrix[i, j] += np.exp(forward + min(ratio, 0.0))
    return markov_chains.with_rejections(matrix)


@pytest.mark.slow
def test_mh_resampling_follows_chain_whose_law_is_exact():
    policy, reward = models_with_end()
    enumerated = enumerate_answers(policy, reward, problems(1)[0], LENGTH, temperature=HEAT)
    start, target, matrix = enumerated.log_policy.exp(), enumerated.target(BETA), resampling_matrix(enumerated)
    torch.testing.assert_close(target @ matrix, target, rtol=0, atol=1e-12)
    count, steps = 200, 3
    method = MHResampling(num_steps=steps, reward_weight=BETA, temperature=HEAT, max_new_tokens=LENGTH)
    solutions = method.solve(problems(count), policy, reward)
    frequencies = enumerated.frequencies([solution.token_ids for solution in solutions])
    expected = start @ torch.linalg.matrix_power(matrix, steps)
    assert total_variation(frequencies, expected) < sampling_floor(expected, count)
    assert total_variation(frequencies, start) > 2 * sampling_floor(start, count)
    assert total_variation(expected, target) < total_variation(start, target) / 2


@pytest.mark.slow
def test_langevin_follows_chain_whose_law_is_exact():
    """The matrix is made by `ppo.markov_chains`, which has tests of its own; all answers have two tokens."""
    policy, reward, weight = *letter_models.models(), 2.0
    for model in (policy, reward):
        model.model.lm_head.weight.mul_(0.3)  # less certain models, whose chain moves in a few steps
    scored = exact_distributions.score_prompt(policy, reward, problems(1)[0].messages, 2)
    target, slopes = scored.optimum(weight), scored.energy_gradients(weight)
    proposal = markov_chains.joint(langevin_proposal(slopes, scored.answers, 1.0), scored.answers)
    matrix = markov_chains.metropolis(proposal, target)
    torch.testing.assert_close(target.exp() @ matrix, target.exp(), rtol=0, atol=1e-12)
    count, steps = 350, 3
    method = DiscreteLangevin(num_steps=steps, step_size=1.0, reward_weight=weight, temperature=1.0, max_new_tokens=2)
    responses = torch.tensor([solution.token_ids for solution in method.solve(problems(count), policy, reward)])
    indices = exact_distributions.answer_indices(responses, policy.vocab_size)
    frequencies = exact_distributions.empirical(indices, len(target)).exp()
    expected = scored.prior.exp() @ torch.linalg.matrix_power(matrix, steps)
    unadjusted = scored.prior.exp() @ torch.linalg.matrix_power(proposal.exp(), steps)
    floor = sampling_floor(expected, count)
    assert total_variation(frequencies, expected) < floor
    assert total_variation(scored.prior.exp(), expected) > 2 * floor
    assert total_variation(unadjusted, expected) > 2 * floor


@pytest.mark.slow
def test_langevin_keeps_length_and_end():
    policy, reward = models_with_end()
    method = DiscreteLangevin(num_steps=6, step_size=2.0, reward_weight=0.1, temperature=1.0, max_new_tokens=4)
    solutions = method.solve(problems(40), policy, reward)
    moved, lengths = 0, set()
    for solution in solutions:
        first, *rest = [sample["response"] for sample in solution.search["samples"]]
        moved += any(text != first for text in rest)
        lengths.add((len(first), first.endswith(":")))
        for text in rest:
            assert (len(text), text.endswith(":")) == (len(first), first.endswith(":"))
            assert ":" not in text[:-1]
    assert moved > 20
    assert len(lengths) >= 3


@pytest.mark.slow
def test_particle_filter_estimates_without_bias():
    """Mean over runs of (estimate of E[exp(βr)]) x (share of particles at each answer) against the enumeration."""
    policy, reward = models_with_end()
    count, particles = 200, 3
    enumerated = enumerate_answers(policy, reward, problems(1)[0], LENGTH, temperature=HEAT)
    method = ParticleFilter(
        num_particles=particles, reward_weight=BETA, step_marks=["a", "c", ":"], temperature=HEAT, max_new_tokens=LENGTH
    )
    search = TreeSearch(problems(count), policy, reward, method.steps, seed=0, repeat=0)
    estimates = torch.stack(
        [
            np.exp(final.log_normalizer) * enumerated.frequencies([node.tokens for node in final.nodes])
            for final in method.run(search).values()
        ]
    )
    exact = (enumerated.log_policy + BETA * enumerated.rewards).exp()
    values = {"all": torch.ones(len(exact)), "long": torch.tensor([len(y) == LENGTH for y in enumerated.index])}
    values |= {f"token {i} second": torch.tensor([y[1:2] == (i,) for y in enumerated.index]) for i in range(4)}
    values["reward"] = enumerated.rewards
    for name, value in values.items():
        runs = estimates @ value.double()
        error = runs.std() / count**0.5
        assert abs(runs.mean() - exact @ value.double()) < 4 * error, name
    assert estimates.sum(1).std() / count**0.5 < 0.1 * exact.sum()  # the check has power


def test_many_particles_approach_target():
    policy, reward = models_with_end()
    enumerated = enumerate_answers(policy, reward, problems(1)[0], LENGTH, temperature=HEAT)
    method = ParticleFilter(
        num_particles=400, reward_weight=BETA, step_marks=["a", "c", ":"], temperature=HEAT, max_new_tokens=LENGTH
    )
    search = TreeSearch(problems(1), policy, reward, method.steps, seed=0, repeat=0)
    (final,) = method.run(search).values()
    target, frequencies = enumerated.target(BETA), enumerated.frequencies([node.tokens for node in final.nodes])
    assert total_variation(frequencies, target) < 2 * sampling_floor(target, 400)  # resampling adds noise
    assert total_variation(enumerated.log_policy.exp(), target) > 4 * sampling_floor(target, 400)


def test_weight_whose_particles_overflow_fails_by_name():
    """Their weights would be NaN."""
    method = ParticleFilter(num_particles=4, reward_weight=1e308, step_marks=MARKS, max_new_tokens=LIMIT)
    with pytest.raises(NonFiniteError, match=r"log-weights with reward_weight=1e\+308 must be finite.* Lower it"):
        method.solve(PROBLEMS[:2], toys.policy(), toys.reward())


def test_systematic_draws_each_index_in_proportion():
    weights = [0.05, 0.5, 0.0, 0.3, 0.15]
    draws = [systematic(weights, u) for u in (np.arange(1000) + 0.5) / 1000]
    counts = np.array([np.bincount(indices, minlength=5) for indices in draws])
    np.testing.assert_allclose(counts.mean(0), 5 * np.array(weights), atol=1e-3)
    assert (np.abs(counts - 5 * np.array(weights)) < 1).all()
    assert systematic([1.0, 0.0], 0.999) == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
@pytest.mark.parametrize("name", METHODS)
def test_results_do_not_depend_on_batch(name, kind):
    policy, reward = toys.policy("llama"), toys.reward(kind, "qwen2")
    together = METHODS[name]().solve(PROBLEMS[::-1], policy, reward, seed=3)[::-1]
    for problem, solution in list(zip(PROBLEMS, together, strict=True))[:3]:
        (alone,) = METHODS[name]().solve([problem], policy, reward, seed=3)
        assert solution.token_ids == alone.token_ids
        assert solution.cost._replace(seconds=0, peak_bytes=0) == alone.cost._replace(seconds=0, peak_bytes=0)
        responses = [[sample["response"] for sample in result.search["samples"]] for result in (solution, alone)]
        assert responses[0] == responses[1]
        assert solution.search["trajectory"][-1]["flops"] == solution.cost.flops
        assert solution.search["trajectory"][-1]["response"] == solution.response
        (value,), _ = scoring.rewards(reward, [reward.prompt_ids(problem.messages)], [solution.token_ids])
        assert solution.reward == pytest.approx(value, abs=1e-9)
    other = METHODS[name]().solve(PROBLEMS[:3], policy, reward, seed=4)
    assert [solution.token_ids for solution in other] != [solution.token_ids for solution in together[:3]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
@pytest.mark.parametrize("name", METHODS)
def test_cost_equals_tokens_read_and_sampled(name, kind, monkeypatch):
    policy, reward = toys.policy(), toys.reward(kind)
    counter = PassCounter(monkeypatch, policy, reward)
    spent = cost.total(solution.cost for solution in METHODS[name]().solve(PROBLEMS, policy, reward))
    assert spent.decode_tokens == counter.drawn
    assert spent.policy_prefill_tokens + spent.policy_forward_tokens == counter.read["policy"]
    assert spent.reward_forward_tokens == counter.read["reward"]


def test_mh_reads_one_known_token_and_new_ones():
    policy, reward = toys.policy(), toys.reward("classifier")
    method = MHResampling(num_steps=1, reward_weight=0.3, temperature=1.0, max_new_tokens=LIMIT)
    for problem, solution in zip(PROBLEMS, method.solve(PROBLEMS, policy, reward), strict=True):
        prompt, reward_prompt = len(policy.prompt_ids(problem.messages)), len(reward.prompt_ids(problem.messages))
        assert solution.cost.policy_prefill_tokens == prompt + 1
        assert solution.search["rollouts"] == 2
        # each response is closed by an end token and the suffix; the second reads its new tokens only
        closing = [not sample["finished"] for sample in solution.search["samples"]]
        new = solution.cost.decode_tokens
        assert solution.cost.reward_forward_tokens == reward_prompt + new + sum(closing) + 2 * len(reward.suffix_ids)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MHResampling(num_steps=0), "num_steps must be >= 1; got 0"),
        (lambda: MHResampling(reward_weight=-1), r"reward_weight \(β\) must be >= 0 and finite; got -1"),
        (lambda: ParticleFilter(num_particles=0), r"num_particles \(N\) must be >= 1; got 0"),
        (lambda: ParticleFilter(num_particles=10**6), r"num_particles \(N\) must be at most 100,000"),
        (lambda: ParticleFilter(reward_weight=float("inf")), r"reward_weight must be a finite number; got inf"),
        (lambda: ParticleFilter(step_marks=[]), "step_marks must be a list of texts"),
        (lambda: DiscreteLangevin(step_size=0), r"step_size \(η\) must be > 0 and finite; got 0"),
        (lambda: DiscreteLangevin(num_steps=0), "num_steps must be >= 1; got 0"),
        (lambda: DiscreteLangevin(temperature=-1), "temperature must be >= 0"),
    ],
)
def test_setting_out_of_range_raises(build, message):
    with pytest.raises(ValueError, match=message):
        build()
