"""Policies improved by training, rows SFT and GRPO of Table 1: supervised fine-tuning, and group-relative policy
optimisation on rewards that the task's grader (or a reward model) gives to the policy's own responses."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..engine import generation
from ..engine.sampling import Sampling, keyed_uniforms
from ..types import Problem
from . import losses
from .data import Example, Padded, pad
from .loop import Schedule
from .losses import response_log_probabilities
from .sft import PolicyTraining, Score, graded


class GroupSampling(NamedTuple):
    """GRPO's settings.

    Attributes:
        group_size: responses per prompt, >= 2.
        temperature: > 0, that they are drawn at.
        updates_per_batch: optimiser steps on each batch of responses; from the second on the clipped ratio acts.
        clip_low, clip_high: see `reinforcement.clipped_objective`.
        kl_weight: β >= 0, weight of KL(π‖π_ref); π_ref is the policy training started from.
        normalisation: "sequence", "token" or "length", see `reinforcement.normalised`.
        scale_advantages: divide by the group's standard deviation.
        patience: batches without a single positive reward, from the start on, after which training gives up.
    """

    group_size: int = 8
    temperature: float = 1.0
    updates_per_batch: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_weight: float = 0.0
    normalisation: str = "token"
    scale_advantages: bool = True
    patience: int = 5

    def check(self) -> "GroupSampling":
        """Raise ValueError on a value out of range; returns itself."""
        if self.group_size < 2:
            raise ValueError(f"group_size must be >= 2; got {self.group_size}. It compares answers to a prompt.")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be > 0 for training; got {self.temperature}.")
        for name, value in (("updates_per_batch", self.updates_per_batch), ("patience", self.patience)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1; got {value}.")
        if min(self.clip_low, self.clip_high, self.kl_weight) < 0:
            raise ValueError(f"clip_low, clip_high and kl_weight must be >= 0; got {self}.")
        if self.normalisation not in losses.NORMALISATIONS:
            raise ValueError(
                f"normalisation must be one of {', '.join(losses.NORMALISATIONS)}; got {self.normalisation!r}."
            )
        return self


class Collected(NamedTuple):
    """Responses drawn from the policy, and what an update needs to know of them.

    Attributes:
        blocks: prompts and responses, a block per task.
        advantages: one per response, in the order of the blocks.
        old: log π of each token under the policy that drew it; None where that is the policy being updated.
        reference: the same under π_ref, where the KL weight asks for it.
    """

    blocks: list[Padded]
    advantages: Float[Tensor, " responses"]
    old: Float[Tensor, "responses seq"] | None
    reference: Float[Tensor, "responses seq"] | None


class GroupRelativeTraining(PolicyTraining):
    """GRPO: groups of responses drawn from the policy itself, compared by their rewards.

    Args:
        sampling: group size, temperature, clipping and the rest.
        seed: keys the draws, with step, problem and number in the group.
        reference: frozen π_ref, needed when `sampling.kl_weight` > 0.
        score: rewards of responses; None takes the task's grader.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer,
        schedule: Schedule,
        max_new_tokens: int,
        *,
        sampling: GroupSampling,
        seed: int,
        reference: torch.nn.Module | None = None,
        score: Score | None = None,
    ):
        super().__init__(model, tokenizer, schedule, max_new_tokens)
        self.sampling, self.seed, self.score = sampling.check(), seed, score or graded(self.policy)
        if sampling.kl_weight > 0 and reference is None:
            raise ValueError(f"kl_weight {sampling.kl_weight} needs a reference policy; got none. Give one, or 0.")
        self.reference = [reference.eval().requires_grad_(False)] if reference is not None else []  # not a submodule
        self.collected: Collected | None = None
        self.rewarded = False

    def training_step(self, batch: list[Problem], index: int) -> Tensor:
        """One update; every `updates_per_batch`-th draws new responses first."""
        if self.global_step % self.sampling.updates_per_batch == 0 or self.collected is None:
            self.collected = self.collect(batch)
        loss = self.update_loss(self.collected)
        self.log("train/loss", loss)
        return loss

    def update_loss(self, collected: Collected) -> Float[Tensor, ""]:
        """The clipped loss of the collected responses under the policy as it is now."""
        settings, now = self.sampling, self.log_probabilities(self.model, collected.blocks)
        return losses.policy_loss(
            now,
            now.detach() if collected.old is None else collected.old,
            collected.advantages,
            response_mask(collected.blocks),
            reference_log_probabilities=collected.reference,
            kl_weight=settings.kl_weight,
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            normalisation=settings.normalisation,
            max_length=self.max_new_tokens,
        )

    @torch.no_grad()
    def collect(self, problems: Sequence[Problem]) -> Collected:
        """Draw a group of responses to every problem and reward them."""
        size, limit, step = self.sampling.group_size, self.max_new_tokens, self.global_step
        ordered = sorted(problems, key=lambda problem: problem.task)  # as the blocks are
        owners = [problem for problem in ordered for _ in range(size)]
        noise = [
            keyed_uniforms(self.seed, f"{number}/{problem.task}/{problem.id}", step, f"rollout {k}", limit)
            for number, problem in enumerate(ordered)
            for k in range(size)
        ]
        prompts = [self.policy.prompt_ids(problem.messages) for problem in owners]
        drawn = generation.sample(
            self.policy, prompts, noise, Sampling(self.sampling.temperature), [limit] * len(owners)
        )
        rewards = torch.tensor(self.score(owners, drawn), device=self.device).view(-1, size)
        self._check_rewards(rewards)
        advantages = losses.group_advantages(rewards, scale=self.sampling.scale_advantages).flatten()
        blocks = pad(
            [Example(p.task, prompt, r.token_ids) for p, prompt, r in zip(owners, prompts, drawn, strict=True)]
        )
        reference = self.log_probabilities(self.reference[0], blocks) if self.sampling.kl_weight > 0 else None
        self.log("train/reward", rewards.nanmean(), prog_bar=True)
        self.log("train/mixed_groups", (rewards.nan_to_num().std(1) > 0).float().mean())
        self.log("train/response_tokens", float(np.mean([len(rollout.token_ids) for rollout in drawn])))
        old = self.log_probabilities(self.model, blocks) if self.sampling.updates_per_batch > 1 else None
        return Collected(blocks, advantages, old, reference)

    def log_probabilities(self, model: torch.nn.Module, blocks: Sequence[Padded]) -> Float[Tensor, "responses seq"]:
        """log π of every response token, all blocks below one another."""
        width = max(block.ids.shape[1] for block in blocks)
        parts = [response_log_probabilities(model, block, self.sampling.temperature) for block in blocks]
        return torch.cat([functional.pad(part, (0, width - part.shape[1])) for part in parts])

    def _check_rewards(self, rewards: Float[Tensor, "groups samples"]) -> None:
        """Raise ValueError when there is nothing to learn from: no reward above zero since training began."""
        self.rewarded = self.rewarded or bool((rewards > 0).any())
        batches = self.global_step // self.sampling.updates_per_batch + 1
        if not self.rewarded and batches >= self.sampling.patience and rewards.nan_to_num().std() == 0:
            raise ValueError(
                f"GRPO needs a policy that is right sometimes; none of its responses in {batches} batches earned a "
                "reward. Start from supervised fine-tuning, take easier problems, or raise group_size."
            )


def response_mask(blocks: Sequence[Padded]) -> Bool[Tensor, "responses seq"]:
    """True at response tokens, all blocks below one another."""
    width = max(block.ids.shape[1] for block in blocks)
    return torch.cat([functional.pad(block.is_response, (0, width - block.ids.shape[1])) for block in blocks])
