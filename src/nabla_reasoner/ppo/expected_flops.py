"""Expected FLOPs of test-time methods on one prompt, by the formulas of `cost`."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..engine.stored_prefixes import MIN_PREFILL
from ..models.language_models import Policy, RewardModel
from ..types import Messages
from . import markov_chains
from .exact_distributions import LogProbs, ScoredPrompt
from .markov_chains import Matrix


class FlopPrices(NamedTuple):
    """FLOPs of a method's steps, for one prompt and answers of one length.

    Each model reads the prompt once; every later pass reads the answer and the token before it. The prices by position
    are those of a change there: keys and values of the tokens before it are known.

    Attributes:
        policy_prompt: reading the prompt with the policy.
        both_prompts: reading it with policy and reward model.
        token: sampling one token, the mean over an answer.
        rollout: sampling an answer.
        score: computing one reward.
        evaluation: one gradient evaluation of policy and reward model.
        rollouts_after: by position, sampling what follows a new token there.
        scores_from: by position, computing the reward from there on.
        evaluations_from: by position, one gradient evaluation of what begins there.
        first_score: computing the first reward of all, with the reward model's prompt.
        first_evaluations: by position, the first evaluation of all, with the reward model's prompt.
    """

    policy_prompt: float
    both_prompts: float
    token: float
    rollout: float
    score: float
    evaluation: float
    rollouts_after: list[float]
    scores_from: list[float]
    evaluations_from: list[float]
    first_score: float
    first_evaluations: list[float]


def flop_prices(policy: Policy, reward: RewardModel, prompt: Messages, length: int) -> FlopPrices:
    """Compute the prices for one prompt and answers of `length` tokens."""
    policy_size, reward_size = len(policy.prompt_ids(prompt)), len(reward.prompt_ids(prompt))
    policy_prompt = cost.forward_flops(policy.size, cost.one_pass(0, policy_size))
    rollout = cost.forward_flops(policy.size, cost.decoded(policy_size, length))
    text = cost.one_pass(0, reward_size + length, 1 if reward.has_score_head else length)
    rollouts_after, scores_from, evaluations_from, first_evaluations = [], [], [], []
    for position in range(length):
        begin, rest = policy_size + position, length - position - 1
        after = cost.one_pass(begin, begin + 1) + cost.decoded(begin + 1, rest) if rest else cost.Reads()
        read = cost.one_pass(begin - 1, policy_size + length, length - position)
        before = reward_size + position
        outputs = 1 if reward.has_score_head else length - position
        scored = cost.one_pass(before - 1, reward_size + length, outputs)
        first, first_backward = text, text
        if before > MIN_PREFILL:  # then they are read apart, without gradients
            first_backward = scored
            first = cost.one_pass(0, before, 0 if reward.has_score_head else position) + scored
        rollouts_after.append(cost.forward_flops(policy.size, after))
        scores_from.append(cost.forward_flops(reward.size, scored))
        sizes = policy.size, read, read, reward.size
        evaluations_from.append(cost.gradient_evaluation(*sizes, scored, scored).flops)
        first_evaluations.append(cost.gradient_evaluation(*sizes, first, first_backward).flops)
    return FlopPrices(
        policy_prompt=policy_prompt,
        both_prompts=policy_prompt + cost.forward_flops(reward.size, cost.one_pass(0, reward_size)),
        token=rollout / length,
        rollout=rollout,
        score=scores_from[0],
        evaluation=evaluations_from[0],
        rollouts_after=rollouts_after,
        scores_from=scores_from,
        evaluations_from=evaluations_from,
        first_score=cost.forward_flops(reward.size, text),
        first_evaluations=first_evaluations,
    )


class ExpectedCost:
    """Expected cost of passes of ∇-Reasoner's loop, accumulated position by position.

    The engine's rules: one gradient evaluation serves every position until a proposal is accepted. A selected position
    costs the evaluations that its flips need. A redraw of another token costs a rollout after it and a reward. The
    first answer's reward is part of its evaluation; without a gradient it is computed before the first proposal is
    tested. Every pass reads what follows the position.

    A Metropolis test with a gradient needs q(v|y') of the old token v: DTO from the proposed answer y'. So every
    proposal costs an evaluation, which yields its reward too, and the evaluations that the flips from there need. An
    accepted answer has its gradient then, for the whole answer: later passes begin at its first token.

    Args:
        confidence_threshold: positions with a higher confidence are skipped.
        gradient: whether gradients are evaluated at all.
        reverse: whether the test needs the probability of the reverse change.
    """

    def __init__(
        self, prices: FlopPrices, scored: ScoredPrompt, confidence_threshold: float, *, gradient: bool, reverse: bool
    ):
        self.prices = prices
        self.scored = scored
        self.confidence_threshold = confidence_threshold
        self.gradient = gradient
        self.reverse = gradient and reverse
        self.flops = prices.policy_prompt + prices.rollout
        self.evaluations = 0.0
        self.unevaluated = scored.prior.exp()  # probability of answers without a current gradient
        self.unread = scored.prior.exp()  # probability of answers of which the reward model has read nothing

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
        prices = self.prices
        selected = markov_chains.next_confidence(self.scored, position) <= self.confidence_threshold
        mass = distribution.exp() * selected
        differs = 1 - redraw.gather(-1, self.scored.answers[:, position, None])[:, 0].exp()
        proposals = (mass * differs).sum().item()
        self.flops += proposals * prices.rollouts_after[position]
        if not self.reverse:
            self.flops += proposals * prices.scores_from[position]
        read = self.unread * selected * (1.0 if self.gradient else differs)  # the reward model's first answer
        self.unread = self.unread - read
        begun = read.sum().item()
        if not self.gradient:
            self.flops += begun * prices.first_score
        else:
            flips = torch.tensor(flip_evaluations, dtype=mass.dtype)
            again = (self.unevaluated * selected).sum().item() - begun + (mass * flips).sum().item()
            reverse = 0.0
            if self.reverse:
                reverse = proposals
                again += (mass @ markov_chains.changes(self.scored, redraw, position).exp() @ flips).item()
            self.evaluations += begun + again + reverse
            self.flops += begun * prices.first_evaluations[position] + reverse * prices.evaluation
            self.flops += again * prices.evaluations_from[position]
        moved = distribution.exp() @ (matrix - torch.diag(matrix.diagonal()))
        self.unevaluated = self.unevaluated * ~selected + (0.0 if self.reverse else moved)
