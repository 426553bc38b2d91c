"""Amortised training: policy networks trained towards the optimum of Eq. 3 over many prompts, by PPO and by GRPO.

PPO: the return is λ r(y) - log ρ_θ(y)/π(y), with the KL inside. Less a baseline it is the advantage, and
E[(λ r - log ρ_θ/π) ∇log ρ_θ] = -∇L_PPO(ρ_θ) because E[∇log ρ_θ] = 0. At ρ* ∝ π e^{λr} the return is log Z(x) for every
answer, so the advantage vanishes answer by answer, not only on average.

GRPO: the advantage is (r - mean)/std within a group. The loss adds β = 1/λ times the estimate e^d - d - 1 of KL(ρ_θ‖π).
Its fixed point is not ρ*, for two reasons. Division by std changes λ from prompt to prompt. The estimate is unbiased in
value, but on-policy it has the gradient of KL(π‖ρ_θ), not of KL(ρ_θ‖π).

Both read rewards and log π(y|x) from tables, since every answer was scored; FLOPs are charged as if computed each time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import lightning
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import cost
from ..config.ppo_settings import AmortisedSettings
from ..engine.sampling import Sampling, draw
from ..training import losses
from ..training.loop import Schedule
from . import exact_distributions as exact

METHODS = ("ppo", "grpo", "grpo_unscaled")


class ScoredPrompts(NamedTuple):
    """Prompts with scores of all their answers.

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

    @property
    def length(self) -> int:
        """Number of tokens of an answer."""
        return self.tokens.shape[2]

    def take(self, selected: slice) -> "ScoredPrompts":
        """Select some of the prompts."""
        return ScoredPrompts(*(part[selected] for part in self))


class Batch(NamedTuple):
    """Sampled answers for an update.

    Attributes:
        prompts: prompt indices, the answers of a group in a row.
        answers: token ids.
        indices: index of each answer among all answers.
        old: log-probabilities of the tokens under the model that sampled them.
    """

    prompts: Int[Tensor, " batch"]
    answers: Int[Tensor, "batch length"]
    indices: Int[Tensor, " batch"]
    old: Float[Tensor, "batch length"]


class PromptSampler(torch.utils.data.IterableDataset):
    """Prompt indices of endless batches: `prompts` different ones, `group` answers each, every batch `epochs` times.

    Args:
        total: number of prompts to choose from; if below `prompts`, the group grows instead.
    """

    def __init__(self, total: int, *, prompts: int, group: int, epochs: int, seed: int):
        super().__init__()
        self.total = total
        self.prompts = min(prompts, total)
        self.group = prompts * group // self.prompts
        self.epochs = epochs
        self.seed = seed

    def __iter__(self) -> Iterator[Int[Tensor, " batch"]]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            selected = torch.randperm(self.total, generator=generator)[: self.prompts].repeat_interleave(self.group)
            for _ in range(self.epochs):
                yield selected


def token_log_probabilities(
    model: torch.nn.Module, prompts: Int[Tensor, "batch size"], answers: Int[Tensor, "batch length"], vocab_size: int
) -> Float[Tensor, "batch length"]:
    """Compute log ρ(y_l|y_<l, x) of given answers, with gradient."""
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
    """Sample answers of `length` tokens, and return them with the log-probability of each token."""
    texts = prompts
    log_probabilities = []
    for _ in range(length):
        logits = model(input_ids=texts).logits[:, -1, :vocab_size]
        uniform = torch.rand(len(texts), dtype=torch.float64, generator=generator)
        tokens = draw(logits, uniform, Sampling(1.0))[:, None]
        log_probabilities.append(torch.log_softmax(logits, -1).gather(1, tokens))
        texts = torch.cat([texts, tokens], 1)
    return texts[:, prompts.shape[1] :], torch.cat(log_probabilities, 1)


def penalised_return(
    reward: Float[Tensor, " batch"], log_ratio: Float[Tensor, " batch"], reward_weight: float
) -> Float[Tensor, " batch"]:
    """Return λ r(y) - log ρ(y)/π(y), whose mean PPO maximises; constant in y exactly at ρ*."""
    return reward_weight * reward - log_ratio


class AmortisedTraining(lightning.LightningModule):
    """Training of a policy network.

    Args:
        model: a copy of the policy's network; it is changed.
        method: "ppo", "grpo", or "grpo_unscaled" (GRPO without the division by std).
        scored: prompts to train on.
        reward_weight: λ > 0.
        group: answers per prompt in a batch, as `PromptSampler` has it.
        seed: seed of the sampled answers.
        warmup_steps: number of optimiser steps over which the learning rate rises.

    Raises:
        ValueError: an unknown method.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        method: str,
        scored: ScoredPrompts,
        settings: AmortisedSettings,
        *,
        reward_weight: float,
        group: int,
        seed: int,
        warmup_steps: int = 10,
    ):
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
        self.model = model
        self.method = method
        self.scored = scored
        self.settings = settings
        self.reward_weight = reward_weight
        self.group = group
        self.schedule = Schedule(settings.num_steps, settings.learning_rate, warmup_steps)
        self.generator = torch.Generator().manual_seed(seed)
        self.vocab_size = round(scored.rewards.shape[1] ** (1 / scored.length))
        self.values: Tensor = torch.full((len(scored.prompts),), torch.nan)  # PPO's critic; NaN before the first batch
        self.batch: Batch | None = None

    def transfer_batch_to_device(self, batch: Tensor, device: torch.device, dataloader_idx: int) -> Tensor:
        """Keep prompt indices on the CPU, where the comparison runs."""
        return batch

    def training_step(self, prompts: Int[Tensor, " batch"], index: int) -> Float[Tensor, ""]:
        if index % self.settings.epochs == 0:
            self.batch = self.sample_batch(prompts)
            self.advantages = self.compute_advantages(self.batch)
        return self.loss(self.batch, self.advantages)

    def sample_batch(self, prompts: Int[Tensor, " batch"]) -> Batch:
        """Sample answers of the present model."""
        answers, old = sample(
            self.model, self.scored.prompts[prompts], self.scored.length, self.vocab_size, self.generator
        )
        return Batch(prompts, answers, exact.answer_indices(answers, self.vocab_size), old)

    def compute_advantages(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Compute the answers' advantages; PPO also updates its critic."""
        rewards = self.scored.rewards[batch.prompts, batch.indices].float()
        if self.method != "ppo":
            return losses.group_advantages(rewards.view(-1, self.group), scale=self.method == "grpo").flatten()
        log_ratio = batch.old.sum(1) - self.scored.prior[batch.prompts, batch.indices].float()
        returns = penalised_return(rewards, log_ratio, self.reward_weight)
        prompts = batch.prompts.view(-1, self.group)[:, 0]
        means = returns.view(-1, self.group).mean(1)
        baseline = torch.where(self.values[prompts].isnan(), means, self.values[prompts])
        self.values[prompts] = baseline + self.settings.critic_rate * (means - baseline)
        return returns - baseline.repeat_interleave(self.group)

    def loss(self, batch: Batch, advantages: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Compute the clipped loss at the present parameters; GRPO's has the KL penalty."""
        prompts = self.scored.prompts[batch.prompts]
        penalised = self.method != "ppo"
        return losses.policy_loss(
            token_log_probabilities(self.model, prompts, batch.answers, self.vocab_size),
            batch.old,
            advantages,
            torch.ones_like(batch.answers, dtype=torch.bool),
            clip_low=self.settings.clip,
            clip_high=self.settings.clip,
            normalisation="length",
            max_length=batch.answers.shape[1],
            reference_log_probabilities=self.scored.tokens[batch.prompts, batch.indices].float() if penalised else None,
            kl_weight=1 / self.reward_weight if penalised else 0.0,
        )

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.schedule.learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def distributions(self, scored: ScoredPrompts) -> Float[Tensor, "prompts answers"]:
        """Compute log ρ_θ of every answer to the given prompts."""
        tokens = exact.token_log_probabilities(self.model, scored.prompts.tolist(), self.vocab_size, scored.length)
        return tokens.sum(-1)


def batch_flops(
    *,
    policy_size: cost.ModelSize,
    reward_size: cost.ModelSize,
    prompt_size: int,
    length: int,
    rewarded: int,
    prompts: int,
    answers: int,
    epochs: int,
) -> float:
    """Return the FLOPs of sampling one batch of answers, scoring it, and taking its optimiser steps.

    Sampling, the reference policy's log-probabilities and the reward read each prompt once for all its answers. An
    optimiser step reads every answer with its prompt, forward and backward with the gradients of the weights.

    Args:
        policy_size, reward_size: sizes of both models (see `cost`).
        prompt_size, length: number of tokens of a prompt and of an answer.
        rewarded: positions of an answer at which the reward model's head is used.
        prompts, answers: number of each in the batch.
    """
    end = prompt_size + length

    def price(reads: cost.Reads, size: cost.ModelSize = policy_size) -> float:
        return cost.forward_flops(size, reads)

    prompt = cost.one_pass(0, prompt_size)
    sampling = prompts * price(prompt) + answers * price(cost.decoded(prompt_size, length))
    reference = prompts * price(prompt) + answers * price(cost.one_pass(prompt_size, end, length))
    scoring = prompts * price(prompt, reward_size)
    scoring += answers * price(cost.one_pass(prompt_size, end, rewarded), reward_size)
    update = cost.update_flops(policy_size, cost.one_pass(0, end, end))
    return sampling + reference + scoring + epochs * answers * update
