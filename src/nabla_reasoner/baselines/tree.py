"""The logic of tree searches over reasoning steps, apart from any model: beams, UCT, backup.

A step is the tokens up to and including the next step mark, or up to the end of the response.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field


def first_step(token_ids: Sequence[int], stops: Collection[int]) -> list[int]:
    """The tokens up to and including the first stop token; all of them where there is none."""
    end = next((i + 1 for i, token in enumerate(token_ids) if token in stops), len(token_ids))
    return list(token_ids[:end])


def distinct(steps: Sequence[Sequence[int]]) -> list[int]:
    """The index of the first of each set of equal steps, in order."""
    first: dict[tuple[int, ...], int] = {}
    for index, step in enumerate(steps):
        first.setdefault(tuple(step), index)
    return list(first.values())


def beam(values: Sequence[float], breadth: int) -> list[int]:
    """Indices of the `breadth` highest values, highest first, ties to the earlier (Yao et al. 2023, Alg. 1)."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:breadth]


@dataclass(eq=False)
class Node:
    """A response's beginning in a Monte Carlo tree.

    Attributes:
        tokens: the response so far.
        final: nothing can follow: it has ended, or is as long as allowed.
        path: the node's position in its tree, e.g. "0.2" for the third child of the root's first; "" for the root.
        slot: of the caches.
        visits: completed responses that went through it.
        value: the highest reward among them.
        exhausted: every response below it has been completed, as far as children were proposed.
    """

    tokens: list[int]
    final: bool
    path: str = ""
    slot: int = 0
    parent: "Node | None" = None
    children: list["Node"] = field(default_factory=list)
    visits: int = 0
    value: float = -math.inf
    exhausted: bool = False

    def add(self, tokens: list[int], *, final: bool, slot: int = 0) -> "Node":
        """A new child behind those that are there."""
        path = ".".join([*filter(None, [self.path]), str(len(self.children))])
        self.children.append(Node(tokens, final, path, slot, self))
        return self.children[-1]

    def upwards(self) -> Iterator["Node"]:
        """This node, its parent, and so on to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


def uct(value: float, visits: int, parent_visits: int, *, exploration: float, low: float, high: float) -> float:
    """Upper confidence bound of a child that was visited: value in [0, 1], plus what its rarity is worth.

    (Q - low) / (high - low) + exploration √(ln N(parent) / N(child)): Eq. 3 of RAP (Hao et al. 2023), with the action
    value brought to [0, 1] because rewards here have no bounds of their own.

    Args:
        low, high: smallest and largest reward seen in the tree; where they are equal the value counts as 0.
    """
    normalised = (value - low) / (high - low) if high > low else 0.0
    return normalised + exploration * math.sqrt(math.log(parent_visits) / visits)


def select(root: Node, *, exploration: float, low: float, high: float) -> Node:
    """Walk down to a node that was not visited yet, or that was visited and has no children yet.

    Children that were not visited go first, in the order in which they were proposed; among the others the highest UCT
    does, ties to the earlier. What is exhausted is passed by.

    Raises:
        ValueError: the whole tree is exhausted.
    """
    if root.exhausted:
        raise ValueError("nothing is left to select in an exhausted tree. End its search.")
    node = root
    while node.children:
        parent_visits = node.visits
        left = [child for child in node.children if not child.exhausted]
        fresh = [child for child in left if child.visits == 0]
        if fresh:
            return fresh[0]
        node = max(
            left, key=lambda c: uct(c.value, c.visits, parent_visits, exploration=exploration, low=low, high=high)
        )
    return node


def backup(node: Node, reward: float) -> None:
    """Enter a completed response that went through `node` (already among its parent's children).

    A value is the best that was reached from there, as in RAP, whose action value is the maximum over the futures that
    were visited of their average reward; here only a completed response has a reward.
    """
    for each in node.upwards():
        each.visits += 1
        each.value = max(each.value, reward)
        each.exhausted = each.final or (bool(each.children) and all(child.exhausted for child in each.children))
