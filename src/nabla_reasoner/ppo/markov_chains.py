"""Samplers at test time as Markov chains on an enumerated space: the law after each step, without sampling.

What a method does to an answer is a row of a transition matrix P[y, y']; a law ρ becomes ρP. Three families:

    Langevin            a step along -∂L/∂y with Gaussian noise, put back onto the vertices of the simplex token by
                        token, with or without a Metropolis test
    independent         a fresh draw from π with a Metropolis test: no gradient
    revisions           ∇-Reasoner's own move: redraw the token at one position, roll out behind it, accept or not
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..dto import straight_through
from ..engine.sampling import Sampling, filtered_probabilities
from .exact_laws import LogProbs, ScoredPrompt

Matrix = Float[Tensor, "answers answers"]
ACCEPT = ("higher", "always", "metropolis")


def langevin_proposal(
    energy_gradients: Float[Tensor, "answers length vocab"], answers: Int[Tensor, "answers length"], step_size: float
) -> Float[Tensor, "answers length vocab"]:
    """Per answer and position, the log-probability of each token of a discrete Langevin step (Zhang et al., 2022).

    The Gaussian step y - (η/2) g + √η ξ, with its density restricted to one-hot rows: log q(v) = -½ (g_v - g_y) -
    ‖e_v - e_y‖²/(2η) + const, where the squared distance of two different vertices is 2. In units of dx = -∇L dt
    + √2 dW the time of a step is η/2. All positions move at once and independently.

    Args:
        energy_gradients: ∂L/∂y at each answer; zeros give the same move without a gradient.
        step_size: η > 0.
    """
    own = energy_gradients.gather(-1, answers[..., None])
    stay = torch.nn.functional.one_hot(answers, energy_gradients.shape[-1]).to(energy_gradients)
    return torch.log_softmax(-0.5 * (energy_gradients - own) - (1 - stay) / step_size, -1)


def joint(proposal: Float[Tensor, "answers length vocab"], answers: Int[Tensor, "answers length"]) -> Matrix:
    """log q(y'|y) of a proposal whose positions are independent."""
    return sum(proposal[:, l, answers[:, l]] for l in range(answers.shape[1]))


def metropolis(log_proposal: Matrix, target: LogProbs) -> Matrix:
    """The transition matrix of proposals with the Metropolis–Hastings test; `target` is stationary."""
    forward = target[:, None] + log_proposal
    accept = (forward.T - forward).nan_to_num(nan=0.0).clamp(max=0).exp()
    return stay(log_proposal.exp() * accept)


def stay(moves: Matrix) -> Matrix:
    """Moves between different answers as a transition matrix: what does not move stays."""
    moves = moves.clone().fill_diagonal_(0)
    return moves + torch.diag(1 - moves.sum(1))


def independent(prior: LogProbs, target: LogProbs) -> Matrix:
    """Transition matrix of fresh draws from π with the Metropolis test against the current answer."""
    return metropolis(prior.expand(len(prior), -1), target)


def redraws(logits: Float[Tensor, "answers vocab"], sampling: Sampling) -> Float[Tensor, "answers vocab"]:
    """log-probabilities that a token is redrawn with from (optimised) logits; -inf where a cut leaves nothing."""
    return filtered_probabilities(logits.double(), sampling).log()


def revision(
    landscape: ScoredPrompt,
    redraw: Float[Tensor, "answers vocab"],
    position: int,
    *,
    accept: str,
    reward_weight: float,
    confidence_threshold: float = 1.0,
) -> Matrix:
    """One position of ∇-Reasoner's pass: redraw its token given the whole answer, roll out behind it, accept or keep.

    A redraw of the same token changes nothing. "metropolis" replaces the rule "accept if the reward is higher" by the
    test that leaves ρ* ∝ π e^{λr} stationary: π(rest) cancels against the roll-out, and what remains is
    e^{λ(r' - r)} · π(v'|y_<l) q(v|y') / (π(v|y_<l) q(v'|y)).

    Args:
        redraw: log q(·|y) of the new token at the position.
        accept: "higher" (the released rule), "always", or "metropolis".
        confidence_threshold: positions where the policy is more certain than this are left alone; beginnings of
            answers decide this, so the gate leaves a Metropolis test exact.

    Raises:
        ValueError: an unknown rule.
    """
    if accept not in ACCEPT:
        raise ValueError(f"accept must be one of {', '.join(ACCEPT)}; got {accept!r}.")
    answers, tokens, rewards = landscape.answers, landscape.tokens, landscape.rewards
    size, length = answers.shape
    place = torch.arange(size) // redraw.shape[1] ** (length - position)  # equal beginnings have equal numbers
    tail = tokens[:, position + 1 :].sum(-1)
    proposal = redraw[:, answers[:, position]] + tail
    other = (place[:, None] == place) & (answers[:, None, position] != answers[:, position])
    proposal = proposal.masked_fill(~other, -torch.inf)
    confident = next_confidence(landscape, position) > confidence_threshold
    proposal = proposal.masked_fill(confident[:, None], -torch.inf)
    if accept == "metropolis":
        return metropolis(proposal, landscape.prior + reward_weight * rewards)
    kept = torch.ones_like(proposal) if accept == "always" else (rewards > rewards[:, None]).to(proposal)
    return stay(proposal.exp() * kept)


def next_confidence(landscape: ScoredPrompt, position: int) -> LogProbs:
    """The policy's largest next-token probability at a position, by answer."""
    return following(landscape, position).amax(-1).exp()


def following(landscape: ScoredPrompt, position: int) -> Float[Tensor, "answers vocab"]:
    """log π(·|y_<l, x) at a position, by answer."""
    length, vocab_size = landscape.likelihood_gradients.shape[1:]
    block = vocab_size ** (length - position - 1)  # answers that agree up to and including the position
    return landscape.tokens[::block, position].view(-1, vocab_size).repeat_interleave(block * vocab_size, 0)


def sweep(law: LogProbs, matrices: list[Matrix]) -> LogProbs:
    """The law after a pass through transition matrices, one after the other; rounding leaves no negative mass."""
    probabilities = law.exp()
    for matrix in matrices:
        probabilities = probabilities @ matrix
    return probabilities.clamp(min=0).log()


def replaced(
    law: LogProbs, rows: Float[Tensor, "answers length vocab"], answers: Int[Tensor, "answers length"]
) -> LogProbs:
    """The law of an answer drawn token by token from `rows`, which depend on a first answer drawn from `law`.

    Args:
        rows: log-probabilities, as `redraws` gives them.
    """
    return torch.logsumexp(law[:, None] + joint(rows, answers), 0)


def logit_particles(
    landscape: ScoredPrompt,
    *,
    reward_weight: float,
    step_size: float,
    counts: list[int],
    particles: int,
    noise: float,
    generator: torch.Generator,
) -> list[tuple[Int[Tensor, " particles"], float]]:
    """z ← z - η ∂L/∂z + noise·√η ξ on token logits, from rollouts of π: DTO's own variable with the theorem's noise.

    There is no stationary law to arrive at: L depends on z through softmax(z), which does not change when a row is
    shifted and hardly does once it is sure, so e^{-L} has no finite integral over z; ρ* is not promised here.

    The gradient is the straight-through one: ∂L/∂y at the hard answer, chained through softmax(z). The hard token of a
    row follows DTO's rule: what was sampled stands until the argmax of the row differs from its first argmax.

    Args:
        counts: numbers of steps after which the answers are read off, ascending.
        noise: √2 for Langevin, 0 for plain descent.

    Returns:
        For each count, the particles' hard answers as indices, and the mean number of gradient evaluations up to then
        (one at the start, one whenever an answer changed).
    """
    answers, size = landscape.answers, landscape.answers.shape
    vocab_size = landscape.likelihood_gradients.shape[-1]
    table = landscape.energy_gradients(reward_weight)
    start = torch.multinomial(landscape.prior.exp(), particles, replacement=True, generator=generator)
    sampled = answers[start]
    logits = torch.stack([following(landscape, l)[start] for l in range(size[1])], 1)
    first, current, evaluations, found = logits.argmax(-1), start, particles, []
    places = vocab_size ** torch.arange(size[1]).flip(0)
    for step in range(1, counts[-1] + 1):
        rows = straight_through.logits_gradient(logits.flatten(0, 1), table[current].flatten(0, 1)).view_as(logits)
        logits = logits - step_size * rows
        if noise:
            kicks = torch.randn(logits.shape, generator=generator, dtype=logits.dtype)
            logits = logits + noise * step_size**0.5 * kicks
        moved = (straight_through.hard_tokens(logits, first, sampled) * places).sum(-1)
        evaluations, current = evaluations + int((moved != current).sum()), moved
        if step in counts:
            found.append((current, evaluations / particles))
    return found
