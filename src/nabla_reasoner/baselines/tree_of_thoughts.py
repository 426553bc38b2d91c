"""Tree of Thoughts: breadth-first search over steps, valued by the reward model."""

from collections.abc import Sequence

from ..engine.sampling import Sampling
from ..models.arguments import checked, checked_settings
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .sample_pool import check_responses
from .tree import Node, beam
from .tree_search import ProblemTree, ScoringRequest, StepSettings, TreeSearch

VALUES = ("partial", "rollout")


@checked_settings
class TreeOfThoughts:
    """Breadth-first search over steps (Yao et al., 2023, Alg. 1, arXiv 2305.10601).

    At each depth, next steps are sampled from every state of the beam. The reward model values the new states, and the
    best states, final ones included, form the next beam. The search ends when all states of the beam are final. The
    answer is the completed response of highest reward; a response that ended by itself ranks above one cut off at the
    length limit.

    Differs from the paper: the value is the reward model's, not a vote or grade that the policy is prompted for.

    Args:
        breadth: b >= 1, states in the beam.
        num_proposals: k >= 1, steps sampled from each state; equal ones are merged.
        value: of a state, "partial": r of the response so far, not closed by an end token; "rollout": r of one sampled
            completion, which also counts as a candidate for the answer. A log-likelihood so far favours short text;
            but states that compete have the same number of steps, and a wrong step costs far more than a longer one.
        step_marks: see `tree_search.StepSettings`.
        temperature, top_p, top_k: sampling of tokens.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(
        self,
        *,
        breadth: int = 1,
        num_proposals: int = 8,
        value: str = "partial",
        step_marks: Sequence[str] = ("\n",),
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        check_responses({"breadth (b)": breadth, "num_proposals (k)": num_proposals})
        check_responses({"breadth times num_proposals (b k)": breadth * num_proposals})
        if value not in VALUES:
            raise ValueError(f"value must be one of {', '.join(VALUES)}; got {value!r}.")
        self.breadth = breadth
        self.num_proposals = num_proposals
        self.value = value
        self.steps = StepSettings(step_marks, Sampling(temperature, top_p, top_k), max_new_tokens)

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order; the result does not depend on which problems share a batch."""
        search = TreeSearch(problems, policy, reward, self.steps, seed, repeat)
        beams = {tree: [tree.root] for tree in search.trees}
        while active := [tree for tree, nodes in beams.items() if not all(node.final for node in nodes)]:
            with search.timed(active):
                new_nodes = self._expand(search, {tree: beams[tree] for tree in active})
                self._evaluate(search, new_nodes)
            for tree, nodes in new_nodes.items():
                if tree.log.samples:
                    tree.log.record(policy)
                candidates = [node for node in beams[tree] if node.final] + nodes
                beams[tree] = [candidates[i] for i in beam([node.value for node in candidates], self.breadth)]
                for node in nodes:
                    if node not in beams[tree]:
                        search.trim(tree, node, len(node.parent.tokens))
        return search.solutions()

    def _expand(self, search: TreeSearch, beams: dict[ProblemTree, list[Node]]) -> dict[ProblemTree, list[Node]]:
        """Sample the distinct new states of each tree, all in one batch."""
        draws = [
            search.proposals(tree, node, self.num_proposals)
            for tree, nodes in beams.items()
            for node in nodes
            if not node.final
        ]
        continuations = search.sample([draw for node_draws in draws for draw in node_draws])
        children: dict[ProblemTree, list[Node]] = {tree: [] for tree in beams}
        for index, node_draws in enumerate(draws):
            begin = index * self.num_proposals
            samples = continuations[begin : begin + self.num_proposals]
            children[node_draws[0].tree] += search.add_children(node_draws, samples)
        return children

    def _evaluate(self, search: TreeSearch, new_nodes: dict[ProblemTree, list[Node]]) -> None:
        """Set the value of new states; log completed ones, and completions sampled for a value, as candidates."""
        states = [ScoringRequest(tree, node.tokens, node) for tree, nodes in new_nodes.items() for node in nodes]
        complete = [state for state in states if state.node.final]
        partial = [state for state in states if not state.node.final]
        if self.value == "partial":
            for state, value in zip(partial, search.score(partial, close=False), strict=True):
                state.node.value = value
        elif partial:
            rests = search.sample([search.completion(state.tree, state.node) for state in partial])
            complete += [state._replace(tokens=state.tokens + rest) for state, rest in zip(partial, rests, strict=True)]
        for state, value in zip(complete, search.score(complete, close=True), strict=True):
            state.node.value = value
            search.complete(state.tree, state.tokens, value)
