"""Checks of what a method returned, before it becomes records: methods may be a user's own."""

from typing import Any

import numpy as np
import torch

from ..cost import Cost
from ..types import Solution, check_unicode


def checked_solution(solution: object) -> Solution:
    """Return a solution with Python's own numbers in place of scalars of NumPy and torch.

    Raises:
        TypeError: no `Solution`, or a field of a type that no record can hold; it is named.
        ValueError: a text that is not valid Unicode.
    """
    if not isinstance(solution, Solution):
        raise TypeError(f"a method must return a list of Solution; it holds {solution!r}. Correct its `solve`.")
    values = {name: _plain(f"{name} of a solution", value) for name, value in solution._asdict().items()}
    kinds = {
        "problem_id": (str, "a text"),
        "response": (str, "a text"),
        "reward": ((int, float, type(None)), "a number or None"),
        "search": (dict, "a dict"),
        "error": ((str, type(None)), "a text or None"),
    }
    for name, (kind, words) in kinds.items():
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise TypeError(
                f"{name} of a solution must be {words}; got {values[name]!r}. Correct the method's `solve`."
            )
    if not isinstance(solution.cost, Cost):
        raise TypeError(f"cost of a solution must be a Cost; got {solution.cost!r}. Correct the method's `solve`.")
    finished = values["search"].get("finished", True)
    if not isinstance(finished, bool):
        raise TypeError(
            f"search['finished'] of a solution must be True or False; got {finished!r}. Correct the method's `solve`."
        )
    for key in ("trajectory", "samples"):
        entries = values["search"].get(key, [])
        if not isinstance(entries, list) or not all(_has_response(entry) for entry in entries):
            raise TypeError(
                f"search[{key!r}] of a solution must be a list of dicts, each with the text 'response'; got "
                f"{str(entries)[:60]}. Correct the method's `solve`."
            )
    return solution._replace(**{**values, "cost": Cost(*values["cost"])})


def _has_response(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("response"), str)


def _plain(place: str, value: Any) -> Any:
    """Return a value as JSON can hold it; `place` says where it stands."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and not getattr(value, "shape", ()):
        value = value.item()
    if isinstance(value, str):
        check_unicode(place, value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(f"{key!r} in {place}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(place, item) for item in value]
    raise TypeError(
        f"{place} must hold numbers, texts, lists and dicts with names; got {value!r}. Correct the method's `solve`."
    )
