"""Losses: cross-entropy of responses, group-relative advantages (GRPO), and the clipped ratio (PPO).

Pure functions of tensors. Rows are responses; `mask` is True at a response's own tokens.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..engine.numerics import at_least_float32
from .data import Padded

NORMALISATIONS = ("sequence", "token", "length")
EPSILON = 1e-4  # added to a group's standard deviation; the value of TRL


def group_advantages(
    rewards: Float[Tensor, "groups samples"], *, scale: bool = True
) -> Float[Tensor, "groups samples"]:
    """Return the advantages of responses to one prompt: (r - mean) / (std + ε) (GRPO, arXiv 2402.03300).

    A response whose reward is not finite (its grading failed) gets advantage 0 and does not enter its group's mean. A
    group in which all rewards agree, or fewer than two are known, gets 0 throughout.

    Args:
        rewards: one row per prompt.
        scale: divide by the group's standard deviation; False keeps the plain difference (Dr. GRPO).

    Raises:
        ValueError: fewer than two samples per group.
    """
    if rewards.shape[1] < 2:
        raise ValueError(f"group_size must be >= 2; got {rewards.shape[1]}. Advantages compare answers to one prompt.")
    known = rewards.isfinite()
    count = known.sum(1, keepdim=True)
    values = rewards.masked_fill(~known, 0)
    centred = (values - values.sum(1, keepdim=True) / count.clamp(min=1)).masked_fill(~known | (count < 2), 0)
    if not scale:
        return centred
    deviation = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centred / (deviation + EPSILON)


def clipped_objective(
    log_probabilities: Float[Tensor, "batch seq"],
    old_log_probabilities: Float[Tensor, "batch seq"],
    advantages: Float[Tensor, " batch"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Float[Tensor, "batch seq"]:
    """Return min(ρ A, clip(ρ, 1 - low, 1 + high) A) per token, with ρ = π/π_old (PPO, arXiv 1707.06347).

    Args:
        log_probabilities: log π(y_l|y_<l, x) in nats, with gradient.
        old_log_probabilities: the same under the policy that sampled the responses, without gradient.
        advantages: one per response, shared by its tokens.
        clip_low, clip_high: >= 0; unequal values are DAPO's "clip higher" (arXiv 2503.14476).
    """
    ratio = (log_probabilities - old_log_probabilities).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])


def reference_divergence(
    log_probabilities: Float[Tensor, "batch seq"], reference_log_probabilities: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Return GRPO's estimate e^d - d - 1 >= 0 of KL(π‖π_ref) per token, with d = log π_ref - log π.

    Its expectation is the divergence, but its gradient on-policy is that of KL(π_ref‖π). GRPO with this estimate
    therefore does not converge to π_ref e^{r/β} (`ppo`).
    """
    difference = reference_log_probabilities - log_probabilities
    return difference.exp() - difference - 1


def check_normalisation(normalisation: str) -> None:
    """Raise ValueError on an unknown normalisation."""
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation must be one of {', '.join(NORMALISATIONS)}; got {normalisation!r}.")


def average_tokens(
    values: Float[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"], *, normalisation: str, max_length: int
) -> Float[Tensor, ""]:
    """Return per-token values averaged to one number.

    Args:
        normalisation: "sequence": mean over each response's tokens, then over responses (GRPO: a token of a short
            response weighs more). "token": mean over all tokens of the batch (DAPO). "length": sum over tokens divided
            by (responses x `max_length`), independent of the responses' own lengths (Dr. GRPO, arXiv 2503.20783).
        max_length: length limit of a response.

    Raises:
        ValueError: an unknown normalisation.
    """
    check_normalisation(normalisation)
    values = values.masked_fill(~mask, 0)
    if normalisation == "sequence":
        return (values.sum(1) / mask.sum(1).clamp(min=1)).mean()
    return values.sum() / (mask.sum().clamp(min=1) if normalisation == "token" else len(values) * max_length)


def policy_loss(
    log_probabilities: Float[Tensor, "batch seq"],
    old_log_probabilities: Float[Tensor, "batch seq"],
    advantages: Float[Tensor, " batch"],
    mask: Bool[Tensor, "batch seq"],
    *,
    reference_log_probabilities: Float[Tensor, "batch seq"] | None = None,
    kl_weight: float = 0.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    normalisation: str = "sequence",
    max_length: int,
) -> Float[Tensor, ""]:
    """Return the loss of GRPO, or of PPO if the advantages are another estimate.

    Args:
        log_probabilities, old_log_probabilities, advantages, clip_low, clip_high: see `clipped_objective`.
        mask: True at a response's tokens.
        reference_log_probabilities: log π_ref; needed if `kl_weight` > 0.
        kl_weight: β >= 0, the weight of KL(π‖π_ref).
        normalisation, max_length: see `average_tokens`.

    Raises:
        ValueError: a KL weight without a reference policy, or an unknown normalisation.
    """
    loss = -clipped_objective(
        log_probabilities, old_log_probabilities, advantages, clip_low=clip_low, clip_high=clip_high
    )
    if kl_weight > 0:
        if reference_log_probabilities is None:
            raise ValueError(f"kl_weight {kl_weight} needs a reference policy; got none. Give one, or kl_weight=0.")
        loss = loss + kl_weight * reference_divergence(log_probabilities, reference_log_probabilities)
    return average_tokens(loss, mask, normalisation=normalisation, max_length=max_length)


def next_token_loss(model: torch.nn.Module, blocks: Sequence[Padded], vocab_size: int) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the response tokens under a causal LM, in nats.

    Args:
        vocab_size: number of token ids; further rows of the output matrix are padding and take no probability.
    """
    losses = []
    count = 0
    for block in blocks:
        hidden = model.base_model(input_ids=block.ids, use_cache=False).last_hidden_state[:, :-1]
        is_target = block.is_response[:, 1:]  # only these positions go through the output matrix
        logits = at_least_float32(model.get_output_embeddings()(hidden[is_target])[:, :vocab_size])
        losses.append(functional.cross_entropy(logits, block.ids[:, 1:][is_target], reduction="sum"))
        count += int(is_target.sum())
    return torch.stack(losses).sum() / count


def response_log_probabilities(
    model: torch.nn.Module, block: Padded, vocab_size: int, temperature: float = 1.0
) -> Float[Tensor, "batch seq"]:
    """Return log π(y_l|y_<l, x) in nats at every response token, 0 elsewhere.

    Args:
        vocab_size: as in `next_token_loss`.
        temperature: sampling temperature of the responses, > 0.
    """
    hidden = model.base_model(input_ids=block.ids, use_cache=False).last_hidden_state[:, :-1]
    is_target = block.is_response[:, 1:]
    logits = at_least_float32(model.get_output_embeddings()(hidden[is_target])[:, :vocab_size]) / temperature
    log_probabilities = torch.log_softmax(logits, -1).gather(1, block.ids[:, 1:][is_target][:, None])[:, 0]
    rows, positions = is_target.nonzero(as_tuple=True)
    return log_probabilities.new_zeros(block.ids.shape).index_put((rows, positions + 1), log_probabilities)
