"""Continuations sampled by a server that runs the policy's model.

Each request carries a seed from the stream that would have sampled the continuation here, so that the same command
sends the same requests. The policy reads some continuations itself, by one forward pass each: all of them where a
method needs its states, otherwise every `MEASURED_EVERY`-th. These tell how far the two engines differ.
"""

from collections.abc import Collection, Sequence

import numpy as np

from ..cost import Reads, decoded, one_pass
from ..engine.generation import Rollout
from ..engine.kv_cache import TokenCache, shared_slots
from ..engine.sampling import Sampling
from ..models.language_models import Policy
from . import teacher_forcing
from .completions import Completion, CompletionRequest
from .identity import BOUNDS
from .mismatch import ComparedServer
from .teacher_forcing import ForcedPredictions

MEASURED_EVERY = 8  # of the continuations that no method needs the policy's states of
SEEDS = 2**53  # seeds of requests are below


class ServedRollouts(ComparedServer):
    """A server's continuations of one policy."""

    def __call__(
        self,
        policy: Policy,
        prefixes: Sequence[Sequence[int]],
        noise: Sequence[np.ndarray],
        sampling: Sampling,
        max_new_tokens: Sequence[int],
        *,
        store: TokenCache | None = None,
        slots: Sequence[int] = (),
        output_slots: Sequence[int | None] | None = None,
        stops: Sequence[Collection[int]] | None = None,
        predictions: bool = False,
    ) -> list[Rollout]:
        """Continue every prefix; arguments and result as of `generation.sample`.

        With `predictions`, the store holds all that the policy reads. Otherwise it only notes which tokens have been
        read, as by `generation.sample`: the server keeps the keys and values.

        Raises:
            ServerError: a request that failed for good.
            NonFiniteError: logits of the policy that are NaN or infinite.
        """
        waiting = [i for i, limit in enumerate(max_new_tokens) if limit > 0]
        measured = waiting if predictions else waiting[::MEASURED_EVERY]
        compared = set(measured)
        requests = [
            CompletionRequest(
                prompt=prefixes[i],
                sampling=sampling,
                seed=request_seed(noise[i]),
                max_tokens=max_new_tokens[i],
                stops=sorted({*policy.eos_ids, *(stops[i] if stops is not None else ())}),
                log_probs=i in compared,
            )
            for i in waiting
        ]
        completions = dict(zip(waiting, self.client.complete(requests, policy.vocab_size), strict=True))
        own_slots = slots if store is not None else shared_slots(prefixes)
        prefilled = _prefilled(prefixes, waiting, store, own_slots)
        kept = store if predictions else None
        read = self._read(policy, prefixes, {i: completions[i] for i in measured}, kept, slots)
        if store is not None and not predictions:
            _note(prefixes, {i: completions[i].token_ids for i in waiting}, store, slots, output_slots)
        results = [Rollout([], False) for _ in prefixes]
        for i in waiting:
            tokens = completions[i].token_ids
            results[i] = Rollout(
                token_ids=tokens,
                finished=tokens[-1] in policy.eos_ids,
                prefilled=prefilled.pop(own_slots[i], Reads()),
                decoded=decoded(len(prefixes[i]), len(tokens)),
                predictions=read[i].predictions if predictions else None,
                reread=read[i].read if predictions else Reads(),
            )
        return results

    def _read(
        self,
        policy: Policy,
        prefixes: Sequence[Sequence[int]],
        completions: dict[int, Completion],
        store: TokenCache | None,
        slots: Sequence[int],
    ) -> dict[int, ForcedPredictions]:
        """Return the policy's own predictions of some continuations, by index, and add to `mismatch`."""
        forced = teacher_forcing.predict(
            policy,
            [prefixes[i] for i in completions],
            [completion.token_ids for completion in completions.values()],
            store,
            [slots[i] for i in completions] if store is not None else (),
        )
        self.add_differences(completions.values(), forced, BOUNDS[policy.model.dtype])
        return dict(zip(completions, forced, strict=True))


def request_seed(noise: np.ndarray) -> int:
    """Return the seed of a request: the first number of the continuation's own stream, as a whole number."""
    return int(noise[0] * SEEDS)


def _prefilled(
    prefixes: Sequence[Sequence[int]], waiting: Sequence[int], store: TokenCache | None, slots: Sequence[int]
) -> dict[int, Reads]:
    """Return, by slot, what is read of its prefix: tokens that have not been read before, at least one."""
    texts = {slots[i]: prefixes[i] for i in waiting}
    known = {slot: store.shared(slot, text) if store is not None else 0 for slot, text in texts.items()}
    return {slot: one_pass(min(known[slot], len(text) - 1), len(text)) for slot, text in texts.items()}


def _note(
    prefixes: Sequence[Sequence[int]],
    continuations: dict[int, list[int]],
    store: TokenCache,
    slots: Sequence[int],
    output_slots: Sequence[int | None] | None,
) -> None:
    """Note in the store which tokens have been read, as `generation.sample` leaves it; it holds no keys and values."""
    outputs = slots if output_slots is None else output_slots
    for i in continuations:
        store.ids[slots[i]] = list(prefixes[i])
        if outputs[i] not in (None, slots[i]):
            store.fork(slots[i], outputs[i])
    for i, tokens in continuations.items():
        if outputs[i] is not None:
            store.ids[outputs[i]] = [*prefixes[i], *tokens[:-1]]
