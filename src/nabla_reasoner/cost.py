"""Cost of a solution: tokens by kind, model calls, FLOPs, seconds, memory.

FLOPs: a forward pass or a decoded token takes 2 N per token; so does a backward pass, since both models are frozen. N
is the number of parameters in matrix products (`matmul_parameters`). Attention scores and padding are not counted.
Model calls follow the paper's Section 5.2: one per decoded token and one per pass over a whole sequence (prefill,
forward, backward, reward), so up to four per gradient evaluation.
"""

import resource
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Cost(NamedTuple):
    """Resources spent on one problem.

    Attributes:
        decode_tokens: tokens sampled one at a time from the policy.
        policy_prefill_tokens: prompt and prefix tokens that the policy read before decoding.
        policy_forward_tokens, policy_backward_tokens: whole-sequence passes of the policy.
        reward_forward_tokens, reward_backward_tokens: whole-sequence passes of the reward model.
        gradient_evaluations: evaluations of ∂L/∂y, of policy and reward together.
        model_calls: calls by the paper's rule.
        flops: floating-point operations by the formula above.
        gradient_flops: the part of `flops` spent on gradient evaluations.
        seconds: wall-clock time; a problem's share of its batch.
        peak_bytes: peak memory so far, resident in the process (CPU) or allocated on the device (GPU).
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
    """Return the sum of several costs, with the largest `peak_bytes`."""
    columns = list(zip(*costs, strict=True))
    return Cost(*map(sum, columns[:-1]), peak_bytes=max(columns[-1])) if columns else Cost()


def decoding(parameters: int, tokens: int) -> Cost:
    """Return the cost of sampling `tokens` tokens one by one from a policy of `parameters` parameters."""
    return Cost(decode_tokens=tokens, model_calls=tokens, flops=2.0 * parameters * tokens)


def prefill(parameters: int, tokens: int) -> Cost:
    """Return the cost of one pass over `tokens` prompt and prefix tokens that fills the policy's cache."""
    return Cost(policy_prefill_tokens=tokens, model_calls=1, flops=2.0 * parameters * tokens)


def scoring(parameters: int, tokens: int) -> Cost:
    """Return the cost of one forward pass of the reward model over `tokens` tokens."""
    return Cost(reward_forward_tokens=tokens, model_calls=1, flops=2.0 * parameters * tokens)


def reward_steps(parameters: int, tokens: int) -> Cost:
    """Return the cost of `tokens` tokens that the reward model reads one by one."""
    return Cost(reward_forward_tokens=tokens, model_calls=tokens, flops=2.0 * parameters * tokens)


def reward_gradient(parameters: int, tokens: int) -> Cost:
    """Return the cost of a forward and a backward pass of the reward model alone over `tokens` tokens."""
    flops = 4.0 * parameters * tokens
    return Cost(
        reward_forward_tokens=tokens,
        reward_backward_tokens=tokens,
        model_calls=2,
        flops=flops,
        gradient_flops=flops,
    )


def policy_forward(parameters: int, tokens: int) -> Cost:
    """Return the cost of one forward pass of the policy over `tokens` tokens, without a gradient."""
    return Cost(policy_forward_tokens=tokens, model_calls=1, flops=2.0 * parameters * tokens)


def gradient_evaluation(
    policy_parameters: int,
    policy_tokens: int,
    policy_backward: int,
    reward_parameters: int,
    reward_tokens: int,
    reward_backward: int,
) -> Cost:
    """Return the cost of ∂L/∂y at one hard sequence: forward and backward passes of both models, cached tokens free.

    A pass over no tokens did not run and is not counted as a model call.
    """
    flops = 2.0 * (
        policy_parameters * (policy_tokens + policy_backward) + reward_parameters * (reward_tokens + reward_backward)
    )
    return Cost(
        policy_forward_tokens=policy_tokens,
        policy_backward_tokens=policy_backward,
        reward_forward_tokens=reward_tokens,
        reward_backward_tokens=reward_backward,
        gradient_evaluations=1,
        model_calls=sum(count > 0 for count in (policy_tokens, policy_backward, reward_tokens, reward_backward)),
        flops=flops,
        gradient_flops=flops,
    )


def peak_bytes(device: "torch.device") -> int:
    """Return the peak memory so far: allocated on a CUDA device, otherwise resident in this process."""
    if device.type == "cuda":
        import torch  # here, so that `plan` can price a run without loading torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
