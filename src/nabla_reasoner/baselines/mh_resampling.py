"""Resampling of a response's end by Metropolis-Hastings, with a reward-weighted policy as the target.

After "power sampling" (Karan and Du, arXiv 2510.14901), whose target is a power of the policy instead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .. import cost
from ..engine import scoring
from ..engine.sampling import Sampling, keyed_uniforms
from ..engine.sequences import ModelCaches
from ..engine.trajectory import Sample, SampleLog
from ..models.arguments import checked, checked_settings
from ..models.language_models import Policy, RewardModel
from ..serving.rollouts import rollouts_of
from ..types import Problem, Solution
from . import markov_chain
from .markov_chain import check_weight
from .sample_pool import check_counts, prompts_within_context


def log_acceptance(
    reward_weight: float | int, old_reward: float, new_reward: float, old_length: int, new_length: int
) -> float:
    """Return the logarithm of the Metropolis-Hastings ratio of a response whose end was resampled.

    Let y have n tokens and y' n' tokens, equal before the cut t. The cut is uniform in 0…n-1, and the end is drawn from
    π. So y' is proposed with probability (1/n) π(y'_≥t | y_<t), and y from y' with (1/n') π(y_≥t | y_<t). In the ratio

        π(y') e^{βr(y')} (1/n') π(y_≥t | y_<t) / [π(y) e^{βr(y)} (1/n) π(y'_≥t | y_<t)] = e^{β(r(y') - r(y))} n / n'

    the policy's probabilities cancel. Balance holds for every cut by itself, since both responses are longer than t.

    Args:
        reward_weight: β.
        old_reward, new_reward: r(y) and r(y').
        old_length, new_length: n and n', >= 1.
    """
    return reward_weight * (new_reward - old_reward) + math.log(old_length / new_length)


@checked_settings
class MHResampling:
    """The state, after some steps, of a Markov chain whose stationary distribution is ∝ π(y) exp(β r(y)).

    The chain starts at a sample of π. A step cuts the response at a uniformly drawn place, resamples the rest from π,
    and accepts or rejects the result (`log_acceptance`). π is the policy as it is sampled: token by token, with
    temperature and cuts. The answer is the last state, and not the best response seen.

    Args:
        num_steps: >= 1.
        reward_weight: β >= 0, per unit of the reward.
        temperature, top_p, top_k: sampling of tokens; temperature > 0.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(
        self,
        *,
        num_steps: int = 14,
        reward_weight: float | int = 1.0,
        temperature: float | int = 0.7,
        top_p: float | int = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        check_counts({"num_steps": num_steps, "max_new_tokens": max_new_tokens})
        check_weight(reward_weight)
        self.num_steps = num_steps
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
        return markov_chain.run(chains, self.num_steps, policy)


@dataclass
class _Chain:
    """The chain of one problem.

    Attributes:
        state: the current response.
        slot, spare: cache slots of the state and of the next proposal.
    """

    problem: Problem
    policy_prompt: list[int]
    reward_prompt: list[int]
    slot: int
    spare: int
    state: Sample
    log: SampleLog = field(default_factory=SampleLog)


class _Chains:
    """The chains of a batch, which advance together."""

    def __init__(
        self,
        settings: MHResampling,
        problems: Sequence[Problem],
        policy: Policy,
        reward: RewardModel,
        seed: int,
        repeat: int,
    ):
        self.settings = settings
        self.policy = policy
        self.reward = reward
        self.seed = seed
        self.repeat = repeat
        self.caches = ModelCaches.branching()
        prompts = prompts_within_context(problems, policy, settings.max_new_tokens)
        reward_prompts = prompts_within_context(problems, reward, settings.max_new_tokens)
        self.chains = [
            _Chain(problem, prompt, reward_prompt, 2 * number, 2 * number + 1, Sample([], None))
            for number, (problem, prompt, reward_prompt) in enumerate(
                zip(problems, prompts, reward_prompts, strict=True)
            )
        ]

    def advance(self, step: int) -> None:
        """Take one step of every chain; step 0 draws the first state."""
        uniform = [
            keyed_uniforms(self.seed, chain.problem.id, self.repeat, f"choice {step}", 2) for chain in self.chains
        ]
        cuts = [int(u * len(chain.state.token_ids)) for chain, (u, _) in zip(self.chains, uniform, strict=True)]
        proposals = self._propose(step, cuts)
        for chain, cut, (_, threshold), proposal in zip(self.chains, cuts, uniform, proposals, strict=True):
            chain.log.samples.append(proposal)
            if proposal is not chain.state and (step == 0 or self._accepts(chain.state, proposal, threshold)):
                chain.state = proposal
                chain.slot, chain.spare = chain.spare, chain.slot
                chain.log.choose(len(chain.log.samples) - 1)
            self._forget_end(chain, cut)

    def _accepts(self, state: Sample, proposal: Sample, threshold: float) -> bool:
        """Return whether a proposal replaces the state, for a uniform number `threshold`."""
        lengths = len(state.token_ids), len(proposal.token_ids)
        ratio = log_acceptance(self.settings.reward_weight, state.reward, proposal.reward, *lengths)
        return threshold == 0 or math.log(threshold) < ratio

    @torch.no_grad()
    def _propose(self, step: int, cuts: Sequence[int]) -> list[Sample]:
        """Resample the end of every state after its cut, and score the result."""
        prefixes = [chain.state.token_ids[:cut] for chain, cut in zip(self.chains, cuts, strict=True)]
        for chain, cut in zip(self.chains, cuts, strict=True):
            policy_length, reward_length = len(chain.policy_prompt) + cut, len(chain.reward_prompt) + cut
            self.caches.policy.fork(chain.slot, chain.spare, policy_length)
            self.caches.scorer.fork(chain.slot, chain.spare, reward_length)
            self.caches.reference.fork(chain.slot, chain.spare, reward_length)
        slots = [chain.spare for chain in self.chains]
        limits = [self.settings.max_new_tokens - cut for cut in cuts]
        rollouts = rollouts_of(self.policy)(
            self.policy,
            [chain.policy_prompt + prefix for chain, prefix in zip(self.chains, prefixes, strict=True)],
            [
                keyed_uniforms(self.seed, chain.problem.id, self.repeat, f"rollout {step}", limit)
                for chain, limit in zip(self.chains, limits, strict=True)
            ],
            self.settings.sampling,
            limits,
            store=self.caches.policy,
            slots=slots,
        )
        responses = [prefix + rollout.token_ids for prefix, rollout in zip(prefixes, rollouts, strict=True)]
        for chain, rollout in zip(self.chains, rollouts, strict=True):
            chain.log.trajectory.charge(
                cost.prefill(self.policy.size, rollout.prefilled),
                cost.decoding(self.policy.size, rollout.decoded),
            )
        return self._score(responses)

    def _score(self, responses: Sequence[list[int]]) -> list[Sample]:
        """Return each chain's proposal with its reward; a proposal equal to the state is the state."""
        proposals = [chain.state for chain in self.chains]
        new = [number for number, state in enumerate(proposals) if responses[number] != state.token_ids]
        rewards, costs = scoring.rewards(
            self.reward,
            [self.chains[number].reward_prompt for number in new],
            [responses[number] for number in new],
            caches=self.caches,
            slots=[self.chains[number].spare for number in new],
        )
        for number, value, spent in zip(new, rewards, costs, strict=True):
            proposals[number] = Sample(responses[number], value)
            self.chains[number].log.trajectory.charge(spent)
        return proposals

    def _forget_end(self, chain: _Chain, cut: int) -> None:
        """Free what the spare slot holds after the cut; what is before it belongs to the state's slot too."""
        self.caches.policy.cut(chain.spare, len(chain.policy_prompt) + cut)
        self.caches.scorer.cut(chain.spare, len(chain.reward_prompt) + cut)
        self.caches.reference.cut(chain.spare, len(chain.reward_prompt) + cut)
