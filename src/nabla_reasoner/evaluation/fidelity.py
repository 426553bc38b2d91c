"""Fidelity of a reward's gradient: first-order predictions against exact rewards with one token replaced.

At position l of a response, with its own token a and a candidate b, all other tokens kept:

    predicted change   (E_b - E_a)·∂f/∂e_l, for a likelihood reward plus w (log π_strong(b|y_<l) - log π_strong(a|y_<l))
    exact change       f(y with b at l) - f(y)

f is the reward in one of three forms, e_l the input embedding at l, E the embedding matrix:

    outcome   the reward of the closed response (w = 1)
    process   Σ_{i≥l} r(y_≤i|x) over the response's own tokens (App. B.2, arXiv 2603.04948; w = their number)
    prefix    r(y_≤l|x), the reward at the token itself (w = 1)

A likelihood reward depends on a token twice: as the token that is predicted, which is linear and therefore exact, and
as an input of later predictions, which is linearised. Its prefix form has the first part only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..dto.reward_forms import REWARD_FORMS
from ..engine import batching, numerics
from ..engine.cached_forward import Reading, read
from ..engine.kv_cache import PrefixCache
from ..engine.sequences import end_response, token_as_read
from ..models.language_models import LanguageModel, RewardModel
from .token_values import scorers, scores, values


class Case(NamedTuple):
    """A position of a response, and the tokens that are compared there.

    Attributes:
        prompt: chat prompt by the reward model's template.
        response: token ids, a sampled end token included.
        position: index of the replaced token in the response.
        candidates: token ids, at least one; the response's own may be among them.
    """

    prompt: list[int]
    response: list[int]
    position: int
    candidates: list[int]

    def as_read(self, reward: RewardModel) -> "Case":
        """Return the case with the reward model's end token in place of the policy's."""
        response, candidates = (
            [token_as_read(token, reward) for token in tokens] for tokens in (self.response, self.candidates)
        )
        return self._replace(response=response, candidates=candidates)

    @property
    def index(self) -> int:
        """Index of the replaced token in the text."""
        return len(self.prompt) + self.position

    def text(self, reward: RewardModel) -> list[int]:
        """Return all that the reward model reads: prompt, closed response and what the chat template adds."""
        return [*self.prompt, *end_response(self.response, reward), *reward.suffix_ids]

    def replaced(self, token: int) -> "Case":
        """Return the case with another token at the position."""
        return self._replace(response=[*self.response[: self.position], token, *self.response[self.position + 1 :]])


class Changes(NamedTuple):
    """Changes of the reward, relative to the response's token: a row for each form, a column for each candidate."""

    predicted: Float[np.ndarray, "form candidate"]
    exact: Float[np.ndarray, "form candidate"]


def weights(reward: RewardModel, case: Case, form: str) -> Float[np.ndarray, " token"]:
    """Return the weight of each token's value in the form, from the replaced token to the end of the text."""
    count = len(case.response) - case.position  # tokens of the response from the replaced one on
    result = np.zeros(len(case.text(reward)) - case.index)
    if form == "prefix":
        result[0] = 1.0
    elif form == "outcome":
        result[slice(None) if reward.strong is not None else -1] = 1.0
    elif form == "process":  # token j's log-probability is part of r(y_≤i) for all i >= j
        result[:count] = 1.0 if reward.strong is None else np.arange(count, 0, -1)
    else:
        raise ValueError(f"form must be one of {', '.join(REWARD_FORMS)}; got {form!r}.")
    return result


def changes(reward: RewardModel, cases: Sequence[Case]) -> list[Changes]:
    """Return predicted and exact changes of every case; the order of the cases does not matter."""
    cases = [case.as_read(reward) for case in cases]
    members: dict[tuple[int, ...], list[int]] = {}
    for i, case in enumerate(cases):
        members.setdefault((len(case.prompt), *case.text(reward)), []).append(i)
    groups = list(members.values())  # cases of one response

    def run(indices: list[int]) -> list[list[Changes]]:
        measured = iter(_batch_changes(reward, [[cases[i] for i in groups[g]] for g in indices]))
        return [[next(measured) for _ in groups[g]] for g in indices]

    lengths = [len(text) * max(sum(len(cases[i].candidates) for i in group), 1) for text, group in members.items()]
    results: list[Changes | None] = [None] * len(cases)
    for group, part in zip(groups, batching.run(run, lengths, reward.batch_limits), strict=True):
        for i, change in zip(group, part, strict=True):
            results[i] = change
    return results


def _batch_changes(reward: RewardModel, groups: Sequence[Sequence[Case]]) -> list[Changes]:
    """Return the changes of all cases, one group after the other; the cases of a group have one response."""
    texts = [group[0].text(reward) for group in groups]
    cases = [case for group in groups for case in group]
    slots = [slot for slot, group in enumerate(groups) for _ in group]
    totals = [Changes(*np.zeros((2, len(REWARD_FORMS), len(case.candidates)))) for case in cases]
    for model, sign in scorers(reward):
        reading = read(model, texts, [0] * len(texts), gradients=True)
        cache = PrefixCache(len(texts))
        cache.put(range(len(texts)), texts, reading.starts, reading.cache)
        exact = _exact(reward, model, cases, cache, slots)
        predicted = _predicted(reward, model, groups, reading, cache)
        for total, new in zip(totals, map(Changes, predicted, exact), strict=True):
            for old, part in zip(total, new, strict=True):
                old += sign * part
    return totals


def _exact(
    reward: RewardModel, model: LanguageModel, cases: Sequence[Case], cache: PrefixCache, slots: Sequence[int]
) -> list[Float[np.ndarray, "form candidate"]]:
    """Return the changes of a model's part of the reward, by a pass over each changed response from the token on."""
    versions = [
        (number, token)
        for number, case in enumerate(cases)
        for token in dict.fromkeys([case.response[case.position], *case.candidates])
    ]
    changed = [cases[number].replaced(token) for number, token in versions]
    firsts = [case.index for case in changed]
    reading = read(
        model,
        [case.text(reward) for case in changed],
        # a token's log-probability needs the hidden state before it
        firsts if isinstance(model, RewardModel) else [first - 1 for first in firsts],
        cache,
        [slots[number] for number, _ in versions],
    )
    totals = {
        version: np.array([weights(reward, case, form) @ row.double().cpu().numpy() for form in REWARD_FORMS])
        for version, case, row in zip(versions, changed, values(model, reading, firsts), strict=True)
    }
    results = []
    for number, case in enumerate(cases):
        before = totals[number, case.response[case.position]]
        results.append(np.stack([totals[number, token] - before for token in case.candidates], -1))
    return results


def _predicted(
    reward: RewardModel,
    model: LanguageModel,
    groups: Sequence[Sequence[Case]],
    reading: Reading,
    cache: PrefixCache,
) -> list[Float[np.ndarray, "form candidate"]]:
    """Return the first-order changes of a model's part of the reward.

    Args:
        reading: pass over the groups' responses, with gradients.
        cache: what this pass has read.
    """
    whole = [group[0]._replace(position=0) for group in groups]
    by_form = {form: _embedding_gradients(reward, model, whole, reading, form) for form in ("outcome", "process")}
    cases = [(slot, case) for slot, group in enumerate(groups) for case in group]
    at_token = {form: torch.stack([by_form[form][slot, case.index] for slot, case in cases]) for form in by_form}
    at_token["prefix"] = _own_gradients(model, cases, cache)
    results = []
    for row, (slot, case) in enumerate(cases):
        token = case.response[case.position]
        steps = numerics.at_least_float32(model.embedding[case.candidates] - model.embedding[token])
        linear = np.stack(
            [(steps @ numerics.at_least_float32(at_token[form][row])).double().cpu().numpy() for form in REWARD_FORMS]
        )
        if not isinstance(model, RewardModel):
            logits = numerics.at_least_float32(model.logits(reading.hidden[slot, case.index - 1].detach()))
            gains = (logits[case.candidates] - logits[token]).double().cpu().numpy()  # of log-probabilities
            linear += np.stack([weights(reward, case, form)[0] * gains for form in REWARD_FORMS])
        results.append(linear)
    return results


def _embedding_gradients(
    reward: RewardModel, model: LanguageModel, cases: Sequence[Case], reading: Reading, form: str
) -> Float[Tensor, "batch width hidden"]:
    """Return the gradient of a model's part of the form with respect to the input embeddings of whole responses.

    It is the gradient for every position: what a token does to values before it is nothing.
    """
    rows = [torch.as_tensor(weights(reward, case, form)).to(reading.hidden) for case in cases]
    firsts = [case.index for case in cases]
    with torch.enable_grad():
        if isinstance(model, RewardModel):
            total = sum((row * value).sum() for row, value in zip(rows, scores(model, reading, firsts), strict=True))
            return torch.autograd.grad(total, reading.embeddings, retain_graph=True)[0]
        hidden, targets = reading.predictors(reading.spans(firsts))
        _, derivatives = numerics.likelihood(model, hidden, targets, gradient=True)
        weighted = torch.cat(rows)[:, None] * derivatives
        return torch.autograd.grad(hidden, reading.embeddings, weighted, retain_graph=True)[0]


def _own_gradients(
    model: LanguageModel, cases: Sequence[tuple[int, Case]], cache: PrefixCache
) -> Float[Tensor, "case hidden"]:
    """Return the gradient of the value at each case's token with respect to that token's embedding.

    A log-probability is no function of the embedding of its own token.
    """
    if not isinstance(model, RewardModel):
        return model.embedding.new_zeros(len(cases), model.embedding.shape[1])
    texts = [[*case.prompt, *case.response[: case.position + 1]] for _, case in cases]
    limits = [len(text) - 1 for text in texts]
    reading = read(model, texts, limits, cache, [slot for slot, _ in cases], gradients=True)
    with torch.enable_grad():
        total = model.head_scores(reading.last()).sum()
    return torch.autograd.grad(total, reading.embeddings)[0][:, 0]
