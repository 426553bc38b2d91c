"""Transition matrices of test-time samplers against stationarity, brute force, and the engine itself."""

import itertools

import letter_models
import pytest
import torch

from nabla_reasoner.baselines.discrete_langevin import langevin_proposal
from nabla_reasoner.config import ppo_settings
from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
from nabla_reasoner.dto import objective, straight_through
from nabla_reasoner.ppo import exact_distributions as exact
from nabla_reasoner.ppo import markov_chains, test_time
from nabla_reasoner.ppo.exact_distributions import ScoredPrompt
from nabla_reasoner.ppo.expected_flops import ExpectedCost, flop_prices
from nabla_reasoner.types import Problem

WEIGHT = 0.8


def scored_prompt(vocab_size: int = 3, length: int = 2, seed: int = 0) -> ScoredPrompt:
    """Build a scored prompt of random numbers; token probabilities depend on the tokens before."""
    generator = torch.Generator().manual_seed(seed)
    answers = exact.every_answer(vocab_size, length)
    following = {
        beginning: torch.log_softmax(torch.randn(vocab_size, dtype=torch.float64, generator=generator), -1)
        for size in range(length)
        for beginning in itertools.product(range(vocab_size), repeat=size)
    }
    tokens = torch.stack(
        [torch.stack([following[tuple(row[:l])][row[l]] for l in range(length)]) for row in answers.tolist()]
    )
    tables = torch.randn(2, len(answers), length, vocab_size, dtype=torch.float64, generator=generator)
    rewards = torch.randn(len(answers), dtype=torch.float64, generator=generator)
    return ScoredPrompt([{"role": "user", "content": "a"}], answers, tokens, rewards, *tables)


def stationary(matrix: torch.Tensor) -> torch.Tensor:
    """Return the left eigenvector of eigenvalue 1."""
    values, vectors = torch.linalg.eig(matrix.T)
    vector = vectors[:, (values - 1).abs().argmin()].real
    return vector / vector.sum()


def test_langevin_proposal_is_gaussian_step_on_onehots():
    scored, step = scored_prompt(), 0.7
    slopes = scored.energy_gradients(WEIGHT)
    proposal = markov_chains.joint(langevin_proposal(slopes, scored.answers, step), scored.answers)
    onehots = torch.nn.functional.one_hot(scored.answers, 3).double()
    for number in range(len(scored.answers)):
        centre = onehots[number] - step / 2 * slopes[number]
        density = -(onehots - centre).square().sum((1, 2)) / (2 * step)
        torch.testing.assert_close(proposal[number], torch.log_softmax(density, -1))


@pytest.mark.parametrize("gradient", [True, False])
def test_metropolis_steps_balance_optimum_only(gradient):
    scored = scored_prompt()
    target = exact.optimum(scored.prior, scored.rewards, WEIGHT)
    slopes = scored.energy_gradients(WEIGHT) * gradient
    matrix = markov_chains.metropolis(
        markov_chains.joint(langevin_proposal(slopes, scored.answers, 1.0), scored.answers), target
    )
    flow = target.exp()[:, None] * matrix
    torch.testing.assert_close(flow, flow.T)
    torch.testing.assert_close(matrix.sum(1), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(stationary(matrix), target.exp())
    wrong = exact.optimum(scored.prior, scored.rewards, WEIGHT + 0.3)
    assert (stationary(matrix) - wrong.exp()).abs().max() > 0.01


def test_unadjusted_langevin_has_another_stationary_distribution():
    scored = scored_prompt()
    target = exact.optimum(scored.prior, scored.rewards, WEIGHT)
    proposal = markov_chains.joint(
        langevin_proposal(scored.energy_gradients(WEIGHT), scored.answers, 1.0), scored.answers
    )
    assert (stationary(proposal.exp()) - target.exp()).abs().max() > 0.01


def test_independent_metropolis_accepts_by_reward_alone():
    scored = scored_prompt()
    matrix = markov_chains.independent(scored.prior, exact.optimum(scored.prior, scored.rewards, WEIGHT))
    for old, new in itertools.permutations(range(9), 2):
        accepted = min(1.0, float((WEIGHT * (scored.rewards[new] - scored.rewards[old])).exp()))
        assert matrix[old, new].item() == pytest.approx(scored.prior[new].exp().item() * accepted)


@pytest.mark.parametrize("gate", [1.0, 0.6])
def test_metropolis_revisions_keep_optimum_for_any_redraw(gate):
    scored = scored_prompt(vocab_size=3, length=3)
    target = exact.optimum(scored.prior, scored.rewards, WEIGHT)
    redraw = torch.log_softmax(torch.randn(27, 3, dtype=torch.float64), -1)
    moved = 0.0
    for position in range(3):
        settings = {"reward_weight": WEIGHT, "confidence_threshold": gate}
        adjusted = markov_chains.revision(scored, redraw, position, accept="metropolis", **settings)
        flow = target.exp()[:, None] * adjusted
        torch.testing.assert_close(flow, flow.T)
        moved += (adjusted - torch.eye(27)).abs().max().item()
        released = markov_chains.revision(scored, redraw, position, accept="higher", **settings)
        if (released - torch.eye(27)).abs().max() > 0:
            assert exact.total_variation(markov_chains.step(target, released), target) > 0.001
    assert moved > 0.1


@pytest.mark.parametrize("accept", ["higher", "always"])
def test_revision_matches_rule_applied_per_answer(accept):
    scored = scored_prompt(vocab_size=2, length=3)
    redraw = torch.log_softmax(torch.randn(8, 2, dtype=torch.float64), -1)
    matrix = markov_chains.revision(scored, redraw, 1, accept=accept, reward_weight=WEIGHT)
    texts = [tuple(answer) for answer in scored.answers.tolist()]
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for old, text in enumerate(texts):
        for token in (0, 1):
            for last in (0, 1):
                new = texts.index((text[0], token, last))
                probability = redraw[old, token].exp() * (
                    scored.tokens[new, 2].exp() if token != text[1] else float(last == 0)
                )
                stays = token == text[1] or (accept == "higher" and scored.rewards[new] <= scored.rewards[old])
                expected[old, old if stays else new] += probability
    torch.testing.assert_close(matrix, expected)


def test_unknown_acceptance_rule_names_valid_ones():
    with pytest.raises(ValueError, match="higher, always, metropolis; got 'lower'"):
        markov_chains.revision(
            scored_prompt(), torch.zeros(9, 3, dtype=torch.float64), 0, accept="lower", reward_weight=1.0
        )


def test_next_confidence_is_policys_largest_probability():
    scored = scored_prompt(vocab_size=2, length=2)
    first = scored.tokens[[0, 2], 0].exp().max()  # log π of token 0 and of token 1 at the first position
    torch.testing.assert_close(markov_chains.next_confidence(scored, 0), first.expand(4))
    second = [scored.tokens[[0, 1], 1].exp().max(), scored.tokens[[2, 3], 1].exp().max()]
    torch.testing.assert_close(markov_chains.next_confidence(scored, 1), torch.stack(second).repeat_interleave(2))


def test_redrawn_answers_mix_products_over_first_answers():
    scored = scored_prompt(vocab_size=2, length=2)
    rows = torch.log_softmax(torch.randn(4, 2, 2, dtype=torch.float64), -1)
    distribution = markov_chains.redrawn(scored.prior, rows, scored.answers).exp()
    expected = [
        sum(scored.prior[i].exp() * rows[i, 0, a].exp() * rows[i, 1, b].exp() for i in range(4))
        for a, b in scored.answers.tolist()
    ]
    torch.testing.assert_close(distribution, torch.stack(expected))


@pytest.mark.slow
def test_logit_step_follows_straight_through_gradient():
    policy, reward = letter_models.models()
    messages = [{"role": "user", "content": "cab"}]
    scored = exact.score_prompt(policy, reward, messages, 2)
    settings = {"reward_weight": WEIGHT, "step_size": 8.0, "counts": [1], "particles": 100, "noise": 0.0}
    ((indices, evaluations),) = markov_chains.logit_particles(
        scored, **settings, generator=torch.Generator().manual_seed(0)
    )
    starts = torch.multinomial(scored.prior.exp(), 100, replacement=True, generator=torch.Generator().manual_seed(0))
    changed = 0
    for start, after in zip(starts.tolist(), indices.tolist(), strict=True):
        answer = scored.answers[start]
        before = torch.stack([markov_chains.next_token_log_probabilities(scored, l)[start] for l in range(2)])
        logits = before.clone().requires_grad_()
        sequence = objective.make_sequence(policy, reward, messages, [], answer.tolist())
        onehots = straight_through.straight_through(logits, answer)
        objective.relaxed_objective(policy, reward, sequence, onehots, reward_weight=WEIGHT, nll_weight=1.0).backward()
        best = (before - 8.0 * logits.grad).argmax(-1)
        hard = torch.where(best == before.argmax(-1), answer, best)
        assert scored.answers[after].tolist() == hard.tolist()
        changed += after != start
    assert changed > 5
    assert evaluations == pytest.approx(1 + changed / 100)


def methods_module(weight: float) -> test_time.TestTimeMethods:
    policy, reward = letter_models.models()
    settings = ppo_settings.TestTimeSettings(
        draws=[1, 4],
        steps=[1, 32],
        langevin_step=1.0,
        noise_step=0.3,
        particles=200,
        iterations=8,
        step_size=0.5,
        resample_temperature=0.5,
        resample_top_p=0.95,
        confidence_threshold=0.55,
        solved=1,
    )
    return test_time.TestTimeMethods(policy, reward, 3, settings, reward_weights=[weight], seed=0)


@pytest.mark.slow
def test_every_method_has_distribution_exact_samplers_approach_optimum():
    module = methods_module(0.2)
    scored, results = module.predict_step([{"role": "user", "content": "dab"}])
    target = exact.optimum(scored.prior, scored.rewards, 0.2)
    distributions = {(result.method, result.amount): result.distribution for result in results[0.2]}
    for (method, amount), distribution in distributions.items():
        assert distribution.exp().sum().item() == pytest.approx(1, abs=1e-6), (method, amount)
    for method in ("independent_metropolis", "langevin_metropolis", "nabla_metropolis", "nabla_metropolis_null"):
        first, last = (exact.divergence(distributions[method, amount], target) for amount in (1, 32))
        assert last < first
    assert exact.divergence(distributions["nabla_metropolis_null", 32], target) < 1e-3
    assert exact.total_variation(distributions["best_of_n", 1], scored.prior) < 1e-12
    assert all(result.flops > 0 for result in results[0.2])


@pytest.mark.slow
def test_exact_loop_distribution_matches_engine_answers():
    weight, count = 0.4, 800
    module = methods_module(weight)
    scored, results = module.predict_step([{"role": "user", "content": "dab"}])
    for method, gradient in (("nabla_reasoner", True), ("nabla_without_gradient", False)):
        (result,) = [result for result in results[weight] if result.method == method]
        engine = NablaReasoner(
            num_iterations=8,
            step_size=0.5,
            reward_weight=weight,
            nll_weight=1.0,
            confidence_threshold=0.55,
            grad_threshold=0.0,
            rollout_temperature=1.0,
            rollout_top_p=1.0,
            resample_temperature=0.5,
            resample_top_p=0.95,
            max_new_tokens=3,
            use_gradient=gradient,
        )
        problems = [Problem(str(i), "dab", None, "letters") for i in range(count)]
        solutions = engine.solve(problems, module.policy, module.reward, seed=1)
        numbers = (torch.tensor([s.token_ids for s in solutions]) * torch.tensor([25, 5, 1])).sum(1)
        variation = exact.total_variation(exact.empirical(numbers, 125), result.distribution)
        generator = torch.Generator().manual_seed(0)
        floors = [
            exact.sampling_floor(result.distribution, count, repeats=1, generator=generator)[1] for _ in range(40)
        ]
        assert variation < 1.25 * max(floors)  # 40 exact samples of that size, and a quarter
        assert exact.total_variation(scored.prior, result.distribution) > 2 * variation  # π itself would not pass
        evaluations = sum(s.cost.gradient_evaluations for s in solutions) / count
        assert result.gradient_evaluations == pytest.approx(evaluations, rel=0.05, abs=1e-9)
        flops = sum(s.cost.flops for s in solutions) / count
        assert result.flops == pytest.approx(flops, rel=0.03), "the rows of ∂L/∂y themselves are not priced"


def test_metropolis_test_with_a_gradient_evaluates_every_proposal():
    """The probability of the reverse change takes DTO from the proposed answer; checked by listing the paths."""
    scored = scored_prompt(vocab_size=2, length=2)
    redraws = [torch.log_softmax(torch.randn(4, 2, dtype=torch.float64), -1) for _ in range(2)]
    flips = [[0, 1, 2, 3], [3, 0, 1, 2]]
    rule = {"accept": "metropolis", "reward_weight": WEIGHT, "confidence_threshold": 1.0}
    matrices = [markov_chains.revision(scored, redraw, l, **rule) for l, redraw in enumerate(redraws)]
    policy, reward = letter_models.models()
    prices = flop_prices(policy, reward, scored.prompt, 2)
    costs = [ExpectedCost(prices, scored, 1.0, gradient=gradient, reverse=True) for gradient in (True, False)]
    distribution, evaluations, proposals = scored.prior, 1.0, 0.0
    for position in range(2):
        for cost in costs:
            cost.add(distribution, position, matrices[position], redraws[position], flips[position])
        for old, answer in enumerate(scored.answers.tolist()):
            mass = distribution[old].exp().item()
            evaluations += mass * flips[position][old]
            for new, proposed in enumerate(scored.answers.tolist()):
                if proposed[:position] == answer[:position] and proposed[position] != answer[position]:
                    rest = scored.tokens[new, position + 1 :].sum().exp().item()
                    chance = mass * redraws[position][old, proposed[position]].exp().item() * rest
                    evaluations += chance * (1 + flips[position][new])
                    proposals += chance
        distribution = markov_chains.step(distribution, matrices[position])
    with_gradient, without = costs
    assert with_gradient.evaluations == pytest.approx(evaluations)
    assert without.evaluations == 0
    drawn = prices.policy_prompt + prices.rollout + proposals * min(prices.rollouts_after)
    assert with_gradient.flops > drawn + evaluations * min(prices.evaluations_from)
    assert without.flops > drawn + proposals * min(prices.scores_from)
