"""Differentiable Textual Optimization: gradient descent on a rollout's token logits (Alg. 2 and 4, arXiv 2603.04948).

`optimize` is the public entry. Engine "reference" is the plain algorithm: one sequence at a time, a parameter of
[length, vocab], autograd through both models at every step. Engine "fast" computes the same numbers from one evaluation
of ∂L/∂y per distinct hard sequence, for many sequences at once, and keeps a parameter only for the rows that move.

A flip: the sampled token of a row stands until the argmax of the row differs from its first argmax; from then on the
row's hard token is its argmax (and the sampled token again, should the first argmax return). With flip "gumbel" the
argmax is that of z + τ g, where the Gumbel noise g, drawn once given the sampled token, is held fixed: its first argmax
is the sampled token itself.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..engine.numerics import at_least_float32, project_to_hidden
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy
from . import straight_through
from .gradients import Gradient, onehot_gradient
from .settings import DTOResult, DTOSettings

Evaluate = Callable[[Sequence[TokenSequence], Sequence[int]], list[Gradient]]


def descend(
    policy: Policy,
    sequences: Sequence[TokenSequence],
    gradients: Sequence[Gradient],
    positions: Sequence[Sequence[int]],
    latents: Float[Tensor, "rows hidden"],
    evaluate: Evaluate,
    descent: DTOSettings,
    uniforms: Sequence[Float[np.ndarray, "_ vocab"]] | None = None,
) -> list[DTOResult]:
    """The fast engine: T steps on the chosen rows of many sequences together (see `Descents.start`)."""
    under_way = BatchedDescent(policy, evaluate, descent)
    under_way.start(range(len(sequences)), sequences, gradients, positions, latents, uniforms)
    results: dict[int, DTOResult] = {}
    while under_way:
        results |= under_way.proceed()
    return [results[number] for number in range(len(sequences))]


class BatchedDescent:
    """Descents under way, each at its own iteration; others may join at any time.

    A sequence whose token flipped waits until no other can step and none has ended; then all that wait are evaluated
    together.

    Args:
        evaluate: ∂L/∂y at hard sequences when tokens flipped, given them and their numbers.
    """

    def __init__(self, policy: Policy, evaluate: Evaluate, descent: DTOSettings):
        self.policy, self.evaluate, self.descent = policy, evaluate, descent
        self.stepping: list[_State] = []
        self.waiting: list[_State] = []

    def __bool__(self) -> bool:
        return bool(self.stepping or self.waiting)

    def start(
        self,
        numbers: Iterable[int],
        sequences: Sequence[TokenSequence],
        gradients: Sequence[Gradient],
        positions: Sequence[Sequence[int]],
        latents: Float[Tensor, "rows hidden"],
        uniforms: Sequence[Float[np.ndarray, "_ vocab"]] | None = None,
    ) -> None:
        """Let sequences join.

        Args:
            numbers: one per sequence, by which the caller knows it; none that is under way.
            sequences: hard sequences, each with its gradient in `gradients` (evaluated by the caller, not counted).
            positions: per sequence, the rollout positions whose rows move.
            latents: hidden states that yield the first logits of those rows, all sequences one after the other.
            uniforms: per sequence, a row of numbers in [0, 1) for each of its positions (flip "gumbel").
        """
        self.stepping += _states(self.policy, numbers, sequences, gradients, positions, latents, self.descent, uniforms)

    def proceed(self) -> dict[int, DTOResult]:
        """Step until some descents end; these, by number."""
        ended: list[_State] = []
        while not ended:
            if not self.stepping:
                found = self.evaluate([s.target for s in self.waiting], [s.number for s in self.waiting])
                for state, gradient in zip(self.waiting, found, strict=True):
                    state.learn(gradient)
                self.stepping, self.waiting = self.waiting, []
            while self.stepping:
                ready = []
                for state, tokens in zip(self.stepping, _hard(self.stepping), strict=True):
                    (ready if state.follow(tokens, self.descent.gradient_caching) else self.waiting).append(state)
                if ready:
                    _step(self.policy, ready, self.descent)
                ended += [state for state in ready if len(state.trace) == self.descent.num_iterations]
                self.stepping = [state for state in ready if len(state.trace) < self.descent.num_iterations]
        return {
            state.number: DTOResult(
                state.logits,
                state.trace,
                len(state.spent),
                state.changed(tokens).rollout,
                cost.total([gradient.cost for gradient in state.spent]),
            )
            for state, tokens in zip(ended, _hard(ended), strict=True)
        }


@dataclass(eq=False)
class _State:
    """One sequence in a descent.

    Attributes:
        number: by which the caller knows the sequence.
        positions: rollout positions whose rows move.
        sequence, gradient: the hard sequence it is at, and ∂L/∂y there.
        known: gradients evaluated so far, by the hard tokens at the positions.
        first, sampled: first argmax and sampled token of each row.
        noise: what the rows' argmax is taken with; None for nothing.
        value: the parameter, logits or latents, one row per position; `mean` and `square` are Adam's moments of it.
        logits: of the rows.
        rows: ∂L/∂y of the rows.
    """

    number: int
    positions: list[int]
    sequence: TokenSequence
    gradient: Gradient
    known: dict[tuple[int, ...], Gradient]
    first: Tensor
    sampled: Tensor
    noise: Tensor | None
    value: Tensor
    logits: Tensor
    rows: Tensor
    mean: Tensor
    square: Tensor
    trace: list[float] = field(default_factory=list)
    spent: list[Gradient] = field(default_factory=list)
    target: TokenSequence | None = None
    fresh: bool = False

    def follow(self, tokens: list[int], caching: bool) -> bool:
        """Move to the sequence with these hard tokens; False where its gradient has to be evaluated first."""
        if self.fresh:  # evaluated for this very step
            self.fresh = False
            return True
        wanted = tuple(tokens)
        same = all(self.sequence.rollout[p] == token for p, token in zip(self.positions, wanted, strict=True))
        if caching and same:
            return True
        self.target = self.changed(tokens)
        if not caching or wanted not in self.known:
            return False
        self.adopt(self.known[wanted])
        return True

    def learn(self, gradient: Gradient) -> None:
        """Take over the gradient that was evaluated at the target."""
        self.known[tuple(self.target.rollout[p] for p in self.positions)] = gradient
        self.spent.append(gradient)
        self.adopt(gradient)
        self.fresh = True

    def adopt(self, gradient: Gradient) -> None:
        self.sequence, self.gradient = self.target, gradient
        self.rows = onehot_gradient([gradient], [self.positions])

    def changed(self, tokens: Sequence[int]) -> TokenSequence:
        """The sequence with these hard tokens at the positions."""
        rollout = list(self.sequence.rollout)
        for position, token in zip(self.positions, tokens, strict=True):
            rollout[position] = token
        return self.sequence._replace(rollout=rollout)


def _states(
    policy: Policy,
    numbers: Iterable[int],
    sequences: Sequence[TokenSequence],
    gradients: Sequence[Gradient],
    positions: Sequence[Sequence[int]],
    latents: Float[Tensor, "rows hidden"],
    descent: DTOSettings,
    uniforms: Sequence[Float[np.ndarray, "_ vocab"]] | None,
) -> list[_State]:
    sizes = [len(p) for p in positions]
    logits = _head(policy, latents)
    value = logits if descent.parameter == "logits" else at_least_float32(latents)
    rows = onehot_gradient(gradients, positions)
    sources = [None] * len(sizes) if uniforms is None else uniforms
    parts = zip(logits.split(sizes), value.split(sizes), rows.split(sizes), sources, strict=True)
    states = []
    for number, sequence, gradient, own, (z, x, r, u) in zip(
        numbers, sequences, gradients, positions, parts, strict=True
    ):
        tokens = [sequence.rollout[position] for position in own]
        sampled = torch.tensor(tokens, device=z.device)
        noise = None
        if descent.flip == "gumbel":
            noise = straight_through.explaining_noise(z, sampled, u, descent.draw_temperature)
        first = (z if noise is None else z + noise).argmax(-1)
        zero = torch.zeros_like(x)
        known = {tuple(tokens): gradient}
        states.append(
            _State(number, list(own), sequence, gradient, known, first, sampled, noise, x, z, r, zero, zero.clone())
        )
    return states


def _hard(states: Sequence[_State]) -> list[list[int]]:
    """Hard tokens of each state's rows: the sampled one until the argmax differs from the first."""
    best = _joined([s.logits if s.noise is None else s.logits + s.noise for s in states]).argmax(-1)
    first = torch.cat([state.first for state in states])
    hard = torch.where(best == first, torch.cat([state.sampled for state in states]), best)
    return [part.tolist() for part in hard.split([len(state.positions) for state in states])]


def _step(policy: Policy, states: Sequence[_State], descent: DTOSettings) -> None:
    """One step of Adam (β = 0.9 and 0.999, ε = 1e-8) for each state, at its own iteration.

    Written out because torch's optimiser keeps one step count per tensor; the reference engine uses torch's.
    """
    sizes = [len(state.positions) for state in states]
    logits, rows = _joined([state.logits for state in states]), _joined([state.rows for state in states])
    gradient = straight_through.logits_gradient(logits, rows, temperature=descent.ste_temperature)
    if descent.parameter == "latents":
        gradient = project_to_hidden(gradient, policy.head.weight[: policy.vocab_size])
    done = [len(state.trace) for state, size in zip(states, sizes, strict=True) for _ in range(size)]

    def column(numbers: list[float]) -> Tensor:
        return torch.tensor(numbers, dtype=gradient.dtype, device=gradient.device)[:, None]

    mean = torch.lerp(_joined([state.mean for state in states]), gradient, 0.1)
    square = _joined([state.square for state in states]).mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    scale = column([descent.step(t) / (1 - 0.9 ** (t + 1)) for t in done])
    width = column([math.sqrt(1 - 0.999 ** (t + 1)) for t in done])
    value = _joined([state.value for state in states]) - scale * mean / (square.sqrt() / width + 1e-8)
    logits = value if descent.parameter == "logits" else _head(policy, value)
    parts = zip(value.split(sizes), logits.split(sizes), mean.split(sizes), square.split(sizes), strict=True)
    for state, (x, z, m, s) in zip(states, parts, strict=True):
        state.trace.append(state.gradient.loss)
        state.value, state.logits, state.mean, state.square = x, z, m, s


def _joined(parts: list[Tensor]) -> Tensor:
    """All rows one after the other; a single part, which may be [length, vocab], is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _head(policy: Policy, latents: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
    return at_least_float32(policy.logits(latents.to(policy.embedding.dtype)))
