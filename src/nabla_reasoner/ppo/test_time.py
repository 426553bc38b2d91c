"""Test-time methods on one prompt: the answer distribution each produces, and its expected cost."""

import math
from typing import NamedTuple

import lightning
import torch
from jaxtyping import Float
from torch import Tensor

from ..baselines.discrete_langevin import langevin_proposal
from ..config.ppo_settings import TestTimeSettings
from ..dto.settings import DTOSettings
from ..engine.sampling import Sampling
from ..models.language_models import Policy, RewardModel
from ..types import Messages
from . import exact_distributions as exact
from . import markov_chains
from .enumerated_descent import DescentResult, EnumeratedDescent
from .exact_distributions import LogProbs, ScoredPrompt
from .expected_flops import ExpectedCost, FlopPrices, flop_prices
from .tables import CHOICE_DRAWS


class MethodResult(NamedTuple):
    """A method's answer distribution on one prompt, at one amount of compute.

    Attributes:
        method: name in files.
        amount: number of samples, steps, sweeps or iterations, depending on the method.
        flops: expected FLOPs of one answer.
        gradient_evaluations: expected number for one answer.
        samples: number of samples from which the distribution is estimated; 0 if it is exact.
    """

    method: str
    amount: int
    distribution: LogProbs
    flops: float
    gradient_evaluations: float = 0.0
    samples: int = 0


class LoopVariant(NamedTuple):
    """A variant of ∇-Reasoner's loop: redraws with or without gradient, acceptance rule, sampling, passes."""

    method: str
    gradient: bool
    accept: str
    sampling: Sampling
    sweeps: int


class TestTimeMethods(lightning.LightningModule):
    """All test-time methods; a prediction step scores one prompt and returns every method's results by λ.

    Args:
        length: number of tokens of an answer.
        reward_weights: values of λ.
        seed: seed of the few random numbers.
    """

    def __init__(
        self,
        policy: Policy,
        reward: RewardModel,
        length: int,
        settings: TestTimeSettings,
        *,
        reward_weights: list[float],
        seed: int,
    ):
        super().__init__()
        self.policy = policy
        self.reward = reward
        self.length = length
        self.settings = settings
        self.descent = DTOSettings(num_iterations=settings.iterations, step_size=settings.step_size)
        self.resample = Sampling(settings.resample_temperature, settings.resample_top_p).check()
        self.reward_weights = reward_weights
        self.seed = seed
        self.models = torch.nn.ModuleList([policy.model, reward.model])

    def predict_step(self, prompt: Messages) -> tuple[ScoredPrompt, dict[float, list[MethodResult]]]:
        """Score a prompt and run every method for each λ."""
        with torch.enable_grad():
            scored = exact.score_prompt(self.policy, self.reward, prompt, self.length)
            results = {weight: self.results(scored, weight) for weight in self.reward_weights}
        return scored, results

    def results(self, scored: ScoredPrompt, weight: float) -> list[MethodResult]:
        """Run all methods for one prompt and λ."""
        prices = flop_prices(self.policy, self.reward, scored.prompt, self.length)
        return [
            *self.without_gradient(scored, weight, prices),
            *self.langevin(scored, weight, prices),
            *self.noisy(scored, weight, prices),
            *self.optimised(scored, weight, prices),
        ]

    def without_gradient(self, scored: ScoredPrompt, weight: float, prices: FlopPrices) -> list[MethodResult]:
        """Run π itself, exact enumeration, Best-of-N, the weighted choice, and independent Metropolis samples."""
        prior, rewards, target = scored.prior, scored.rewards, scored.optimum(weight)
        size = len(prior)
        sample = prices.rollout + prices.score
        num_prefixes = (size - 1) / (scored.vocab_size - 1)  # shorter than an answer; each is read once
        enumeration = prices.both_prompts + prices.token * num_prefixes + size * prices.score
        results = [
            MethodResult("policy", 1, prior, prices.policy_prompt + prices.rollout),
            MethodResult("enumeration", size, target, enumeration),
        ]
        generator = torch.Generator().manual_seed(self.seed)
        for count in self.settings.draws:
            flops = prices.both_prompts + count * sample
            best = exact.best_of_n(prior, rewards, count)
            choice = exact.weighted_choice(prior, rewards, weight, count, draws=CHOICE_DRAWS, generator=generator)
            results.append(MethodResult("best_of_n", count, best, flops))
            results.append(MethodResult("weighted_choice", count, choice, flops))
        matrix = markov_chains.independent(prior, target)
        distribution = prior
        for step in range(1, self.settings.steps[-1] + 1):
            distribution = markov_chains.step(distribution, matrix)
            if step in self.settings.steps:
                flops = prices.both_prompts + (step + 1) * sample
                results.append(MethodResult("independent_metropolis", step, distribution, flops))
        return results

    def langevin(self, scored: ScoredPrompt, weight: float, prices: FlopPrices) -> list[MethodResult]:
        """Run token Langevin with and without the Metropolis test, and the same proposals without a gradient."""
        answers, target = scored.answers, scored.optimum(weight)
        slopes = scored.energy_gradients(weight)
        results = []
        for method, table, tested, gradient in (
            ("langevin_metropolis", slopes, True, True),
            ("langevin_unadjusted", slopes, False, True),
            ("moves_without_gradient", torch.zeros_like(slopes), True, False),
        ):
            tokens = langevin_proposal(table, answers, self.settings.langevin_step)
            proposal = markov_chains.joint(tokens, answers)
            matrix = markov_chains.metropolis(proposal, target) if tested else proposal.exp()
            changing = 1 - proposal.diagonal().exp()  # a proposal that changes nothing needs no evaluation
            # without a gradient one forward pass of each model, half an evaluation, suffices for the test
            price = prices.evaluation if gradient else prices.evaluation / 2
            distribution = scored.prior
            evaluations = 1.0
            for step in range(1, self.settings.steps[-1] + 1):
                evaluations += (distribution.exp() * changing).sum().item()
                distribution = markov_chains.step(distribution, matrix)
                if step in self.settings.steps:
                    flops = prices.both_prompts + prices.rollout + evaluations * price
                    results.append(MethodResult(method, step, distribution, flops, evaluations if gradient else 0.0))
        return results

    def noisy(self, scored: ScoredPrompt, weight: float, prices: FlopPrices) -> list[MethodResult]:
        """Run gradient steps on token logits with the theorem's √2 noise and without, on a sample of particles each."""
        results = []
        for method, noise in (("logit_langevin", math.sqrt(2)), ("logit_descent", 0.0)):
            readings = markov_chains.logit_particles(
                scored,
                reward_weight=weight,
                step_size=self.settings.noise_step,
                counts=self.settings.steps,
                particles=self.settings.particles,
                noise=noise,
                generator=torch.Generator().manual_seed(self.seed),
            )
            for step, (indices, evaluations) in zip(self.settings.steps, readings, strict=True):
                distribution = exact.empirical(indices, len(scored.prior))
                flops = prices.both_prompts + prices.rollout + evaluations * prices.evaluation
                results.append(MethodResult(method, step, distribution, flops, evaluations, self.settings.particles))
        return results

    def optimised(self, scored: ScoredPrompt, weight: float, prices: FlopPrices) -> list[MethodResult]:
        """Run DTO on whole answers, and ∇-Reasoner's loop, each with its null arm."""
        prior = scored.prior
        length = self.length
        steps = self.settings.iterations
        descent = EnumeratedDescent(self.policy, self.reward, scored, self.descent, reward_weight=weight)
        whole = descent.run(0, length)
        evaluations = 1 + (prior.exp() * torch.tensor(whole.evaluations)).sum().item()
        flops = prices.both_prompts + prices.rollout + evaluations * prices.evaluation
        policy_logits = torch.stack([markov_chains.next_token_log_probabilities(scored, l) for l in range(length)], 1)
        moved = exact.answer_indices(torch.tensor(whole.answers), scored.vocab_size)
        argmax = torch.zeros_like(prior).index_add(0, moved, prior.exp()).log()
        null_flops = prices.policy_prompt + prices.rollout
        single = [descent.run(position, 1) for position in range(length)]
        return [
            MethodResult("dto_resampled", steps, self._redrawn(scored, whole.logits), flops, evaluations),
            MethodResult("dto_resampled_null", steps, self._redrawn(scored, policy_logits), null_flops),
            MethodResult("dto_argmax", steps, argmax, flops, evaluations),
            *self.loops(scored, weight, prices, single, policy_logits),
        ]

    def _redrawn(self, scored: ScoredPrompt, logits: Float[Tensor, "answers length vocab"]) -> LogProbs:
        """Return the distribution if every token of a sample of π is redrawn from logits."""
        rows = markov_chains.redraw_log_probabilities(logits.flatten(0, 1), self.resample)
        return markov_chains.redrawn(scored.prior, rows.view_as(logits), scored.answers)

    def loops(
        self,
        scored: ScoredPrompt,
        weight: float,
        prices: FlopPrices,
        optimised: list[DescentResult],
        policy_logits: Float[Tensor, "answers length vocab"],
    ) -> list[MethodResult]:
        """Run ∇-Reasoner's pass over the positions: released, without rejection or gradient, with a Metropolis test.

        Args:
            optimised: DTO of one row at each position.
        """
        last = self.settings.steps[-1]
        uncut = Sampling(1.0)  # a Metropolis test needs a positive probability of the reverse change
        results = []
        for variant in (
            LoopVariant("nabla_reasoner", True, "higher", self.resample, 1),
            LoopVariant("nabla_without_rejection", True, "always", self.resample, 1),
            LoopVariant("nabla_without_gradient", False, "higher", self.resample, 1),
            LoopVariant("nabla_metropolis", True, "metropolis", uncut, last),
            LoopVariant("nabla_metropolis_null", False, "metropolis", uncut, last),
        ):
            threshold = self.settings.confidence_threshold if variant.accept != "metropolis" else 1.0
            rule = {"accept": variant.accept, "reward_weight": weight, "confidence_threshold": threshold}
            rows = [descent.logits[:, 0] for descent in optimised] if variant.gradient else policy_logits.unbind(1)
            redraws = [markov_chains.redraw_log_probabilities(logits, variant.sampling) for logits in rows]
            matrices = [markov_chains.revision(scored, redraw, l, **rule) for l, redraw in enumerate(redraws)]
            distribution = scored.prior
            reverse = variant.accept == "metropolis"
            cost = ExpectedCost(prices, scored, threshold, gradient=variant.gradient, reverse=reverse)
            for sweep in range(1, variant.sweeps + 1):
                for position, matrix in enumerate(matrices):
                    cost.add(distribution, position, matrix, redraws[position], optimised[position].evaluations)
                    distribution = markov_chains.step(distribution, matrix)
                if sweep in self.settings.steps:
                    results.append(MethodResult(variant.method, sweep, distribution, cost.flops, cost.evaluations))
        return results
