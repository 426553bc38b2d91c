"""The policy's own predictions of tokens that another engine sampled: one forward pass over the whole continuation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..cost import Reads, one_pass
from ..engine import batching, numerics
from ..engine.cached_forward import read
from ..engine.continuous_batching import TokenPredictions
from ..engine.kv_cache import TokenCache
from ..engine.numerics import NonFiniteError, at_least_float32
from ..models.language_models import Policy


class ForcedPredictions(NamedTuple):
    """What the policy says about given tokens.

    Attributes:
        predictions: as decoding yields them.
        log_probs: log-probability of each token in nats, before temperature and cuts.
        most_likely: id of the most likely token at each position.
        read: what the forward pass read.
    """

    predictions: TokenPredictions
    log_probs: Float[Tensor, " length"]
    most_likely: Int[Tensor, " length"]
    read: Reads


@torch.no_grad()
def predict(
    policy: Policy,
    prefixes: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    store: TokenCache | None = None,
    slots: Sequence[int] = (),
) -> list[ForcedPredictions]:
    """Read each continuation after its prefix; return the predictions of its tokens.

    Args:
        prefixes: token ids of prompt and committed response, each non-empty.
        continuations: token ids, each non-empty.
        store: what was read before; all that is read now is stored there too, as by `generation.sample`.
        slots: the store's slot of each prefix, all different.

    Raises:
        NonFiniteError: logits that are NaN or infinite.
    """
    texts = [[*prefix, *tokens[:-1]] for prefix, tokens in zip(prefixes, continuations, strict=True)]
    firsts = [len(prefix) - 1 for prefix in prefixes]  # the token whose state predicts the continuation's first

    def forward(indices: list[int]) -> list[ForcedPredictions]:
        batch, batch_slots = [texts[i] for i in indices], [slots[i] for i in indices] if store is not None else []
        reading = read(policy, batch, [firsts[i] for i in indices], store, batch_slots)
        if store is not None:
            store.put(batch_slots, batch, reading.starts, reading.cache)
        results = []
        for row, i in enumerate(indices):
            start = reading.starts[row]
            hidden = reading.hidden[row, firsts[i] - start : len(texts[i]) - start].clone()
            results.append(_predictions(policy, hidden, continuations[i], one_pass(start, len(texts[i]), len(hidden))))
        return results

    return batching.run(forward, [len(text) for text in texts], policy.batch_limits)


def _predictions(
    policy: Policy, hidden: Float[Tensor, "length hidden"], tokens: Sequence[int], reads: Reads
) -> ForcedPredictions:
    """Apply the output matrix, for a few tokens at a time."""
    targets, columns = torch.tensor(tokens, device=hidden.device), []
    for part in numerics.chunks(len(hidden), policy.vocab_size):
        logits = at_least_float32(policy.logits(hidden[part]))
        if not numerics.finite_rows(logits).all():
            raise NonFiniteError(f"logits of {policy.name} for the tokens that a server sampled")
        log_probs = logits.log_softmax(-1).gather(1, targets[part, None])[:, 0]
        columns.append((numerics.confidence(logits), numerics.entropy(logits), log_probs, logits.argmax(-1)))
    confidence, entropy, log_probs, most_likely = map(torch.cat, zip(*columns, strict=True))
    predictions = TokenPredictions(hidden, confidence, entropy).numbers_on_cpu()
    return ForcedPredictions(predictions, log_probs, most_likely, reads)
