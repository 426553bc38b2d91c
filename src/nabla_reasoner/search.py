"""Tree searches over reasoning steps: Tree of Thoughts and RAP, valued by the reward model."""

from collections.abc import Sequence

from . import trees
from .forest import Draw, Forest, Scored, Steps, Tree
from .models import Policy, RewardModel
from .problems import Problem
from .records import Solution
from .rollouts import Sampling
from .trees import Node

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
        _check_counts({"breadth (b)": breadth, "num_proposals (k)": num_proposals})
        if value not in VALUES:
            raise ValueError(f"value must be one of {', '.join(VALUES)}; got {value!r}.")
        self.breadth, self.num_proposals, self.value = breadth, num_proposals, value
        self.steps = Steps(step_marks, Sampling(temperature, top_p, top_k), max_new_tokens).check()

    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """One solution per problem, in order; the result does not depend on which problems share a batch."""
        forest = Forest(problems, policy, reward, self.steps, seed, repeat)
        kept = [[tree.root] for tree in forest.trees]
        while active := [number for number, nodes in enumerate(kept) if not all(node.final for node in nodes)]:
            with forest.shared_by(active):
                grown = self._grow(forest, active, kept)
                self._appraise(forest, active, grown)
            for number, nodes in zip(active, grown, strict=True):
                if forest.trees[number].completed:
                    forest.note(number)
                rivals = [node for node in kept[number] if node.final] + nodes
                kept[number] = [rivals[i] for i in trees.beam([node.value for node in rivals], self.breadth)]
                for node in nodes:
                    if node not in kept[number]:
                        forest.trim(number, node, len(node.parent.tokens))
        return forest.solutions()

    def _grow(self, forest: Forest, active: Sequence[int], kept: Sequence[list[Node]]) -> list[list[Node]]:
        """The distinct new states of each tree; one call of the sampler."""
        parents = [(number, node) for number in active for node in kept[number] if not node.final]
        draws = [forest.proposals(number, node, self.num_proposals) for number, node in parents]
        drawn = forest.draw([one for own in draws for one in own])
        grown: dict[int, list[Node]] = {number: [] for number in active}
        for index, (number, _) in enumerate(parents):
            begin = index * self.num_proposals
            grown[number] += forest.adopt(draws[index], drawn[begin : begin + self.num_proposals])
        return list(grown.values())

    def _appraise(self, forest: Forest, active: Sequence[int], grown: Sequence[list[Node]]) -> None:
        """Value new states; those completed, and completions that were drawn for a value, are entered as candidates."""
        everything = [(number, node) for number, nodes in zip(active, grown, strict=True) for node in nodes]
        responses = [Scored(number, node.tokens, node) for number, node in everything if node.final]
        open_ones = [Scored(number, node.tokens, node) for number, node in everything if not node.final]
        if self.value == "partial":
            for one, value in zip(open_ones, forest.value(open_ones, close=False), strict=True):
                one.node.value = value
        elif open_ones:
            drawn = forest.draw([forest.completion(one.tree, one.node) for one in open_ones])
            responses += [
                one._replace(tokens=one.tokens + rest) for one, rest in zip(open_ones, drawn, strict=True)
            ]
        for one, value in zip(responses, forest.value(responses, close=True), strict=True):
            one.node.value = value
            forest.complete(one.tree, one.tokens, value)


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
        _check_counts({"num_simulations": num_simulations, "num_proposals (k)": num_proposals})
        if exploration < 0:
            raise ValueError(f"exploration must be >= 0; got {exploration}. Use 0 to follow the best branch only.")
        self.num_simulations, self.num_proposals, self.exploration = num_simulations, num_proposals, exploration
        self.steps = Steps(step_marks, Sampling(temperature, top_p, top_k), max_new_tokens).check()

    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """One solution per problem, in order; the result does not depend on which problems share a batch."""
        forest = Forest(problems, policy, reward, self.steps, seed, repeat)
        for _ in range(self.num_simulations):
            active = [number for number, tree in enumerate(forest.trees) if not tree.root.exhausted]
            if not active:
                break
            with forest.shared_by(active):
                responses = self._simulate(forest, active)
                values = forest.value(responses, close=True)
            for one, value in zip(responses, values, strict=True):
                trees.backup(one.node, value)
                forest.complete(one.tree, one.tokens, value)
                forest.note(one.tree)
        return forest.solutions()

    def _simulate(self, forest: Forest, active: Sequence[int]) -> list[Scored]:
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
            responses.append(Scored(number, tokens, node))
        return responses

    def _select(self, tree: Tree) -> Node:
        values = [value for _, value in tree.completed] or [0.0]
        return trees.select(tree.root, exploration=self.exploration, low=min(values), high=max(values))


def _check_counts(counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be >= 1; got {count}.")
