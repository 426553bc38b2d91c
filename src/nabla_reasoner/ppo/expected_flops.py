"""Expected FLOPs of test-time methods on one prompt, by the formulas of `cost`."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import cost
from ..models.language_models import Policy, RewardModel
from ..types import Messages
from . import markov_chains
from .exact_laws import LogProbs, ScoredPrompt
from .markov_chains import Matrix


class FlopPrices(NamedTuple):
    """FLOPs of what methods do, for one prompt and answers of one length.

    Each model reads the prompt once; every pass after that reads the answer and the token before it.

    Attributes:
        prompt: reading the prompt with the policy.
        both: reading it with policy and reward model.
        token: drawing one token.
        rollout: drawing an answer.
        score: one reward.
        evaluation: one gradient evaluation of policy and reward model.
    """

    prompt: float
    both: float
    token: float
    rollout: float
    score: float
    evaluation: float


def price_list(policy: Policy, reward: RewardModel, prompt: Messages, length: int) -> FlopPrices:
    """Prices for one prompt."""
    own, judge, read = policy.parameters, reward.parameters, length + 1
    opening = cost.prefill(own, len(policy.prompt_ids(prompt))).flops
    judged = cost.scoring(judge, len(reward.prompt_ids(prompt))).flops
    return FlopPrices(
        opening,
        opening + judged,
        cost.decoding(own, 1).flops,
        cost.decoding(own, length).flops,
        cost.scoring(judge, read).flops,
        cost.gradient_evaluation(own, read, read, judge, read, read).flops,
    )


class ExpectedCost:
    """Expected cost of passes of ∇-Reasoner's loop, position by position.

    The engine's rules: one gradient evaluation serves every position until a revision is accepted; where a position is
    open to revision, its descent costs the evaluations that flips call for; a redraw that differs costs a roll-out
    behind it and a reward. Evaluations are charged for the whole answer, although the engine reads only what follows
    the position.
    """

    def __init__(self, price: FlopPrices, landscape: ScoredPrompt, gate: float, gradient: bool):
        self.price, self.landscape, self.gate, self.gradient = price, landscape, gate, gradient
        self.flops, self.evaluations = price.both + price.rollout, 0.0
        self.unseen = landscape.prior.exp()  # mass of answers whose gradient is not at hand

    def add(self, law: LogProbs, position: int, matrix: Matrix, redraw: Tensor, extra: list[int]) -> None:
        """Charge one position under the law before it, given its transition matrix."""
        answers = self.landscape.answers
        looking = markov_chains.next_confidence(self.landscape, position) <= self.gate
        mass = law.exp() * looking
        differs = 1 - redraw.gather(-1, answers[:, position, None])[:, 0].exp()
        proposals = (mass * differs).sum().item()
        if self.gradient:
            looked = (self.unseen * looking).sum().item() + (mass * torch.tensor(extra)).sum().item()
            self.evaluations += looked
            self.flops += looked * self.price.evaluation
        moved = law.exp() @ (matrix - torch.diag(matrix.diagonal()))
        self.unseen = self.unseen * ~looking + moved
        rest = answers.shape[1] - position - 1
        self.flops += proposals * (self.price.score + rest * self.price.token)
