"""Tree of Thoughts: breadth-first search over steps, valued by the reward model."""

from collections.abc import Sequence

from ..engine.sampling import Sampling
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .tree import Node, beam
from .tree_search import ScoringRequest, Steps, TreeSearch, check_counts

VALUES = ("partial", "rollout")


class TreeOfThoughts:
    """Breadth-first search over steps (Yao et al., 2023, Alg. 1, arXiv 2305.10601).

    At each depth every kept state proposes next steps by sampling; the reward model values the new states, and the best
    stay, those that have ended among them. It ends when all that stay have ended. The answer is the response of highest
    reward among all that were completed; those that ended by themselves go before those cut off at the length limit.

    Differs from the paper: the value is the reward model's, not a vote or grade that the policy is prompted for.

    Args:
        breadth: b >= 1, states that stay at each depth.
        num_proposals: k >= 1, steps drawn from each state; equal ones are merged.
        value: of a state, "partial": r of the response so far, not closed by an end token; "rollout": r of one sampled
            completion, which also counts as a candidate for the answer. A log-likelihood so far favours short text;
            what competes for a place has the same number of steps, and a wrong step costs far more than a longer one.
        step_marks: see `forest.Steps`.
        temperature, top_p, top_k, max_new_tokens: how steps are drawn.
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
        check_counts({"breadth (b)": breadth, "num_proposals (k)": num_proposals})
        if value not in VALUES:
            raise ValueError(f"value must be one of {', '.join(VALUES)}; got {value!r}.")
        self.breadth, self.num_proposals, self.value = breadth, num_proposals, value
        self.steps = Steps(step_marks, Sampling(temperature, top_p, top_k), max_new_tokens).check()

    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """One solution per problem, in order; the result does not depend on which problems share a batch."""
        forest = TreeSearch(problems, policy, reward, self.steps, seed, repeat)
        kept = [[tree.root] for tree in forest.trees]
        while active := [number for number, nodes in enumerate(kept) if not all(node.final for node in nodes)]:
            with forest.shared_by(active):
                grown = self._grow(forest, active, kept)
                self._appraise(forest, active, grown)
            for number, nodes in zip(active, grown, strict=True):
                if forest.trees[number].completed:
                    forest.note(number)
                rivals = [node for node in kept[number] if node.final] + nodes
                kept[number] = [rivals[i] for i in beam([node.value for node in rivals], self.breadth)]
                for node in nodes:
                    if node not in kept[number]:
                        forest.trim(number, node, len(node.parent.tokens))
        return forest.solutions()

    def _grow(self, forest: TreeSearch, active: Sequence[int], kept: Sequence[list[Node]]) -> list[list[Node]]:
        """The distinct new states of each tree; one call of the sampler."""
        parents = [(number, node) for number in active for node in kept[number] if not node.final]
        draws = [forest.proposals(number, node, self.num_proposals) for number, node in parents]
        drawn = forest.draw([one for own in draws for one in own])
        grown: dict[int, list[Node]] = {number: [] for number in active}
        for index, (number, _) in enumerate(parents):
            begin = index * self.num_proposals
            grown[number] += forest.adopt(draws[index], drawn[begin : begin + self.num_proposals])
        return list(grown.values())

    def _appraise(self, forest: TreeSearch, active: Sequence[int], grown: Sequence[list[Node]]) -> None:
        """Value new states; those completed, and completions that were drawn for a value, are entered as candidates."""
        everything = [(number, node) for number, nodes in zip(active, grown, strict=True) for node in nodes]
        responses = [ScoringRequest(number, node.tokens, node) for number, node in everything if node.final]
        open_ones = [ScoringRequest(number, node.tokens, node) for number, node in everything if not node.final]
        if self.value == "partial":
            for one, value in zip(open_ones, forest.value(open_ones, close=False), strict=True):
                one.node.value = value
        elif open_ones:
            drawn = forest.draw([forest.completion(one.tree, one.node) for one in open_ones])
            responses += [one._replace(tokens=one.tokens + rest) for one, rest in zip(open_ones, drawn, strict=True)]
        for one, value in zip(responses, forest.value(responses, close=True), strict=True):
            one.node.value = value
            forest.complete(one.tree, one.tokens, value)
