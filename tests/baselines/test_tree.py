"""The tree logic against trees worked by hand and against brute force."""

import math
import random

import pytest

from nabla_reasoner.baselines.tree import Node, backup, beam, distinct, first_step, select, uct

# root (4 visits) ─ a: value 3, 2 visits ─ a0: 3, 1 visit; a1: not visited
#                 ─ b: value 1, 1 visit
#                 ─ c: value 5, 1 visit, exhausted
HAND = {"low": 1.0, "high": 5.0}


def hand_tree() -> tuple[Node, dict[str, Node]]:
    root = Node([], False, visits=4, value=5.0)
    nodes = {name: root.add([index], final=name == "c") for index, name in enumerate("abc")}
    nodes |= {"a0": nodes["a"].add([0, 0], final=False), "a1": nodes["a"].add([0, 1], final=False)}
    for name, visits, value in (("a", 2, 3.0), ("b", 1, 1.0), ("c", 1, 5.0), ("a0", 1, 3.0)):
        nodes[name].visits, nodes[name].value = visits, value
    nodes["c"].exhausted = True
    return root, nodes


def test_uct_equals_values_computed_by_hand():
    # (3 - 1) / (5 - 1) = 0.5; sqrt(ln 4 / 2) = 0.8325546
    assert uct(3.0, 2, 4, exploration=1.0, **HAND) == pytest.approx(1.3325546)
    # (1 - 1) / 4 = 0; sqrt(ln 4 / 1) = 1.1774100
    assert uct(1.0, 1, 4, exploration=1.0, **HAND) == pytest.approx(1.1774100)
    assert uct(1.0, 1, 4, exploration=2.0, **HAND) == pytest.approx(2.3548200)
    assert uct(-7.0, 3, 3, exploration=0.0, low=-7.0, high=-7.0) == 0.0


def test_selection_follows_uct_to_first_unvisited_child():
    root, nodes = hand_tree()
    assert select(root, exploration=1.0, **HAND) is nodes["a1"]  # a: 1.33 > b: 1.18, then the unvisited
    nodes["a1"].visits, nodes["a1"].value = 1, 2.0
    nodes["a"].visits = 3
    root.visits = 5
    # a: 0.5 + sqrt(ln 5 / 3) = 1.2324; b: sqrt(ln 5) = 1.2686
    assert select(root, exploration=1.0, **HAND) is nodes["b"]
    # a: 0.5 + 0.3 * 0.7324 = 0.72; b: 0.3 * 1.2686 = 0.38; then a0: 0.5 + ..., a1: 0.25 + ... of equal rarity
    assert select(root, exploration=0.3, **HAND) is nodes["a0"]


def test_selection_skips_exhausted_child_of_highest_value():
    root, nodes = hand_tree()
    assert select(root, exploration=0.0, **HAND) is nodes["a1"]
    nodes["c"].exhausted = False
    assert select(root, exploration=0.0, **HAND) is nodes["c"]
    root.exhausted = True
    with pytest.raises(ValueError, match="exhausted"):
        select(root, exploration=0.0, **HAND)


def test_backup_changes_nodes_on_the_path_only():
    root, nodes = hand_tree()
    backup(nodes["a1"], 4.0)
    assert [(n.visits, n.value) for n in (nodes["a1"], nodes["a"], root)] == [(1, 4.0), (3, 4.0), (5, 5.0)]
    assert [(nodes[name].visits, nodes[name].value) for name in ("a0", "b", "c")] == [(1, 3.0), (1, 1.0), (1, 5.0)]
    backup(nodes["b"], 0.5)
    assert (nodes["b"].visits, nodes["b"].value) == (2, 1.0)


def test_node_is_exhausted_when_every_child_is():
    root = Node([], False)
    left, right = (root.add([token], final=False) for token in (0, 1))
    leaves = [left.add([0, token], final=True) for token in (0, 1)]
    backup(leaves[0], 1.0)
    assert [leaves[0].exhausted, left.exhausted, root.exhausted] == [True, False, False]
    backup(leaves[1], 1.0)
    assert [left.exhausted, root.exhausted, right.exhausted] == [True, False, False]
    backup(right.add([1, 0], final=True), 1.0)
    assert root.exhausted


def test_path_names_position_in_tree():
    root = Node([], False)
    child = root.add([7], final=False)
    assert [root.path, child.path, child.add([7, 8], final=True).path, child.add([7, 9], final=True).path] == [
        "",
        "0",
        "0.0",
        "0.1",
    ]


def test_beam_keeps_highest_values_ties_to_earlier():
    assert beam([0.5, -math.inf, 2.0, 0.5, 1.0], 3) == [2, 4, 0]
    assert beam([1.0], 3) == [0]


def test_step_ends_after_first_mark_duplicates_merge():
    assert first_step([5, 6, 9, 7, 9], {9, 3}) == [5, 6, 9]
    assert first_step([5, 6], {9}) == [5, 6]
    assert distinct([[1, 2], [3], [1, 2], [], [3], [4]]) == [0, 1, 3, 5]


@pytest.mark.parametrize("seed", range(5))
def test_enough_simulations_complete_every_leaf_once(seed: int):
    generator = random.Random(seed)
    rewards = {(a, b, c): generator.gauss(0, 10) for a in range(3) for b in range(3) for c in range(3)}
    root, seen = Node([], False), []
    low, high = 0.0, 0.0
    while not root.exhausted:
        node = select(root, exploration=0.5, low=low, high=high)
        while not node.final:  # completed by the first branch each time, all of it in the tree
            for token in range(3):
                node.add([*node.tokens, token], final=len(node.tokens) == 2)
            node = node.children[0]
        seen.append(tuple(node.tokens))
        backup(node, rewards[seen[-1]])
        values = [rewards[leaf] for leaf in seen]
        low, high = min(values), max(values)
    assert sorted(seen) == sorted(rewards)
    assert root.value == max(rewards.values())


def test_low_exploration_reaches_good_region_sooner():
    """Two regions, rewards 0 and 10, of 20 leaves each: with w = 0 all simulations but one go to the better one."""
    counts = {}
    for exploration in (0.0, 100.0):
        root = Node([], False)
        for token in (0, 1):
            region = root.add([token], final=False)
            for leaf in range(20):
                region.add([token, leaf], final=True)
            backup(region.children[0], 10.0 * token)
        for _ in range(16):
            leaf = select(root, exploration=exploration, low=0.0, high=10.0)
            backup(leaf, 10.0 * leaf.tokens[0])
        counts[exploration] = [child.visits for child in root.children]
    assert counts == {0.0: [1, 17], 100.0: [9, 9]}
