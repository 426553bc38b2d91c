"""What is known of the tasks that `reasoning-gym` generates: which they are, and which ask for a number."""

import functools

# generated tasks that are answered by an integer
INTEGER_TASKS = frozenset({"chain_sum", "leg_counting", "products", "gcd", "simple_equations", "basic_arithmetic"})
# Tasks where a number as the whole response is an answer: the library's question of number_format says "Your output
# should be only the number of interest". The integer tasks do not say so: gcd and products ask for only a number "as
# your final answer", which leaves room for steps before it. There a number alone may be a step's; it must be stated.
NUMBER_ALONE = frozenset({"number_format"})


@functools.lru_cache
def is_generated(task: str) -> bool:
    """Return whether `reasoning-gym` generates and scores this task."""
    from reasoning_gym.factory import DATASETS

    return task in DATASETS
