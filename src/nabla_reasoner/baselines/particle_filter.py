"""Particle filter over reasoning steps: particles follow the policy and are resampled by the reward's increments.

After Puri et al. (arXiv 2502.01618), whose weights are a process reward model's scores themselves.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..engine.numerics import NonFiniteError
from ..engine.sampling import Sampling, keyed_uniforms
from ..models.arguments import checked, checked_settings
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .markov_chain import check_weight
from .sample_pool import check_responses
from .tree import Node, first_step
from .tree_search import ProblemTree, ScoringRequest, StepSettings, TreeSearch


def systematic(weights: Sequence[float], uniform: float) -> list[int]:
    """Return as many indices as there are weights, each drawn about N w times: systematic resampling.

    One uniform number places N points at equal distances on the cumulative weights, so that index i is drawn ⌊N w_i⌋
    or ⌈N w_i⌉ times, and N w_i times on average.

    Args:
        weights: N weights >= 0 with the sum 1.
        uniform: in [0, 1).
    """
    count = len(weights)
    cumulative = np.cumsum(weights)
    points = (np.arange(count) + uniform) / count * cumulative[-1]
    return np.minimum(np.searchsorted(cumulative, points, side="right"), count - 1).tolist()


@dataclass
class Particles:
    """The particles of one problem.

    Attributes:
        nodes: N responses so far, equally weighted; a response that was drawn several times stands there as often.
        log_normalizer: logarithm of the estimate of E_π[exp(β r)], the product of the mean weights of all rounds.
    """

    nodes: list[Node]
    log_normalizer: float = 0.0

    @property
    def final(self) -> bool:
        """Whether all responses are complete."""
        return all(node.final for node in self.nodes)


@checked_settings
class ParticleFilter:
    """N particles whose distribution approaches π(y) exp(β r(y)) / E_π[exp(β r)] with growing N.

    In a round every incomplete particle is continued by one step, sampled from the policy. Its weight is exp(β Δr), Δr
    the increase of the reward from the response before the step to that after it. N particles are then drawn in
    proportion to the weights (`systematic`). The reward of an incomplete response is its log-likelihood so far, or the
    classifier's score at its last token; that of the empty one counts as 0. Complete particles keep their place with
    Δr = 0. The search ends when all are complete. The answer is the completed response of highest reward; a response
    that ended by itself ranks above one cut off at the length limit.

    The increments sum to r(y). Hence for any function f, the estimate of E_π[exp(β r)] times the particles' mean of f
    has the expectation E_π[exp(β r) f].

    Differs from the paper: weights are the reward's increments, so that the target is the same as that of MH.

    Args:
        num_particles: N >= 1.
        reward_weight: β >= 0, per unit of the reward.
        step_marks: see `tree_search.StepSettings`.
        temperature, top_p, top_k: sampling of tokens.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(
        self,
        *,
        num_particles: int = 8,
        reward_weight: float | int = 1.0,
        step_marks: Sequence[str] = ("\n",),
        temperature: float | int = 0.7,
        top_p: float | int = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        check_responses({"num_particles (N)": num_particles})
        check_weight(reward_weight)
        self.num_particles = num_particles
        self.reward_weight = reward_weight
        self.steps = StepSettings(step_marks, Sampling(temperature, top_p, top_k), max_new_tokens)

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order; the result does not depend on which problems share a batch.

        Raises:
            ValueError: vocabularies that differ, a prompt beyond the context, or a step mark no token contains.
            NonFiniteError: a reward that overflows when it is multiplied by β.
        """
        search = TreeSearch(problems, policy, reward, self.steps, seed, repeat)
        self.run(search)
        return search.solutions()

    def run(self, search: TreeSearch) -> dict[ProblemTree, Particles]:
        """Advance the particles of every tree until all are complete, and return them."""
        particles = {tree: Particles([tree.root] * self.num_particles) for tree in search.trees}
        for tree in search.trees:
            tree.root.value = 0.0
        generation = 0
        while active := [tree for tree in search.trees if not particles[tree].final]:
            with search.timed(active):
                moved = self._continue(search, {tree: particles[tree].nodes for tree in active})
                self._evaluate(search, moved)
            for tree, nodes in moved.items():
                self._resample(search, tree, particles[tree], nodes, generation)
                if tree.log.samples:
                    tree.log.record(search.policy)
            generation += 1
        return particles

    def _continue(self, search: TreeSearch, particles: dict[ProblemTree, list[Node]]) -> dict[ProblemTree, list[Node]]:
        """Continue incomplete particles by one step; equal steps after the same response become one node."""
        counts = {tree: Counter(node for node in nodes if not node.final) for tree, nodes in particles.items()}
        draws = [
            search.proposals(tree, node, count) for tree, counter in counts.items() for node, count in counter.items()
        ]
        continuations = iter(search.sample([draw for node_draws in draws for draw in node_draws]))
        moved: dict[ProblemTree, list[Node]] = {
            tree: [node for node in nodes if node.final] for tree, nodes in particles.items()
        }
        for node_draws in draws:
            samples = [next(continuations) for _ in node_draws]
            children = {tuple(child.tokens): child for child in search.add_children(node_draws, samples)}
            tree, parent = node_draws[0].tree, node_draws[0].node
            moved[tree] += [children[*parent.tokens, *first_step(tokens, search.stops)] for tokens in samples]
        return moved

    def _evaluate(self, search: TreeSearch, particles: dict[ProblemTree, list[Node]]) -> None:
        """Set the reward of new nodes, each once; log completed ones as candidates for the answer."""
        new = [
            ScoringRequest(tree, node.tokens, node)
            for tree, nodes in particles.items()
            for node in dict.fromkeys(nodes)
            if node.value == -math.inf
        ]
        for final in (False, True):
            requests = [request for request in new if request.node.final == final]
            for request, value in zip(requests, search.score(requests, close=final), strict=True):
                request.node.value = value
                if final:
                    search.complete(request.tree, request.tokens, value)

    def _resample(
        self, search: TreeSearch, tree: ProblemTree, particles: Particles, moved: list[Node], generation: int
    ) -> None:
        """Replace the particles by a draw from the continued ones in proportion to their weights."""
        before = set(map(id, particles.nodes))
        increments = np.array(
            [0.0 if id(node) in before else node.value - node.parent.value for node in moved], dtype=float
        )
        with np.errstate(over="ignore"):
            logs = self.reward_weight * increments
        if not np.isfinite(logs).all():  # the rewards themselves are, so that the weight is too large
            raise NonFiniteError(f"log-weights with reward_weight={self.reward_weight}", "Lower it.")
        largest = logs.max()
        weights = np.exp(logs - largest)
        particles.log_normalizer += float(largest + math.log(weights.mean()))
        (uniform,) = keyed_uniforms(search.seed, tree.problem.id, search.repeat, f"resampling {generation}", 1)
        indices = systematic((weights / weights.sum()).tolist(), float(uniform))
        particles.nodes = [moved[index] for index in indices]
        for node in dict.fromkeys(moved):
            if id(node) not in before and node not in particles.nodes:
                search.trim(tree, node, len(node.parent.tokens))
