"""Supervised fine-tuning of an existing policy, and the reward and validation that it shares with GRPO."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .. import cost
from ..engine.generation import Rollout
from ..evaluation.accuracy import grades, greedy_accuracy
from ..models.language_models import Policy
from ..models.loading import refusing
from ..types import Problem
from .data import Padded
from .loop import Schedule, Training
from .losses import next_token_loss

SAMPLE_COLUMNS = ["question", "response", "reward"]
Score = Callable[[Sequence[Problem], Sequence[Rollout]], list[float]]


def verifiable_reward(policy: Policy) -> Score:
    """Return the reward by the task's grader: 1 for a finished, correct response, else 0; NaN where grading failed."""

    def score(problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[float]:
        return [float("nan") if grade.note else float(grade.correct) for grade in grades(policy, problems, rollouts)]

    return score


def text_lengths(blocks: Sequence[Padded]) -> list[int]:
    """Return the number of tokens of each prompt with its response."""
    return [int(last) + 1 for block in blocks for last in block.last]


class PolicyTraining(Training):
    """Training of an existing policy, validated by its greedy accuracy on held-out problems.

    Args:
        model: the causal LM; parameters that require no gradient (all but an adapter's) stay frozen.
        tokenizer: with the policy's chat template.
        max_new_tokens: length limit of a response.

    Attributes:
        accuracies: latest greedy accuracy of each task, in percent.
        samples: a few of the latest sampled responses, as rows of `SAMPLE_COLUMNS`; a logger with `log_text` shows them
            at every validation.
        flops: floating-point operations of the training so far (`cost.forward_flops`, `cost.update_flops`); every token
            is read or sampled with a prediction, and validation is left out.

    Raises:
        ValueError: a model whose own logits are not those that the loss computes (see `forward_check.check_forward`).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        schedule: Schedule,
        max_new_tokens: int,
    ):
        super().__init__(model, schedule)
        with refusing("the policy in training", model):
            self.policy = Policy(model, tokenizer, "the policy in training")
            model.eval()
            self.policy.check_forward()
            model.train()
        self.max_new_tokens = max_new_tokens
        self.accuracies: dict[str, float] = {}
        self.samples: list[list[str | float]] = []
        self.register_buffer("flops", torch.zeros((), dtype=torch.float64))  # a checkpoint keeps it

    def count_flops(self, lengths: Iterable[int], *, reads: int = 0, updates: int = 0) -> None:
        """Add the FLOPs of forward passes over texts of these lengths, prompts included, and of updates from them."""
        texts = sum((cost.one_pass(0, length, length) for length in lengths), cost.Reads())
        size = self.policy.size
        self.flops += reads * cost.forward_flops(size, texts) + updates * cost.update_flops(size, texts)
        self.log("train/flops", self.flops)

    def validation_step(self, batch: list[Problem], index: int) -> None:
        """Measure the greedy accuracy on the problems of one task."""
        self.accuracies[batch[0].task] = greedy_accuracy(self.policy, batch, self.max_new_tokens)

    def on_validation_epoch_end(self) -> None:
        for task, accuracy in self.accuracies.items():
            self.log(f"validation/{task}", accuracy)
        self.log("validation/accuracy", float(np.mean(list(self.accuracies.values()))), prog_bar=True)
        for logger in self.loggers:
            if self.samples and hasattr(logger, "log_text"):
                logger.log_text("samples", SAMPLE_COLUMNS, self.samples, step=self.global_step)


class SupervisedTraining(PolicyTraining):
    """SFT: cross-entropy of worked solutions."""

    def loss(self, batch: list[Padded]) -> Float[Tensor, ""]:
        self.count_flops(text_lengths(batch), updates=1)
        return next_token_loss(self.model, batch, self.policy.vocab_size)
