"""The models' part in tree searches over reasoning steps: one tree per problem, all problems advancing together.

Branches begin where their parent ends: keys and values are kept for both models (`BranchCache`), so that nothing is
read twice but the token in front of what is new. Every draw has a random stream of its own, keyed by its place in the
tree.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import cost
from ..cost import Cost
from ..engine import generation, scoring
from ..engine.sampling import Sampling, keyed_uniforms
from ..engine.sequences import ModelCaches
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .tree import Node, distinct, first_step


class Steps(NamedTuple):
    """How steps are drawn.

    Attributes:
        marks: a step ends with a token whose text contains one of these.
        sampling: temperature and cuts.
        max_new_tokens: length limit of a response.
    """

    marks: Sequence[str]
    sampling: Sampling
    max_new_tokens: int

    def check(self) -> "Steps":
        """Raise ValueError on a value out of range; returns itself."""
        if not self.marks or not all(isinstance(mark, str) and mark for mark in self.marks):
            raise ValueError(f"step_marks must be a list of texts; got {self.marks!r}. Give e.g. [';'].")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be >= 1; got {self.max_new_tokens}.")
        self.sampling.check()
        return self


def stop_ids(policy: Policy, marks: Sequence[str]) -> frozenset[int]:
    """Ids of all tokens whose own text contains one of the marks.

    A mark is looked for inside single tokens, because sampling has to stop at one. A line break is found in "\\n",
    ".\\n\\n" and the like. The end of a sentence within a line is not: tokenizers put the white space in front of the
    next word, and the token of a full stop is also that of a decimal point.

    Raises:
        ValueError: a mark that no token contains.
    """
    texts = [policy.decode([index]) for index in range(policy.vocab_size)]
    for mark in marks:
        if not any(mark in text for text in texts):
            raise ValueError(
                f"a step mark must be part of a token's text; no token of {policy.name} contains {mark!r}. "
                "Change step_marks of the task."
            )
    return frozenset(index for index, text in enumerate(texts) if any(mark in text for mark in marks))


class Draw(NamedTuple):
    """A continuation to be drawn.

    Attributes:
        tree: number of the tree.
        node: what is continued.
        home: slot for what is drawn; None keeps nothing.
        stage: key of the random stream.
        whole: go on to the end of the response, not of the step.
    """

    tree: int
    node: Node
    home: int | None
    stage: str
    whole: bool


class ScoringRequest(NamedTuple):
    """A response, or its beginning, to be scored: its tree, its tokens, and the node in whose slot it is read."""

    tree: int
    tokens: list[int]
    node: Node


@dataclass
class ProblemTree:
    """What a search has found out about one problem.

    Attributes:
        completed: responses that ended or reached the length limit, with their rewards, in the order found.
        root: the empty response.
        best: index of the best of the completed ones.
        improved: how often a response took the place of the best before.
        steps: distinct steps that were proposed.
    """

    problem: Problem
    policy_prompt: list[int]
    reward_prompt: list[int]
    root: Node
    spent: Cost = field(default_factory=Cost)
    completed: list[tuple[list[int], float]] = field(default_factory=list)
    best: int = 0
    improved: int = 0
    steps: int = 0
    trajectory: list[dict[str, Any]] = field(default_factory=list)


class TreeSearch:
    """The trees of one batch; slot i of the caches holds the prompt of tree i.

    Raises:
        ValueError: vocabularies that differ, a prompt beyond the context, or a step mark no token contains.
    """

    def __init__(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, steps: Steps, seed: int, repeat: int
    ):
        reward.check_vocabulary(policy)
        self.policy, self.reward, self.settings, self.seed, self.repeat = policy, reward, steps, seed, repeat
        self.stops, self.caches = stop_ids(policy, steps.marks), ModelCaches.branching()
        self.trees = [
            ProblemTree(
                each, policy.prompt_ids(each.messages), reward.prompt_ids(each.messages), Node([], False, slot=number)
            )
            for number, each in enumerate(problems)
        ]
        self.slots = itertools.count(len(self.trees))
        for tree in self.trees:
            policy.check_length(len(tree.policy_prompt), steps.max_new_tokens)
        with self.shared_by(range(len(self.trees))):
            scoring.read_prompts(reward, [tree.reward_prompt for tree in self.trees], self.caches)
        for number, tree in enumerate(self.trees):
            self.charge(number, cost.scoring(reward.parameters, len(tree.reward_prompt)))

    def charge(self, tree: int, spent: Cost) -> None:
        self.trees[tree].spent = cost.total([self.trees[tree].spent, spent])

    @contextmanager
    def shared_by(self, trees: Sequence[int]) -> Iterator[None]:
        """Share the seconds of a step equally among the trees that took part."""
        begin = time.perf_counter()
        yield
        seconds = (time.perf_counter() - begin) / max(len(trees), 1)
        for tree in trees:
            self.charge(tree, Cost(seconds=seconds))

    def is_final(self, tokens: Sequence[int]) -> bool:
        """Whether nothing can follow: the response has ended, or is as long as allowed."""
        return self.is_finished(tokens) or len(tokens) >= self.settings.max_new_tokens

    def is_finished(self, tokens: Sequence[int]) -> bool:
        return bool(tokens) and tokens[-1] in self.policy.eos_ids

    def proposals(self, tree: int, node: Node, count: int, *, whole: int = 0) -> list[Draw]:
        """Draws of `count` next steps; the first `whole` of them go on to the end of the response."""
        draws = []
        for i in range(count):
            home = next(self.slots)
            self.caches.scorer.fork(node.slot, home)
            self.caches.reference.fork(node.slot, home)
            draws.append(Draw(tree, node, home, f"step {i} behind {node.path}", i < whole))
        return draws

    def completion(self, tree: int, node: Node) -> Draw:
        """A draw of the rest of the response."""
        return Draw(tree, node, None, f"rest behind {node.path}", True)

    def draw(self, draws: Sequence[Draw]) -> list[list[int]]:
        """New tokens of each continuation."""
        limits = [self.settings.max_new_tokens - len(one.node.tokens) for one in draws]
        drawn = generation.sample(
            self.policy,
            [self.trees[one.tree].policy_prompt + one.node.tokens for one in draws],
            [
                keyed_uniforms(self.seed, self.trees[one.tree].problem.id, self.repeat, one.stage, limit)
                for one, limit in zip(draws, limits, strict=True)
            ],
            self.settings.sampling,
            limits,
            store=self.caches.policy,
            slots=[one.node.slot for one in draws],
            output_slots=[one.home for one in draws],
            stops=[() if one.whole else self.stops for one in draws],
        )
        for one, rollout in zip(draws, drawn, strict=True):
            if rollout.prefilled:
                self.charge(one.tree, cost.prefill(self.policy.parameters, rollout.prefilled))
            self.charge(one.tree, cost.decoding(self.policy.parameters, len(rollout.token_ids)))
        return [rollout.token_ids for rollout in drawn]

    def adopt(self, draws: Sequence[Draw], drawn: Sequence[list[int]]) -> list[Node]:
        """Make the distinct first steps of one node's proposals its children."""
        parent, number = draws[0].node, draws[0].tree
        steps = [first_step(tokens, self.stops) for tokens in drawn]
        chosen = distinct(steps)
        for index in set(range(len(steps))) - set(chosen):
            self.caches.policy.cut(draws[index].home, len(self.trees[number].policy_prompt) + len(parent.tokens))
        for index in chosen:
            tokens = parent.tokens + steps[index]
            parent.add(tokens, final=self.is_final(tokens), slot=draws[index].home)
        self.trees[number].steps += len(chosen)
        return parent.children

    def value(self, responses: Sequence[ScoringRequest], *, close: bool) -> list[float]:
        """Rewards of responses; with `close=False`, of their beginnings as they stand."""
        if not responses:
            return []
        values, spent = scoring.rewards(
            self.reward,
            [self.trees[one.tree].reward_prompt for one in responses],
            [one.tokens for one in responses],
            caches=self.caches,
            slots=[one.node.slot for one in responses],
            close=close,
        )
        for one, own in zip(responses, spent, strict=True):
            self.charge(one.tree, own)
            self.trim(one.tree, one.node, len(one.node.tokens))
        return values

    def trim(self, number: int, node: Node, length: int) -> None:
        """Free what the caches hold in a node's slot behind `length` response tokens; no other node may share it."""
        tree, caches = self.trees[number], self.caches
        caches.policy.cut(node.slot, len(tree.policy_prompt) + length)
        caches.scorer.cut(node.slot, len(tree.reward_prompt) + length)
        caches.reference.cut(node.slot, len(tree.reward_prompt) + length)

    def complete(self, number: int, tokens: list[int], reward: float) -> None:
        """Enter a completed response; those that ended by themselves go before those that were cut off."""
        tree = self.trees[number]
        tree.completed.append((tokens, reward))
        if len(tree.completed) == 1:
            return
        before, value = tree.completed[tree.best]
        if (self.is_finished(tokens), reward) > (self.is_finished(before), value):
            tree.best, tree.improved = len(tree.completed) - 1, tree.improved + 1

    def note(self, number: int) -> None:
        """Write down the best completed response so far and what it took."""
        tree = self.trees[number]
        tokens, _ = tree.completed[tree.best]
        tree.trajectory.append(
            {
                "rollouts": len(tree.completed),
                "model_calls": tree.spent.model_calls,
                "flops": tree.spent.flops,
                "seconds": tree.spent.seconds,
                "response": self.policy.decode(tokens),
                "finished": self.is_finished(tokens),
            }
        )

    def solutions(self) -> list[Solution]:
        """The best completed response of every tree."""
        return [self._solution(tree) for tree in self.trees]

    def _solution(self, tree: ProblemTree) -> Solution:
        tokens, reward = tree.completed[tree.best]
        count = len(tree.completed)
        return Solution(
            problem_id=tree.problem.id,
            response=self.policy.decode(tokens),
            token_ids=tokens,
            reward=reward,
            cost=tree.spent._replace(peak_bytes=cost.peak_bytes(self.policy.device)),
            search={
                "rollouts": count,
                "proposed": count - 1,
                "accepted": tree.improved,
                "rejected": count - 1 - tree.improved,
                "steps": tree.steps,
                "finished": self.is_finished(tokens),
                "trajectory": tree.trajectory,
                "samples": [
                    {"response": self.policy.decode(own), "finished": self.is_finished(own), "reward": value}
                    for own, value in tree.completed
                ],
            },
        )


def check_counts(counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be >= 1; got {count}.")
