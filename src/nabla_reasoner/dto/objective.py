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
from ..engine.sampling import check_choice
from ..engine.sequences import TokenSequence, replaced_columns, with_end_token
from ..models.arguments import TokenIds, check_chats, check_kinds, check_lengths, check_models, checked_ids
from ..models.frozen import frozen
from ..models.language_models import Policy, RewardModel
from ..types import Messages
from . import gradient_passes, gradients
from .reward_forms import OUTCOME, REWARD_FORMS, TERMS, used_terms


class GradientTerms(NamedTuple):
    """Terms of ∂L/∂y, weights included; their sum is autograd's gradient. Each is [length, vocab]."""

    prefix: Float[Tensor, "length vocab"]
    postfix: Float[Tensor, "length vocab"]
    reward: Float[Tensor, "length vocab"]


def check_weights(reward_weight: object, nll_weight: object) -> None:
    """Raise ValueError for a negative weight, NaN, infinity, or what is no number."""
    weights = {"reward_weight (λ)": reward_weight, "nll_weight": nll_weight}
    check_kinds(weights, dict.fromkeys(weights, float))
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
    reward = reward.for_policy(policy)
    if not rollout:
        raise ValueError("a rollout must hold at least one token; got none. Sample one from the prefix first.")
    sequence = TokenSequence(policy.prompt_ids(messages), reward.prompt_ids(messages), list(prefix), list(rollout))
    policy.check_length(len(sequence.policy_prompt), len(prefix) + len(rollout))
    reward.check_length(len(sequence.reward_prompt), len(prefix) + len(rollout))
    return sequence


def make_sequences(
    policy: Policy,
    reward: RewardModel,
    prompts: Sequence[Messages],
    prefix_ids: Sequence[TokenIds],
    rollout_ids: Sequence[TokenIds],
) -> list[TokenSequence]:
    """Check what a user gives for a batch of sequences, and tokenise its chats.

    Raises:
        TypeError: models of another class or in another order.
        ValueError: lists of different lengths, a prompt that is no chat, tokens outside the policy's vocabulary, or as
            `make_sequence`.
    """
    check_models(policy, reward)
    check_chats(prompts)
    check_lengths(prompts=prompts, prefix_ids=prefix_ids, rollout_ids=rollout_ids)
    prefixes = [checked_ids("prefix_ids", ids, policy) for ids in prefix_ids]
    rollouts = [checked_ids("rollout_ids", ids, policy) for ids in rollout_ids]
    return [
        make_sequence(policy, reward, messages, prefix, rollout)
        for messages, prefix, rollout in zip(prompts, prefixes, rollouts, strict=True)
    ]


def relaxed_objective(
    policy: Policy,
    reward: RewardModel,
    sequence: TokenSequence,
    onehots: Float[Tensor, "length vocab"],
    *,
    reward_weight: float | int,
    nll_weight: float | int,
    terms: Sequence[str] = TERMS,
    reward_form: str = OUTCOME,
) -> Float[Tensor, ""]:
    """Return L as a differentiable function of relaxed tokens: the definition, for one sequence.

    Every token enters both models as yᵀE by a dense product. `gradient_passes.evaluate` is tested against it, and the
    reference engine optimises it. In the prefix form the value is that of the process form, and what autograd computes
    is the own term alone (see `reward_forms`).

    Args:
        onehots: y of the rollout's tokens, rows on (or, for finite differences, near) the simplex.
        terms: parts of ∂L/∂y that autograd computes; the value of L does not depend on it.
    """
    value, likelihood = relaxed_values(policy, reward, sequence, onehots, terms=terms, reward_form=reward_form)
    return -reward_weight * value - nll_weight * likelihood


def relaxed_values(
    policy: Policy,
    reward: RewardModel,
    sequence: TokenSequence,
    onehots: Float[Tensor, "length vocab"],
    *,
    terms: Sequence[str] = TERMS,
    reward_form: str = OUTCOME,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return r and log π of relaxed tokens, of which `relaxed_objective` is the weighted sum; arguments as there."""
    terms = used_terms(terms, reward_form)
    fixed = sequence.policy_prompt + sequence.prefix
    likelihood = _relaxed_log_likelihood(
        policy, fixed, onehots, len(fixed), context="postfix" in terms, targets="prefix" in terms
    )
    read = _as_read(onehots, reward)  # on the reward's device
    if reward_form == OUTCOME:
        end = with_end_token(sequence, reward).rollout[len(sequence.rollout) :]
        direct, through_context = "reward_prefix" in terms, "reward_postfix" in terms
        value = _relaxed_reward(reward, sequence, read, end, targets=direct, context=through_context)
    else:
        value = sum(_relaxed_prefix_reward(reward, sequence, read[: last + 1], terms) for last in range(len(read)))
    return value.to(likelihood.device), likelihood


def _as_read(onehots: Float[Tensor, "length vocab"], reward: RewardModel) -> Float[Tensor, "length vocab"]:
    """Return the tokens as the reward model reads them, on its device and in its precision.

    The share of a policy's end token is that of the reward model's own end token.
    """
    onehots = onehots.to(reward.embedding)
    if (replaced := replaced_columns(reward, onehots.shape[1])) is None:
        return onehots
    ids, target = replaced
    columns = torch.tensor(ids, device=onehots.device)
    moved = onehots.index_add(1, torch.full_like(columns, target), onehots[:, ids])
    return moved.index_fill(1, columns, 0)


def prefix_reward(policy: Policy, reward: RewardModel, sequence: TokenSequence) -> float:
    """Return r(y_≤l|x) at the last token of a sequence, by one plain forward pass."""
    onehots = torch.nn.functional.one_hot(torch.tensor(sequence.rollout, device=policy.device), policy.vocab_size)
    with torch.no_grad():
        read = _as_read(onehots.to(policy.embedding), reward)
        return _relaxed_prefix_reward(reward, sequence, read, ()).item()


def _relaxed_prefix_reward(
    reward: RewardModel, sequence: TokenSequence, onehots: Float[Tensor, "length vocab"], terms: Sequence[str]
) -> Float[Tensor, ""]:
    """Return r(y_≤l|x) at the last of these relaxed tokens, without any token that closes the response.

    Args:
        terms: "reward_prefix" lets the gradient flow to token l, "reward_postfix" to the tokens before it.
    """
    earlier, last = onehots[:-1], onehots[-1:]
    earlier = earlier if "reward_postfix" in terms else earlier.detach()
    last = last if "reward_prefix" in terms else last.detach()
    tokens = torch.cat([earlier, last])
    if reward.has_score_head:
        before = reward.embedding[torch.tensor(sequence.reward_prompt + sequence.prefix, device=tokens.device)]
        embeddings = torch.cat([before, tokens @ reward.embedding[: tokens.shape[1]]])
        return reward.head_scores(reward.hidden_states(embeddings[None])[:, -1])[0]
    return _relaxed_reward(reward, sequence, tokens, [], context=True, targets=True)


def _relaxed_reward(
    reward: RewardModel,
    sequence: TokenSequence,
    onehots: Float[Tensor, "length vocab"],
    end: list[int],
    *,
    context: bool,
    targets: bool,
) -> Float[Tensor, ""]:
    """Return r of a response that these tokens and `end` complete.

    Args:
        context, targets: as in `_relaxed_log_likelihood`; a score head reads every token as context.
    """
    vocab_size = onehots.shape[1]
    if reward.has_score_head:
        before = reward.embedding[torch.tensor(sequence.reward_prompt + sequence.prefix, device=onehots.device)]
        after = reward.embedding[torch.tensor(end + reward.suffix_ids, dtype=torch.long, device=onehots.device)]
        scored = onehots if context else onehots.detach()
        embeddings = torch.cat([before, scored @ reward.embedding[:vocab_size], after])
        return reward.head_scores(reward.hidden_states(embeddings[None])[:, -1])[0]
    fixed, first = sequence.reward_prompt + sequence.prefix, len(sequence.reward_prompt)
    value = _relaxed_log_likelihood(reward.strong, fixed, onehots, first, end, context=context, targets=targets)
    if reward.reference is not None:
        value = value - _relaxed_log_likelihood(
            reward.reference, fixed, onehots, first, end, context=context, targets=targets
        )
    return value


def _relaxed_log_likelihood(
    model: Policy,
    fixed: list[int],
    onehots: Float[Tensor, "length vocab"],
    first: int,
    end: Sequence[int] = (),
    *,
    context: bool,
    targets: bool,
) -> Float[Tensor, ""]:
    """Return log π of all tokens from index `first` on, in nats.

    Args:
        fixed: prompt and committed tokens.
        end: tokens after the relaxed ones.
        context, targets: whether the gradient flows to a token as one that others follow, and as one that is predicted.
    """
    vocab_size = onehots.shape[1]

    def relaxed(ids: Sequence[int]) -> Tensor:
        indices = torch.tensor(ids, dtype=torch.long, device=onehots.device)
        return torch.nn.functional.one_hot(indices, vocab_size).to(onehots)

    tokens = torch.cat([relaxed(fixed), onehots, relaxed(end)])
    embedded = (tokens if context else tokens.detach()) @ model.embedding[:vocab_size]
    hidden = model.hidden_states(embedded[None])[0]
    log_probabilities = torch.log_softmax(model.logits(hidden), -1)[:, :vocab_size]
    return (log_probabilities[first - 1 : -1] * (tokens if targets else tokens.detach())[first:]).sum()


def gradient_terms(
    policy: Policy,
    reward: RewardModel,
    prompts: Sequence[Messages],
    prefix_ids: Sequence[TokenIds],
    rollout_ids: Sequence[TokenIds],
    *,
    reward_weight: float | int = 1.0,
    nll_weight: float | int = 0.001,
    reward_form: str = OUTCOME,
) -> list[GradientTerms]:
    """Return δ_prefix, δ_postfix and δ_reward at every rollout position of every sequence (dense, for analysis).

    δ_reward is that of the reward form; in the prefix form δ_postfix is zero (see `reward_forms`).

    Raises:
        TypeError, ValueError: a weight below 0, an unknown form, or as `make_sequences`.
    """
    check_weights(reward_weight, nll_weight)
    check_choice("reward_form", reward_form, REWARD_FORMS)
    sequences = make_sequences(policy, reward, prompts, prefix_ids, rollout_ids)
    reward = reward.for_policy(policy)
    weights = {"reward_weight": reward_weight, "nll_weight": nll_weight, "reward_form": reward_form}
    results = []
    with frozen(policy, reward):
        evaluated = gradient_passes.evaluate(policy, reward, sequences, **weights)
    for gradient in evaluated:
        total = gradients.onehot_gradient([gradient], [range(len(gradient.hidden))])
        term = gradient.terms[0]
        prefix = term.direct_weight * torch.log_softmax(at_least_float32(policy.logits(term.hidden)), -1)
        postfix = torch.zeros_like(prefix)
        if term.embedding_gradient is not None:
            embedding = at_least_float32(policy.embedding[: policy.vocab_size])
            postfix = at_least_float32(term.embedding_gradient) @ embedding.T
        results.append(GradientTerms(prefix, postfix, total - prefix - postfix))
    return results
