"""Policies improved by training: which policy each comes from, and what its training cost."""

import csv
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..config.data_folder import locate
from ..config.schema import choice_file, choices
from .json_files import warn_once


class Lineage(NamedTuple):
    """Where a policy improved by training comes from.

    Attributes:
        base: policy that training started from.
        trained_by: "sft" or "grpo".
    """

    base: str
    trained_by: str


def training_flops(policy: str) -> float | None:
    """Return the FLOPs of a policy's training up to its shipped weights, earlier ones included; None if unknown."""
    settings = choice_file("policy", policy)
    file = Path(locate(settings.get("training", "")))
    if not file.is_file():
        return None
    with file.open(newline="", encoding="utf-8") as stream:
        shipped = {row["policy"]: row["flops"] for row in csv.DictReader(stream) if row.get("shipped") == "True"}
    if policy not in shipped:
        return None
    return float(shipped[policy]) + (training_flops(settings["base"]) or 0.0)


@functools.cache
def _lineages() -> dict[str, Lineage]:
    settings = [choice_file("policy", name) for name in choices("policy")]
    return {policy["name"]: Lineage(policy["base"], policy["trained_by"]) for policy in settings if "base" in policy}


def lineage(policy: str) -> Lineage | None:
    """Return where a policy comes from, as configs/policy/NAME.yaml says; None if it was not improved by training."""
    return _lineages().get(policy)


def improved_policy(base: str, trained_by: str, policies: Iterable[str]) -> str | None:
    """Return the one of these policies that a training of this kind made of `base`; None if there is none.

    Of several, the one with the name BASE-KIND counts; without such a name none does, with a line that names them.
    """
    names = sorted(name for name in set(policies) if lineage(name) == (base, trained_by))
    if len(names) < 2:
        return names[0] if names else None
    usual = f"{base}-{trained_by}"
    if usual in names:
        return usual
    warn_once(
        f"{base} has no row {trained_by}: {', '.join(names)} are all made of it. Name one of them {usual}, or keep "
        "their results in folders of their own."
    )
    return None


def start_policies(policies: Iterable[str]) -> list[str]:
    """Return the distinct policies that do not descend from another one among them, in their order."""
    names = list(dict.fromkeys(policies))

    def descends(policy: str) -> bool:
        origin = lineage(policy)
        return origin is not None and (origin.base in names or descends(origin.base))

    return [name for name in names if not descends(name)]
