"""Supervised fine-tuning of a policy, and what it shares with GRPO."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import scoring
from ..engine.generation import Rollout
from ..evaluation.accuracy import grades, greedy_accuracy
from ..models.language_models import Policy, RewardModel
from ..types import Problem
from .data import Padded
from .loop import Schedule, Training
from .losses import next_token_loss

Score = Callable[[Sequence[Problem], Sequence[Rollout]], list[float]]


def graded(policy: Policy) -> Score:
    """The verifiable reward: 1 for a finished, correct response, 0 otherwise; not a number where grading failed."""

    def score(problems: Sequence[Problem], drawn: Sequence[Rollout]) -> list[float]:
        return [float("nan") if grade.note else float(grade.correct) for grade in grades(policy, problems, drawn)]

    return score


def modelled(reward: RewardModel) -> Score:
    """The reward model's r(y|x) as the reward."""

    def score(problems: Sequence[Problem], drawn: Sequence[Rollout]) -> list[float]:
        prompts = [reward.prompt_ids(problem.messages) for problem in problems]
        return scoring.rewards(reward, prompts, [rollout.token_ids for rollout in drawn])[0]

    return score


class PolicyTraining(Training):
    """Training of an existing policy, examined by its greedy accuracy on held-out problems.

    Args:
        model: the causal LM; parameters that require no gradient (all but an adapter's) stay as they are.
        tokenizer: with the policy's chat template.
        max_new_tokens: length limit of a response.
    """

    def __init__(self, model: torch.nn.Module, tokenizer, schedule: Schedule, max_new_tokens: int):
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self_policy = Policy(model, tokenizer, "the policy in training")  # freezes: what is trained is thawed below
        for parameter in trained:
            parameter.requires_grad_(True)
        super().__init__(model, schedule)
        self.policy, self.max_new_tokens = self_policy, max_new_tokens
        self.examined: dict[str, float] = {}

    def validation_step(self, batch: list[Problem], index: int) -> None:
        """Greedy accuracy, in percent, of the problems of one task."""
        self.examined[batch[0].task] = greedy_accuracy(self.policy, batch, self.max_new_tokens)

    def on_validation_epoch_end(self) -> None:
        for task, accuracy in self.examined.items():
            self.log(f"validation/{task}", accuracy)
        self.log("validation/accuracy", float(np.mean(list(self.examined.values()))), prog_bar=True)


class SupervisedTraining(PolicyTraining):
    """SFT: cross-entropy of worked solutions."""

    def loss(self, blocks: Sequence[Padded]) -> Float[Tensor, ""]:
        return next_token_loss(self.model, blocks)
