"""What a method allows a cell, as its YAML file says; imports no torch, for `plan`."""

from ..baselines.reward_kinds import check_reward_kind
from .cell import Cell
from .compose import compose_cells
from .parts import MethodSettings
from .schema import choices


def check_method(cell: Cell) -> None:
    """Check a cell against what its method's file says.

    Raises:
        ValueError: a kind of reward that the method cannot use, a server that cannot sample for it, no `answers`, or a
            value of `budget` that the method's own setting could not have.
    """
    _check_answers(cell.method)
    _check_pool(cell.method)
    check_reward_kind(cell.method.name, cell.method.reward_kinds, cell.reward.kind, cell.reward.name)
    if cell.rollouts != "hf" and not cell.method.served:
        others = compose_cells([f"method={','.join(choices('method'))}"])
        served = [other.method.name for other in others if other.method.served]
        raise ValueError(
            f"rollouts={cell.rollouts} is for methods that sample whole continuations; {cell.method.name} takes every "
            f"token from a model's own logits. Use rollouts=hf, or one of: {', '.join(served)}."
        )


def _check_answers(method: MethodSettings) -> None:
    """Raise ValueError if `answers` counts no response; `plan` divides by it. Null is a typical number of the scale."""
    if method.answers is not None and not (method.answers and all(method.answers)):
        raise ValueError(
            f"method.answers must be a list of products, such as [[num_samples]]; got {method.answers}. It only "
            "describes the method for `plan`: leave it out."
        )


def _check_pool(method: MethodSettings) -> None:
    """Raise ValueError on a value of `budget` that is not of its setting's kind, or on no setting."""
    keywords = method.keywords()
    for name, value in (method.budget or {}).items():
        if name not in keywords:
            raise ValueError(
                f"method.budget must hold settings of {method.name}: {', '.join(keywords)}; got {name!r}. Leave it out."
            )
        if type(keywords[name]) is int and (type(value) is not int or value < min(keywords[name], 1)):
            raise ValueError(
                f"method.budget.{name} must be a whole number >= {min(keywords[name], 1)}; got {value!r}. "
                f"Write method.budget.{name}={2 * keywords[name]}."
            )
        kinds = (int, float) if type(keywords[name]) is float else (type(keywords[name]),)
        if type(keywords[name]) is not int and type(value) not in kinds:
            raise ValueError(
                f"method.budget.{name} must be a value like its own, {keywords[name]!r}; got {value!r}. Leave it out."
            )
