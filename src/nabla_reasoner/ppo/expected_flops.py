"""Expected FLOPs of test-time methods on one prompt, by the formulas of `cost`."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..models.language_models import Policy, RewardModel
from ..types import Messages
from . import markov_chains
from .exact_distributions import LogProbs, ScoredPrompt
from .markov_chains import Matrix


class FlopPrices(NamedTuple):
    """FLOPs of a method's steps, for one prompt and answers of one length.

    Each model reads the prompt once; every later pass reads the answer and the token before it.

    Attributes:
        policy_prompt: reading the prompt with the policy.
        both_prompts: reading it with policy and reward model.
        token: sampling one token, the mean over an answer.
        rollout: sampling an answer.
        score: computing one reward.
        evaluation: one gradient evaluation of policy and reward model.
    """

    policy_prompt: float
    both_prompts: float
    token: float
    rollout: float
    score: float
    evaluation: float


def flop_prices(policy: Policy, reward: RewardModel, prompt: Messages, length: int) -> FlopPrices:
    """Compute the prices for one prompt and answers of `length` tokens."""
    policy_prompt_size, reward_prompt_size = len(policy.prompt_ids(prompt)), len(reward.prompt_ids(prompt))
    policy_prompt = cost.forward_flops(policy.size, cost.one_pass(0, policy_prompt_size))
    reward_prompt = cost.forward_flops(reward.size, cost.one_pass(0, reward_prompt_size))
    rollout = cost.forward_flops(policy.size, cost.decoded(policy_prompt_size, length))
    read = cost.one_pass(policy_prompt_size - 1, policy_prompt_size + length, length)
    outputs = 1 if reward.has_score_head else length
    scored = cost.one_pass(reward_prompt_size - 1, reward_prompt_size + length, outputs)
    return FlopPrices(
        policy_prompt=policy_prompt,
        both_prompts=policy_prompt + reward_prompt,
        token=rollout / length,
        rollout=rollout,
        score=cost.forward_flops(reward.size, scored),
        evaluation=cost.gradient_evaluation(policy.size, read, read, reward.size, scored, scored).flops,
    )


class ExpectedCost:
    """Expected cost of passes of ∇-Reasoner's loop, accumulated position by position.

    The engine's rules: one gradient evaluation serves every position until a proposal is accepted. A selected position
    costs the evaluations that its flips need. A redraw of another token costs a rollout after it and a reward.
    Evaluations are charged for the whole answer, although the engine reads only what follows the position.

    Args:
        confidence_threshold: positions with a higher confidence are skipped.
        gradient: whether gradients are evaluated at all.
    """

    def __init__(self, prices: FlopPrices, scored: ScoredPrompt, confidence_threshold: float, gradient: bool):
        self.prices = prices
        self.scored = scored
        self.confidence_threshold = confidence_threshold
        self.gradient = gradient
        self.flops = prices.both_prompts + prices.rollout
        self.evaluations = 0.0
        self.unevaluated = scored.prior.exp()  # probability of answers without a current gradient

    def add(
        self,
        distribution: LogProbs,
        position: int,
        matrix: Matrix,
        redraw: Float[Tensor, "answers vocab"],
        flip_evaluations: list[int],
    ) -> None:
        """Charge one position.

        Args:
            distribution: distribution of the answer before the position.
            matrix: transition matrix of the position.
            redraw: log-probabilities of the redrawn token.
            flip_evaluations: by answer, gradient evaluations besides the first.
        """
        answers = self.scored.answers
        selected = markov_chains.next_confidence(self.scored, position) <= self.confidence_threshold
        mass = distribution.exp() * selected
        differs = 1 - redraw.gather(-1, answers[:, position, None])[:, 0].exp()
        proposals = (mass * differs).sum().item()
        if self.gradient:
            first = (self.unevaluated * selected).sum().item()
            evaluations = first + (mass * torch.tensor(flip_evaluations)).sum().item()
            self.evaluations += evaluations
            self.flops += evaluations * self.prices.evaluation
        moved = distribution.exp() @ (matrix - torch.diag(matrix.diagonal()))
        self.unevaluated = self.unevaluated * ~selected + moved
        rest = answers.shape[1] - position - 1
        self.flops += proposals * (self.prices.score + rest * self.prices.token)
