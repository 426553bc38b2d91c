"""Prefixes of texts that are read once, without gradients, into a key-value cache."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from ..cost import Reads
from ..models.language_models import LanguageModel, Policy
from .cached_forward import Reading, read
from .kv_cache import TokenCache
from .numerics import NonFiniteError, first_non_finite, likelihood

MIN_PREFILL = 8  # uncached tokens before a rollout from which a separate pass without gradients is worthwhile


class Slots(NamedTuple):
    """Cache of one model with the slots of a batch.

    Attributes:
        cache: None reads every token.
        slots: slot of each sequence.
        keep: whether the rollouts' keys and values are stored too.
    """

    cache: TokenCache | None
    slots: Sequence[int]
    keep: bool = False


def fill(
    model: LanguageModel,
    texts: Sequence[list[int]],
    counts: Sequence[int],
    store: Slots,
    firsts: Sequence[int] | None = None,
    *,
    allowed: int = MIN_PREFILL,
) -> list[Reads]:
    """Read the first `counts` tokens of texts into their slots without gradients; return what was read, by text.

    Args:
        firsts: indices from which the tokens' log-probabilities are stored too; None stores none.
        allowed: largest number of missing tokens that are left out, because a later pass reads them.
    """
    reads = [Reads()] * len(texts)
    if store.cache is None:
        return reads
    missing = [i for i, n in enumerate(counts) if n - store.cache.shared(store.slots[i], texts[i][:n]) > allowed]
    if not missing:
        return reads
    prefixes, slots = [texts[i][: counts[i]] for i in missing], [store.slots[i] for i in missing]
    overlap = 0 if firsts is None and allowed == 0 else 1
    reading = read(model, prefixes, [len(prefix) - 1 for prefix in prefixes], store.cache, slots, overlap=overlap)
    store.cache.put(slots, prefixes, reading.starts, reading.cache)
    outputs = [0] * len(missing)
    if firsts is not None:
        spans = reading.spans([firsts[i] for i in missing])  # empty if the prefix is the prompt alone
        if any(left < right for left, right in spans):
            values, _ = likelihood(model, *reading.predictors(spans))
            outputs = [right - left for left, right in spans]
            store.cache.put_log_probs(slots, [left for left, _ in spans], values.split(outputs))
    for i, tokens, count in zip(missing, reading.reads, outputs, strict=True):
        reads[i] = tokens.with_outputs(count)
    return reads


def put_new(
    store: Slots,
    reading: Reading,
    lefts: Sequence[int] | None = None,
    log_probabilities: Sequence[Float[Tensor, " _"]] = (),
    wanted: Sequence[bool] | None = None,
) -> None:
    """Store the texts of a pass, except those that their slots hold already, with their continuations.

    Args:
        reading: pass whose cache was made from `store`.
        lefts: index of each text's first token whose log-probability is known; None if none is.
        log_probabilities: those from `lefts` on, in nats.
        wanted: whether each text is stored; None: all are.
    """
    texts = reading.texts
    indices = range(len(texts)) if wanted is None else [i for i, is_wanted in enumerate(wanted) if is_wanted]
    new = [i for i in indices if store.cache.shared(store.slots[i], texts[i]) < len(texts[i])]
    if not new:
        return
    slots, starts = [store.slots[i] for i in new], [reading.starts[i] for i in new]
    width = max(len(texts[i]) - reading.starts[i] for i in new)
    columns = max(reading.starts) + width
    rows = DynamicCache()
    for number, layer in enumerate(reading.cache.layers):
        rows.update(layer.keys[new, :, :columns].detach(), layer.values[new, :, :columns].detach(), number)
    store.cache.put(slots, [texts[i] for i in new], starts, rows)
    if lefts is not None:
        store.cache.put_log_probs(slots, [lefts[i] for i in new], [log_probabilities[i] for i in new])


class Predicted(NamedTuple):
    """A language model's prediction of the last tokens of some texts; entries are by text.

    Attributes:
        hidden: hidden states that predict the tokens from `start` on.
        log_probabilities: log-probability of each of these tokens, in nats.
        before: log-likelihood of the tokens from `first` to `start`, in nats.
        reads: what was read.
    """

    hidden: list[Float[Tensor, "_ hidden"]]
    log_probabilities: list[Float[Tensor, " _"]]
    before: list[float]
    reads: list[Reads]


@torch.no_grad()
def predict(
    model: Policy,
    texts: Sequence[list[int]],
    firsts: Sequence[int],
    starts: Sequence[int],
    store: Slots,
    known: Sequence[Float[Tensor, "_ hidden"] | None] | None = None,
) -> Predicted:
    """Predict the tokens from `start` on without gradients; the last token of a text is predicted and not read.

    Args:
        firsts: index in each text from which `before` counts, <= start.
        starts: index of the first token to be predicted, >= 1.
        known: hidden states that predict the tokens from `start` on; such a text is not read if its slot holds what
            `before` needs.
    """
    known = [None] * len(texts) if known is None else list(known)
    for i, (first, start) in enumerate(zip(firsts, starts, strict=True)):
        if first < start and (store.cache is None or store.cache.shared(store.slots[i], texts[i][:start]) < start):
            known[i] = None
    unread = [i for i, states in enumerate(known) if states is None]
    results = _predicted_by(model, {i: states for i, states in enumerate(known) if states is not None}, texts, starts)
    before = [0.0] * len(texts)
    for i in results:
        if firsts[i] < starts[i]:
            before[i] = store.cache.log_likelihood(store.slots[i], firsts[i], starts[i])
    if unread:
        part = Slots(store.cache, [store.slots[i] for i in unread] if store.cache is not None else [], store.keep)
        read_part = _read_predictors(*([values[i] for i in unread] for values in (texts, firsts, starts)), model, part)
        for i, (states, values, sum_before, reads) in zip(unread, read_part, strict=True):
            results[i], before[i] = (states, values, reads), sum_before
    hidden, values, reads = zip(*(results[i] for i in range(len(texts))), strict=True)
    return Predicted(list(hidden), list(values), before, list(reads))


def _predicted_by(
    model: Policy, known: Mapping[int, Float[Tensor, "_ hidden"]], texts: Sequence[list[int]], starts: Sequence[int]
) -> dict[int, tuple[Tensor, Tensor, Reads]]:
    """Return known states, the log-probabilities of the tokens they predict, and what was read, by index of the text.

    The output matrix, which costs most of the time for a few tokens, is read once for all texts.
    """
    if not known:
        return {}
    tokens = [token for i in known for token in texts[i][starts[i] :]]
    hidden = torch.cat(list(known.values()))
    values, _ = likelihood(model, hidden, torch.tensor(tokens, dtype=torch.long, device=hidden.device))
    parts = values.split([len(states) for states in known.values()])
    return {
        i: (states, part, Reads(outputs=len(states))) for (i, states), part in zip(known.items(), parts, strict=True)
    }


def _read_predictors(
    texts: list[list[int]], firsts: list[int], starts: list[int], model: Policy, store: Slots
) -> list[tuple[Tensor, Tensor, float, Reads]]:
    """Return, per text, the entries of `Predicted` after one pass over what the cache does not hold."""
    contexts = [text[:-1] for text in texts]
    # of each text by itself, so that what is read for it does not depend on the others
    storing = [store.cache is not None and (store.keep or len(c) == n) for c, n in zip(contexts, starts, strict=True)]
    counts = [0 if is_stored else start for is_stored, start in zip(storing, starts, strict=True)]
    filled = fill(model, contexts, counts, store, firsts)
    reading = read(model, contexts, [start - 1 for start in starts], store.cache, store.slots, overlap=1)
    whole = reading._replace(texts=texts)
    spans = whole.spans(firsts)
    lefts = [left for left, _ in spans]
    values, _ = likelihood(model, *whole.predictors(spans))
    if (row := first_non_finite(values)) is not None:
        token = [position for left, right in spans for position in range(left, right)][row]
        raise NonFiniteError(f"the log-probability by {model.name} of token {token} of its text")
    parts = values.split([right - left for left, right in spans])
    if any(storing):
        cut = [part[: len(context) - left] for part, context, left in zip(parts, contexts, lefts, strict=True)]
        put_new(store, reading, lefts, cut, storing)
    results, reads = [], reading.reads
    for i, (part, first, left, start) in enumerate(zip(parts, firsts, lefts, starts, strict=True)):
        stored = store.cache.log_likelihood(store.slots[i], first, left) if store.cache is not None else 0.0
        begin = start - 1 - reading.starts[i]
        hidden = reading.hidden[i, begin : begin + len(texts[i]) - start].clone()  # not the whole batch's states
        before = stored + part[: start - left].sum().item()
        results.append((hidden, part[start - left :], before, filled[i] + reads[i].with_outputs(len(part))))
    return results
