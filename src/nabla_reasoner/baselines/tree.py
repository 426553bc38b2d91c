"""Tree search over reasoning steps without models: nodes, beams, UCT selection, backup.

A step is the tokens up to and including the next step mark, or up to the end of the response.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field


def first_step(token_ids: Sequence[int], stops: Collection[int]) -> list[int]:
    """Return the tokens up to and including the first stop token; all of them if there is none."""
    end = next((i + 1 for i, token in enumerate(token_ids) if token in stops), len(token_ids))
    return list(token_ids[:end])


def distinct(steps: Sequence[Sequence[int]]) -> list[int]:
    """Return the index of the first of each set of equal steps, in order."""
    first: dict[tuple[int, ...], int] = {}
    for index, step in enumerate(steps):
        first.setdefault(tuple(step), index)
    return list(first.values())


def beam(values: Sequence[float], breadth: int) -> list[int]:
    """Return indices of the `breadth` highest values, highest first, ties to the earlier (Yao et al. 2023, Alg. 1)."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:breadth]


@dataclass(eq=False)
class Node:
    """A prefix of a response in a search tree.

    Attributes:
        tokens: response tokens up to here.
        final: whether the response is complete: it has ended, or reached the length limit.
        path: position in the tree, e.g. "0.2" for the third child of the root's first child; "" for the root.
        slot: slot of the caches.
        visits: number of completed responses through this node.
        value: highest reward among them.
        exhausted: whether every response below has been completed, as far as children were proposed.
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
        """Append a child and return it."""
        path = ".".join([*filter(None, [self.path]), str(len(self.children))])
        self.children.append(Node(tokens, final, path, slot, self))
        return self.children[-1]

    def path_to_root(self) -> Iterator["Node"]:
        """Yield this node, its parent, and so on to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


def uct(value: float, visits: int, parent_visits: int, *, exploration: float, low: float, high: float) -> float:
    """Return the upper confidence bound of a visited child: its value in [0, 1] plus an exploration bonus.

    (Q - low) / (high - low) + exploration √(ln N(parent) / N(child)): Eq. 3 of RAP (Hao et al. 2023). The action value
    is scaled to [0, 1] because rewards here are unbounded.

    Args:
        low, high: smallest and largest reward seen in the tree; if they are equal the value counts as 0.
    """
    normalized = (value - low) / (high - low) if high > low else 0.0
    return normalized + exploration * math.sqrt(math.log(parent_visits) / visits)


def select(root: Node, *, exploration: float, low: float, high: float) -> Node:
    """Descend from the root to a node that has not been visited, or has no children yet.

    Unvisited children come first, in the order proposed; among the others the highest UCT is followed, ties to the
    earlier. Exhausted children are skipped.

    Raises:
        ValueError: the whole tree is exhausted.
    """
    if root.exhausted:
        raise ValueError("a node can only be selected from a tree that is not exhausted. End this tree's search.")
    node = root
    while node.children:
        parent_visits = node.visits
        children = [child for child in node.children if not child.exhausted]
        unvisited = [child for child in children if child.visits == 0]
        if unvisited:
            return unvisited[0]
        node = max(
            children, key=lambda c: uct(c.value, c.visits, parent_visits, exploration=exploration, low=low, high=high)
        )
    return node


def backup(node: Node, reward: float) -> None:
    """Back up the reward of a completed response through `node`, which must already be among its parent's children.

    A node's value is the best reward reached from it. RAP's action value is the maximum, over visited futures, of their
    average reward; here only completed responses have a reward.
    """
    for ancestor in node.path_to_root():
        ancestor.visits += 1
        ancestor.value = max(ancestor.value, reward)
        ancestor.exhausted = ancestor.final or (
            bool(ancestor.children) and all(child.exhausted for child in ancestor.children)
        )
