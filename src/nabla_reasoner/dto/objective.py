"""Objective L(y) = -λ r(y|x) - ν log π(y|x) (Eq. 2) on relaxed tokens, and the three terms of its gradient.

    ∂L/∂y_l = δ_prefix + δ_postfix + δ_reward            (Section 4, Prop. C.1, arXiv 2603.04948)
    δ_prefix   -ν log π(·|y_<l, x)                likelihood of token l given the tokens before it
    δ_postfix  -ν Σ_{i>l} ∂ log π(y_i|y_<i)/∂y_l  effect of token l on the tokens after it; 0 at the last token
    δ_reward   -λ ∂r/∂y_l                         reward

Weights: `reward_weight` is λ and `nll_weight` is ν, which the paper sets to 1; the released code uses 1.0 and 0.001.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine.numerics import at_least_float32
from ..engine.sampling import check_finite
from ..engine.sequences import TokenSequence, replaced_columns, with_end_token
from ..models.language_models import Policy, RewardModel
from ..types import Messages
from . import gradient_passes, gradients
from .gradients import TERMS


class GradientTerms(NamedTuple):
    """Terms of ∂L/∂y, weights included; their sum is autograd's gradient. Each is [length, vocab]."""

    prefix: Float[Tensor, "length vocab"]
    postfix: Float[Tensor, "length vocab"]
    reward: Float[Tensor, "length vocab"]


def check_weights(reward_weight: float, nll_weight: float) -> None:
    """Raise ValueError for a negative weight, NaN or infinity."""
    weights = {"reward_weight (λ)": reward_weight, "nll_weight": nll_weight}
    check_finite(weights)
    for name, value in weights.items():
        if value < 0:
            raise ValueError(f"{name} must be >= 0; got {value}. The released pair is 1.0 and 0.001.")


def make_sequence(
    policy: Policy, reward: RewardModel, messages: Messages, prefix: Sequence[int], rollout: Sequence[int]
) -> TokenSequence:
    """Tokenise one chat with the templates of both models.

    Raises:
        ValueError: empty rollout, vocabularies that differ, or a text beyond the context of a model.
    """
    reward.check_vocabulary(policy)
    if not rollout:
        raise ValueError("a rollout must hold at least one token; got none. Sample one from the prefix first.")
    sequence = TokenSequence(policy.prompt_ids(messages), reward.prompt_ids(messages), list(prefix), list(rollout))
    policy.check_length(len(sequence.policy_prompt), len(prefix) + len(rollout))
    reward.check_length(len(sequence.reward_prompt), len(prefix) + len(rollout))
    return sequence


def relaxed_objective(
    policy: Policy,
    reward: RewardModel,
    sequence: TokenSequence,
    onehots: Float[Tensor, "length vocab"],
    *,
    reward_weight: float,
    nll_weight: float,
    terms: Sequence[str] = TERMS,
) -> Float[Tensor, ""]:
    """Return L as a differentiable function of relaxed tokens: the definition, for one sequence.

    Every token enters both models as yᵀE by a dense product. `gradient_passes.evaluate` is tested against it, and the
    reference engine optimises it.

    Args:
        onehots: y of the rollout's tokens, rows on (or, for finite differences, near) the simplex.
        terms: parts of ∂L/∂y that autograd computes; the value of L does not depend on it.
    """
    end_token = with_end_token(sequence, reward).rollout[len(sequence.rollout) :]

    def relaxed_log_likelihood(model: Policy, prompt: list[int], first: int, part: str = "reward_") -> Tensor:
        fixed = torch.nn.functional.one_hot(torch.tensor(prompt + sequence.prefix), policy.vocab_size).to(onehots)
        added = torch.tensor(end_token if model is not policy else [], dtype=torch.long)
        relaxed = onehots if model is policy else _as_read(onehots, reward)
        tokens = torch.cat([fixed, relaxed, torch.nn.functional.one_hot(added, policy.vocab_size).to(onehots)])
        context = tokens if f"{part}postfix" in terms else tokens.detach()
        targets = tokens if f"{part}prefix" in terms else tokens.detach()
        hidden = model.hidden_states((context @ model.embedding[: policy.vocab_size])[None])[0]
        log_probabilities = torch.log_softmax(model.logits(hidden), -1)[:, : policy.vocab_size]
        return (log_probabilities[first - 1 : -1] * targets[first:]).sum()

    start = len(sequence.policy_prompt) + len(sequence.prefix)
    likelihood = relaxed_log_likelihood(policy, sequence.policy_prompt, start, "")
    if reward.kind == "classifier":
        before = reward.embedding[torch.tensor(sequence.reward_prompt + sequence.prefix)]
        after = reward.embedding[torch.tensor(end_token + reward.suffix_ids, dtype=torch.long)]
        scored = _as_read(onehots if "reward_postfix" in terms else onehots.detach(), reward)
        embeddings = torch.cat([before, scored @ reward.embedding[: policy.vocab_size], after])
        value = reward.head_scores(reward.hidden_states(embeddings[None])[:, -1])[0]
    else:
        value = relaxed_log_likelihood(reward.strong, sequence.reward_prompt, len(sequence.reward_prompt))
        if reward.reference is not None:
            value = value - relaxed_log_likelihood(
                reward.reference, sequence.reward_prompt, len(sequence.reward_prompt)
            )
    return -reward_weight * value - nll_weight * likelihood


def _as_read(onehots: Float[Tensor, "length vocab"], reward: RewardModel) -> Float[Tensor, "length vocab"]:
    """Return the tokens as the reward model reads them: the share of a policy's end token is its own end token's."""
    if (replaced := replaced_columns(reward, onehots.shape[1])) is None:
        return onehots
    ids, target = replaced
    moved = onehots.index_add(1, torch.tensor([target] * len(ids)), onehots[:, ids])
    return moved.index_fill(1, torch.tensor(ids), 0)


def gradient_terms(
    policy: Policy,
    reward: RewardModel,
    prompts: Sequence[Messages],
    prefix_ids: Sequence[Sequence[int]],
    rollout_ids: Sequence[Sequence[int]],
    *,
    reward_weight: float = 1.0,
    nll_weight: float = 0.001,
) -> list[GradientTerms]:
    """Return δ_prefix, δ_postfix and δ_reward at every rollout position of every sequence (dense, for analysis)."""
    check_weights(reward_weight, nll_weight)
    sequences = [
        make_sequence(policy, reward, messages, prefix, rollout)
        for messages, prefix, rollout in zip(prompts, prefix_ids, rollout_ids, strict=True)
    ]
    weights = {"reward_weight": reward_weight, "nll_weight": nll_weight}
    results = []
    for gradient in gradient_passes.evaluate(policy, reward, sequences, **weights):
        total = gradients.onehot_gradient([gradient], [range(len(gradient.hidden))])
        term = gradient.terms[0]
        prefix = term.direct_weight * torch.log_softmax(at_least_float32(policy.logits(term.hidden)), -1)
        postfix = at_least_float32(term.embedding_gradient) @ at_least_float32(policy.embedding[: policy.vocab_size]).T
        results.append(GradientTerms(prefix, postfix, total - prefix - postfix))
    return results
