"""Amortised: policy networks trained towards the optimum of Eq. 3 over many prompts, by PPO and by GRPO.

What a fixed point is, for answers y ~ ρ_θ:

    PPO     its return is λ r(y) - log ρ_θ(y)/π(y), the KL inside the return. Minus a baseline this is the advantage,
            and E[(λ r - log ρ_θ/π) ∇log ρ_θ] = -∇L_PPO(ρ_θ) because E[∇log ρ_θ] = 0. At ρ* ∝ π e^{λr} the return is
            log Z(x) for every answer: the advantage vanishes answer by answer, not only on average.
    GRPO    (r - mean)/std within a group, and β = 1/λ times the estimate e^d - d - 1 of KL(ρ_θ‖π) in the loss. Two
            things move its fixed point away from ρ*: the division by std makes λ another one for each prompt, and the
            estimate, although unbiased in value, has the gradient of KL(π‖ρ_θ) on-policy, not of KL(ρ_θ‖π).

Both read rewards and log π(y|x) of their answers from tables, since every answer was scored; FLOPs are charged as if
they had been computed each time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import lightning
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import cost
from ..engine.sampling import Sampling, draw
from ..training import losses
from ..training.loop import Schedule
from . import exact_laws

METHODS = ("ppo", "grpo", "grpo_unscaled")


class ScoredPrompts(NamedTuple):
    """Prompts whose answers have all been scored.

    Attributes:
        prompts: token ids.
        tokens: log π(y_l|y_<l, x).
        rewards: r(y|x).
    """

    prompts: Int[Tensor, "prompts size"]
    tokens: Float[Tensor, "prompts answers length"]
    rewards: Float[Tensor, "prompts answers"]

    @property
    def prior(self) -> Float[Tensor, "prompts answers"]:
        """log π(y|x)."""
        return self.tokens.sum(-1)

    def take(self, chosen: slice) -> "ScoredPrompts":
        """Some of the prompts."""
        return ScoredPrompts(*(part[chosen] for part in self))


class Batch(NamedTuple):
    """Answers drawn for an update.

    Attributes:
        prompts: prompt numbers, each as often in a row as its group has answers.
        answers: token ids.
        numbers: place of each answer among all answers.
        old: log-probabilities of the tokens under the model that drew them.
    """

    prompts: Int[Tensor, " batch"]
    answers: Int[Tensor, "batch length"]
    numbers: Int[Tensor, " batch"]
    old: Float[Tensor, "batch length"]


class PromptSampler(torch.utils.data.IterableDataset):
    """Prompt numbers of endless batches: `prompts` different ones, `group` answers each, every batch `epochs` times.

    Args:
        total: number of prompts to choose from; with fewer than `prompts`, the group grows instead.
    """

    def __init__(self, total: int, *, prompts: int, group: int, epochs: int, seed: int):
        super().__init__()
        self.total, self.prompts, self.epochs, self.seed = total, min(prompts, total), epochs, seed
        self.group = prompts * group // self.prompts

    def __iter__(self) -> Iterator[Int[Tensor, " batch"]]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            chosen = torch.randperm(self.total, generator=generator)[: self.prompts].repeat_interleave(self.group)
            for _ in range(self.epochs):
                yield chosen


def token_log_probabilities(
    model: torch.nn.Module, prompts: Int[Tensor, "batch size"], answers: Int[Tensor, "batch length"], vocab_size: int
) -> Float[Tensor, "batch length"]:
    """log ρ(y_l|y_<l, x) of given answers."""
    texts = torch.cat([prompts, answers[:, :-1]], 1)
    logits = model(input_ids=texts).logits[:, prompts.shape[1] - 1 :, :vocab_size]
    return torch.log_softmax(logits, -1).gather(-1, answers[..., None])[..., 0]


@torch.no_grad()
def sample(
    model: torch.nn.Module,
    prompts: Int[Tensor, "batch size"],
    length: int,
    vocab_size: int,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "batch length"], Float[Tensor, "batch length"]]:
    """Answers of one length, token by token, with the log-probability of each token."""
    texts, seen = prompts, []
    for _ in range(length):
        logits = model(input_ids=texts).logits[:, -1, :vocab_size]
        uniform = torch.rand(len(texts), dtype=torch.float64, generator=generator)
        drawn = draw(logits, uniform, Sampling(1.0))[:, None]
        seen.append(torch.log_softmax(logits, -1).gather(1, drawn))
        texts = torch.cat([texts, drawn], 1)
    return texts[:, prompts.shape[1] :], torch.cat(seen, 1)


def penalised_return(
    reward: Float[Tensor, " batch"], log_ratio: Float[Tensor, " batch"], reward_weight: float
) -> Float[Tensor, " batch"]:
    """λ r(y) - log ρ(y)/π(y): what PPO maximises the mean of; constant in y exactly at ρ*."""
    return reward_weight * reward - log_ratio


class AmortizedTraining(lightning.LightningModule):
    """A policy network in training on one side of the comparison.

    Args:
        model: a copy of the policy's network; it is changed.
        method: "ppo", "grpo", or "grpo_unscaled" (GRPO without the division by std).
        arena: prompts to train on.
        reward_weight: λ > 0.
        group: answers per prompt in a batch.
        clip: ε of the clipped ratio.
        critic_rate: PPO's critic is one value per prompt, moved by this share towards each batch's mean return.
        schedule: optimiser steps and learning rate.
        epochs: optimiser steps on each batch of answers.
        seed: of the answers drawn.

    Raises:
        ValueError: an unknown method.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        method: str,
        arena: ScoredPrompts,
        *,
        reward_weight: float,
        group: int,
        clip: float,
        critic_rate: float,
        schedule: Schedule,
        epochs: int,
        seed: int,
    ):
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
        self.model, self.method, self.arena, self.reward_weight = model, method, arena, reward_weight
        self.group, self.clip, self.critic_rate, self.epochs, self.schedule = group, clip, critic_rate, epochs, schedule
        self.generator = torch.Generator().manual_seed(seed)
        self.vocab_size = round(arena.rewards.shape[1] ** (1 / arena.tokens.shape[2]))
        self.values: Tensor = torch.full((len(arena.prompts),), torch.nan)
        self.batch: Batch | None = None

    def transfer_batch_to_device(self, batch: Tensor, device: torch.device, dataloader_idx: int) -> Tensor:
        """Prompt numbers only; the comparison runs on the CPU."""
        return batch

    def training_step(self, prompts: Int[Tensor, " batch"], index: int) -> Float[Tensor, ""]:
        if index % self.epochs == 0:
            self.batch = self.experience(prompts)
            self.advantages = self.judge(self.batch)
        return self.loss(self.batch, self.advantages)

    def experience(self, prompts: Int[Tensor, " batch"]) -> Batch:
        """Answers of the present model."""
        size = self.arena.tokens.shape[2]
        answers, old = sample(self.model, self.arena.prompts[prompts], size, self.vocab_size, self.generator)
        numbers = (answers * self.vocab_size ** torch.arange(size).flip(0)).sum(1)
        return Batch(prompts, answers, numbers, old)

    def judge(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Advantages of a batch's answers."""
        rewards = self.arena.rewards[batch.prompts, batch.numbers].float()
        if self.method != "ppo":
            return losses.group_advantages(rewards.view(-1, self.group), scale=self.method == "grpo").flatten()
        log_ratio = batch.old.sum(1) - self.arena.prior[batch.prompts, batch.numbers].float()
        returns = penalised_return(rewards, log_ratio, self.reward_weight)
        own = batch.prompts.view(-1, self.group)[:, 0]
        means = returns.view(-1, self.group).mean(1)
        known = torch.where(self.values[own].isnan(), means, self.values[own])
        self.values[own] = known + self.critic_rate * (means - known)
        return returns - known.repeat_interleave(self.group)

    def loss(self, batch: Batch, advantages: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The clipped loss at the present parameters."""
        prompts = self.arena.prompts[batch.prompts]
        present = token_log_probabilities(self.model, prompts, batch.answers, self.vocab_size)
        penalty = (
            {}
            if self.method == "ppo"
            else {
                "reference_log_probabilities": self.arena.tokens[batch.prompts, batch.numbers].float(),
                "kl_weight": 1 / self.reward_weight,
            }
        )
        return losses.policy_loss(
            present,
            batch.old,
            advantages,
            torch.ones_like(batch.answers, dtype=torch.bool),
            clip_low=self.clip,
            clip_high=self.clip,
            normalisation="length",
            max_length=batch.answers.shape[1],
            **penalty,
        )

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.schedule.learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def laws(self, arena: ScoredPrompts) -> Float[Tensor, "prompts answers"]:
        """log ρ_θ of every answer to every prompt of an arena."""
        size = arena.tokens.shape[2]
        return exact_laws.token_log_probabilities(self.model, arena.prompts.tolist(), self.vocab_size, size).sum(-1)


def batch_flops(
    parameters: int, judge: int, size: int, length: int, *, prompts: int, answers: int, epochs: int
) -> float:
    """FLOPs of drawing one batch of answers, judging it, and taking its optimiser steps.

    Drawing, the reference policy's log-probabilities and the reward read each prompt once for all its answers. An
    optimiser step reads every answer with its prompt, forward (2 N per token) and backward with the gradients of the
    weights (4 N).

    Args:
        parameters, judge: N of the policy and of the reward model (see `cost`).
        size, length: tokens of a prompt and of an answer.
        prompts, answers: in the batch.
    """
    drawn = cost.prefill(parameters, prompts * size).flops + cost.decoding(parameters, answers * length).flops
    read = prompts * size + answers * length
    judged = cost.policy_forward(parameters, read).flops + cost.scoring(judge, read).flops
    return drawn + judged + epochs * 6.0 * parameters * answers * (size + length)
