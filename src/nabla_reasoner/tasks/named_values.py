"""Values of several unknowns in the order of their names: x = 2, y = 1 for y = 1, x = 2."""

import re

from .answer_parts import entries
from .equations import named

NAMED_TUPLE = re.compile(r"\(([^()=]+)\)\s*=\s*([^=]+)")
INDEXED = re.compile(r"([A-Za-z])_?\{?(\d+)\}?")


def in_order_of_names(text: str) -> str:
    """Return an answer in the notation of `notation.standard` with named values in the order that a tuple has.

    That is the order of the alphabet for letters that follow each other, such as x and y, and for indexed ones. Other
    names, such as m and b, stay in the order in which they are written.
    """
    match = NAMED_TUPLE.fullmatch(text)
    if match:
        names, values = [name.strip() for name in match[1].split(",")], entries(match[2].strip())
        order = _order(names)
        if order is None or len(values.parts) != len(names) or len(values.kind) != 2:
            return text
        written = [", ".join(parts[index] for index in order) for parts in (names, values.parts)]
        return f"({written[0]}) = {values.kind[0]}{written[1]}{values.kind[1]}"
    parts = entries(text)
    if parts.kind != "list":
        return text
    order = _order([named(part)[0] or "" for part in parts.parts])
    return text if order is None else ", ".join(parts.parts[index] for index in order)


def _order(names: list[str]) -> list[int] | None:
    """Return the places of names in their usual order, or None if they have it or there is none."""
    plain = [re.sub(r"[\s{}]", "", name) for name in names]
    indexed = [INDEXED.fullmatch(name) for name in plain]
    if all(indexed) and len({match[1] for match in indexed}) == 1:
        keys = [int(match[2]) for match in indexed]
    elif all(re.fullmatch("[A-Za-z]", name) for name in plain):
        keys = [ord(name) for name in plain]
    else:
        return None
    order = sorted(range(len(keys)), key=keys.__getitem__)
    follow = all(keys[b] - keys[a] == 1 for a, b in zip(order, order[1:], strict=False))
    return order if follow and order != list(range(len(keys))) else None
