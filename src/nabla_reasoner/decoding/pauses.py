"""How far rollouts that pause go on at once, and in how many steps; imports no torch, for `plan`."""

PART = 8  # tokens at most: problems at an uncertain token do not wait for those far from one


def decoding_steps(uncertain: float, batch: float | int) -> float:
    """Return the expected decoding steps until every rollout of a batch is at an uncertain token or has `PART` tokens.

    The first token comes from the pass that reads the last revision.

    Args:
        uncertain: share of the tokens that are uncertain, each independently of the others.
        batch: rollouts that go on together.
    """
    certain = 1 - uncertain
    return sum(1 - (1 - certain**tokens) ** batch for tokens in range(1, PART))


def pauses(uncertain: float) -> float:
    """Return the expected pauses of a rollout per token: at uncertain tokens, and after `PART` tokens without one."""
    return uncertain / (1 - (1 - uncertain) ** PART) if uncertain else 1 / PART
