"""What a method allows a cell, as its YAML file says; imports no torch, for `plan`."""

from ..baselines.reward_kinds import check_reward_kind
from .cell import Cell
from .compose import compose_cells
from .schema import choices


def check_method(cell: Cell) -> None:
    """Raise ValueError for a kind of reward that the method cannot use, or a server that cannot sample for it."""
    check_reward_kind(cell.method.name, cell.method.reward_kinds, cell.reward.kind, cell.reward.name)
    if cell.rollouts != "hf" and not cell.method.served:
        others = compose_cells([f"method={','.join(choices('method'))}"])
        served = [other.method.name for other in others if other.method.served]
        raise ValueError(
            f"rollouts={cell.rollouts} is for methods that sample whole continuations; {cell.method.name} takes every "
            f"token from a model's own logits. Use rollouts=hf, or one of: {', '.join(served)}."
        )
