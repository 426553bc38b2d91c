"""Two tokens of an actual response: L at every pair, chance draws of the policy, and DTO's path (Figure 1).

Everything else of the response stays as it was sampled, so that the space is small enough to be searched in full: the
best pair is known, and so is the exact chance that a draw hits it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..dto import gradient_passes, gradients, objective, straight_through
from ..dto.settings import DTOSettings
from ..engine import generation, numerics, scoring
from ..engine.sampling import Sampling, filtered_probabilities, keyed_uniforms
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from ..types import Problem


class Pair(NamedTuple):
    """A response with two positions that may change.

    Attributes:
        problem: what was asked.
        sequence: the whole response as the rollout; no prefix.
        positions: of the two tokens, ascending.
    """

    problem: Problem
    sequence: TokenSequence
    positions: tuple[int, int]

    @property
    def tokens(self) -> tuple[int, int]:
        """The response's own tokens there."""
        first, second = (self.sequence.rollout[position] for position in self.positions)
        return first, second

    def with_tokens(self, first: int, second: int) -> list[int]:
        """The response with other tokens there."""
        response = list(self.sequence.rollout)
        response[self.positions[0]], response[self.positions[1]] = first, second
        return response


def first_rollouts(
    problems: Sequence[Problem], policy: Policy, method: Any, seed: int
) -> list[tuple[list[int], generation.TokenPredictions]]:
    """The rollouts that ∇-Reasoner begins with (same draws), with the policy's predictions along them."""
    drawn = generation.sample(
        policy,
        [policy.prompt_ids(problem.messages) for problem in problems],
        [keyed_uniforms(seed, problem.id, 0, "rollout 0", method.max_new_tokens) for problem in problems],
        method.rollout_sampling,
        [method.max_new_tokens] * len(problems),
        predictions=True,
    )
    return [(rollout.token_ids, rollout.predictions) for rollout in drawn]


def find(
    problems: Sequence[Problem], policy: Policy, reward: RewardModel, method: Any, seed: int
) -> tuple[list[Pair], list[int]]:
    """One pair per problem: the two tokens of its first rollout that the policy was least sure of.

    Problems are left out whose rollout did not end, or has fewer than two tokens that pass the confidence gate; the end
    token is never one of the two.

    Returns:
        The pairs, and the alphabet: ids of all tokens that occur in the rollouts, end tokens left out.
    """
    drawn, found = first_rollouts(problems, policy, method, seed), []
    alphabet = sorted({token for tokens, _ in drawn for token in tokens} - set(policy.eos_ids))
    for problem, (tokens, states) in zip(problems, drawn, strict=True):
        confidence = states.confidence[: len(tokens) - 1]
        unsure = (confidence <= method.confidence_threshold).nonzero()[:, 0].tolist()
        if tokens[-1] not in policy.eos_ids or len(unsure) < 2:
            continue
        first, second = sorted(sorted(unsure, key=lambda position: confidence[position].item())[:2])
        sequence = objective.make_sequence(policy, reward, problem.messages, [], tokens)
        found.append(Pair(problem, sequence, (first, second)))
    return found, alphabet


def losses(
    pair: Pair, policy: Policy, reward: RewardModel, alphabet: Sequence[int], *, reward_weight: float, nll_weight: float
) -> Float[np.ndarray, "first second"]:
    """L = -λ r - ν log π, in nats, at every pair of tokens of the alphabet."""
    responses = [pair.with_tokens(first, second) for first in alphabet for second in alphabet]
    own = RewardModel(policy.model, policy.tokenizer, policy.name, "likelihood")  # log π is read as a reward is
    values, _ = scoring.rewards(reward, [pair.sequence.reward_prompt] * len(responses), responses)
    likelihoods, _ = scoring.rewards(own, [pair.sequence.policy_prompt] * len(responses), responses, close=False)
    total = -reward_weight * np.array(values) - nll_weight * np.array(likelihoods)
    return total.reshape(len(alphabet), len(alphabet))


@torch.no_grad()
def chances(
    pair: Pair, policy: Policy, alphabet: Sequence[int], sampling: Sampling
) -> Float[np.ndarray, "first second"]:
    """The policy's probability of each pair: the first token, then the second behind the text that holds the first.

    They add up to less than 1 by what lies outside the alphabet.
    """
    texts = [pair.sequence.policy_prompt + pair.with_tokens(token, pair.tokens[1]) for token in alphabet]
    hidden = policy.hidden_states(policy.embedding[torch.tensor(texts, device=policy.device)])
    start = len(pair.sequence.policy_prompt) - 1
    first, second = (numerics.at_least_float32(policy.logits(hidden[:, start + place])) for place in pair.positions)
    by_first = filtered_probabilities(first[:1], sampling)[0, list(alphabet)]
    by_second = filtered_probabilities(second, sampling)[:, list(alphabet)]
    return (by_first[:, None] * by_second).double().numpy()


class Step(NamedTuple):
    """One point of a descent.

    Attributes:
        logits: of the two rows.
        tokens: the hard tokens there.
        loss: L at the hard response with these tokens.
    """

    logits: Float[Tensor, "2 vocab"]
    tokens: tuple[int, int]
    loss: float


def descend(
    pair: Pair, policy: Policy, reward: RewardModel, descent: DTOSettings, moving: Sequence[int], **weights: float
) -> list[Step]:
    """DTO (Alg. 2 and 4) with every step kept; the same numbers as `dto.descend`, which keeps the last.

    Args:
        moving: which of the two rows move: (0, 1) both together, (0,) or (1,) one of them.

    Returns:
        T + 1 points, the rollout's own logits first.
    """
    known: dict[tuple[int, int], gradients.Gradient] = {}

    def look(tokens: tuple[int, int]) -> gradients.Gradient:
        if tokens not in known:
            sequence = pair.sequence._replace(rollout=pair.with_tokens(*tokens))
            (known[tokens],) = gradient_passes.evaluate(policy, reward, [sequence], **weights)
        return known[tokens]

    places = list(pair.positions)
    value = numerics.at_least_float32(policy.logits(look(pair.tokens).hidden[places])).clone()
    first, sampled = value.argmax(-1), torch.tensor(pair.tokens, device=value.device)
    value.requires_grad_()
    fixed = [row for row in (0, 1) if row not in moving]
    adam, path = torch.optim.Adam([value], lr=descent.step_size), []
    for iteration in range(descent.num_iterations + 1):
        best = value.detach().argmax(-1)
        one, other = torch.where(best == first, sampled, best).tolist()
        path.append(Step(value.detach().clone(), (one, other), look((one, other)).loss))
        if iteration < descent.num_iterations:
            rows = gradients.onehot_gradient([look((one, other))], [places])
            value.grad = straight_through.logits_gradient(value.detach(), rows, temperature=descent.ste_temperature)
            value.grad[fixed] = 0
            adam.param_groups[0]["lr"] = descent.step(iteration)
            adam.step()
    return path


def one_by_one(pair: Pair, policy: Policy, reward: RewardModel, descent: DTOSettings, **weights: float) -> Step:
    """DTO on the first row, then on the second, each new token kept where it lowers L; the rest stays as it is.

    The decoding loop in miniature, with the most likely token for a draw and no new rollout behind an accepted one.
    """
    for moving in (0, 1):
        path = descend(pair, policy, reward, descent, (moving,), **weights)
        kept = path[-1] if path[-1].loss < path[0].loss else path[0]
        pair = pair._replace(sequence=pair.sequence._replace(rollout=pair.with_tokens(*kept.tokens)))
    return kept


@torch.no_grad()
def relaxed(
    pair: Pair, policy: Policy, reward: RewardModel, others: tuple[int, int], shares: Sequence[float], **weights: float
) -> Float[np.ndarray, "first second"]:
    """L where the two tokens are mixtures y = (1 - u) own + u other of embeddings, u over `shares` at each position."""
    eye = torch.eye(policy.vocab_size, dtype=policy.embedding.dtype)
    hard = eye[pair.sequence.rollout]
    table = np.empty((len(shares), len(shares)))
    for i, first in enumerate(shares):
        for j, second in enumerate(shares):
            mixed = hard.clone()
            for share, place, other in zip((first, second), pair.positions, others, strict=True):
                mixed[place] = (1 - share) * hard[place] + share * eye[other]
            table[i, j] = objective.relaxed_objective(policy, reward, pair.sequence, mixed, **weights).item()
    return table
