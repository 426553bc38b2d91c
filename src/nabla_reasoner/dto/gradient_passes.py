"""L and ∂L/∂y at hard sequences, batched: at most one forward and one backward pass of policy and reward model.

Keys and values of prompts and committed tokens come from a cache (`ModelCaches`); only the tokens after them are read
with gradients. A model runs backward only if a used part of ∂L/∂y needs it, and is not read at all if the hidden states
that predict the rollout are known and nothing else is needed of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..engine import batching
from ..engine.sequences import (
    ModelCaches,
    TokenSequence,
    as_read,
    likelihood_models,
    replaced_columns,
    with_end_token,
)
from ..engine.stored_prefixes import Slots
from ..models.language_models import Policy, RewardModel
from . import likelihood_passes, score_passes
from .gradients import Gradient, Term
from .likelihood_passes import LikelihoodPass, Scope
from .reward_forms import OUTCOME, PREFIX, PROCESS, TERMS, Objective

Known = Sequence[Float[Tensor, "_ _"]]  # hidden states that predict a rollout, of the policy and the reward models


class _Batch(NamedTuple):
    """Sequences that are evaluated together; fields as the arguments of `evaluate`."""

    sequences: list[TokenSequence]
    caches: ModelCaches | None
    slots: list[int]
    keep: bool
    known: list[Known]

    def hidden(self, number: int) -> list[Float[Tensor, "_ hidden"] | None]:
        """Return, by sequence, the known hidden states of the language model of this number; the policy's is 0."""
        return [states[number] if number < len(states) else None for states in self.known]


class _RewardPart(NamedTuple):
    """What the reward model says of each sequence: r of the whole response or None, reads by token or None, terms."""

    values: list[float | None]
    prefix_rewards: list[Float[Tensor, " _"]] | None
    terms: list[list[Term]]
    forward: list[cost.Reads]
    backward: list[cost.Reads]


def evaluate(
    policy: Policy,
    reward: RewardModel,
    sequences: Sequence[TokenSequence],
    *,
    reward_weight: float | int,
    nll_weight: float | int,
    terms: Sequence[str] = TERMS,
    reward_form: str = OUTCOME,
    caches: ModelCaches | None = None,
    slots: Sequence[int] = (),
    keep: bool = False,
    known: Sequence[Known] | None = None,
) -> list[Gradient]:
    """Return L and ∂L/∂y for every sequence, by passes over padded batches.

    Args:
        terms: parts of ∂L/∂y that are kept; the others are zero. L itself is not changed.
        reward_form: see `reward_forms`.
        caches: keys and values read before; those of prompt and prefix are used, and stored if missing.
        slots: cache slot of each sequence; unused without caches.
        keep: store the rollouts' keys and values too.
        known: per sequence, hidden states that predict its rollout: the policy's, then those of the models of a
            likelihood reward; later ones may be missing. Such a model is read only if a gradient flows through it, or
            if the cache lacks what the value needs.
    """
    objective = Objective(reward_weight, nll_weight, terms, reward_form)

    def evaluate_batch(indices: list[int]) -> list[Gradient]:
        batch = _Batch(
            sequences=[sequences[i] for i in indices],
            caches=caches,
            slots=[slots[i] for i in indices] if caches is not None else [],
            keep=keep,
            known=[known[i] if known is not None else () for i in indices],
        )
        return _evaluate_batch(policy, reward, batch, objective)

    lengths = [_length(sequence) for sequence in sequences]
    stores = caches.all if caches is not None else []
    return batching.run(evaluate_batch, lengths, policy.batch_limits, stores, slots)


def _length(sequence: TokenSequence) -> int:
    return max(len(sequence.policy_prompt), len(sequence.reward_prompt)) + len(sequence.prefix) + len(sequence.rollout)


def _evaluate_batch(policy: Policy, reward: RewardModel, batch: _Batch, objective: Objective) -> list[Gradient]:
    policy_pass = _policy_pass(policy, batch, objective)
    part = (_score_part if reward.has_score_head else _likelihood_part)(reward, batch, objective)
    results, replaced = [], replaced_columns(reward, policy.vocab_size)
    for i, sequence in enumerate(batch.sequences):
        value, prefix_rewards = part.values[i], None
        if part.prefix_rewards is not None:
            prefix_rewards = part.prefix_rewards[i]
        minimised = value if prefix_rewards is None else prefix_rewards.sum().item()
        scored = [term._replace(replaced=replaced) for term in part.terms[i]]
        # an end token that was added for the reward is not optimised
        terms = [term.part(slice(len(sequence.rollout))) for term in [policy_pass.terms[i], *scored]]
        results.append(
            Gradient(
                terms=terms,
                loss=-objective.reward_weight * minimised - objective.nll_weight * policy_pass.values[i],
                reward=value,
                log_probabilities=policy_pass.log_probabilities[i],
                nll_weight=objective.nll_weight,
                cost=cost.gradient_evaluation(
                    policy.size,
                    policy_pass.forward[i],
                    policy_pass.backward[i],
                    reward.size,
                    part.forward[i],
                    part.backward[i],
                ),
                reward_weight=objective.reward_weight,
                prefix_rewards=prefix_rewards,
            )
        )
    return results


def _policy_pass(policy: Policy, batch: _Batch, objective: Objective) -> LikelihoodPass:
    prompts = [sequence.policy_prompt for sequence in batch.sequences]
    store = Slots(batch.caches and batch.caches.policy, batch.slots, batch.keep)
    scope = Scope(
        whole=False, weight=-objective.nll_weight, direct=objective.uses("prefix"), backward=objective.policy_backward
    )
    return likelihood_passes.log_likelihoods(policy, prompts, batch.sequences, scope, store, batch.hidden(0))


def _likelihood_part(reward: RewardModel, batch: _Batch, objective: Objective) -> _RewardPart:
    """Evaluate a likelihood reward: r(y) and its gradient, or Σ_l r(y_≤l) and the process or prefix form's."""
    form, sequences = objective.reward_form, batch.sequences
    prompts = [sequence.reward_prompt for sequence in sequences]
    as_scored = as_read if form == PREFIX else with_end_token
    ended = [as_scored(sequence, reward) for sequence in sequences]
    counts = None
    if form == PROCESS:  # a token's log-probability is counted by every read from its own on
        counts = [
            [*range(len(s.rollout), 0, -1), *[0] * (len(e.rollout) - len(s.rollout))]
            for s, e in zip(sequences, ended, strict=True)
        ]
    uses_own, uses_later = objective.uses("reward_prefix"), objective.uses("reward_postfix")
    passes = []
    for number, (model, sign, cache) in enumerate(likelihood_models(reward, batch.caches)):
        scope = Scope(
            whole=True,
            weight=-sign * objective.reward_weight,
            direct=uses_own or (uses_later and form == PROCESS),
            backward=uses_later,
            counts=counts,
            own_reads=uses_own,
            later_reads=uses_later,
        )
        store = Slots(cache, batch.slots, batch.keep)
        known = batch.hidden(number + 1) if form == PREFIX else [None] * len(sequences)
        passes.append((sign, likelihood_passes.log_likelihoods(model, prompts, ended, scope, store, known)))
    values = [sum(sign * scored.values[i] for sign, scored in passes) for i in range(len(sequences))]
    prefix_rewards = None
    if form != OUTCOME:
        prefix_rewards = [
            sum(sign * scored.prefix_values(i, len(sequence.rollout)) for sign, scored in passes)
            for i, sequence in enumerate(sequences)
        ]
    first = passes[0][1]
    return _RewardPart(
        values=[None] * len(sequences) if form == PREFIX else values,
        prefix_rewards=prefix_rewards,
        terms=[[scored.terms[i] for _, scored in passes] for i in range(len(sequences))],
        forward=first.forward,
        backward=first.backward,
    )


def _score_part(reward: RewardModel, batch: _Batch, objective: Objective) -> _RewardPart:
    """Evaluate a score head: at the end of the closed responses, at every rollout token, or both."""
    store = Slots(batch.caches and batch.caches.scorer, batch.slots, batch.keep)
    weight, form = -objective.reward_weight, objective.reward_form
    uses_own, uses_later = objective.uses("reward_prefix"), objective.uses("reward_postfix")
    if form == OUTCOME:
        whole = score_passes.whole_responses(
            reward, batch.sequences, weight, store, backward=uses_later, every_token=False
        )
        return _from_scores(reward, whole)
    if form == PROCESS and uses_own == uses_later:
        whole = score_passes.whole_responses(
            reward, batch.sequences, weight, store, backward=uses_own, every_token=True
        )
        return _from_scores(reward, whole)
    tokens = score_passes.own_tokens(reward, batch.sequences, weight, store, backward=uses_own or uses_later)
    if not uses_later:
        return _from_scores(reward, tokens)
    whole = score_passes.whole_responses(reward, batch.sequences, weight, store, backward=True, every_token=True)
    rest = whole._replace(
        embedding_gradients=[
            all_reads - own_read
            for all_reads, own_read in zip(whole.embedding_gradients, tokens.embedding_gradients, strict=True)
        ],
        forward=[a + b for a, b in zip(whole.forward, tokens.forward, strict=True)],
        backward=[a + b for a, b in zip(whole.backward, tokens.backward, strict=True)],
    )
    return _from_scores(reward, rest)


def _from_scores(reward: RewardModel, scored: score_passes.ScorePass) -> _RewardPart:
    terms = [[Term(reward.embedding, gradient)] for gradient in scored.embedding_gradients]
    return _RewardPart(scored.values, scored.prefix_rewards, terms, scored.forward, scored.backward)
