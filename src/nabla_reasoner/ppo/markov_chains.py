"""Test-time samplers as Markov chains over enumerated answers: the distribution after each step, without sampling.

A method's effect on an answer is a row of a transition matrix P[y, y']; a distribution ρ becomes ρP. Three families:

    Langevin            a Gaussian step along -∂L/∂y restricted to one-hot tokens, with or without a Metropolis test
    independent         a new sample of π with a Metropolis test: no gradient
    revisions           ∇-Reasoner: redraw the token at one position, roll out after it, accept or reject
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..dto import straight_through
from ..engine.sampling import Sampling, filtered_probabilities
from .exact_distributions import LogProbs, ScoredPrompt, answer_indices

Matrix = Float[Tensor, "answers answers"]
ACCEPT = ("higher", "always", "metropolis")


def joint(proposal: Float[Tensor, "answers length vocab"], answers: Int[Tensor, "answers length"]) -> Matrix:
    """Return log q(y'|y) of a proposal whose positions are independent."""
    return sum(proposal[:, l, answers[:, l]] for l in range(answers.shape[1]))


def metropolis(log_proposal: Matrix, target: LogProbs) -> Matrix:
    """Return the transition matrix of proposals with the Metropolis-Hastings test; `target` is stationary."""
    forward = target[:, None] + log_proposal
    accept = (forward.T - forward).nan_to_num(nan=0.0).clamp(max=0).exp()
    return with_rejections(log_proposal.exp() * accept)


def with_rejections(changes: Matrix) -> Matrix:
    """Complete the probabilities of changes between different answers to a transition matrix."""
    changes = changes.clone().fill_diagonal_(0)
    return changes + torch.diag(1 - changes.sum(1))


def independent(prior: LogProbs, target: LogProbs) -> Matrix:
    """Return the transition matrix of new samples of π with the Metropolis test against the current answer."""
    return metropolis(prior.expand(len(prior), -1), target)


def redraw_log_probabilities(
    logits: Float[Tensor, "answers vocab"], sampling: Sampling
) -> Float[Tensor, "answers vocab"]:
    """Return log-probabilities of a token redrawn from logits; -inf where `sampling` cuts."""
    return filtered_probabilities(logits.double(), sampling).log()


def revision(
    scored: ScoredPrompt,
    redraw: Float[Tensor, "answers vocab"],
    position: int,
    *,
    accept: str,
    reward_weight: float,
    confidence_threshold: float = 1.0,
) -> Matrix:
    """Return the transition matrix of one position of ∇-Reasoner's pass.

    Its token is redrawn given the whole answer; after another token the rest is rolled out, and the new answer accepted
    or rejected. "metropolis" replaces the rule "accept if the reward is higher" by the test that leaves ρ* ∝ π e^{λr}
    stationary. There π(rest) cancels against the rollout, which leaves e^{λ(r' - r)} · π(v'|y_<l) q(v|y') /
    (π(v|y_<l) q(v'|y)).

    Args:
        redraw: log q(·|y) of the new token at the position.
        accept: "higher" (the released rule), "always", or "metropolis".
        confidence_threshold: positions where the policy's confidence is higher are skipped. Only the answer's prefix
            decides this, so a Metropolis test stays exact.

    Raises:
        ValueError: an unknown rule.
    """
    if accept not in ACCEPT:
        raise ValueError(f"accept must be one of {', '.join(ACCEPT)}; got {accept!r}.")
    rewards = scored.rewards
    confident = next_confidence(scored, position) > confidence_threshold
    proposal = changes(scored, redraw, position).masked_fill(confident[:, None], -torch.inf)
    if accept == "metropolis":
        return metropolis(proposal, scored.prior + reward_weight * rewards)
    accepted = torch.ones_like(proposal) if accept == "always" else (rewards > rewards[:, None]).to(proposal)
    return with_rejections(proposal.exp() * accepted)


def changes(scored: ScoredPrompt, redraw: Float[Tensor, "answers vocab"], position: int) -> Matrix:
    """Return log q(y'|y) of another token at a position and a rollout after it; -inf elsewhere."""
    answers = scored.answers
    prefix = torch.arange(len(answers)) // redraw.shape[1] ** (answers.shape[1] - position)
    rollout = scored.tokens[:, position + 1 :].sum(-1)
    same_prefix = prefix[:, None] == prefix
    reachable = same_prefix & (answers[:, None, position] != answers[:, position])
    return (redraw[:, answers[:, position]] + rollout).masked_fill(~reachable, -torch.inf)


def next_confidence(scored: ScoredPrompt, position: int) -> LogProbs:
    """Return the policy's largest next-token probability at a position, by answer."""
    return next_token_log_probabilities(scored, position).amax(-1).exp()


def next_token_log_probabilities(scored: ScoredPrompt, position: int) -> Float[Tensor, "answers vocab"]:
    """Return log π(·|y_<l, x) at a position, by answer."""
    vocab_size = scored.vocab_size
    block = vocab_size ** (scored.answers.shape[1] - position - 1)  # answers that agree up to and at the position
    return scored.tokens[::block, position].view(-1, vocab_size).repeat_interleave(block * vocab_size, 0)


def step(distribution: LogProbs, matrix: Matrix) -> LogProbs:
    """Return the distribution after a transition; negative masses from rounding become 0."""
    return (distribution.exp() @ matrix).clamp(min=0).log()


def redrawn(
    distribution: LogProbs, rows: Float[Tensor, "answers length vocab"], answers: Int[Tensor, "answers length"]
) -> LogProbs:
    """Return the distribution of an answer drawn token by token from `rows`, which depend on a first answer.

    Args:
        distribution: distribution of the first answer.
        rows: log-probabilities as of `redraw_log_probabilities`.
    """
    return torch.logsumexp(distribution[:, None] + joint(rows, answers), 0)


def logit_particles(
    scored: ScoredPrompt,
    *,
    reward_weight: float,
    step_size: float,
    counts: list[int],
    particles: int,
    noise: float,
    generator: torch.Generator,
) -> list[tuple[Int[Tensor, " particles"], float]]:
    """Run z ← z - η ∂L/∂z + noise·√η ξ on token logits from rollouts of π: DTO with the theorem's noise.

    It has no stationary distribution: L depends on z through softmax(z), which is invariant to shifts of a row and
    hardly changes once it is confident, so e^{-L} has no finite integral over z. The gradient is the straight-through
    one: ∂L/∂y at the hard answer, chained through softmax(z). A row's hard token follows DTO's rule: the sampled token,
    until the argmax of the row differs from its first argmax.

    Args:
        counts: ascending numbers of steps after which the answers are read.
        noise: √2 for Langevin, 0 for plain descent.

    Returns:
        For each count, the indices of the particles' hard answers, and the mean number of gradient evaluations so far
        (one at the start, one whenever an answer changed).
    """
    length = scored.answers.shape[1]
    table = scored.energy_gradients(reward_weight)
    start = torch.multinomial(scored.prior.exp(), particles, replacement=True, generator=generator)
    sampled = scored.answers[start]
    logits = torch.stack([next_token_log_probabilities(scored, l)[start] for l in range(length)], 1)
    first_argmax = logits.argmax(-1)
    current = start
    evaluations = particles
    results = []
    for number in range(1, counts[-1] + 1):
        gradient = straight_through.logits_gradient(logits.flatten(0, 1), table[current].flatten(0, 1))
        logits = logits - step_size * gradient.view_as(logits)
        if noise:
            gaussian = torch.randn(logits.shape, generator=generator, dtype=logits.dtype)
            logits = logits + noise * step_size**0.5 * gaussian
        hard = straight_through.hard_tokens(logits, first_argmax, sampled)
        indices = answer_indices(hard, scored.vocab_size)
        evaluations += int((indices != current).sum())
        current = indices
        if number in counts:
            results.append((current, evaluations / particles))
    return results
