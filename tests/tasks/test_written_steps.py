"""Truth of written steps, compared with Python's arithmetic."""

import random
import re
from fractions import Fraction

import pytest

from nabla_reasoner.tasks.problems import generate
from nabla_reasoner.tasks.worked_solutions import worked_solution
from nabla_reasoner.tasks.written_steps import steps_are_true


@pytest.mark.parametrize(
    ("response", "true"),
    [
        ("60+87=147;147+76=223", True),
        ("60+87=137;137+76=213", False),  # two errors may cancel in the answer, not here
        ("1410+282=1692", True),
        ("1020+56=1176", False),
        ("12*34=408", True),
        ("2+3*4=14", True),
        ("2+3*4=20", False),
        ("41-72=-31;-31-96=-127", True),
        ("-31--5=-26", True),
        ("7 + 8 = 15", True),
        ("15", True),
        ("= 15", True),
        ("", True),
        ("12 + 5 = 18.\nThe answer is 17.", False),
        ("12 + 5 = 17. The answer is 17.", True),
        ("12 + 5 = **18**, so 17", False),
        ("12 + 5 = $18$", False),
        (r"\(12 + 5 = 17\)", True),
        ("97 × 85 = 8000", False),
        ("97 x 85 = 8245", True),
        (r"97 \times 85 = 8000", False),
        ("1,234 + 5 = 1,239", True),
        ("1,234 + 5 = 1,240", False),
        ("5*4 + 3*6 = 20 + 18 = 38", True),
        ("5*4 + 3*6 = 20 + 17 = 38", False),
        ("5*4 = 20 + 18 = 38", False),
        ("37 - 36 = 37 - 36 = 1", True),
        ("37 - 36 = 37 - 36 = 2", False),
        ("5*4 = 20 = 21", False),
        ("20 = 5*4", True),
        ("21 = 5*4", False),
        (r"5*4 &= 10+10 \\ &= 21 \\", False),
        ("12/3+1=5", True),
        ("12/3+1=6", False),
        ("12 ÷ 3 = 5", False),
        (r"12 \div 3 = 4", True),
        ("5/0=1", False),
        ("- 12+5=18\n- 5+3=8", False),
        ("1) 12+5=18", False),
        ("so -3*4=12", False),
        ("12+5=18 - done", False),
        ("12+5=18+", False),
        ("7/2 = 3 remainder 1", True),  # parts of longer expressions are not judged, from here on
        ("7/2 = 3 1/2", True),
        ("x + 3*4 = 14", True),
        ("y -3*4 = 14", True),
        ("2x+3*4=14", True),
        ("(2+3)*4 = 20", True),
        ("5 * (1+3) + 1 = 21", True),
        ("2^3+1=9", True),
        ("2**3+1=9", True),
        ("5!+1=121", True),
        (r"\frac{12}{3}+1=5", True),
        ("half of 30+4=19", True),
        ("On day 2 = 5+3", True),
        ("3 cats * 4 + 2 = 14", True),
        ("12 + 5 = 18x", True),
        ("1.5 + 2 = 3", True),  # decimals are not judged
        ("1 + 2 = 3.5", True),
    ],
)
def test_steps_are_judged_by_arithmetic(response: str, true: bool):
    assert steps_are_true("products", response) is true


@pytest.mark.parametrize(
    ("response", "true"),
    [
        ("<think>2 + 3 = 6? No.</think>2 + 3 = 5", True),
        ("2 + 3 = 6? No.</think>2 + 3 = 5", True),  # the prompt opened the block
        ("<think>2 + 3 = 5</think>2 + 3 = 6", False),
        ("<think>2 + 3 = 6", True),
        ("2 + 3 = 6 <think>2 + 3 = 5", False),
    ],
)
def test_steps_of_a_think_block_are_not_judged(response: str, true: bool):
    assert steps_are_true("products", response) is true


def test_random_equations_agree_with_python():
    generator = random.Random(0)
    for _ in range(300):
        left = "".join(f"{generator.choice('+-*')}{generator.randrange(200)}" for _ in range(generator.randrange(1, 5)))
        left = f"{generator.randrange(200)}{left}"
        value = eval(left)  # the test's own arithmetic, on its own text
        assert steps_are_true("chain_sum", f"{left}={value}")
        assert not steps_are_true("chain_sum", f"{left}={value + generator.choice([-1, 1, 10])}")


def test_texts_of_tiny_policies_are_judged_equation_by_equation():
    """As before there were chains, so that the shares of valid steps in the committed tables stand."""
    generator = random.Random(1)
    for _ in range(500):
        lefts = [f"{generator.randrange(-99, 99)}{generator.choice('+-*')}{generator.randrange(99)}" for _ in range(4)]
        values = [eval(left) + (generator.random() < 0.1) for left in lefts]  # the test's own texts
        text = ";".join(f"{left}={value}" for left, value in zip(lefts, values, strict=True))
        assert steps_are_true("chain_sum", text) is (values == [eval(left) for left in lefts]), text


def test_chains_in_random_order_agree_with_python():
    generator = random.Random(2)
    for _ in range(300):
        parts = [f"{generator.randrange(1, 9)}{generator.choice('+-*/')}{generator.randrange(1, 9)}" for _ in range(3)]
        same = len({eval(re.sub(r"(\d+)", r"Fraction(\1)", part), {"Fraction": Fraction}) for part in parts}) == 1
        assert steps_are_true("leg_counting", " = ".join(parts)) is same, parts


@pytest.mark.parametrize("task", ["chain_sum", "leg_counting"])
def test_worked_solutions_have_true_steps(task: str):
    settings = {
        "chain_sum": {"min_terms": 5, "max_terms": 6, "min_digits": 2, "max_digits": 2},
        "leg_counting": {"min_animals": 3, "max_animals": 5},
    }[task]
    for problem in generate(task, split="validation", size=50, settings=settings):
        assert steps_are_true(task, worked_solution(problem))


def test_tasks_without_written_steps_have_no_verdict():
    assert steps_are_true("math500", "1+1=3") is None
