"""Transition matrices and laws of test-time samplers: stationarity, brute force, and the engine itself."""

import itertools

import letter_models
import pytest
import torch

from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
from nabla_reasoner.dto import objective, straight_through
from nabla_reasoner.dto.settings import DTOSettings
from nabla_reasoner.engine.sampling import Sampling
from nabla_reasoner.ppo import exact_laws, markov_chains, test_time
from nabla_reasoner.ppo.exact_laws import ScoredPrompt
from nabla_reasoner.types import Problem

WEIGHT = 0.8


def landscape(vocab_size: int = 3, length: int = 2, seed: int = 0) -> ScoredPrompt:
    """Random numbers that are consistent: token probabilities depend on what stands before."""
    generator = torch.Generator().manual_seed(seed)
    answers = exact_laws.every_answer(vocab_size, length)
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
    """The left eigenvector of eigenvalue 1."""
    values, vectors = torch.linalg.eig(matrix.T)
    own = vectors[:, (values - 1).abs().argmin()].real
    return own / own.sum()


def test_a_langevin_proposal_is_the_gaussian_step_restricted_to_one_hot_rows():
    own, step = landscape(), 0.7
    slopes = own.energy_gradients(WEIGHT)
    found = markov_chains.joint(markov_chains.langevin_proposal(slopes, own.answers, step), own.answers)
    onehots = torch.nn.functional.one_hot(own.answers, 3).double()
    for number in range(len(own.answers)):
        centre = onehots[number] - step / 2 * slopes[number]
        density = -(onehots - centre).square().sum((1, 2)) / (2 * step)
        torch.testing.assert_close(found[number], torch.log_softmax(density, -1))


@pytest.mark.parametrize("gradient", [True, False])
def test_metropolis_steps_are_in_detailed_balance_with_the_optimum_and_no_other_law(gradient):
    own = landscape()
    target = exact_laws.optimum(own.prior, own.rewards, WEIGHT)
    slopes = own.energy_gradients(WEIGHT) * gradient
    matrix = markov_chains.metropolis(
        markov_chains.joint(markov_chains.langevin_proposal(slopes, own.answers, 1.0), own.answers), target
    )
    flow = target.exp()[:, None] * matrix
    torch.testing.assert_close(flow, flow.T)
    torch.testing.assert_close(matrix.sum(1), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(stationary(matrix), target.exp())
    wrong = exact_laws.optimum(own.prior, own.rewards, WEIGHT + 0.3)
    assert (stationary(matrix) - wrong.exp()).abs().max() > 0.01


def test_langevin_without_the_test_has_another_stationary_law():
    own = landscape()
    target = exact_laws.optimum(own.prior, own.rewards, WEIGHT)
    proposal = markov_chains.joint(
        markov_chains.langevin_proposal(own.energy_gradients(WEIGHT), own.answers, 1.0), own.answers
    )
    assert (stationary(proposal.exp()) - target.exp()).abs().max() > 0.01


def test_fresh_draws_with_the_metropolis_test_accept_by_the_reward_alone():
    own = landscape()
    matrix = markov_chains.independent(own.prior, exact_laws.optimum(own.prior, own.rewards, WEIGHT))
    for old, new in itertools.permutations(range(9), 2):
        accepted = min(1.0, float((WEIGHT * (own.rewards[new] - own.rewards[old])).exp()))
        assert matrix[old, new].item() == pytest.approx(own.prior[new].exp().item() * accepted)


@pytest.mark.parametrize("gate", [1.0, 0.6])
def test_revisions_with_the_metropolis_test_leave_the_optimum_alone_whatever_the_redraw(gate):
    own = landscape(vocab_size=3, length=3)
    target = exact_laws.optimum(own.prior, own.rewards, WEIGHT)
    redraw = torch.log_softmax(torch.randn(27, 3, dtype=torch.float64), -1)
    moved = 0.0
    for position in range(3):
        settings = {"reward_weight": WEIGHT, "confidence_threshold": gate}
        exact = markov_chains.revision(own, redraw, position, accept="metropolis", **settings)
        flow = target.exp()[:, None] * exact
        torch.testing.assert_close(flow, flow.T)
        moved += (exact - torch.eye(27)).abs().max().item()
        released = markov_chains.revision(own, redraw, position, accept="higher", **settings)
        if (released - torch.eye(27)).abs().max() > 0:
            assert exact_laws.total_variation(markov_chains.sweep(target, [released]), target) > 0.001
    assert moved > 0.1


@pytest.mark.parametrize("accept", ["higher", "always"])
def test_a_revision_equals_the_rule_written_out_answer_by_answer(accept):
    own = landscape(vocab_size=2, length=3)
    redraw = torch.log_softmax(torch.randn(8, 2, dtype=torch.float64), -1)
    found = markov_chains.revision(own, redraw, 1, accept=accept, reward_weight=WEIGHT)
    texts = [tuple(answer) for answer in own.answers.tolist()]
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for old, text in enumerate(texts):
        for token in (0, 1):
            for last in (0, 1):
                new = texts.index((text[0], token, last))
                chance = redraw[old, token].exp() * (own.tokens[new, 2].exp() if token != text[1] else float(last == 0))
                kept = token == text[1] or (accept == "higher" and own.rewards[new] <= own.rewards[old])
                expected[old, old if kept else new] += chance
    torch.testing.assert_close(found, expected)


def test_an_unknown_acceptance_rule_names_the_valid_ones():
    with pytest.raises(ValueError, match="higher, always, metropolis; got 'lower'"):
        markov_chains.revision(
            landscape(), torch.zeros(9, 3, dtype=torch.float64), 0, accept="lower", reward_weight=1.0
        )


def test_the_gate_reads_the_policys_own_prediction():
    own = landscape(vocab_size=2, length=2)
    first = own.tokens[[0, 2], 0].exp().max()  # log π of token 0 and of token 1 at the first position
    torch.testing.assert_close(markov_chains.next_confidence(own, 0), first.expand(4))
    second = [own.tokens[[0, 1], 1].exp().max(), own.tokens[[2, 3], 1].exp().max()]
    torch.testing.assert_close(markov_chains.next_confidence(own, 1), torch.stack(second).repeat_interleave(2))


def test_replacing_every_token_mixes_products_over_first_answers():
    own = landscape(vocab_size=2, length=2)
    rows = torch.log_softmax(torch.randn(4, 2, 2, dtype=torch.float64), -1)
    found = markov_chains.replaced(own.prior, rows, own.answers).exp()
    expected = [
        sum(own.prior[i].exp() * rows[i, 0, a].exp() * rows[i, 1, b].exp() for i in range(4))
        for a, b in own.answers.tolist()
    ]
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_step_on_logits_is_the_gradient_of_the_straight_through_objective():
    policy, reward = letter_models.models()
    messages = [{"role": "user", "content": "cab"}]
    own = exact_laws.survey(policy, reward, messages, 2)
    settings = {"reward_weight": WEIGHT, "step_size": 8.0, "counts": [1], "particles": 100, "noise": 0.0}
    ((found, evaluations),) = markov_chains.logit_particles(own, **settings, generator=torch.Generator().manual_seed(0))
    starts = torch.multinomial(own.prior.exp(), 100, replacement=True, generator=torch.Generator().manual_seed(0))
    changed = 0
    for start, after in zip(starts.tolist(), found.tolist(), strict=True):
        answer = own.answers[start]
        before = torch.stack([markov_chains.following(own, l)[start] for l in range(2)])
        logits = before.clone().requires_grad_()
        sequence = objective.make_sequence(policy, reward, messages, [], answer.tolist())
        onehots = straight_through.straight_through(logits, answer)
        objective.relaxed_objective(policy, reward, sequence, onehots, reward_weight=WEIGHT, nll_weight=1.0).backward()
        best = (before - 8.0 * logits.grad).argmax(-1)
        hard = torch.where(best == before.argmax(-1), answer, best)
        assert own.answers[after].tolist() == hard.tolist()
        changed += after != start
    assert changed > 5
    assert evaluations == pytest.approx(1 + changed / 100)


def side(weight: float, length: int = 3) -> test_time.TestTimeMethods:
    policy, reward = letter_models.models()
    settings = test_time.Settings(
        reward_weights=[weight],
        draws=[1, 4],
        steps=[1, 32],
        langevin_step=1.0,
        noise_step=0.3,
        particles=200,
        descent=DTOSettings(step_size=0.5, num_iterations=8),
        resample=Sampling(0.5, 0.95),
        confidence_threshold=0.55,
        seed=0,
    )
    return test_time.TestTimeMethods(policy, reward, length, settings)


def test_every_method_has_a_law_and_the_exact_samplers_approach_the_optimum():
    module = side(0.2)
    own, found = module.predict_step([{"role": "user", "content": "dab"}])
    target = exact_laws.optimum(own.prior, own.rewards, 0.2)
    laws = {(part.method, part.amount): part.law for part in found[0.2]}
    for (method, amount), law in laws.items():
        assert law.exp().sum().item() == pytest.approx(1, abs=1e-6), (method, amount)
    for method in ("independent_metropolis", "langevin_metropolis", "nabla_metropolis", "nabla_metropolis_null"):
        first, last = (exact_laws.divergence(laws[method, amount], target) for amount in (1, 32))
        assert last < first
    assert exact_laws.divergence(laws["nabla_metropolis_null", 32], target) < 1e-3
    assert exact_laws.total_variation(laws["best_of_n", 1], own.prior) < 1e-12
    assert all(part.flops > 0 for part in found[0.2])


@pytest.mark.slow
def test_the_exact_law_of_the_loop_is_that_of_the_engines_own_answers():
    weight, count = 0.4, 3000
    module = side(weight)
    own, found = module.predict_step([{"role": "user", "content": "dab"}])
    for method, gradient in (("nabla_reasoner", True), ("nabla_without_gradient", False)):
        (part,) = [part for part in found[weight] if part.method == method]
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
        variation = exact_laws.total_variation(exact_laws.empirical(numbers, 125), part.law)
        generator = torch.Generator().manual_seed(0)
        floors = [exact_laws.sampling_floor(part.law, count, repeats=1, generator=generator)[1] for _ in range(40)]
        assert variation < 1.25 * max(floors)  # 40 exact samples of that size, and a quarter
        assert exact_laws.total_variation(own.prior, part.law) > 2 * variation  # the test could have failed
        evaluations = sum(s.cost.gradient_evaluations for s in solutions) / count
        assert part.gradient_evaluations == pytest.approx(evaluations, rel=0.05, abs=1e-9)
