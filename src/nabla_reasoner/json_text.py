"""JSON texts that somebody else may have written or damaged."""

import json
from typing import Any


def parse_json(text: str | bytes, *, names_once: bool = False) -> Any:
    """Return the value of a JSON text.

    Args:
        names_once: refuse an object with two values of one name; otherwise the last one counts.

    Raises:
        ValueError: anything else, also texts nested so deeply that Python's own parser gives up on them.
    """
    try:
        return json.loads(text, object_pairs_hook=_object if names_once else None)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two values of {next(name for name in names if names.count(name) > 1)!r}")
    return result
