"""Fast engine of DTO: many descents together, one evaluation of ∂L/∂y per distinct hard sequence (Alg. 2 and 4).

It computes the same numbers as `reference`. Only the rows that are updated have a parameter, and several sequences
share every tensor operation.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..engine.numerics import at_least_float32, project_to_hidden
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy
from . import straight_through
from .descent import Descent, hard_tokens, joined
from .gradients import Gradient, onehot_gradient, row_cost
from .settings import DTOResult, DTOSettings

CACHED_ELEMENTS = 2**18  # of a tensor that stays in a core's cache from one operation to the next

Evaluate = Callable[[Sequence[TokenSequence], Sequence[int]], list[Gradient]]


class DescentStart(NamedTuple):
    """One sequence to be optimised.

    Attributes:
        sequence: hard sequence before the first step.
        gradient: ∂L/∂y there, evaluated by the caller and not counted in the result.
        positions: rollout positions whose rows are updated.
        latents: hidden states that yield the first logits of those rows.
        uniforms: source of the noise of flip "gumbel" for those rows, in [0, 1); None with flip "argmax".
        just_evaluated: whether `gradient` was evaluated for the first step, which then needs no other without caching.
    """

    sequence: TokenSequence
    gradient: Gradient
    positions: Sequence[int]
    latents: Float[Tensor, "rows hidden"]
    uniforms: Float[np.ndarray, "rows vocab"] | None = None
    just_evaluated: bool = False


class DescentStep(NamedTuple):
    """One iteration of a descent, before its step is taken.

    Attributes:
        key: caller's key of the sequence.
        logits: logits z of the updated rows.
        rollout: hard tokens of the whole rollout.
        loss: L at the hard sequence.
    """

    key: int
    logits: Float[Tensor, "rows vocab"]
    rollout: list[int]
    loss: float


Listener = Callable[[DescentStep], None]


def descend(
    policy: Policy,
    starts: Sequence[DescentStart],
    evaluate: Evaluate,
    settings: DTOSettings,
    on_step: Listener | None = None,
) -> list[DTOResult]:
    """Optimise many sequences together; results are in the order of `starts`.

    Args:
        evaluate: as for `BatchedDescent`; the key of a sequence is its index in `starts`.
        on_step: called before every step of every sequence.
    """
    descent = BatchedDescent(policy, evaluate, settings, on_step)
    descent.start(dict(enumerate(starts)))
    results: dict[int, DTOResult] = {}
    while descent:
        results |= descent.proceed()
    return [results[key] for key in range(len(starts))]


class BatchedDescent:
    """Descents in progress, each at its own iteration; others may join at any time.

    A sequence whose token flipped waits until no other can step and none has ended; then all waiting sequences are
    evaluated together.

    Args:
        evaluate: returns ∂L/∂y at hard sequences whose tokens flipped, given the sequences and their keys.
        on_step: called before every step of every sequence.
    """

    def __init__(self, policy: Policy, evaluate: Evaluate, settings: DTOSettings, on_step: Listener | None = None):
        self.policy = policy
        self.evaluate = evaluate
        self.settings = settings
        self.on_step = on_step
        self.ready: list[Descent] = []
        self.waiting: list[Descent] = []

    def __bool__(self) -> bool:
        return bool(self.ready or self.waiting)

    def start(self, starts: Mapping[int, DescentStart]) -> None:
        """Add sequences by the caller's keys, which must not be in progress."""
        sizes = [len(start.positions) for start in starts.values()]
        latents = torch.cat([start.latents for start in starts.values()])
        logits = _head(self.policy, latents)
        parameter = logits if self.settings.parameter == "logits" else at_least_float32(latents)
        gradients = onehot_gradient([s.gradient for s in starts.values()], [s.positions for s in starts.values()])
        chosen = [[start.sequence.rollout[position] for position in start.positions] for start in starts.values()]
        sampled = torch.tensor([token for tokens in chosen for token in tokens], device=logits.device)
        noise = None
        if self.settings.flip == "gumbel":
            rows = zip(logits.split(sizes), sampled.split(sizes), starts.values(), strict=True)
            temperature = self.settings.draw_temperature
            noise = torch.cat(
                [straight_through.explaining_noise(z, tokens, start.uniforms, temperature) for z, tokens, start in rows]
            )
        argmax = straight_through.argmax(logits, noise)
        moments = torch.zeros_like(parameter), torch.zeros_like(parameter)
        of_all = (logits, parameter, gradients, sampled, argmax, *moments)
        parts = list(zip(*(part.split(sizes) for part in of_all), strict=True))
        noises = [None] * len(starts) if noise is None else noise.split(sizes)
        for (key, start), tokens, own_noise, part in zip(starts.items(), chosen, noises, parts, strict=True):
            first_logits, first_parameter, first_gradient, first_sampled, first_argmax, mean, square = part
            self.ready.append(
                Descent(
                    key=key,
                    positions=list(start.positions),
                    sequence=start.sequence,
                    gradient=start.gradient,
                    evaluated={tuple(tokens): start.gradient},
                    first_argmax=first_argmax,
                    sampled=first_sampled,
                    noise=own_noise,
                    parameter=first_parameter,
                    logits=first_logits,
                    onehot_gradient=first_gradient,
                    costs=[row_cost(start.gradient, len(tokens)), self._head_cost(len(tokens))],
                    mean=mean,
                    square=square,
                    just_evaluated=start.just_evaluated,
                )
            )

    def proceed(self) -> dict[int, DTOResult]:
        """Step until at least one descent ends; return the results of those that ended, by key."""
        ended: list[Descent] = []
        while not ended:
            if not self.ready:
                self._evaluate_waiting()
            ready, self.ready = self.ready, []
            for block in _blocks(ready):
                ended += self._run(block)
        return {
            descent.key: DTOResult(
                logits=descent.logits,
                objective=descent.trace,
                gradient_evaluations=descent.evaluations,
                token_ids=descent.with_tokens(tokens).rollout,
                cost=cost.total(descent.costs),
            )
            for descent, tokens in zip(ended, hard_tokens(ended), strict=True)
        }

    def _run(self, ready: list[Descent]) -> list[Descent]:
        """Step until every descent has ended or waits for an evaluation; return those that ended."""
        ended = []
        while ready:
            stepping = []
            for descent, tokens in zip(ready, hard_tokens(ready), strict=True):
                has_gradient = descent.move_to(tokens, self.settings.gradient_caching)
                (stepping if has_gradient else self.waiting).append(descent)
            if stepping:
                self._step(stepping)
            ended += [descent for descent in stepping if len(descent.trace) == self.settings.num_iterations]
            ready = [descent for descent in stepping if len(descent.trace) < self.settings.num_iterations]
        return ended

    def _evaluate_waiting(self) -> None:
        gradients = self.evaluate([d.target for d in self.waiting], [d.key for d in self.waiting])
        positions = [descent.positions for descent in self.waiting]
        rows = onehot_gradient(gradients, positions).split([len(part) for part in positions])
        for descent, gradient, part in zip(self.waiting, gradients, rows, strict=True):
            descent.add_evaluation(gradient, part)
        self.ready, self.waiting = self.waiting, []

    def _step(self, descents: Sequence[Descent]) -> None:
        """Take one step of Adam (β = 0.9 and 0.999, ε = 1e-8) for each descent, at its own iteration.

        Written out because torch's optimiser keeps one step count per tensor; the reference engine uses torch's.
        """
        for descent in descents:
            if self.on_step is not None:
                self.on_step(DescentStep(descent.key, descent.logits, descent.sequence.rollout, descent.gradient.loss))
            descent.trace.append(descent.gradient.loss)
        sizes = [len(descent.positions) for descent in descents]
        onehot = joined([descent.onehot_gradient for descent in descents])
        gradient = straight_through.logits_gradient(
            joined([descent.logits for descent in descents]), onehot, temperature=self.settings.ste_temperature
        )
        if self.settings.parameter == "latents":
            gradient = project_to_hidden(gradient, self.policy.head.weight[: self.policy.vocab_size])
        counts = [len(descent.trace) for descent, size in zip(descents, sizes, strict=True) for _ in range(size)]

        def column(numbers: list[float]) -> Tensor:
            return torch.tensor(numbers, dtype=gradient.dtype, device=gradient.device)[:, None]

        mean = joined([d.mean for d in descents]).lerp_(gradient, 0.1)
        square = joined([d.square for d in descents]).mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        rate = column([self.settings.step(count - 1) / (1 - 0.9**count) for count in counts])
        width = column([math.sqrt(1 - 0.999**count) for count in counts])
        parameter = joined([d.parameter for d in descents]) - rate * mean / (square.sqrt() / width + 1e-8)
        logits = parameter if self.settings.parameter == "logits" else _head(self.policy, parameter)
        of_all = (parameter, logits, onehot, mean, square)
        for descent, part in zip(descents, zip(*(part.split(sizes) for part in of_all), strict=True), strict=True):
            descent.parameter, descent.logits, descent.onehot_gradient, descent.mean, descent.square = part
            if self.settings.parameter == "latents":
                descent.costs.append(self._head_cost(2 * len(descent.positions)))

    def _head_cost(self, rows: int) -> cost.Cost:
        """Return the cost of products of `rows` rows with the output matrix."""
        return cost.gradient_arithmetic(cost.head_flops(self.policy.size, rows))


def _blocks(descents: Sequence[Descent]) -> Iterator[list[Descent]]:
    """Yield the descents that step together: on a CPU as many as its cache holds, elsewhere all.

    A step passes over the rows a dozen times. Rows of a large vocabulary would go through the memory each time.
    """
    block, elements = [], 0
    for descent in descents:
        size = descent.logits.numel()
        if block and descent.logits.device.type == "cpu" and elements + size > CACHED_ELEMENTS:
            yield block
            block, elements = [], 0
        block.append(descent)
        elements += size
    if block:
        yield block


def _head(policy: Policy, latents: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
    return at_least_float32(policy.logits(latents.to(policy.embedding.dtype)))
