"""Random damage to a JSON value, drawn by hypothesis."""

import copy
import math
from typing import Any

from hypothesis import strategies as st

JUNK = [None, True, -1, 0, 7, 280, 10**400, 2.5, 1e308, math.nan, math.inf, -math.inf]
JUNK += ["", "x", "token_id:", "token_id:-3", "token_id:999", "token_id:1_0", "7", [], [None], [[]], {}, {"a": None}]
DAMAGE = st.tuples(
    st.sampled_from(["replace", "delete", "repeat", "rename"]), st.integers(0, 10**6), st.sampled_from(JUNK)
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything inside a JSON value."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def damage(value: Any, faults: list[tuple[str, int, Any]]) -> Any:
    """Return a copy with some of its parts replaced, left out, repeated or renamed."""
    value = copy.deepcopy(value)
    for kind, number, junk in faults:
        if not (inside := places(value)):
            break
        container, key = inside[number % len(inside)]
        if kind == "replace":
            container[key] = copy.deepcopy(junk)
        elif kind == "delete":
            del container[key]
        elif kind == "repeat" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif kind == "rename" and isinstance(container, dict):
            container[str(junk)] = container.pop(key)
    return value
