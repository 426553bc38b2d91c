"""Cost of a solution: tokens by kind, model calls, FLOPs, seconds, memory.

FLOPs of a forward pass over n tokens that attend to m keys (their own included): 2 N n in the layers' matrix products,
4 A n m in attention (QKᵀ and its product with V; the whole rectangle, as dense kernels compute it), and 2 H for each
position whose next token or score is predicted. N, H and A are those of `ModelSize`. A backward pass takes 2 N n in the
layers, since weights are frozen, 8 A n m in attention, and 2 H for each predicted position. A row of ∂L/∂y in the
vocabulary takes a product with each embedding matrix (`dto.gradients`). A score that is predicted to first order takes
one product of the candidate's embedding with the slope (`baselines.prefix_scores`). Element-wise work and padding are
not counted. Nor is what only the reference engine computes: products of one-hot rows with the embedding matrix, which
the fast one replaces by a lookup, and the logits of first latents. Its FLOPs are 4 to 11 % below torch's for the tiny
models.
Every token that is read counts once: a decoded token is read when the next one is sampled, the last one never.

Model calls follow the paper's Section 5.2: one per decoded token and one per pass over a whole sequence (prefill,
forward, backward, reward). A gradient evaluation is as many calls as the passes it ran: four if both models run forward
and backward, two in the prefix form with a score head. With a likelihood reward that form runs one, or none if the
states that predict the token are known.
"""

import resource
import sys
from collections.abc import Iterable
from dataclasses import dataclass
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
        gradient_calls: the part of `model_calls` spent on gradient evaluations.
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
    gradient_calls: int = 0
    flops: float = 0.0
    gradient_flops: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of several costs, with the largest `peak_bytes`."""
    columns = list(zip(*costs, strict=True))
    return Cost(*map(sum, columns[:-1]), peak_bytes=max(columns[-1])) if columns else Cost()


class ModelSize(NamedTuple):
    """What a model computes per token.

    Attributes:
        layers: N, parameters in matrix products of the layers.
        head: H, parameters of the output matrix or score head.
        attention: A, layers × attention heads × size of a head.
    """

    layers: int
    head: int
    attention: int

    def plus(self, other: "ModelSize") -> "ModelSize":
        """Return the size of two models that read the same tokens."""
        return ModelSize(*(left + right for left, right in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class Reads:
    """What a model read.

    Attributes:
        tokens: number of tokens.
        pairs: number of query–key pairs: each pass over n tokens with m keys adds n m.
        outputs: number of positions at which the output matrix or score head was used.
    """

    tokens: int = 0
    pairs: int = 0
    outputs: int = 0

    def __add__(self, other: "Reads") -> "Reads":
        return Reads(self.tokens + other.tokens, self.pairs + other.pairs, self.outputs + other.outputs)

    def __radd__(self, other: int) -> "Reads":
        """Return the reads themselves: the start of `sum` is 0."""
        return self

    def __bool__(self) -> bool:
        return self.tokens > 0

    def with_outputs(self, outputs: int) -> "Reads":
        """Return the same reads with another number of outputs."""
        return Reads(self.tokens, self.pairs, outputs)


def one_pass(start: int, end: int, outputs: int = 0) -> Reads:
    """Return the reads of one pass over the tokens from `start` to `end` of a text, with those before it cached."""
    return Reads(end - start, (end - start) * end, outputs)


def one_by_one(start: int, end: int, outputs: int = 0) -> Reads:
    """Return the reads of tokens `start` to `end` of a text, a pass for each token."""
    return Reads(end - start, (start + 1 + end) * (end - start) // 2, outputs)


def decoded(start: int, tokens: int) -> Reads:
    """Return the reads of sampling `tokens` tokens, >= 1, after a text of `start` tokens; the last one is not read."""
    return one_by_one(start, start + tokens - 1, tokens)


def head_flops(size: ModelSize, outputs: int) -> float:
    """Return the FLOPs of the output matrix or score head at `outputs` positions."""
    return 2.0 * size.head * outputs


def forward_flops(size: ModelSize, reads: Reads) -> float:
    """Return the FLOPs of forward passes."""
    return 2.0 * size.layers * reads.tokens + 4.0 * size.attention * reads.pairs + head_flops(size, reads.outputs)


def backward_flops(size: ModelSize, reads: Reads) -> float:
    """Return the FLOPs of backward passes of a frozen model to its input embeddings."""
    return 2.0 * size.layers * reads.tokens + 8.0 * size.attention * reads.pairs + head_flops(size, reads.outputs)


def update_flops(size: ModelSize, reads: Reads) -> float:
    """Return the FLOPs of a training step's forward and backward pass: the gradients of the weights cost as much again.

    That is 6 N per token in the layers, and 12 A per pair in attention, which has no weights.
    """
    weights = 2.0 * (size.layers * reads.tokens + size.head * reads.outputs)
    return forward_flops(size, reads) + backward_flops(size, reads) + weights


def decoding(size: ModelSize, reads: Reads) -> Cost:
    """Return the cost of tokens sampled one by one from a policy, one for each output."""
    return Cost(decode_tokens=reads.outputs, model_calls=reads.outputs, flops=forward_flops(size, reads))


def prefill(size: ModelSize, reads: Reads) -> Cost:
    """Return the cost of one pass over prompt and prefix tokens that fills the policy's cache."""
    return Cost(policy_prefill_tokens=reads.tokens, model_calls=1, flops=forward_flops(size, reads))


def scoring(size: ModelSize, reads: Reads) -> Cost:
    """Return the cost of one forward pass of the reward model."""
    return Cost(reward_forward_tokens=reads.tokens, model_calls=1, flops=forward_flops(size, reads))


def reward_steps(size: ModelSize, reads: Reads) -> Cost:
    """Return the cost of tokens that the reward model reads one by one."""
    return scoring(size, reads)._replace(model_calls=reads.tokens)


def reward_gradient(size: ModelSize, reads: Reads) -> Cost:
    """Return the cost of a forward and a backward pass of the reward model alone."""
    flops = forward_flops(size, reads) + backward_flops(size, reads)
    return Cost(
        reward_forward_tokens=reads.tokens,
        reward_backward_tokens=reads.tokens,
        model_calls=2,
        gradient_calls=2,
        flops=flops,
        gradient_flops=flops,
    )


def policy_forward(size: ModelSize, reads: Reads) -> Cost:
    """Return the cost of one forward pass of the policy, without a gradient."""
    return Cost(policy_forward_tokens=reads.tokens, model_calls=1, flops=forward_flops(size, reads))


def gradient_arithmetic(flops: float) -> Cost:
    """Return the cost of products outside the models that a gradient needs."""
    return Cost(flops=flops, gradient_flops=flops)


def gradient_evaluation(
    policy: ModelSize,
    policy_forward: Reads,
    policy_backward: Reads,
    reward: ModelSize,
    reward_forward: Reads,
    reward_backward: Reads,
) -> Cost:
    """Return the cost of ∂L/∂y at one hard sequence: forward and backward passes of both models, cached tokens free.

    A pass over no tokens did not run and is not counted as a model call.
    """
    flops = forward_flops(policy, policy_forward) + backward_flops(policy, policy_backward)
    flops += forward_flops(reward, reward_forward) + backward_flops(reward, reward_backward)
    calls = sum(map(bool, (policy_forward, policy_backward, reward_forward, reward_backward)))
    return Cost(
        policy_forward_tokens=policy_forward.tokens,
        policy_backward_tokens=policy_backward.tokens,
        reward_forward_tokens=reward_forward.tokens,
        reward_backward_tokens=reward_backward.tokens,
        gradient_evaluations=1,
        model_calls=calls,
        gradient_calls=calls,
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
