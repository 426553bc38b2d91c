"""Two tokens of a response: L at every pair, probabilities under the policy, and DTO's path (Figure 1).

The other tokens stay as they were sampled, so that all pairs can be evaluated: the best pair is known, and so is the
exact probability of drawing it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from ..decoding.settings import NablaSettings
from ..dto import batched, gradient_passes, objective
from ..dto.batched import DescentStart
from ..dto.gradients import Gradient
from ..dto.settings import DTOSettings
from ..engine import generation, numerics, scoring
from ..engine.continuous_batching import TokenPredictions
from ..engine.sampling import Sampling, filtered_probabilities, keyed_uniforms
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from ..types import Problem


class Pair(NamedTuple):
    """A response with two positions whose tokens may change.

    Attributes:
        problem: the problem that was answered.
        sequence: sequence whose rollout is the whole response; no prefix.
        positions: positions of the two tokens, ascending.
    """

    problem: Problem
    sequence: TokenSequence
    positions: tuple[int, int]

    @property
    def tokens(self) -> tuple[int, int]:
        """The response's own tokens at the two positions."""
        return self.tokens_of(self.sequence.rollout)

    def tokens_of(self, response: Sequence[int]) -> tuple[int, int]:
        """Return another response's tokens at the two positions."""
        first, second = self.positions
        return response[first], response[second]

    def with_tokens(self, first: int, second: int) -> list[int]:
        """Return the response with other tokens at the two positions."""
        response = list(self.sequence.rollout)
        response[self.positions[0]], response[self.positions[1]] = first, second
        return response


def first_rollouts(
    problems: Sequence[Problem], policy: Policy, settings: NablaSettings, seed: int
) -> list[tuple[list[int], TokenPredictions]]:
    """Return the first rollouts of ∇-Reasoner (same draws), with the policy's predictions along them."""
    limit = settings.max_new_tokens
    rollouts = generation.sample(
        policy,
        [policy.prompt_ids(problem.messages) for problem in problems],
        [keyed_uniforms(seed, problem.id, 0, "rollout 0", limit) for problem in problems],
        settings.rollout,
        [limit] * len(problems),
        predictions=True,
    )
    return [(rollout.token_ids, rollout.predictions) for rollout in rollouts]


def find(
    problems: Sequence[Problem], policy: Policy, reward: RewardModel, settings: NablaSettings, seed: int
) -> tuple[list[Pair], list[int]]:
    """Return one pair per problem: the two tokens of its first rollout with the lowest confidence.

    Problems are left out if their rollout did not end, or if fewer than two tokens pass the confidence gate; the end
    token is never one of the two.

    Returns:
        The pairs, and the alphabet: ids of all tokens that occur in the rollouts, end tokens left out.
    """
    rollouts, pairs = first_rollouts(problems, policy, settings, seed), []
    alphabet = sorted({token for tokens, _ in rollouts for token in tokens} - set(policy.eos_ids))
    for problem, (tokens, predictions) in zip(problems, rollouts, strict=True):
        confidence = predictions.confidence[: len(tokens) - 1]
        unsure = (confidence <= settings.confidence_threshold).nonzero()[:, 0].tolist()
        if tokens[-1] not in policy.eos_ids or len(unsure) < 2:
            continue
        first, second = sorted(sorted(unsure, key=lambda position: confidence[position].item())[:2])
        sequence = objective.make_sequence(policy, reward, problem.messages, [], tokens)
        pairs.append(Pair(problem, sequence, (first, second)))
    return pairs, alphabet


def losses(
    pair: Pair, policy: Policy, reward: RewardModel, alphabet: Sequence[int], *, reward_weight: float, nll_weight: float
) -> Float[np.ndarray, "first second"]:
    """Return L = -λ r - ν log π, in nats, at every pair of tokens of the alphabet."""
    responses = [pair.with_tokens(first, second) for first in alphabet for second in alphabet]
    likelihood = RewardModel(policy.model, policy.tokenizer, policy.name, "likelihood")  # r = log π
    likelihood.replaced_ends, likelihood.suffix_ids = frozenset(), []  # its own tokens alone, whichever end it drew
    values, _ = scoring.rewards(reward, [pair.sequence.reward_prompt] * len(responses), responses)
    likelihoods, _ = scoring.rewards(likelihood, [pair.sequence.policy_prompt] * len(responses), responses, close=False)
    total = -reward_weight * np.array(values) - nll_weight * np.array(likelihoods)
    return total.reshape(len(alphabet), len(alphabet))


@torch.no_grad()
def chances(
    pair: Pair, policy: Policy, alphabet: Sequence[int], sampling: Sampling
) -> Float[np.ndarray, "first second"]:
    """Return the policy's probability of each pair: of the first token, times that of the second given the first.

    The sum is below 1 by the mass of tokens outside the alphabet.
    """
    texts = [pair.sequence.policy_prompt + pair.with_tokens(token, pair.tokens[1]) for token in alphabet]
    hidden = policy.hidden_states(policy.embedding[torch.tensor(texts, device=policy.device)])
    start = len(pair.sequence.policy_prompt) - 1
    first, second = (
        numerics.at_least_float32(policy.logits(hidden[:, start + position])) for position in pair.positions
    )
    by_first = filtered_probabilities(first[:1], sampling)[0, list(alphabet)]
    by_second = filtered_probabilities(second, sampling)[:, list(alphabet)]
    return (by_first[:, None] * by_second).double().numpy()


class Step(NamedTuple):
    """One point of a descent.

    Attributes:
        logits: logits of the two rows.
        tokens: hard tokens of the two rows.
        loss: L at the hard response with these tokens.
    """

    logits: Float[Tensor, "2 vocab"]
    tokens: tuple[int, int]
    loss: float


def descend(
    pair: Pair, policy: Policy, reward: RewardModel, settings: DTOSettings, updated: Sequence[int]
) -> list[Step]:
    """Return the path of DTO on the logits of one or both rows: T + 1 points, the rollout's own logits first.

    Args:
        updated: rows that DTO updates: (0, 1) both together, (0,) or (1,) one of them.
    """
    evaluated: dict[tuple[int, int], Gradient] = {}
    settings = settings.replace(parameter="logits", flip="argmax")

    def gradient_at(tokens: tuple[int, int]) -> Gradient:
        if tokens not in evaluated:
            sequence = pair.sequence._replace(rollout=pair.with_tokens(*tokens))
            (evaluated[tokens],) = gradient_passes.evaluate(policy, reward, [sequence], **settings.weights)
        return evaluated[tokens]

    def evaluate(batch: Sequence[TokenSequence], keys: Sequence[int]) -> list[Gradient]:
        return [gradient_at(pair.tokens_of(sequence.rollout)) for sequence in batch]

    start = gradient_at(pair.tokens)
    first_logits = numerics.at_least_float32(policy.logits(start.hidden[list(pair.positions)]))
    positions = [pair.positions[row] for row in updated]
    path: list[Step] = []

    def add_step(updated_logits: Float[Tensor, "rows vocab"], response: Sequence[int]) -> None:
        logits = first_logits.clone()
        logits[list(updated)] = updated_logits
        tokens = pair.tokens_of(response)
        path.append(Step(logits, tokens, gradient_at(tokens).loss))

    descent_start = DescentStart(pair.sequence, start, positions, latents=start.hidden[positions])
    (result,) = batched.descend(
        policy, [descent_start], evaluate, settings, on_step=lambda step: add_step(step.logits, step.rollout)
    )
    add_step(result.logits, result.token_ids)
    return path


def one_by_one(pair: Pair, policy: Policy, reward: RewardModel, settings: DTOSettings) -> Step:
    """Return the last point of DTO on the first row, then on the second; a new token is kept only if it lowers L.

    A simplified decoding loop: the hard token replaces the draw, and no rollout follows an accepted token.
    """
    for row in (0, 1):
        path = descend(pair, policy, reward, settings, (row,))
        best = path[-1] if path[-1].loss < path[0].loss else path[0]
        pair = pair._replace(sequence=pair.sequence._replace(rollout=pair.with_tokens(*best.tokens)))
    return best


@torch.no_grad()
def relaxed(
    pair: Pair, policy: Policy, reward: RewardModel, others: tuple[int, int], shares: Sequence[float], **weights: float
) -> Float[np.ndarray, "first second"]:
    """Return L for mixtures y = (1 - u) own + u other of the tokens' embeddings, u over `shares` at each position."""

    def rows(ids: Sequence[int]) -> Float[Tensor, "tokens vocab"]:
        """Return one-hot rows; a whole identity matrix would take gigabytes at large vocabularies."""
        return one_hot(torch.tensor(ids), policy.vocab_size).to(policy.embedding.dtype)

    hard, end = rows(pair.sequence.rollout), rows(others)
    table = np.empty((len(shares), len(shares)))
    for i, first in enumerate(shares):
        for j, second in enumerate(shares):
            mixed = hard.clone()
            for share, position, other in zip((first, second), pair.positions, end, strict=True):
                mixed[position] = (1 - share) * hard[position] + share * other
            table[i, j] = objective.relaxed_objective(policy, reward, pair.sequence, mixed, **weights).item()
    return table
