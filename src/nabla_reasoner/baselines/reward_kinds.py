"""Kinds of reward that a method can use; imports no torch, for `plan`."""

from collections.abc import Sequence


def check_reward_kind(method: str, valid: Sequence[str], kind: str, name: str) -> None:
    """Raise ValueError unless the reward model `name` is of a kind that the method can use."""
    if kind not in valid:
        reason = ", whose model predicts tokens" if list(valid) == ["likelihood"] else ""
        raise ValueError(
            f"{method} needs a {' or '.join(valid)} reward{reason}; got kind {kind!r} ({name}). "
            f"Choose a reward of kind {' or '.join(valid)}, or another method."
        )
