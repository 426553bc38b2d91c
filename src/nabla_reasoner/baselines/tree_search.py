"""Tree search with models: one tree of reasoning steps per problem, all problems of a batch advancing together.

A branch begins where its parent ends. The keys and values of both models are cached (`BranchCache`), so that of a known
prefix only the last token is read again. Each sampled continuation has its own random stream, keyed by its position in
the tree.
"""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

from .. import cost
from ..engine import scoring
from ..engine.sampling import Sampling, keyed_uniforms
from ..engine.sequences import ModelCaches
from ..engine.trajectory import Sample, SampleLog, is_finished, shared_seconds
from ..models.language_models import Policy, RewardModel
from ..serving.rollouts import rollouts_of
from ..types import Problem, Solution
from .sample_pool import check_counts
from .tree import Node, distinct, first_step


@dataclass(frozen=True)
class StepSettings:
    """Sampling of steps.

    Attributes:
        marks: texts that end a step; a step ends with the first token that contains one of them.
        sampling: temperature and cuts.
        max_new_tokens: length limit of a response, >= 1.
    """

    marks: Sequence[str]
    sampling: Sampling
    max_new_tokens: int

    def __post_init__(self):
        if not self.marks or not all(isinstance(mark, str) and mark for mark in self.marks):
            raise ValueError(f"step_marks must be a list of texts; got {self.marks!r}. Give e.g. [';'].")
        check_counts({"max_new_tokens": self.max_new_tokens})
        self.sampling.check()


def stop_ids(policy: Policy, marks: Sequence[str]) -> frozenset[int]:
    """Return the ids of all tokens whose text contains one of the marks.

    A mark must lie within a single token, because sampling stops at a token. A line break is found in "\\n", ".\\n\\n"
    and the like. The end of a sentence within a line is not: tokenizers attach white space to the next word, and the
    token of a full stop is also that of a decimal point.

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


@dataclass(eq=False)
class ProblemTree:
    """The search for one problem.

    Attributes:
        root: node of the empty response.
        log: responses that ended or reached the length limit, with their rewards, in the order completed.
        steps: number of distinct steps proposed.
    """

    problem: Problem
    policy_prompt: list[int]
    reward_prompt: list[int]
    root: Node
    log: SampleLog = field(default_factory=SampleLog)
    steps: int = 0


class Draw(NamedTuple):
    """A continuation to be sampled.

    Attributes:
        node: node whose response is continued.
        slot: cache slot that keeps the continuation; None keeps nothing.
        stage: key of the random stream.
        whole: whether to continue to the end of the response, and not to the end of the step.
    """

    tree: ProblemTree
    node: Node
    slot: int | None
    stage: str
    whole: bool


class ScoringRequest(NamedTuple):
    """A response, or a prefix of one, to be scored; `node` is the one whose cache slot is used."""

    tree: ProblemTree
    tokens: list[int]
    node: Node


class TreeSearch:
    """The trees of one batch; slot i of the caches holds the prompt of tree i.

    Raises:
        ValueError: vocabularies that differ, a prompt beyond the context, or a step mark no token contains.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        reward: RewardModel,
        settings: StepSettings,
        seed: int,
        repeat: int,
    ):
        reward = reward.for_policy(policy)
        self.policy = policy
        self.reward = reward
        self.settings = settings
        self.seed = seed
        self.repeat = repeat
        self.stops = stop_ids(policy, settings.marks)
        self.caches = ModelCaches.branching()
        self.trees = [
            ProblemTree(
                problem=problem,
                policy_prompt=policy.prompt_ids(problem.messages),
                reward_prompt=reward.prompt_ids(problem.messages),
                root=Node([], final=False, slot=slot),
            )
            for slot, problem in enumerate(problems)
        ]
        self.unused_slots = itertools.count(len(self.trees))
        for tree in self.trees:
            policy.check_length(len(tree.policy_prompt), settings.max_new_tokens)
            reward.check_length(len(tree.reward_prompt), settings.max_new_tokens)
        with self.timed(self.trees):
            costs = scoring.read_prompts(reward, [tree.reward_prompt for tree in self.trees], self.caches)
        for tree, spent in zip(self.trees, costs, strict=True):
            tree.log.trajectory.charge(spent)

    def timed(self, trees: Sequence[ProblemTree]) -> AbstractContextManager[None]:
        """Share the seconds of a block equally among the trees that take part in it."""
        return shared_seconds([tree.log.trajectory for tree in trees])

    def is_final(self, tokens: Sequence[int]) -> bool:
        """Return whether a response is complete: it has ended, or reached the length limit."""
        return is_finished(self.policy, tokens) or len(tokens) >= self.settings.max_new_tokens

    def proposals(self, tree: ProblemTree, node: Node, count: int, *, whole: int = 0) -> list[Draw]:
        """Return draws of `count` next steps; the first `whole` of them continue to the end of the response."""
        draws = []
        for i in range(count):
            slot = next(self.unused_slots)
            self.caches.scorer.fork(node.slot, slot)
            self.caches.reference.fork(node.slot, slot)
            # the stage is the key of the random stream: another wording would change every sample
            draws.append(Draw(tree, node, slot, stage=f"step {i} behind {node.path}", whole=i < whole))
        return draws

    def completion(self, tree: ProblemTree, node: Node) -> Draw:
        """Return a draw of the rest of the response."""
        return Draw(tree, node, slot=None, stage=f"rest behind {node.path}", whole=True)

    def sample(self, draws: Sequence[Draw]) -> list[list[int]]:
        """Sample all continuations in one batch; returns the new tokens of each."""
        limits = [self.settings.max_new_tokens - len(draw.node.tokens) for draw in draws]
        rollouts = rollouts_of(self.policy)(
            self.policy,
            [draw.tree.policy_prompt + draw.node.tokens for draw in draws],
            [
                keyed_uniforms(self.seed, draw.tree.problem.id, self.repeat, draw.stage, limit)
                for draw, limit in zip(draws, limits, strict=True)
            ],
            self.settings.sampling,
            limits,
            store=self.caches.policy,
            slots=[draw.node.slot for draw in draws],
            output_slots=[draw.slot for draw in draws],
            stops=[() if draw.whole else self.stops for draw in draws],
        )
        for draw, rollout in zip(draws, rollouts, strict=True):
            if rollout.prefilled:
                draw.tree.log.trajectory.charge(cost.prefill(self.policy.size, rollout.prefilled))
            draw.tree.log.trajectory.charge(cost.decoding(self.policy.size, rollout.decoded))
        return [rollout.token_ids for rollout in rollouts]

    def add_children(self, draws: Sequence[Draw], continuations: Sequence[list[int]]) -> list[Node]:
        """Make the distinct first steps of one node's proposals its children, and return them."""
        tree, parent = draws[0].tree, draws[0].node
        steps = [first_step(tokens, self.stops) for tokens in continuations]
        indices = distinct(steps)
        for index in set(range(len(steps))) - set(indices):
            self.caches.policy.cut(draws[index].slot, len(tree.policy_prompt) + len(parent.tokens))
        for index in indices:
            tokens = parent.tokens + steps[index]
            parent.add(tokens, final=self.is_final(tokens), slot=draws[index].slot)
        tree.steps += len(indices)
        return parent.children

    def score(self, requests: Sequence[ScoringRequest], *, close: bool) -> list[float]:
        """Return rewards of complete responses, or of prefixes as they are with `close=False`."""
        if not requests:
            return []
        values, costs = scoring.rewards(
            self.reward,
            [request.tree.reward_prompt for request in requests],
            [request.tokens for request in requests],
            caches=self.caches,
            slots=[request.node.slot for request in requests],
            close=close,
        )
        for request, scoring_cost in zip(requests, costs, strict=True):
            request.tree.log.trajectory.charge(scoring_cost)
            self.trim(request.tree, request.node, len(request.node.tokens))
        return values

    def trim(self, tree: ProblemTree, node: Node, length: int) -> None:
        """Free what the caches hold in a node's slot after `length` response tokens; no other node may share it."""
        self.caches.policy.cut(node.slot, len(tree.policy_prompt) + length)
        self.caches.scorer.cut(node.slot, len(tree.reward_prompt) + length)
        self.caches.reference.cut(node.slot, len(tree.reward_prompt) + length)

    def complete(self, tree: ProblemTree, tokens: list[int], reward: float) -> None:
        """Log a completed response; one that ended by itself ranks above one cut off at the length limit."""
        log = tree.log
        log.samples.append(Sample(tokens, reward))
        best = log.best_sample
        if (is_finished(self.policy, tokens), reward) > (is_finished(self.policy, best.token_ids), best.reward):
            log.choose(len(log.samples) - 1)

    def solutions(self) -> list[Solution]:
        """Return the best completed response of every tree."""
        return [tree.log.solution(tree.problem, self.policy, steps=tree.steps) for tree in self.trees]
