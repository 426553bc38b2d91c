"""All answers of the letter models by brute force: their probabilities under the policy, and their rewards."""

import itertools
from typing import NamedTuple

import letter_models
import torch

from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.types import Problem

COLON = 4  # id of the letters' last token


def models_with_end() -> tuple[Policy, RewardModel]:
    """Letter models whose answers end with a colon, so that their lengths differ."""
    policy, reward = letter_models.models()
    return Policy(policy.model, policy.tokenizer, "letters", eos_ids=[COLON]), reward


def problems(count: int) -> list[Problem]:
    """One question asked `count` times, with random streams of its own each time."""
    return [Problem(f"letters/{number}", "ab", None, "letters") for number in range(count)]


class Enumerated(NamedTuple):
    """Every answer of up to `length` tokens; those that reach the length need no end token.

    Attributes:
        index: number of each answer.
        log_policy: log π(y), tokens sampled at a temperature.
        rewards: r(y), the judge's log-likelihood.
    """

    index: dict[tuple[int, ...], int]
    log_policy: torch.Tensor
    rewards: torch.Tensor

    def target(self, reward_weight: float) -> torch.Tensor:
        """The distribution ∝ π(y) exp(β r(y))."""
        return torch.softmax(self.log_policy + reward_weight * self.rewards, 0)

    def frequencies(self, responses) -> torch.Tensor:
        numbers = torch.tensor([self.index[tuple(response)] for response in responses])
        return torch.bincount(numbers, minlength=len(self.index)).double() / len(numbers)


def enumerate_answers(
    policy: Policy, reward: RewardModel, problem: Problem, length: int, *, temperature: float = 1.0
) -> Enumerated:
    """Score every answer with plain forward passes; an answer ends with the policy's end token or at the length."""
    vocab, ends = range(policy.vocab_size), set(policy.eos_ids)
    answers = [
        answer
        for size in range(1, length + 1)
        for answer in itertools.product(vocab, repeat=size)
        if not ends & set(answer[:-1]) and (size == length or answer[-1] in ends)
    ]
    rows = []
    for model, heat, prompt in (
        (policy, temperature, policy.prompt_ids(problem.messages)),
        (reward, 1.0, reward.prompt_ids(problem.messages)),
    ):
        ids = torch.tensor([prompt + list(answer) + [0] * (length - len(answer)) for answer in answers])
        logits = model.model(input_ids=ids).logits[:, len(prompt) - 1 : -1, : policy.vocab_size]
        logs = torch.log_softmax(logits.double() / heat, -1).gather(-1, ids[:, len(prompt) :, None])[..., 0]
        inside = torch.arange(length)[None] < torch.tensor([len(answer) for answer in answers])[:, None]
        rows.append((logs * inside).sum(1))
    return Enumerated({answer: number for number, answer in enumerate(answers)}, *rows)


def total_variation(first: torch.Tensor, second: torch.Tensor) -> float:
    return 0.5 * (first - second).abs().sum().item()


def sampling_floor(distribution: torch.Tensor, count: int, repeats: int = 20) -> float:
    """The largest total variation that `count` exact samples showed in some repetitions."""
    generator = torch.Generator().manual_seed(0)
    size = len(distribution)
    values = []
    for _ in range(repeats):
        samples = torch.multinomial(distribution, count, replacement=True, generator=generator)
        values.append(total_variation(torch.bincount(samples, minlength=size).double() / count, distribution))
    return max(values)
