"""Differentiable Textual Optimization: gradient descent on a rollout's token logits (Alg. 2 and 4, arXiv 2603.04948).

`optimize` is the public entry. Engine "reference" is the plain algorithm: one sequence at a time, a parameter of
[length, vocab], autograd through both models at every step. Engine "fast" computes the same numbers from one evaluation
of ∂L/∂y per distinct hard sequence, for many sequences at once, and keeps a parameter only for the rows that move.

A flip: the sampled token of a row stands until the argmax of the row differs from its first argmax; from then on the
row's hard token is its argmax (and the sampled token again, should the first argmax return).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from . import cost, objective, passes, reference, relaxation
from .descent import Descent, Optimized
from .gradients import Gradient, by_hidden, onehot_gradient, precise
from .models import Messages, Policy, RewardModel
from .passes import Caches, HardSequence

Evaluate = Callable[[Sequence[HardSequence], Sequence[int]], list[Gradient]]

UPDATES, ENGINES = ("first", "all"), ("fast", "reference")


def optimize(
    policy: Policy,
    reward: RewardModel,
    prompts: Sequence[Messages],
    prefix_ids: Sequence[Sequence[int]],
    rollout_ids: Sequence[Sequence[int]],
    *,
    parameter: str = "logits",
    update: str = "first",
    reward_weight: float = 1.0,
    nll_weight: float = 0.001,
    num_iterations: int = 20,
    step_size: float = 0.01,
    min_step_ratio: float = 0.1,
    ste_temperature: float = 1.0,
    gradient_caching: bool = True,
    engine: str = "fast",
) -> list[Optimized]:
    """Descend L(y) = -λ r(y|x) - ν log π(y|x) from the policy's own logits for each rollout.

    Args:
        prompts: one chat (list of messages) per sequence.
        prefix_ids: committed response tokens, possibly none.
        rollout_ids: the rest of the response, at least one token.
        update: "first" moves the first rollout row only (the released scripts); "all" moves every row (Alg. 2).
        reward_weight: λ >= 0.
        nll_weight: ν >= 0, the factor of the policy's negative log-likelihood.
        engine: "fast" or "reference".

    Raises:
        ValueError: a setting out of range, an empty rollout, or vocabularies that differ.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}.")
    if update not in UPDATES:
        raise ValueError(f"update must be one of {', '.join(UPDATES)}; got {update!r}.")
    objective.check_weights(reward_weight, nll_weight)
    descent = Descent(parameter, num_iterations, step_size, min_step_ratio, ste_temperature, gradient_caching).check()
    sequences = [
        objective.make_sequence(policy, reward, messages, prefix, rollout)
        for messages, prefix, rollout in zip(prompts, prefix_ids, rollout_ids, strict=True)
    ]
    weights = {"reward_weight": reward_weight, "nll_weight": nll_weight}
    if engine == "reference":
        return [
            reference.optimize(policy, reward, sequence, update=update, descent=descent, **weights)
            for sequence in sequences
        ]

    caches = Caches(len(sequences))

    def evaluate(batch: Sequence[HardSequence], numbers: Sequence[int]) -> list[Gradient]:
        return passes.evaluate(policy, reward, batch, caches=caches, slots=numbers, **weights)

    gradients = evaluate(sequences, range(len(sequences)))
    positions = [[0] if update == "first" else list(range(len(s.rollout))) for s in sequences]
    latents = torch.cat([g.hidden[p] for g, p in zip(gradients, positions, strict=True)])
    results = descend(policy, sequences, gradients, positions, latents, evaluate, descent)
    return [
        result._replace(
            gradient_evaluations=result.gradient_evaluations + 1, cost=cost.total([gradient.cost, result.cost])
        )
        for result, gradient in zip(results, gradients, strict=True)
    ]


class _State(NamedTuple):
    """Where one sequence stands in a descent: its hard sequence, ∂L/∂y there, and what was evaluated so far."""

    sequence: HardSequence
    gradient: Gradient
    known: dict[tuple[int, ...], Gradient]
    spent: list[Gradient]


def descend(
    policy: Policy,
    sequences: Sequence[HardSequence],
    gradients: Sequence[Gradient],
    positions: Sequence[Sequence[int]],
    latents: Float[Tensor, "rows hidden"],
    evaluate: Evaluate,
    descent: Descent,
) -> list[Optimized]:
    """The fast engine: T steps on the chosen rows of many sequences together.

    Args:
        sequences: hard sequences, each with its gradient in `gradients` (evaluated by the caller, not counted here).
        positions: per sequence, the rollout positions whose rows move.
        latents: hidden states that yield the first logits of those rows, all sequences one after the other.
        evaluate: ∂L/∂y at hard sequences when tokens flipped, given them and their numbers among `sequences`.
    """
    sizes = [len(p) for p in positions]
    start = _head(policy, latents)
    first = start.argmax(-1)
    tokens = [[s.rollout[i] for i in p] for s, p in zip(sequences, positions, strict=True)]
    sampled = torch.tensor([token for own in tokens for token in own], device=first.device)
    states = [_State(s, g, {tuple(t): g}, []) for s, g, t in zip(sequences, gradients, tokens, strict=True)]
    rows = onehot_gradient(gradients, positions)
    value = (start if descent.parameter == "logits" else precise(latents)).clone().requires_grad_()
    adam = torch.optim.Adam([value], lr=descent.step_size)
    traces: list[list[float]] = [[] for _ in sequences]
    logits = start
    for iteration in range(descent.num_iterations):
        hard = torch.where(logits.argmax(-1) == first, sampled, logits.argmax(-1))
        changed = _follow(states, positions, hard.split(sizes), evaluate, descent.gradient_caching)
        if changed:
            rows = _replace_rows(rows, states, positions, sizes, changed)
        for trace, state in zip(traces, states, strict=True):
            trace.append(state.gradient.loss)
        gradient = relaxation.logits_gradient(logits, rows, temperature=descent.ste_temperature)
        if descent.parameter == "latents":
            gradient = by_hidden(gradient, policy.head.weight[: policy.vocab_size])
        value.grad = gradient
        adam.param_groups[0]["lr"] = descent.step(iteration)
        adam.step()
        logits = value.detach() if descent.parameter == "logits" else _head(policy, value.detach())
    hard = torch.where(logits.argmax(-1) == first, sampled, logits.argmax(-1))
    return [
        Optimized(part, trace, len(state.spent), _with(state.sequence, p, ids.tolist()).rollout,
                  cost.total([g.cost for g in state.spent]))
        for part, trace, state, p, ids in zip(
            logits.split(sizes), traces, states, positions, hard.split(sizes), strict=True
        )
    ]  # fmt: skip


def _head(policy: Policy, latents: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
    return precise(policy.logits(latents.to(policy.embedding.dtype)))


def _with(sequence: HardSequence, positions: Sequence[int], tokens: Sequence[int]) -> HardSequence:
    rollout = list(sequence.rollout)
    for position, token in zip(positions, tokens, strict=True):
        rollout[position] = token
    return sequence._replace(rollout=rollout)


def _follow(
    states: list[_State],
    positions: Sequence[Sequence[int]],
    hard: Sequence[Tensor],
    evaluate: Evaluate,
    caching: bool,
) -> list[int]:
    """Move every state whose hard tokens changed to its new sequence; returns the indices whose gradient is new."""
    wanted = [tuple(ids.tolist()) for ids in hard]
    current = [tuple(state.sequence.rollout[i] for i in p) for state, p in zip(states, positions, strict=True)]
    moved = [i for i in range(len(states)) if not caching or wanted[i] != current[i]]
    missing = [i for i in moved if not caching or wanted[i] not in states[i].known]
    targets = {i: _with(states[i].sequence, positions[i], wanted[i]) for i in moved}
    for i, gradient in zip(missing, evaluate([targets[i] for i in missing], missing) if missing else [], strict=True):
        states[i].known[wanted[i]] = gradient
        states[i].spent.append(gradient)
    for i in moved:
        states[i] = states[i]._replace(sequence=targets[i], gradient=states[i].known[wanted[i]])
    return moved


def _replace_rows(
    rows: Float[Tensor, "rows vocab"],
    states: list[_State],
    positions: Sequence[Sequence[int]],
    sizes: list[int],
    changed: list[int],
) -> Float[Tensor, "rows vocab"]:
    """∂L/∂y rows with those of the changed sequences computed anew."""
    parts = list(rows.split(sizes))
    fresh = onehot_gradient([states[i].gradient for i in changed], [positions[i] for i in changed])
    for i, part in zip(changed, fresh.split([sizes[i] for i in changed]), strict=True):
        parts[i] = part
    return torch.cat(parts)
