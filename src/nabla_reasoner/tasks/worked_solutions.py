"""Worked solutions of the generated tasks, on which the tiny policies and reward models are trained.

A problem has one canonical solution. A prefix of a response is therefore correct exactly if it is a prefix of that
text, which gives process labels for the reward model without any search.
"""

import re

from ..types import Problem


def worked_solution(problem: Problem) -> str:
    """Return the canonical response to a generated problem; the final answer follows the last "=".

    chain_sum     "45+67=112;112-30=82"  running totals, left to right
    leg_counting  "24+78=102;102+44=146" legs of each animal, added up; of a single one "12*4=48"
    products      "1410+282=1692"        partial products of the second factor's tens and units
    gcd           "84%36=12;36%12=0;gcd=12"  Euclid's algorithm on two numbers, the larger one first
    simple_equations  "50-32=18;18/6=3"  the constant to the other side, then divided by the factor of the unknown
    basic_arithmetic  "38*7=266"     the expression and its value

    Raises:
        ValueError: no canonical solution is defined for the problem's task.
    """
    if problem.task == "chain_sum":
        tokens = problem.metadata["expression"].split()
        return _running_totals(int(tokens[0]), [(tokens[i], int(tokens[i + 1])) for i in range(1, len(tokens), 2)])
    if problem.task == "leg_counting":
        from reasoning_gym.arithmetic.leg_counting import ANIMALS

        animals = problem.metadata["animals"]
        legs = [count * ANIMALS[animal] for animal, count in animals.items()]
        if len(animals) == 1:
            ((animal, count),) = animals.items()
            return f"{count}*{ANIMALS[animal]}={legs[0]}"
        return _running_totals(legs[0], [("+", number) for number in legs[1:]])
    if problem.task == "products":
        first, second = (int(factor) for factor in problem.metadata["expression"].split(" * "))
        tens, units = second // 10 * 10, second % 10
        return f"{first * tens}+{first * units}={first * second}"
    if problem.task == "gcd":
        return _euclid(*sorted(problem.metadata["numbers"], reverse=True))
    if problem.task == "simple_equations":
        return _solved_equation(problem.metadata["equation"])
    if problem.task == "basic_arithmetic":
        return f"{problem.metadata['expression'].replace(' ', '')}={problem.answer}"
    raise ValueError(
        "a worked solution is defined for chain_sum, leg_counting, products, gcd, simple_equations and "
        f"basic_arithmetic; got task {problem.task!r}. Add its canonical solution to worked_solutions.py."
    )


def _euclid(larger: int, smaller: int) -> str:
    lines = []
    while smaller:
        lines.append(f"{larger}%{smaller}={larger % smaller}")
        larger, smaller = smaller, larger % smaller
    return ";".join([*lines, f"gcd={larger}"])


def _solved_equation(equation: str) -> str:
    """Return the solution of a linear equation with one constant on the left: "6*s + 32 = 50" or "50 - 2*s = 6"."""
    left, total = equation.split(" = ")
    terms = re.findall(r"([-+]?)\s*(?:(\d+)\*)?([a-z]|\d+)", left)
    unknown, constant = sorted(terms, key=lambda term: term[2].isdigit())
    negative, factor = unknown[0] == "-", int(unknown[1] or 1)
    number, taken = int(constant[2]), constant[0] == "-"
    if negative:  # "50 - 2*s = 6": the unknown's term is what is missing to the constant
        first, rest = f"{number}-{total}", number - int(total)
    else:
        first, rest = f"{total}{'+' if taken else '-'}{number}", int(total) + (number if taken else -number)
    return f"{first}={rest};{rest}/{factor}={rest // factor}"


def _running_totals(start: int, steps: list[tuple[str, int]]) -> str:
    total, lines = start, []
    for sign, number in steps:
        result = total + number if sign == "+" else total - number
        lines.append(f"{total}{sign}{number}={result}")
        total = result
    return ";".join(lines)
