"""Cells with the settings of single targets; `target.cell` in a target's YAML file chooses among them."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from .cell import Cell
from .schema import Count, Folder


class AblationCell(Cell):
    """A cell of a target that compares changes of settings.

    Attributes:
        only: groups or names in `settings` that are run; None: all.
        settings: what each change sets, by group and name.
        sizes: numbers of rollouts at which the records of a change are cut, by its name.
    """

    only: list[str] | None
    settings: dict[str, dict[str, dict[str, Any]]]
    sizes: dict[str, list[int]]

    @model_validator(mode="before")
    @classmethod
    def _check_only(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Check before the type is, so that the message lists the names."""
        only, groups = values.get("only"), values.get("settings", {})
        names = [name for group in groups.values() if isinstance(group, dict) for name in group]
        known = [*groups, *names]
        unknown = [name for name in only if name not in known] if isinstance(only, list) else only
        if only is not None and (unknown or not only):
            raise ValueError(f"only must be a list of {', '.join(known)}; got {unknown}. Write only=[flip,lambda].")
        return values

    @property
    def selected(self) -> list[str]:
        """Groups or names of the changes that are run."""
        return list(self.settings) if self.only is None else self.only


class FidelityCell(Cell):
    """A cell of `fidelity`.

    Attributes:
        positions: uncertain positions of a response that are measured, at most.
        candidates: tokens that are compared at a position.
    """

    positions: Count | None
    candidates: Annotated[int, Field(ge=2)] | None


class SolveCell(Cell):
    """The cell of `solve`.

    Attributes:
        trace: file for every step of the decoding loop; None: none.
        quiet: whether revisions are not printed while the method runs.
    """

    trace: Folder | None
    quiet: bool
