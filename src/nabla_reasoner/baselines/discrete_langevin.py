"""Discrete Langevin sampling: first-order proposals over all positions and tokens, with a Metropolis-Hastings test.

After Zhang et al. (arXiv 2206.09914) and, for the first-order proposal, Grathwohl et al. (arXiv 2102.04509).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import cost
from ..dto import gradient_passes
from ..dto.gradients import Gradient, onehot_gradient, row_cost
from ..engine.sampling import Sampling, draw, keyed_uniforms
from ..engine.sequences import ModelCaches, TokenSequence
from ..engine.trajectory import Sample, SampleLog, is_finished
from ..models.arguments import checked, checked_settings
from ..models.frozen import frozen
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from . import markov_chain
from .markov_chain import check_weight
from .sample_pool import KeyedSampler, check_counts, check_positive, prompts_within_context


def langevin_proposal(
    energy_gradients: Float[Tensor, "answers length vocab"], answers: Int[Tensor, "answers length"], step_size: float
) -> Float[Tensor, "answers length vocab"]:
    """Return token log-probabilities of a discrete Langevin step, per answer and position (Zhang et al., 2022).

    The density of the Gaussian step y - (η/2) g + √η ξ, restricted to one-hot rows: log q(v) = -½ (g_v - g_y) -
    ‖e_v - e_y‖²/(2η) + const, where two different one-hot rows have squared distance 2. In units of dx = -∇L dt + √2 dW
    a step takes time η/2. All positions change at once and independently.

    Args:
        energy_gradients: ∂L/∂y at each answer; zeros give the same proposal without a gradient. +inf excludes a token.
        step_size: η > 0.
    """
    current = energy_gradients.gather(-1, answers[..., None])
    onehots = torch.nn.functional.one_hot(answers, energy_gradients.shape[-1]).to(energy_gradients)
    return torch.log_softmax(-0.5 * (energy_gradients - current) - (1 - onehots) / step_size, -1)


@checked_settings
class DiscreteLangevin:
    """The state, after some steps, of a Markov chain on responses of one length that follows ∂L/∂y.

    L = -β r(y) - log π(y), with π at temperature 1. The chain starts at a sample of the policy. Each step proposes a
    token for every position at once (`langevin_proposal`, from ∂L/∂y at the state) and accepts with probability
    min(1, e^{L(y) - L(y')} q(y|y') / q(y'|y)), where q(y|y') needs ∂L/∂y at the proposal. The length is that of the
    first sample: an end token stays where it is and is proposed nowhere else. Among responses of that length, the
    stationary distribution is ∝ π(y) exp(β r(y)). The answer is the last state, and not the best response seen.

    Args:
        num_steps: >= 1.
        step_size: η > 0; a small one proposes few changes.
        reward_weight: β >= 0, per unit of the reward.
        temperature, top_p, top_k: sampling of the first state.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(
        self,
        *,
        num_steps: int = 8,
        step_size: float | int = 0.5,
        reward_weight: float | int = 1.0,
        temperature: float | int = 0.7,
        top_p: float | int = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        check_counts({"num_steps": num_steps, "max_new_tokens": max_new_tokens})
        check_positive({"step_size (η)": step_size})
        check_weight(reward_weight)
        self.num_steps = num_steps
        self.step_size = step_size
        self.reward_weight = reward_weight
        self.sampling = Sampling(temperature, top_p, top_k).check()
        self.max_new_tokens = max_new_tokens

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order; the result does not depend on which problems share a batch.

        Raises:
            ValueError: vocabularies that differ, or a prompt beyond the policy's context.
        """
        reward = reward.for_policy(policy)
        chains = _Chains(self, problems, policy, reward, seed, repeat)
        with frozen(policy, reward):
            return markov_chain.run(chains, self.num_steps, policy)


@dataclass
class _Chain:
    """The chain of one problem.

    Attributes:
        slot: cache slot of the prompts.
        state: the current response.
        gradient: L and ∂L/∂y there.
        proposal: log q of every token at every free position, from the state.
    """

    problem: Problem
    policy_prompt: list[int]
    reward_prompt: list[int]
    slot: int
    state: list[int] = field(default_factory=list)
    gradient: Gradient | None = None
    proposal: Float[Tensor, "free vocab"] | None = None
    log: SampleLog = field(default_factory=SampleLog)


class _Chains:
    """The chains of a batch, which advance together."""

    def __init__(
        self,
        settings: DiscreteLangevin,
        problems: Sequence[Problem],
        policy: Policy,
        reward: RewardModel,
        seed: int,
        repeat: int,
    ):
        self.settings = settings
        self.policy = policy
        self.reward = reward
        self.sampler = KeyedSampler(policy, settings.sampling, seed, repeat)
        self.ends = [token for token in policy.eos_ids if token < policy.vocab_size]
        self.caches = ModelCaches(len(problems))
        prompts = prompts_within_context(problems, policy, settings.max_new_tokens)
        reward_prompts = prompts_within_context(problems, reward, settings.max_new_tokens)
        self.chains = [
            _Chain(problem, prompt, reward_prompt, slot)
            for slot, (problem, prompt, reward_prompt) in enumerate(zip(problems, prompts, reward_prompts, strict=True))
        ]

    def advance(self, step: int) -> None:
        """Take one step of every chain; step 0 draws the first state."""
        if step == 0:
            self._start()
            return
        uniforms = [
            keyed_uniforms(
                self.sampler.seed, chain.problem.id, self.sampler.repeat, f"step {step}", 1 + len(chain.proposal)
            )
            for chain in self.chains
        ]
        proposals = [self._draw(chain, numbers[1:]) for chain, numbers in zip(self.chains, uniforms, strict=True)]
        moving = [i for i, chain in enumerate(self.chains) if proposals[i] != chain.state]
        gradients = self._evaluate([self.chains[i] for i in moving], [proposals[i] for i in moving])
        evaluated = dict(zip(moving, gradients, strict=True))
        for i, chain in enumerate(self.chains):
            if i not in evaluated:  # the proposal is the state itself
                chain.log.samples.append(Sample(chain.state, chain.gradient.reward))
                continue
            gradient = evaluated[i]
            backward = self._proposal(proposals[i], gradient)
            log_ratio = chain.gradient.loss - gradient.loss
            log_ratio += _log_probability(backward, chain.state) - _log_probability(chain.proposal, proposals[i])
            chain.log.samples.append(Sample(proposals[i], gradient.reward))
            if math.log(max(uniforms[i][0], 1e-300)) < log_ratio:
                chain.state, chain.gradient, chain.proposal = proposals[i], gradient, backward
                chain.log.choose(len(chain.log.samples) - 1)

    def _start(self) -> None:
        """Draw the first states."""
        problems = [chain.problem for chain in self.chains]
        prompts = [chain.policy_prompt for chain in self.chains]
        limit = self.settings.max_new_tokens
        rollouts = [rollout for (rollout,) in self.sampler.draw(problems, prompts, "rollout", 1, limit)]
        for chain, rollout in zip(self.chains, rollouts, strict=True):
            chain.state = rollout.token_ids
            prompt = cost.one_pass(0, len(chain.policy_prompt))  # read once for each problem, equal questions too
            chain.log.trajectory.charge(
                cost.prefill(self.policy.size, prompt), cost.decoding(self.policy.size, rollout.decoded)
            )
        gradients = self._evaluate(self.chains, [chain.state for chain in self.chains])
        for chain, gradient in zip(self.chains, gradients, strict=True):
            chain.gradient = gradient
            chain.proposal = self._proposal(chain.state, gradient)
            chain.log.samples.append(Sample(chain.state, gradient.reward))

    def _evaluate(self, chains: Sequence[_Chain], responses: Sequence[list[int]]) -> list[Gradient]:
        """Return L and ∂L/∂y at a response of each chain, and charge their cost."""
        if not chains:
            return []
        gradients = gradient_passes.evaluate(
            self.policy,
            self.reward,
            [
                TokenSequence(chain.policy_prompt, chain.reward_prompt, [], response)
                for chain, response in zip(chains, responses, strict=True)
            ],
            reward_weight=self.settings.reward_weight,
            nll_weight=1.0,
            caches=self.caches,
            slots=[chain.slot for chain in chains],
        )
        for chain, response, gradient in zip(chains, responses, gradients, strict=True):
            chain.log.trajectory.charge(gradient.cost, row_cost(gradient, self._free(response)))
        return gradients

    def _free(self, response: Sequence[int]) -> int:
        """Return the number of positions that may change: all but that of the end token."""
        return len(response) - is_finished(self.policy, response)

    def _proposal(self, response: list[int], gradient: Gradient) -> Float[Tensor, "free vocab"]:
        """Return log q of every token at every free position of a response."""
        free = self._free(response)
        if not free:
            return torch.zeros(0, self.policy.vocab_size, dtype=torch.float64)
        slopes = onehot_gradient([gradient], [range(free)]).double()
        slopes[:, self.ends] = torch.inf
        tokens = torch.tensor(response[:free], device=slopes.device)
        return langevin_proposal(slopes[None], tokens[None], float(self.settings.step_size))[0]

    def _draw(self, chain: _Chain, uniform: np.ndarray) -> list[int]:
        """Return a proposal; the end token is kept."""
        free = len(chain.proposal)
        if not free:
            return chain.state
        numbers = torch.tensor(uniform, dtype=torch.float64, device=chain.proposal.device)
        return draw(chain.proposal, numbers, Sampling(1.0)).tolist() + chain.state[free:]


def _log_probability(proposal: Float[Tensor, "free vocab"], response: Sequence[int]) -> float:
    """Return the log-probability of a response's free positions under a proposal."""
    tokens = torch.tensor(response[: len(proposal)], dtype=torch.long, device=proposal.device)
    return proposal.gather(1, tokens[:, None]).sum().item()
