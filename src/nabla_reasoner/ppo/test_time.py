"""Deamortised: what each way of spending compute on one prompt makes of the policy's law, and what it spends.

`Deamortised` wraps this side for Lightning: a prediction step takes one prompt and returns the law of every method
there. DTO descents are the package's own (`dto.descend`), started from every answer of the space at once.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import lightning
import torch
from jaxtyping import Float
from torch import Tensor

from ..dto import batched, gradient_passes
from ..dto.batched import DescentStart
from ..dto.gradients import Gradient
from ..dto.settings import DTOSettings
from ..engine.sampling import Sampling
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from . import exact_laws, markov_chains
from .exact_laws import LogProbs, ScoredPrompt
from .expected_flops import ExpectedCost, FlopPrices, price_list


class Spent(NamedTuple):
    """A method's law on one prompt.

    Attributes:
        method: name in files.
        amount: how much of what the method spends: draws, steps, sweeps, iterations.
        law: of its answer.
        flops: expected FLOPs of one answer.
        gradient_evaluations: expected number of them.
        samples: draws behind `law` where it is an estimate; 0 where it is exact.
    """

    method: str
    amount: int
    law: LogProbs
    flops: float
    gradient_evaluations: float = 0.0
    samples: int = 0


class EnumeratedDescent:
    """DTO from every answer to one prompt; an answer's gradient is evaluated once and serves all of them.

    Args:
        reward_weight: λ of Eq. 2; ν is 1 unless `nll_weight` says otherwise.
    """

    def __init__(
        self,
        policy: Policy,
        reward: RewardModel,
        landscape: ScoredPrompt,
        descent: DTOSettings,
        *,
        reward_weight: float,
        nll_weight: float = 1.0,
    ):
        self.policy, self.descent, self.landscape = policy, descent, landscape
        prompts = policy.prompt_ids(landscape.prompt), reward.prompt_ids(landscape.prompt)
        self.sequences = [TokenSequence(*prompts, [], answer) for answer in landscape.answers.tolist()]
        found = gradient_passes.evaluate(
            policy, reward, self.sequences, reward_weight=reward_weight, nll_weight=nll_weight
        )
        self.known: dict[tuple[int, ...], Gradient] = {
            tuple(sequence.rollout): gradient for sequence, gradient in zip(self.sequences, found, strict=True)
        }

    def _evaluate(self, batch: Sequence[TokenSequence], numbers: Sequence[int]) -> list[Gradient]:
        return [self.known[tuple(s.prefix + s.rollout)].from_position(len(s.prefix)) for s in batch]

    def run(self, first: int, rows: int) -> tuple[Float[Tensor, "answers rows vocab"], list[list[int]], list[int]]:
        """Descend from every answer on `rows` rows from position `first` on.

        Returns:
            Optimised logits, hard answers after the last step, and gradient evaluations besides the first.
        """
        sequences = [s._replace(prefix=s.rollout[:first], rollout=s.rollout[first:]) for s in self.sequences]
        own = self._evaluate(sequences, range(len(sequences)))
        starts = [
            DescentStart(sequence=sequence, gradient=gradient, positions=range(rows), latents=gradient.hidden[:rows])
            for sequence, gradient in zip(sequences, own, strict=True)
        ]
        results = batched.descend(self.policy, starts, self._evaluate, self.descent)
        return (
            torch.stack([result.logits for result in results]).double(),
            [s.prefix + result.token_ids for s, result in zip(sequences, results, strict=True)],
            [result.gradient_evaluations for result in results],
        )


class Settings(NamedTuple):
    """What the comparison fixes for this side.

    Attributes:
        reward_weights: values of λ.
        draws: N of Best-of-N and of the weighted choice.
        steps: numbers of Metropolis steps, sweeps and noisy DTO steps after which laws are read, ascending.
        langevin_step: η of the token Langevin step.
        noise_step: η of the noisy and noiseless DTO without Adam.
        particles: of noisy DTO, the one method whose law is an estimate.
        descent: of DTO.
        resample: how a token is redrawn from optimised logits in the released loop.
        confidence_threshold: gate of the released loop.
        seed: of the few random numbers.
    """

    reward_weights: list[float]
    draws: list[int]
    steps: list[int]
    langevin_step: float
    noise_step: float
    particles: int
    descent: DTOSettings
    resample: Sampling
    confidence_threshold: float
    seed: int


class TestTimeMethods(lightning.LightningModule):
    """Everything at test time; a prediction step surveys one prompt and returns its laws by λ."""

    def __init__(self, policy: Policy, reward: RewardModel, length: int, settings: Settings):
        super().__init__()
        self.policy, self.reward, self.length, self.settings = policy, reward, length, settings
        self.models = torch.nn.ModuleList([policy.model, reward.model])

    def predict_step(self, prompt: list[dict[str, str]]) -> tuple[ScoredPrompt, dict[float, list[Spent]]]:
        """The prompt's landscape and, for each λ, what every method makes of it."""
        with torch.enable_grad():
            landscape = exact_laws.survey(self.policy, self.reward, prompt, self.length)
            found = {weight: self.spent(landscape, weight) for weight in self.settings.reward_weights}
        return landscape, found

    def spent(self, landscape: ScoredPrompt, weight: float) -> list[Spent]:
        """Laws of all methods for one prompt and λ."""
        price = price_list(self.policy, self.reward, landscape.prompt, self.length)
        return [
            *self.without_gradient(landscape, weight, price),
            *self.langevin(landscape, weight, price),
            *self.noisy(landscape, weight, price),
            *self.optimised(landscape, weight, price),
        ]

    def without_gradient(self, landscape: ScoredPrompt, weight: float, price: FlopPrices) -> list[Spent]:
        """π itself, Best-of-N, the weighted choice, exact enumeration, and independent Metropolis draws."""
        prior, rewards = landscape.prior, landscape.rewards
        target = exact_laws.optimum(prior, rewards, weight)
        size, vocab_size = len(prior), landscape.likelihood_gradients.shape[-1]
        draw = price.rollout + price.score
        beginnings = (size - 1) / (vocab_size - 1)  # shorter than an answer; each is read once
        whole = price.both + price.token * beginnings + size * price.score
        found = [
            Spent("policy", 1, prior, price.prompt + price.rollout),
            Spent("enumeration", size, target, whole),
        ]
        generator = torch.Generator().manual_seed(self.settings.seed)
        for count in self.settings.draws:
            flops = price.both + count * draw
            found.append(Spent("best_of_n", count, exact_laws.best_of_n(prior, rewards, count), flops))
            choice = exact_laws.weighted_choice(prior, rewards, weight, count, draws=1000, generator=generator)
            found.append(Spent("weighted_choice", count, choice, flops))
        matrix, law = markov_chains.independent(prior, target), prior
        for step in range(1, self.settings.steps[-1] + 1):
            law = markov_chains.sweep(law, [matrix])
            if step in self.settings.steps:
                found.append(Spent("independent_metropolis", step, law, price.both + (step + 1) * draw))
        return found

    def langevin(self, landscape: ScoredPrompt, weight: float, price: FlopPrices) -> list[Spent]:
        """Token Langevin with and without the Metropolis test, and the same moves without a gradient."""
        prior, answers = landscape.prior, landscape.answers
        target = exact_laws.optimum(prior, landscape.rewards, weight)
        slopes, found = landscape.energy_gradients(weight), []
        for method, table, tested in (
            ("langevin_metropolis", slopes, True),
            ("langevin_unadjusted", slopes, False),
            ("moves_without_gradient", torch.zeros_like(slopes), True),
        ):
            proposal = markov_chains.joint(
                markov_chains.langevin_proposal(table, answers, self.settings.langevin_step), answers
            )
            matrix = markov_chains.metropolis(proposal, target) if tested else proposal.exp()
            moving = 1 - proposal.diagonal().exp()  # a proposal that changes nothing needs no evaluation
            law, looked = prior, 1.0
            for step in range(1, self.settings.steps[-1] + 1):
                looked += (law.exp() * moving).sum().item()
                law = markov_chains.sweep(law, [matrix])
                if step in self.settings.steps:
                    # without a gradient one forward pass of each model says all that the test needs
                    each = price.evaluation / (1 if method.startswith("langevin") else 2)
                    flops = price.both + price.rollout + looked * each
                    found.append(Spent(method, step, law, flops, looked if each == price.evaluation else 0.0))
        return found

    def noisy(self, landscape: ScoredPrompt, weight: float, price: FlopPrices) -> list[Spent]:
        """DTO's own variable, with the theorem's √2 noise and without: a sample of particles each."""
        found = []
        for method, noise in (("logit_langevin", math.sqrt(2)), ("logit_descent", 0.0)):
            generator = torch.Generator().manual_seed(self.settings.seed)
            results = markov_chains.logit_particles(
                landscape,
                reward_weight=weight,
                step_size=self.settings.noise_step,
                counts=self.settings.steps,
                particles=self.settings.particles,
                noise=noise,
                generator=generator,
            )
            for step, (indices, looked) in zip(self.settings.steps, results, strict=True):
                law = exact_laws.empirical(indices, len(landscape.prior))
                flops = price.both + price.rollout + looked * price.evaluation
                found.append(Spent(method, step, law, flops, looked, self.settings.particles))
        return found

    def optimised(self, landscape: ScoredPrompt, weight: float, price: FlopPrices) -> list[Spent]:
        """DTO on whole answers, and ∇-Reasoner's loop, each with its null arm."""
        prior, length = landscape.prior, self.length
        whole = EnumeratedDescent(self.policy, self.reward, landscape, self.settings.descent, reward_weight=weight)
        steps, found = self.settings.descent.num_iterations, []
        rows, hard, extra = whole.run(0, length)
        looked = 1 + (prior.exp() * torch.tensor(extra)).sum().item()
        flops = price.both + price.rollout + looked * price.evaluation
        own = torch.stack([markov_chains.following(landscape, position) for position in range(length)], 1)
        for method, logits, spent, count in (
            ("dto_resampled", rows, flops, looked),
            ("dto_resampled_null", own, price.prompt + price.rollout, 0.0),
        ):
            redraw = markov_chains.redraws(logits.flatten(0, 1), self.settings.resample).view_as(logits)
            found.append(Spent(method, steps, markov_chains.replaced(prior, redraw, landscape.answers), spent, count))
        places = landscape.likelihood_gradients.shape[-1] ** torch.arange(length).flip(0)
        moved = (torch.tensor(hard) * places).sum(-1)
        law = torch.zeros_like(prior).index_add(0, moved, prior.exp()).log()
        found.append(Spent("dto_argmax", steps, law, flops, looked))
        single = [whole.run(position, 1) for position in range(length)]
        return [*found, *self.loops(landscape, weight, price, [(z[:, 0], e) for z, _, e in single], own)]

    def loops(
        self,
        landscape: ScoredPrompt,
        weight: float,
        price: FlopPrices,
        optimised: list[tuple[Tensor, list[int]]],
        own: Tensor,
    ) -> list[Spent]:
        """∇-Reasoner's pass over the positions: released, without rejection or gradient, and with a Metropolis test.

        Args:
            optimised: per position, logits of its row after DTO and gradient evaluations besides the first, by answer.
            own: the policy's own logits, by answer and position.
        """
        found, last = [], self.settings.steps[-1]
        null = [(own[:, position], [0] * len(own)) for position in range(self.length)]
        exact = Sampling(1.0)  # no cuts: a Metropolis test needs a way back for every move
        for method, rows, accept, sampling, sweeps in (
            ("nabla_reasoner", optimised, "higher", self.settings.resample, 1),
            ("nabla_without_rejection", optimised, "always", self.settings.resample, 1),
            ("nabla_without_gradient", null, "higher", self.settings.resample, 1),
            ("nabla_metropolis", optimised, "metropolis", exact, last),
            ("nabla_metropolis_null", null, "metropolis", exact, last),
        ):
            gate = self.settings.confidence_threshold if accept != "metropolis" else 1.0
            settings = {"accept": accept, "reward_weight": weight, "confidence_threshold": gate}
            redraws = [markov_chains.redraws(logits, sampling) for logits, _ in rows]
            matrices = [markov_chains.revision(landscape, q, l, **settings) for l, q in enumerate(redraws)]
            law, spent = landscape.prior, ExpectedCost(price, landscape, gate, rows is optimised)
            for sweep in range(1, sweeps + 1):
                for position, matrix in enumerate(matrices):
                    spent.add(law, position, matrix, redraws[position], rows[position][1])
                    law = markov_chains.sweep(law, [matrix])
                if sweep in self.settings.steps:
                    found.append(Spent(method, sweep, law, spent.flops, spent.evaluations))
        return found
