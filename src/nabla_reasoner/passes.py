"""∂L/∂y at hard sequences, for many sequences at once, in factors; and the forward passes that need no gradient.

A relaxed token enters a model as yᵀE, so a model's share of the gradient is kept as the gradient with respect to the
*embedding* at each position, [hidden] numbers, and E turns it into [vocab] numbers for the rows that are asked for. A
log-likelihood also has the direct part log π(·|y_<l), kept as the hidden state that yields it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import cost, relaxation
from .models import Policy, RewardModel

MAX_TOKENS = 16_384  # tokens (padding included) in one pass


class HardSequence(NamedTuple):
    """A prompt with a response whose tail is being optimised.

    Attributes:
        policy_prompt, reward_prompt: the chat prompt as each model's own template writes it.
        prefix: committed response tokens.
        rollout: the rest of the response, its end-of-turn token included when it has one; at least one token.
    """

    policy_prompt: list[int]
    reward_prompt: list[int]
    prefix: list[int]
    rollout: list[int]


class Term(NamedTuple):
    """One model's share of ∂L/∂y.

    Attributes:
        embedding: the model's embedding matrix E.
        embedding_gradient: ∂L/∂(embedding at l), one row per rollout token.
        direct_weight: factor of log π(·|y_<l) in ∂L/∂y_l; None for a classifier, which has no direct part.
        model: the language model whose log-probabilities are meant; None for a classifier.
        hidden: its hidden states that predict the rollout's tokens; None for a classifier.
    """

    embedding: Float[Tensor, "rows hidden"]
    embedding_gradient: Float[Tensor, "length hidden"]
    direct_weight: float | None = None
    model: Policy | None = None
    hidden: Float[Tensor, "length hidden"] | None = None


class Gradient(NamedTuple):
    """∂L/∂y at one hard sequence, for all rollout positions, in factors.

    Attributes:
        terms: the policy's term first, then those of the reward model.
        loss: L at the hard sequence.
        reward: r(y|x).
        log_likelihood: log π(rollout | prompt, prefix) in nats.
        confidence: largest next-token probability at each rollout position.
        entropy: entropy of the next-token distribution there, in nats.
        cost: of this evaluation.
    """

    terms: list[Term]
    loss: float
    reward: float
    log_likelihood: float
    confidence: Float[Tensor, " length"]
    entropy: Float[Tensor, " length"]
    cost: cost.Cost

    @property
    def hidden(self) -> Float[Tensor, "length hidden"]:
        """The policy's hidden states that predict the rollout (the `latents` of DTO)."""
        return self.terms[0].hidden


class Prediction(NamedTuple):
    """What the policy alone says of a rollout: one forward pass, no gradient. Fields as in `Gradient`."""

    hidden: Float[Tensor, "length hidden"]
    argmax: list[int]
    confidence: Float[Tensor, " length"]
    entropy: Float[Tensor, " length"]
    cost: cost.Cost


def precise(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """At least float32: probabilities and norms are never formed in half precision."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def evaluate(
    policy: Policy,
    reward: RewardModel,
    sequences: Sequence[HardSequence],
    *,
    reward_weight: float,
    nll_weight: float,
) -> list[Gradient]:
    """L and ∂L/∂y for every sequence: one forward and one backward pass of each model over right-padded batches."""
    results: list[Gradient | None] = [None] * len(sequences)
    for chosen in _by_tokens([_length(sequence) for sequence in sequences]):
        batch = [sequences[i] for i in chosen]
        for index, gradient in zip(
            chosen, _evaluate_batch(policy, reward, batch, reward_weight, nll_weight), strict=True
        ):
            results[index] = gradient
    return results


def _length(sequence: HardSequence) -> int:
    return max(len(sequence.policy_prompt), len(sequence.reward_prompt)) + len(sequence.prefix) + len(sequence.rollout)


def _by_tokens(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of sequences in batches of like length, each of at most MAX_TOKENS padded tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= MAX_TOKENS:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _evaluate_batch(
    policy: Policy, reward: RewardModel, batch: list[HardSequence], reward_weight: float, nll_weight: float
) -> list[Gradient]:
    prompts = [sequence.policy_prompt for sequence in batch]
    likelihoods, policy_terms, logits = _likelihood(policy, prompts, batch, -nll_weight, from_rollout=True)
    closed = [ended(sequence, reward) for sequence in batch]
    reward_terms: list[list[Term]] = [[] for _ in batch]
    if reward.kind == "classifier":
        rewards, terms = _classifier(
            reward, closed, len_rollouts=[len(s.rollout) for s in batch], weight=-reward_weight
        )
        for own, term in zip(reward_terms, terms, strict=True):
            own.append(term)
    else:
        rewards = [0.0] * len(batch)
        for model, sign in ((reward.strong, 1.0), (reward.reference, -1.0)):
            if model is None:
                continue
            values, terms, _ = _likelihood(
                model,
                [s.reward_prompt for s in batch],
                closed,
                -sign * reward_weight,
                keep=[len(s.rollout) for s in batch],
            )
            rewards = [old + sign * value for old, value in zip(rewards, values, strict=True)]
            for own, term in zip(reward_terms, terms, strict=True):
                own.append(term)
    return [
        Gradient(
            terms=[policy_terms[i], *reward_terms[i]],
            loss=-reward_weight * rewards[i] - nll_weight * likelihoods[i],
            reward=rewards[i],
            log_likelihood=likelihoods[i],
            confidence=relaxation.confidence(logits[i]),
            entropy=relaxation.entropy(logits[i]),
            cost=cost.gradient_evaluation(
                policy.parameters,
                len(sequence.policy_prompt) + len(sequence.prefix) + len(sequence.rollout),
                reward.parameters,
                len(sequence.reward_prompt) + len(closed[i].prefix) + len(closed[i].rollout) + len(reward.suffix_ids),
            ),
        )
        for i, sequence in enumerate(batch)
    ]


def ended(sequence: HardSequence, reward: RewardModel) -> HardSequence:
    """The sequence as the reward model reads it: a response cut off by the length limit is closed by its end token."""
    if sequence.rollout[-1] in reward.eos_ids:
        return sequence
    return sequence._replace(rollout=[*sequence.rollout, reward.eos_ids[0]])


def _padded(rows: list[list[int]], device: torch.device) -> Int[Tensor, "batch seq"]:
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    return ids.to(device)


def _likelihood(
    model: Policy,
    prompts: list[list[int]],
    batch: list[HardSequence],
    weight: float,
    *,
    from_rollout: bool = False,
    keep: list[int] | None = None,
) -> tuple[list[float], list[Term], list[Tensor]]:
    """log π of each response, its gradient term times `weight`, and the logits that predict the rollout's tokens.

    Args:
        from_rollout: count the rollout's tokens only (the policy's own term); otherwise the whole response.
        keep: number of rollout tokens that are optimised (a closing token added for the reward is not).
    """
    ids = _padded([prompt + s.prefix + s.rollout for prompt, s in zip(prompts, batch, strict=True)], model.device)
    starts = [len(prompt) + len(s.prefix) for prompt, s in zip(prompts, batch, strict=True)]
    first = starts if from_rollout else [len(prompt) for prompt in prompts]
    ends = [start + len(s.rollout) for start, s in zip(starts, batch, strict=True)]
    rows = torch.cat([torch.full((end - begin,), i) for i, (begin, end) in enumerate(zip(first, ends, strict=True))])
    columns = torch.cat([torch.arange(begin, end) for begin, end in zip(first, ends, strict=True)])
    with torch.enable_grad():
        embeddings = model.embedding[ids].requires_grad_()
        hidden = model.hidden_states(embeddings)[rows, columns - 1]
        logits = precise(model.logits(hidden))
        losses = torch.nn.functional.cross_entropy(logits, ids[rows, columns], reduction="none")
        (gradient,) = torch.autograd.grad(-weight * losses.sum(), embeddings)
    sizes = [end - begin for begin, end in zip(first, ends, strict=True)]
    values = [-part.sum().item() for part in losses.detach().split(sizes)]
    hidden_parts, logit_parts = hidden.detach().split(sizes), logits.detach().split(sizes)
    terms, rollout_logits = [], []
    for i, (start, begin) in enumerate(zip(starts, first, strict=True)):
        length = keep[i] if keep else len(batch[i].rollout)
        inside = slice(start - begin, start - begin + length)
        terms.append(Term(model.embedding, gradient[i, start : start + length], weight, model, hidden_parts[i][inside]))
        rollout_logits.append(logit_parts[i][inside])
    return values, terms, rollout_logits


def _classifier(
    reward: RewardModel, batch: list[HardSequence], *, len_rollouts: list[int], weight: float
) -> tuple[list[float], list[Term]]:
    texts = [s.reward_prompt + s.prefix + s.rollout + reward.suffix_ids for s in batch]
    ids = _padded(texts, reward.embedding.device)
    last = torch.tensor([len(text) - 1 for text in texts], device=ids.device)
    with torch.enable_grad():
        embeddings = reward.embedding[ids].requires_grad_()
        hidden = reward.hidden_states(embeddings)[torch.arange(len(batch), device=ids.device), last]
        scores = precise(reward.head_scores(hidden))
        (gradient,) = torch.autograd.grad(weight * scores.sum(), embeddings)
    starts = [len(s.reward_prompt) + len(s.prefix) for s in batch]
    terms = [
        Term(reward.embedding, gradient[i, start : start + length])
        for i, (start, length) in enumerate(zip(starts, len_rollouts, strict=True))
    ]
    return scores.detach().tolist(), terms


@torch.no_grad()
def predict(policy: Policy, sequences: Sequence[HardSequence]) -> list[Prediction]:
    """The policy's forward pass over each sequence: hidden states, most likely tokens, confidence and entropy."""
    lengths = [_length(sequence) for sequence in sequences]
    results: list[Prediction | None] = [None] * len(sequences)
    for chosen in _by_tokens(lengths):
        texts = [sequences[i].policy_prompt + sequences[i].prefix + sequences[i].rollout for i in chosen]
        hidden = policy.hidden_states(policy.embedding[_padded(texts, policy.device)])
        for row, (index, text) in enumerate(zip(chosen, texts, strict=True)):
            own = hidden[row, len(text) - len(sequences[index].rollout) - 1 : len(text) - 1]
            logits = precise(policy.logits(own))
            results[index] = Prediction(
                own,
                logits.argmax(-1).tolist(),
                relaxation.confidence(logits),
                relaxation.entropy(logits),
                cost.policy_forward(policy.parameters, len(text)),
            )
    return results


def onehot_gradient(gradients: Sequence[Gradient], positions: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocab"]:
    """Rows of ∂L/∂y: for each gradient the rollout positions asked for, one after the other.

    All gradients must come from the same policy and reward model; only the asked rows meet the embedding matrix.
    """
    total = None
    vocab_size = gradients[0].terms[0].model.vocab_size
    for number, kind in enumerate(gradients[0].terms):
        pick = [g.terms[number].embedding_gradient[list(p)] for g, p in zip(gradients, positions, strict=True)]
        part = precise(torch.cat(pick)) @ precise(kind.embedding[:vocab_size]).T
        if kind.model is not None:
            hidden = torch.cat([g.terms[number].hidden[list(p)] for g, p in zip(gradients, positions, strict=True)])
            log_probabilities = torch.log_softmax(precise(kind.model.logits(hidden)), -1)[:, :vocab_size]
            part = part + kind.direct_weight * log_probabilities
        total = part if total is None else total + part
    return total


@torch.no_grad()
def rewards(
    reward: RewardModel, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> tuple[list[float], list[cost.Cost]]:
    """r(y|x) of whole responses, forward passes only, with what each cost.

    Args:
        prompts: chat prompts by the reward model's template.
        responses: response ids; one without an end-of-turn token is closed by one.
    """
    batch = [ended(HardSequence([], list(p), [], list(r)), reward) for p, r in zip(prompts, responses, strict=True)]
    lengths = [len(s.reward_prompt) + len(s.rollout) + len(reward.suffix_ids) for s in batch]
    values = [0.0] * len(batch)
    for chosen in _by_tokens(lengths):
        for index, value in zip(chosen, _reward_values(reward, [batch[i] for i in chosen]), strict=True):
            values[index] = value
    return values, [cost.scoring(reward.parameters, length) for length in lengths]


def _reward_values(reward: RewardModel, batch: list[HardSequence]) -> list[float]:
    texts = [s.reward_prompt + s.rollout + reward.suffix_ids for s in batch]
    ids = _padded(texts, reward.embedding.device)
    if reward.kind == "classifier":
        last = torch.tensor([len(text) - 1 for text in texts], device=ids.device)
        hidden = reward.hidden_states(reward.embedding[ids])
        return precise(reward.head_scores(hidden[torch.arange(len(batch), device=ids.device), last])).tolist()
    values = torch.zeros(len(batch), dtype=torch.float64)
    columns = torch.cat([torch.arange(len(s.reward_prompt), len(t)) for s, t in zip(batch, texts, strict=True)])
    rows = torch.cat([torch.full((len(s.rollout),), i) for i, s in enumerate(batch)])
    for model, sign in ((reward.strong, 1.0), (reward.reference, -1.0)):
        if model is not None:
            hidden = model.hidden_states(model.embedding[ids])[rows, columns - 1]
            losses = torch.nn.functional.cross_entropy(
                precise(model.logits(hidden)), ids[rows, columns], reduction="none"
            )
            values.index_add_(0, rows, -sign * losses.double().cpu())
    return values.tolist()
