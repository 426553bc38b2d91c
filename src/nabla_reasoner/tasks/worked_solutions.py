"""Worked solutions of the generated tasks, on which the tiny policies and reward models are trained.

A problem has one canonical solution. The beginning of a response is therefore correct exactly if it is a prefix of that
text, which gives process labels for the reward model without any search.
"""

from ..types import Problem


def worked_solution(problem: Problem) -> str:
    """Return the canonical response to a generated problem; the final answer follows the last "=".

    chain_sum     "45+67=112;112-30=82"  running totals, left to right
    leg_counting  "24+78=102;102+44=146" legs of each animal, added up
    products      "1410+282=1692"        partial products of the second factor's tens and units

    Raises:
        ValueError: no canonical solution is defined for the problem's task.
    """
    if problem.task == "chain_sum":
        tokens = problem.metadata["expression"].split()
        return _running_totals(int(tokens[0]), [(tokens[i], int(tokens[i + 1])) for i in range(1, len(tokens), 2)])
    if problem.task == "leg_counting":
        from reasoning_gym.arithmetic.leg_counting import ANIMALS

        legs = [count * ANIMALS[animal] for animal, count in problem.metadata["animals"].items()]
        return _running_totals(legs[0], [("+", number) for number in legs[1:]])
    if problem.task == "products":
        first, second = (int(factor) for factor in problem.metadata["expression"].split(" * "))
        tens, units = second // 10 * 10, second % 10
        return f"{first * tens}+{first * units}={first * second}"
    raise ValueError(
        f"a worked solution is defined for chain_sum, leg_counting and products; got task {problem.task!r}. "
        "Add its canonical solution to worked_solutions.py."
    )


def _running_totals(start: int, steps: list[tuple[str, int]]) -> str:
    total, lines = start, []
    for sign, number in steps:
        result = total + number if sign == "+" else total - number
        lines.append(f"{total}{sign}{number}={result}")
        total = result
    return ";".join(lines)
