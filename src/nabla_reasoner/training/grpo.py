"""Group-relative policy optimisation (GRPO, arXiv 2402.03300): updates from the policy's own rewarded responses."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from ..engine.sampling import LEAST_TEMPERATURE, Sampling, check_finite, check_whole, keyed_uniforms
from ..evaluation.accuracy import sample_responses
from ..types import Problem
from . import losses
from .data import Example, Padded, pad
from .loop import Schedule
from .sft import PolicyTraining, Score, text_lengths, verifiable_reward

SHOWN = 8  # responses of a batch that loggers may show


class GroupSampling(NamedTuple):
    """GRPO's settings.

    Attributes:
        group_size: responses per prompt, >= 2.
        temperature: sampling temperature of the responses, > 0.
        updates_per_batch: optimiser steps on each batch of responses; from the second on the clipped ratio acts.
        clip_low, clip_high: see `losses.clipped_objective`.
        kl_weight: β >= 0, weight of KL(π‖π_ref), where π_ref is the policy at the start of training.
        normalisation: "sequence", "token" or "length", see `losses.average_tokens`.
        scale_advantages: divide by the group's standard deviation.
        patience: batches from the start without any positive reward after which training stops with an error, >= 1.
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
        """Raise ValueError on a value out of range; return itself."""
        check_finite(self._asdict())
        counts = {"updates_per_batch": self.updates_per_batch, "patience": self.patience}
        check_whole({"group_size": self.group_size, **counts})
        if self.group_size < 2:
            raise ValueError(f"group_size must be >= 2; got {self.group_size}. It compares answers to a prompt.")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be > 0 for training; got {self.temperature}.")
        if self.temperature < LEAST_TEMPERATURE:
            raise ValueError(f"temperature must be >= {LEAST_TEMPERATURE:g}; got {self.temperature}.")
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1; got {value}.")
        if min(self.clip_low, self.clip_high, self.kl_weight) < 0:
            raise ValueError(f"clip_low, clip_high and kl_weight must be >= 0; got {self}.")
        losses.check_normalisation(self.normalisation)
        return self


def check_adapter(lora: Mapping[str, object] | None) -> None:
    """Raise ValueError if an adapter has dropout, which GRPO switches off.

    Args:
        lora: settings of peft's adapter; None trains all weights.
    """
    dropout = (lora or {}).get("lora_dropout", 0)
    if dropout:
        raise ValueError(
            f"lora_dropout must be 0 with method grpo, which compares probabilities of one policy; got {dropout}. "
            "Leave it out."
        )


class ResponseBatch(NamedTuple):
    """Responses sampled from the policy, with the data that an update needs.

    Attributes:
        blocks: prompts and responses, one block per task.
        advantages: one per response, in the order of the blocks.
        old: log π of each token under the policy that sampled it; None if that policy is the one being updated.
        reference: log π_ref of each token; None if the KL weight is 0.
        share: weight in the batch's average; responses left out, whose advantage is zero, have the rest.
    """

    blocks: list[Padded]
    advantages: Float[Tensor, " responses"]
    old: Float[Tensor, "responses seq"] | None
    reference: Float[Tensor, "responses seq"] | None
    share: float = 1.0


class GroupRelativeTraining(PolicyTraining):
    """GRPO: groups of responses sampled from the policy itself, compared by their rewards.

    Args:
        sampling: group size, temperature, clipping and the rest.
        seed: key of the random numbers, with step, problem and number in the group.
        reference: frozen π_ref, needed if `sampling.kl_weight` > 0.
        score: rewards of responses; None uses the task's grader.

    Raises:
        ValueError: settings out of range, or a KL weight without a reference.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        schedule: Schedule,
        max_new_tokens: int,
        *,
        sampling: GroupSampling,
        seed: int,
        reference: torch.nn.Module | None = None,
        score: Score | None = None,
    ):
        super().__init__(model, tokenizer, schedule, max_new_tokens)
        if sampling.check().kl_weight > 0 and reference is None:
            raise ValueError(f"kl_weight {sampling.kl_weight} needs a reference policy; got none. Give one, or 0.")
        self.sampling = sampling
        self.seed = seed
        self.score = score or verifiable_reward(self.policy)
        # in a list, so that torch does not register it as a submodule and checkpoints leave it out
        self.reference = [reference.eval().requires_grad_(False)] if reference is not None else []
        self.responses: ResponseBatch | None = None
        # a buffer: a training that goes on from a checkpoint has seen the batches before it
        self.register_buffer("has_positive_reward", torch.tensor(False))

    def loss(self, batch: list[Problem]) -> Float[Tensor, ""]:
        """Return the loss of one update; every `updates_per_batch`-th one samples new responses first.

        The model is in eval mode throughout: with dropout the ratios of probabilities would hold its noise.
        """
        self.model.eval()
        if self.global_step % self.sampling.updates_per_batch == 0 or self.responses is None:
            self.responses = self.sample_responses(batch)
        return self.update_loss(self.responses)

    def update_loss(self, responses: ResponseBatch) -> Float[Tensor, ""]:
        """Return the clipped loss of the responses under the present policy."""
        self.count_flops(text_lengths(responses.blocks), updates=1)
        present = self.log_probabilities(self.model, responses.blocks)
        if responses.reference is not None:
            kl = losses.reference_divergence(present.detach(), responses.reference)
            self.log("train/kl", kl[response_mask(responses.blocks)].mean())
        return responses.share * losses.policy_loss(
            present,
            present.detach() if responses.old is None else responses.old,
            responses.advantages,
            response_mask(responses.blocks),
            reference_log_probabilities=responses.reference,
            kl_weight=self.sampling.kl_weight,
            clip_low=self.sampling.clip_low,
            clip_high=self.sampling.clip_high,
            normalisation=self.sampling.normalisation,
            max_length=self.max_new_tokens,
        )

    @torch.no_grad()
    def sample_responses(self, problems: Sequence[Problem]) -> ResponseBatch:
        """Sample a group of responses to every problem and reward them."""
        size = self.sampling.group_size
        limit = self.max_new_tokens
        ordered = sorted(problems, key=lambda problem: problem.task)  # the order of the blocks
        repeated = [problem for problem in ordered for _ in range(size)]
        noise = [
            keyed_uniforms(self.seed, f"{number}/{problem.task}/{problem.id}", self.global_step, f"rollout {k}", limit)
            for number, problem in enumerate(ordered)
            for k in range(size)
        ]
        rollouts = sample_responses(self.policy, repeated, noise, Sampling(self.sampling.temperature), limit)
        device = self.policy.device
        rewards = torch.tensor(self.score(repeated, rollouts), device=device).view(-1, size)
        self._check_rewards(rewards)
        prompts = {problem.question: self.policy.prompt_ids(problem.messages) for problem in ordered}
        examples = [
            Example(problem.task, prompts[problem.question], rollout.token_ids, None)
            for problem, rollout in zip(repeated, rollouts, strict=True)
        ]
        advantages = losses.group_advantages(rewards, scale=self.sampling.scale_advantages).flatten()
        kept = self._informative(advantages)
        blocks = [block.to(device) for block in pad([examples[index] for index in kept])]
        self.count_flops((len(e.prompt_ids) + len(e.response_ids) for e in examples), reads=1)
        extra_reads = (self.sampling.updates_per_batch > 1) + (self.sampling.kl_weight > 0)
        self.count_flops(text_lengths(blocks), reads=extra_reads)
        self.samples = [
            [problem.question, self.policy.response_text(rollout.token_ids), float(reward)]
            for problem, rollout, reward in zip(repeated[:SHOWN], rollouts, rewards.flatten().tolist(), strict=False)
        ]
        self.log("train/reward", rewards.nanmean(), prog_bar=True)
        self.log("train/mixed_groups", (rewards.nan_to_num().std(1) > 0).float().mean())
        self.log("train/response_tokens", float(np.mean([len(rollout.token_ids) for rollout in rollouts])))
        return ResponseBatch(
            blocks,
            advantages[kept],
            old=self.log_probabilities(self.model, blocks) if self.sampling.updates_per_batch > 1 else None,
            reference=self.log_probabilities(self.reference[0].to(device), blocks)
            if self.sampling.kl_weight > 0
            else None,
            share=self._share(examples, kept),
        )

    def _informative(self, advantages: Float[Tensor, " responses"]) -> list[int]:
        """Return the responses that an update needs: without a KL term, one of zero advantage has no gradient.

        If none has an advantage, the first stands for all, and the gradient is zero.
        """
        if self.sampling.kl_weight > 0:
            return list(range(len(advantages)))
        return advantages.nonzero()[:, 0].tolist() or [0]

    def _share(self, examples: Sequence[Example], kept: Sequence[int]) -> float:
        """Return the weight of some responses in the average over all."""
        if self.sampling.normalisation != "token":
            return len(kept) / len(examples)
        return sum(len(examples[i].response_ids) for i in kept) / sum(len(e.response_ids) for e in examples)

    def log_probabilities(self, model: torch.nn.Module, blocks: Sequence[Padded]) -> Float[Tensor, "responses seq"]:
        """Return log π of every response token, in nats, with the rows of all blocks concatenated."""
        width = max(block.ids.shape[1] for block in blocks)
        vocab_size, temperature = self.policy.vocab_size, self.sampling.temperature
        parts = [losses.response_log_probabilities(model, block, vocab_size, temperature) for block in blocks]
        return torch.cat([functional.pad(part, (0, width - part.shape[1])) for part in parts])

    def _check_rewards(self, rewards: Float[Tensor, "groups samples"]) -> None:
        """Raise ValueError if `patience` batches from the start have brought no positive reward."""
        self.has_positive_reward |= (rewards > 0).any()
        batches = self.global_step // self.sampling.updates_per_batch + 1
        if not self.has_positive_reward and batches >= self.sampling.patience and rewards.nan_to_num().std() == 0:
            raise ValueError(
                f"GRPO needs a policy that is right sometimes; none of its responses in {batches} batches earned a "
                "reward. Start from supervised fine-tuning, take easier problems, or raise group_size."
            )


def response_mask(blocks: Sequence[Padded]) -> Bool[Tensor, "responses seq"]:
    """Return True at response tokens, with the rows of all blocks concatenated."""
    width = max(block.ids.shape[1] for block in blocks)
    return torch.cat([functional.pad(block.is_response, (0, width - block.ids.shape[1])) for block in blocks])
