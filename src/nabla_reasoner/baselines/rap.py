"""Reasoning via Planning (RAP): Monte Carlo tree search over steps, valued by the reward model."""

from collections.abc import Sequence

from ..engine.sampling import Sampling
from ..models.arguments import checked, checked_settings
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .sample_pool import check_counts, check_responses
from .tree import Node, backup, select
from .tree_search import Draw, ProblemTree, ScoringRequest, StepSettings, TreeSearch


@checked_settings
class RAP:
    """Monte Carlo tree search over steps (Hao et al., 2023, Reasoning via Planning, arXiv 2305.14992).

    In one simulation UCT selects a node. If that node was simulated from before, next steps are proposed by sampling
    and the first of them is taken. The response is completed by sampling, and its reward is backed up along the path.
    A node's value is the best reward reached through it. The first proposal and its completion are one draw, so that
    all problems and branches of a simulation are sampled in one call. The search ends early when everything that was
    proposed has been completed. The answer is the completed response of highest reward; a response that ended by
    itself ranks above one cut off at the length limit.

    Differs from the paper: the policy is not prompted for states and self-evaluation. The reward is the reward model's,
    of completed responses only; single steps have none.

    Args:
        num_simulations: >= 1; each completes one response.
        num_proposals: k >= 1, steps sampled when a node is expanded; equal ones are merged.
        exploration: w >= 0 in UCT, whose action values are scaled to [0, 1] within each tree.
        step_marks: see `tree_search.StepSettings`.
        temperature, top_p, top_k: sampling of tokens, in steps and completions.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(
        self,
        *,
        num_simulations: int = 8,
        num_proposals: int = 6,
        exploration: float = 1.0,
        step_marks: Sequence[str] = ("\n",),
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        check_counts({"num_simulations": num_simulations})
        check_responses({"num_proposals (k)": num_proposals})
        if exploration < 0:
            raise ValueError(f"exploration must be >= 0; got {exploration}. Use 0 to follow the best branch only.")
        self.num_simulations = num_simulations
        self.num_proposals = num_proposals
        self.exploration = exploration
        self.steps = StepSettings(step_marks, Sampling(temperature, top_p, top_k), max_new_tokens)

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order; the result does not depend on which problems share a batch."""
        search = TreeSearch(problems, policy, reward, self.steps, seed, repeat)
        for _ in range(self.num_simulations):
            active = [tree for tree in search.trees if not tree.root.exhausted]
            if not active:
                break
            with search.timed(active):
                responses = self._simulate(search, active)
                rewards = search.score(responses, close=True)
            for response, value in zip(responses, rewards, strict=True):
                backup(response.node, value)
                search.complete(response.tree, response.tokens, value)
                response.tree.log.record(policy)
        return search.solutions()

    def _simulate(self, search: TreeSearch, trees: Sequence[ProblemTree]) -> list[ScoringRequest]:
        """Complete one response in each tree, all in one batch."""
        nodes = [self._select(tree) for tree in trees]
        draws = [self._draws(search, tree, node) for tree, node in zip(trees, nodes, strict=True)]
        continuations = iter(search.sample([draw for node_draws in draws for draw in node_draws]))
        responses = []
        for tree, node, node_draws in zip(trees, nodes, draws, strict=True):
            samples = [next(continuations) for _ in node_draws]
            tokens = node.tokens + (samples[0] if samples else [])
            if node_draws and node_draws[0].slot is not None:
                node = search.add_children(node_draws, samples)[0]
            responses.append(ScoringRequest(tree, tokens, node))
        return responses

    def _draws(self, search: TreeSearch, tree: ProblemTree, node: Node) -> list[Draw]:
        """Return what to sample at a selected node: nothing, proposals, or the rest of the response."""
        if node.final:
            return []
        if node.visits or node.parent is None:
            return search.proposals(tree, node, self.num_proposals, whole=1)
        return [search.completion(tree, node)]

    def _select(self, tree: ProblemTree) -> Node:
        """Select a node by UCT, with action values scaled by the rewards seen in the tree."""
        rewards = [sample.reward for sample in tree.log.samples] or [0.0]
        return select(tree.root, exploration=self.exploration, low=min(rewards), high=max(rewards))
