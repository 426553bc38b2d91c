"""What was spent: tokens by kind, model calls by the paper's rule, FLOPs, seconds and memory, never mixed.

FLOPs come from parameter counts and token counts. With N the parameters that take part in a matrix product (the input
embedding is a look-up; a tied output matrix counts once):

    forward pass or decoded token    2 N per token
    backward pass                    2 N per token (gradients of activations only: both models are frozen)

Attention's own products (quadratic in length) are left out on both sides; padding is never counted.

Model calls follow the paper's Section 5.2, with nothing left out: a decoded token is one call, a pass over a whole
sequence (prefill, forward, backward, reward) is one call. A gradient evaluation is therefore four.
"""

import resource
import sys
from collections.abc import Iterable
from typing import NamedTuple

import torch


class Cost(NamedTuple):
    """Resources spent on one problem.

    Attributes:
        decode_tokens: tokens drawn one at a time from the policy.
        policy_prefill_tokens: prompt and prefix tokens read by the policy before it decodes.
        policy_forward_tokens, policy_backward_tokens: whole-sequence passes of the policy.
        reward_forward_tokens, reward_backward_tokens: whole-sequence passes of the reward model.
        gradient_evaluations: passes that returned ∂L/∂y (policy and reward, forward and backward).
        model_calls: calls by the paper's rule, complete.
        flops: floating-point operations by the formula above.
        gradient_flops: the part of `flops` that gradient evaluations took.
        seconds: wall-clock; a problem's share of the batch it was solved in.
        peak_bytes: largest memory held by the process (CPU) or allocated on the device (GPU) up to then.
    """

    decode_tokens: int = 0
    policy_prefill_tokens: int = 0
    policy_forward_tokens: int = 0
    policy_backward_tokens: int = 0
    reward_forward_tokens: int = 0
    reward_backward_tokens: int = 0
    gradient_evaluations: int = 0
    model_calls: int = 0
    flops: float = 0.0
    gradient_flops: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of several costs; of `peak_bytes`, the largest."""
    costs = list(costs)
    sums = [sum(column) for column in zip(*(cost[:-1] for cost in costs), strict=True)] if costs else []
    return Cost(*sums, peak_bytes=max((cost.peak_bytes for cost in costs), default=0)) if costs else Cost()


def decoding(parameters: int, tokens: int) -> Cost:
    """`tokens` drawn one by one from a policy of `parameters` parameters."""
    return Cost(decode_tokens=tokens, model_calls=tokens, flops=2.0 * parameters * tokens)


def prefill(parameters: int, tokens: int) -> Cost:
    """One pass over `tokens` prompt and prefix tokens that fills the policy's key-value cache."""
    return Cost(policy_prefill_tokens=tokens, model_calls=1, flops=2.0 * parameters * tokens)


def scoring(parameters: int, tokens: int) -> Cost:
    """One forward pass of the reward model over `tokens` tokens."""
    return Cost(reward_forward_tokens=tokens, model_calls=1, flops=2.0 * parameters * tokens)


def policy_forward(parameters: int, tokens: int) -> Cost:
    """One forward pass of the policy over `tokens` tokens, outside any gradient evaluation."""
    return Cost(policy_forward_tokens=tokens, model_calls=1, flops=2.0 * parameters * tokens)


def gradient_evaluation(
    policy_parameters: int,
    policy_tokens: int,
    policy_backward: int,
    reward_parameters: int,
    reward_tokens: int,
    reward_backward: int,
) -> Cost:
    """Forward and backward of both models: ∂L/∂y at one hard sequence. Tokens that a cache held are not counted."""
    flops = 2.0 * (
        policy_parameters * (policy_tokens + policy_backward) + reward_parameters * (reward_tokens + reward_backward)
    )
    return Cost(
        policy_forward_tokens=policy_tokens,
        policy_backward_tokens=policy_backward,
        reward_forward_tokens=reward_tokens,
        reward_backward_tokens=reward_backward,
        gradient_evaluations=1,
        model_calls=4,
        flops=flops,
        gradient_flops=flops,
    )


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far: allocated on a CUDA device, otherwise resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
