"""What a method allows a cell, as its YAML file says; imports no torch, for `plan`."""

from omegaconf import DictConfig, OmegaConf

from ..baselines.reward_kinds import check_reward_kind
from .cell import Cell
from .schema import CONFIGS, choices


def check_method(cell: Cell) -> None:
    """Raise ValueError for a kind of reward that the method cannot use, or a server that cannot sample for it."""
    check_reward_kind(cell.method.name, cell.method.reward_kinds, cell.reward.kind, cell.reward.name)
    if cell.rollouts != "hf" and not cell.method.served:
        served = [name for name in choices("method") if _inherited(name).get("served")]
        raise ValueError(
            f"rollouts={cell.rollouts} is for methods that sample whole continuations; {cell.method.name} takes every "
            f"token from a model's own logits. Use rollouts=hf, or one of: {', '.join(served)}."
        )


def _inherited(name: str) -> DictConfig:
    """Return the entries of a choice of `method`, and of the choice that it begins from."""
    own = OmegaConf.load(CONFIGS / "method" / f"{name}.yaml")
    base, *_ = own.get("defaults", ["_self_"])
    return OmegaConf.merge(_inherited(base), own) if base != "_self_" else own
