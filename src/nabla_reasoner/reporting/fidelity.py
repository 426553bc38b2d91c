"""Fidelity of reward gradients as a table: rank correlation, top-1 agreement, slope, bias, right choices, verdict.

Columns, one row per reward, policy, task, form and part of the response ("all" pools them):

    rank_correlation   Spearman's, of predicted and exact changes over a position's candidates; mean over positions
    top1               share of positions at which prediction and exact score choose the same candidate
    slope              least squares through 0: exact change = slope x predicted change; other tokens than the own
    bias               mean of predicted minus exact change; other tokens than the own
    exact_rms          root mean square of the exact changes, the scale of slope and bias
    num_decided        positions at which some candidates are right and some are wrong
    right_*            there: % of positions at which the choice is right: by the policy's probability, the gradient,
                       the exact score, or at random
    gain_*             right_* minus right_policy in points, with its 95 % interval over problems; empty, as ci_* is,
                       with one problem, or if all have the same mean
    num_greedy_wrong   positions among them at which the policy's own choice, the greedy token, is wrong
    fixed_*            there: % of positions at which the choice is right; `second` is the policy's second choice
    auc_within         AUC of right against wrong responses to the same problem, mean over problems
    token_auc          AUC of r(y_≤l|x) at every token against the verdict on the response, all problems together
                       (both are means over policies and tasks in pooled rows)
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from ..dto.reward_forms import REWARD_FORMS
from ..evaluation.fidelity import Changes
from ..evaluation.statistics import Ratio, ratio_interval
from .evidence import Row
from .tables import markdown

COLUMNS = (
    "reward kind policy task form part num_problems num_positions rank_correlation ci_low ci_high top1 slope bias "
    "exact_rms num_decided right_policy right_gradient right_exact right_random gain_gradient gain_gradient_low "
    "gain_gradient_high gain_exact gain_exact_low gain_exact_high num_greedy_wrong fixed_gradient fixed_exact "
    "fixed_second auc_within token_auc verdict"
).split()
PARTS = ("first third", "middle third", "last third")
ALL = "all"
GRADIENT, EXACT, NEITHER, UNDECIDED = VERDICTS = (
    "gradient usable",
    "only exact scores usable",
    "neither",
    "undecided: the candidates are never right and wrong",
)
RULE = (
    'Rule: at positions where some candidates are right and some are wrong, "gradient usable" if the candidate of the '
    "highest predicted reward is right more often than the policy's most likely one (95 % interval over problems above "
    'zero, all policies and tasks); else "only exact scores usable" if the candidate of the highest exact reward is; '
    'else "neither". A reward gets the best verdict of its three forms, which are not corrected for their number.'
)


class Measured(NamedTuple):
    """What was measured at one position.

    Attributes:
        problem: id of the problem.
        place: position divided by the response's length, in [0, 1).
        changes: predicted and exact changes of the reward by candidate, the policy's most likely first.
        is_own: which candidate is the response's own token.
        is_right: which candidates are right.
    """

    problem: str
    place: float
    changes: Changes
    is_own: Bool[np.ndarray, " candidate"]
    is_right: Bool[np.ndarray, " candidate"]

    @property
    def part(self) -> str:
        """The third of the response that the position is in."""
        return PARTS[int(3 * self.place)]


def rank_correlation(predicted: Float[np.ndarray, " candidate"], exact: Float[np.ndarray, " candidate"]) -> float:
    """Return Spearman's rank correlation, ties averaged.

    NaN if the exact values are all equal: there is nothing to predict. 0 if only the predicted ones are.
    """
    if np.ptp(exact) == 0:
        return float("nan")
    if np.ptp(predicted) == 0:
        return 0.0
    ranks = [scipy.stats.rankdata(values) for values in (predicted, exact)]
    return float(np.corrcoef(*ranks)[0, 1])


def statistics(measured: Sequence[Measured], form: str) -> Row:
    """Return the columns from `num_problems` to `fixed_second`; None where there is no position to count."""
    number = REWARD_FORMS.index(form)
    pairs = [(m.changes.predicted[number], m.changes.exact[number]) for m in measured]
    row: Row = {"num_problems": len({m.problem for m in measured}), "num_positions": len(measured)}
    correlation = _mean(measured, [rank_correlation(*pair) for pair in pairs])
    row |= {"rank_correlation": None, "ci_low": None, "ci_high": None}
    if correlation is not None:
        row |= dict(zip(("rank_correlation", "ci_low", "ci_high"), correlation, strict=True))
    others = [(p[~m.is_own], e[~m.is_own]) for m, (p, e) in zip(measured, pairs, strict=True)]
    predicted, exact = (np.concatenate([pair[i] for pair in others] or [np.zeros(0)]) for i in (0, 1))
    square = float(predicted @ predicted)
    row |= {
        "top1": _share([p.argmax() == e.argmax() for p, e in pairs]),
        "slope": float(predicted @ exact) / square if square else None,
        "bias": float((predicted - exact).mean()) if len(exact) else None,
        "exact_rms": float(np.sqrt((exact**2).mean())) if len(exact) else None,
    }
    return row | _right_choices(measured, pairs)


def _right_choices(
    measured: Sequence[Measured],
    pairs: Sequence[tuple[Float[np.ndarray, " candidate"], Float[np.ndarray, " candidate"]]],
) -> Row:
    """Return the columns that count right choices."""
    decided = [
        (m, m.is_right[p.argmax()], m.is_right[e.argmax()])
        for m, (p, e) in zip(measured, pairs, strict=True)
        if m.is_right.any() and not m.is_right.all()
    ]
    row: Row = {
        "num_decided": len(decided),
        "right_policy": _share([m.is_right[0] for m, _, _ in decided]),
        "right_gradient": _share([gradient for _, gradient, _ in decided]),
        "right_exact": _share([exact for _, _, exact in decided]),
        "right_random": _share([m.is_right.mean() for m, _, _ in decided]),
    }
    for column, name in ((1, "gradient"), (2, "exact")):
        gain = _mean([m for m, *_ in decided], [100.0 * (float(d[column]) - d[0].is_right[0]) for d in decided])
        for key, value in zip(("", "_low", "_high"), gain or (None, None, None), strict=True):
            row[f"gain_{name}{key}"] = value
    wrong = [entry for entry in decided if not entry[0].is_right[0]]
    return row | {
        "num_greedy_wrong": len(wrong),
        "fixed_gradient": _share([gradient for _, gradient, _ in wrong]),
        "fixed_exact": _share([exact for _, _, exact in wrong]),
        "fixed_second": _share([m.is_right[1] for m, _, _ in wrong]),
    }


def _share(values: Sequence[float | bool | np.generic]) -> float | None:
    return 100 * float(np.mean(values)) if values else None


def _mean(measured: Sequence[Measured], values: Sequence[float | int]) -> Ratio | None:
    """Return the mean over positions, NaN left out, with its interval over problems."""
    known = [(m.problem, value) for m, value in zip(measured, values, strict=True) if not np.isnan(value)]
    if not known:
        return None
    _, index = np.unique([problem for problem, _ in known], return_inverse=True)
    return ratio_interval(np.bincount(index, [value for _, value in known]), np.bincount(index))


def _known_mean(values: Sequence[float]) -> float | None:
    """Return the mean of the values that are not NaN; None if all are."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None


def verdict(row: Row) -> str:
    """Return the verdict on one form of a reward, from the row that pools everything (see `RULE`)."""
    if not row["num_decided"]:
        return UNDECIDED
    above_zero = {name: (row[f"gain_{name}_low"] or 0) > 0 for name in ("gradient", "exact")}  # None: not shown
    if above_zero["gradient"]:
        return GRADIENT
    return EXACT if above_zero["exact"] else NEITHER


class Quality(NamedTuple):
    """How well a reward ranks responses of one policy to problems of one task; NaN if there is nothing to rank.

    Attributes:
        auc_within: AUC of right against wrong responses to the same problem, mean over problems.
        token_auc: AUC of r(y_≤l|x) at every token against the verdict on the response.
    """

    auc_within: float
    token_auc: float


def reward_rows(names: Row, measured: dict[tuple[str, str], list[Measured]], qualities: Sequence[Quality]) -> list[Row]:
    """Return a reward's rows of `COLUMNS`: pooled, by part of the response, and by policy and task.

    Args:
        names: `reward` and `kind`.
        measured: by policy and task.
        qualities: of each of these.
    """
    pooled = [
        m._replace(problem=f"{policy} {task} {m.problem}")
        for (policy, task), members in measured.items()
        for m in members
    ]
    pooled_quality = {name: _known_mean([getattr(q, name) for q in qualities]) for name in Quality._fields}
    rows = []
    for form in REWARD_FORMS:
        whole = names | {"policy": ALL, "task": ALL, "form": form, "part": ALL} | statistics(pooled, form)
        rows.append(whole | pooled_quality | {"verdict": verdict(whole)})
        blank = {**dict.fromkeys(Quality._fields), "verdict": None}
        for part in PARTS:
            members = [m for m in pooled if m.part == part]
            rows.append(names | {"policy": ALL, "task": ALL, "form": form, "part": part} | statistics(members, form))
            rows[-1] |= blank
        for ((policy, task), members), quality in zip(measured.items(), qualities, strict=True):
            rows.append(names | {"policy": policy, "task": task, "form": form, "part": ALL} | statistics(members, form))
            rows[-1] |= blank | {name: _known_mean([value]) for name, value in quality._asdict().items()}
    return rows


def verdict_lines(rows: Iterable[Row]) -> list[str]:
    """Return one line per reward: its best verdict, and the forms that reach it."""
    forms: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["verdict"] is not None:
            forms.setdefault(row["reward"], {})[row["form"]] = row["verdict"]
    lines = []
    for reward, verdicts in forms.items():
        best = min(verdicts.values(), key=VERDICTS.index)
        reached = ", ".join(form for form, text in verdicts.items() if text == best)
        where = f" (form: {reached})" if best in (GRADIENT, EXACT) else ""
        lines.append(f"{reward}: {best}{where}")
    return lines


FIDELITY_HEADER = ("reward", "form", "part", "positions", "rank correlation", "top-1, %", "slope", "bias", "RMS")
CHOICES_HEADER = (
    "reward",
    "form",
    "decided",
    "policy",
    "gradient",
    "exact",
    "random",
    "gradient minus policy",
    "exact minus policy",
    "greedy wrong",
    "fixed: gradient / exact / second, %",
)


def _number(value: float | int | str | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def fidelity_line(row: Row) -> list[str]:
    """Return a row as text, for the columns of `FIDELITY_HEADER`."""
    interval = "" if row["ci_low"] is None else f" ({row['ci_low']:.2f} to {row['ci_high']:.2f})"
    numbers = [_number(row["top1"], ".0f"), *(_number(row[name], ".2f") for name in ("slope", "bias", "exact_rms"))]
    correlation = _number(row["rank_correlation"], ".2f") + interval
    return [row["reward"], row["form"], row["part"], str(row["num_positions"]), correlation, *numbers]


def choices_line(row: Row) -> list[str]:
    """Return a row as text, for the columns of `CHOICES_HEADER`."""

    def gain(name: str) -> str:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        interval = "" if low is None else f" ({low:+.0f} to {high:+.0f})"
        return _number(row[name], "+.0f") + interval

    shares = [_number(row[f"right_{name}"], ".0f") for name in ("policy", "gradient", "exact", "random")]
    fixed = " / ".join(_number(row[f"fixed_{name}"], ".0f") for name in ("gradient", "exact", "second"))
    gains = [gain("gain_gradient"), gain("gain_exact")]
    return [row["reward"], row["form"], str(row["num_decided"]), *shares, *gains, str(row["num_greedy_wrong"]), fixed]


def text(rows: Sequence[Row], note: str) -> str:
    """Return table.md: the verdicts, then fidelity and right choices over all policies and tasks."""
    pooled = [row for row in rows if row["policy"] == ALL]
    whole = [row for row in pooled if row["part"] == ALL]
    parts = [
        "".join(f"- {line}\n" for line in verdict_lines(rows)),
        f"{RULE}\n",
        "## Fidelity: predicted against exact change of the reward\n",
        markdown(FIDELITY_HEADER, [fidelity_line(row) for row in pooled]),
        "## Right choices: how often the best of the candidates is right, in %\n",
        markdown(CHOICES_HEADER, [choices_line(row) for row in whole]),
        f"{note}\n",
    ]
    return "\n".join(parts)
