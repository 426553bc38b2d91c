"""Tree searches over reasoning steps: Tree of Thoughts and RAP, valued by the reward model."""

from collections.abc import Sequence

from ..engine.sampling import Sampling
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .tree import Node, backup, select
from .tree_search import Draw, ProblemTree, ScoringRequest, Steps, TreeSearch, check_counts


class RAP:
    """Monte Carlo tree search over steps (Hao et al., 2023, Reasoning via Planning, arXiv 2305.14992).

    One simulation: UCT walks down to a node; where that node has been simulated from before, next steps are proposed by
    sampling and the first of them is taken; the response is completed by sampling; its reward goes up the path. A node
    is worth the best reward reached through it. The first proposal and its completion are one draw, so that all
    problems and branches of a simulation are sampled in one call. The search ends early when everything that was
    proposed has been completed. The answer is the completed response of highest reward; those that ended by themselves
    go before those cut off at the length limit.

    Differs from the paper: the policy is not prompted for states and self-evaluation. The reward of a completed
    response is the reward model's; rewards of single steps are not used.

    Args:
        num_simulations: >= 1; each completes one response.
        num_proposals: k >= 1, steps drawn when a node is expanded; equal ones are merged.
        exploration: w >= 0 in UCT, whose action values are brought to [0, 1] within each tree.
        step_marks: see `forest.Steps`.
        temperature, top_p, top_k, max_new_tokens: how steps and completions are drawn.
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
        check_counts({"num_simulations": num_simulations, "num_proposals (k)": num_proposals})
        if exploration < 0:
            raise ValueError(f"exploration must be >= 0; got {exploration}. Use 0 to follow the best branch only.")
        self.num_simulations, self.num_proposals, self.exploration = num_simulations, num_proposals, exploration
        self.steps = Steps(step_marks, Sampling(temperature, top_p, top_k), max_new_tokens).check()

    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """One solution per problem, in order; the result does not depend on which problems share a batch."""
        forest = TreeSearch(problems, policy, reward, self.steps, seed, repeat)
        for _ in range(self.num_simulations):
            active = [number for number, tree in enumerate(forest.trees) if not tree.root.exhausted]
            if not active:
                break
            with forest.shared_by(active):
                responses = self._simulate(forest, active)
                values = forest.value(responses, close=True)
            for one, value in zip(responses, values, strict=True):
                backup(one.node, value)
                forest.complete(one.tree, one.tokens, value)
                forest.note(one.tree)
        return forest.solutions()

    def _simulate(self, forest: TreeSearch, active: Sequence[int]) -> list[ScoringRequest]:
        """A completed response from each tree, with the node it was completed from; one call of the sampler."""
        draws: list[list[Draw]] = []
        chosen = [self._select(forest.trees[number]) for number in active]
        for number, node in zip(active, chosen, strict=True):
            if node.final:
                draws.append([])
            elif node.visits or node.parent is None:
                draws.append(forest.proposals(number, node, self.num_proposals, whole=1))
            else:
                draws.append([forest.completion(number, node)])
        drawn = iter(forest.draw([one for own in draws for one in own]))
        responses = []
        for number, node, own in zip(active, chosen, draws, strict=True):
            new = [next(drawn) for _ in own]
            tokens = node.tokens + (new[0] if new else [])
            if own and own[0].home is not None:
                node = forest.adopt(own, new)[0]
            responses.append(ScoringRequest(number, tokens, node))
        return responses

    def _select(self, tree: ProblemTree) -> Node:
        values = [value for _, value in tree.completed] or [0.0]
        return select(tree.root, exploration=self.exploration, low=min(values), high=max(values))
