"""Fidelity table: rank correlation as SciPy's, shares and gains by hand, cases of the verdict rule, figure."""

import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from nabla_reasoner.dto.reward_forms import REWARD_FORMS
from nabla_reasoner.evaluation.fidelity import Changes
from nabla_reasoner.reporting import fidelity
from nabla_reasoner.reporting.fidelity import EXACT, GRADIENT, NEITHER, UNDECIDED, Measured, Quality
from nabla_reasoner.reporting.fidelity_figure import draw
from nabla_reasoner.reporting.tables import csv_text

matplotlib.use("Agg")
NAMES = {"reward": "mine", "kind": "classifier"}


def measured(predicted, exact, is_right, problem: str = "p", place: float = 0.0) -> Measured:
    """Return a position with the same changes in every form."""
    changes = Changes(
        *(np.tile(np.array(values, dtype=float), (len(REWARD_FORMS), 1)) for values in (predicted, exact))
    )
    is_own = np.arange(len(is_right)) == 0
    return Measured(problem, place, changes, is_own, np.array(is_right, dtype=bool))


def test_rank_correlation_equals_scipy_and_handles_constants():
    generator = np.random.default_rng(0)
    for _ in range(20):
        a, b = generator.integers(0, 4, (2, 6)).astype(float)
        if np.ptp(a) and np.ptp(b):
            expected = scipy.stats.spearmanr(a, b).statistic
            assert fidelity.rank_correlation(a, b) == pytest.approx(expected)
    constant, varied = np.zeros(3), np.arange(3.0)
    assert np.isnan(fidelity.rank_correlation(varied, constant))
    assert fidelity.rank_correlation(constant, varied) == 0.0


def test_statistics_equal_hand_computation():
    rows = [
        measured([0, 2, 1, -1], [0, 4, 1, -2], [False, True, False, False], "p"),  # both choose the right token
        measured([0, 1, 3, 0.5], [0, 5, 1, 2], [True, False, False, False], "q"),  # both lose it
        measured([0, -1, -2, -3], [0, -1, -2, -3], [True, True, True, True], "q"),  # nothing to decide
        measured([0, -1, 1, -3], [0, 2, 1, -3], [False, True, True, False], "r"),
    ]
    row = fidelity.statistics(rows, "outcome")
    assert (row["num_problems"], row["num_positions"], row["num_decided"], row["num_greedy_wrong"]) == (3, 4, 3, 2)
    correlations = [scipy.stats.spearmanr(m.changes.predicted[0], m.changes.exact[0]).statistic for m in rows]
    assert row["rank_correlation"] == pytest.approx(np.mean(correlations))
    assert row["top1"] == 50.0
    predicted, exact = (np.concatenate([m.changes[i][0][1:] for m in rows]) for i in (0, 1))
    assert row["slope"] == pytest.approx((predicted * exact).sum() / (predicted**2).sum())
    assert row["bias"] == pytest.approx(np.mean(predicted - exact))
    assert row["exact_rms"] == pytest.approx(np.sqrt(np.mean(exact**2)))
    assert row["right_policy"] == pytest.approx(100 / 3)
    assert row["right_gradient"] == row["right_exact"] == pytest.approx(200 / 3)
    assert row["right_random"] == pytest.approx(100 * np.mean([0.25, 0.25, 0.5]))
    assert row["gain_gradient"] == pytest.approx(100 / 3)
    assert (row["fixed_gradient"], row["fixed_exact"], row["fixed_second"]) == (100.0, 100.0, 100.0)


def test_statistics_of_nothing_are_empty():
    row = fidelity.statistics([], "prefix")
    assert row["num_positions"] == row["num_decided"] == 0
    assert {row[name] for name in ("rank_correlation", "top1", "slope", "bias", "right_exact", "gain_exact")} == {None}


def position(kind: str, number: int) -> Measured:
    """Return a position at which one token is right: policy's choice, or what gradient and exact score choose."""
    right = {"policy": 0, "gradient": 1, "exact": 2}[kind]
    return measured([0, 2, 1, -1], [0, 1, 2, -1], [i == right for i in range(4)], f"p{number}")


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"gradient": 20, "policy": 4}, GRADIENT),
        ({"exact": 20, "policy": 4}, EXACT),
        ({"policy": 20, "gradient": 2, "exact": 2}, NEITHER),
        ({"gradient": 10, "exact": 10, "policy": 1}, GRADIENT),
        ({"gradient": 1, "policy": 1}, NEITHER),
        ({}, UNDECIDED),
    ],
)
def test_verdict_follows_the_stated_rule(kinds: dict[str, int], expected: str):
    names = [kind for kind, count in kinds.items() for _ in range(count)]
    row = fidelity.statistics([position(kind, i) for i, kind in enumerate(names)], "prefix")
    assert fidelity.verdict(row) == expected


@pytest.mark.parametrize("count", [1, 2])
def test_gain_without_spread_has_no_interval_and_is_not_shown(count: int):
    row = fidelity.statistics([position("gradient", i) for i in range(count)], "prefix")
    assert (row["gain_gradient"], row["gain_gradient_low"], row["gain_gradient_high"]) == (100.0, None, None)
    assert fidelity.verdict(row) == NEITHER
    texts = fidelity.choices_line(NAMES | {"form": "prefix"} | row)
    assert "+100" in texts
    assert "nan" not in " ".join(texts)
    assert row["rank_correlation"] is not None
    assert "(" not in fidelity.fidelity_line(NAMES | {"form": "prefix", "part": "all"} | row)[4]


def reward_rows() -> list[dict]:
    places = (0.1, 0.5, 0.99)
    cells = {
        ("base", "sums"): [position("gradient", i)._replace(place=places[i % 3]) for i in range(12)],
        ("base", "legs"): [position("policy", i)._replace(place=0.0) for i in range(3)],
    }
    return fidelity.reward_rows(NAMES, cells, [Quality(0.7, 0.75), Quality(0.9, float("nan"))])


def test_rows_pool_policies_tasks_and_parts():
    rows = reward_rows()
    assert len(rows) == len(REWARD_FORMS) * (1 + len(fidelity.PARTS) + 2)
    for form in REWARD_FORMS:
        of_form = {(row["policy"], row["task"], row["part"]): row for row in rows if row["form"] == form}
        whole = of_form["all", "all", "all"]
        assert (whole["num_positions"], whole["num_problems"]) == (15, 15), "p0 of two tasks is two problems"
        assert [of_form["all", "all", part]["num_positions"] for part in fidelity.PARTS] == [7, 4, 4]
        assert of_form["base", "sums", "all"]["right_gradient"] == 100
        assert of_form["base", "legs", "all"]["right_gradient"] == 0
        assert whole["auc_within"] == pytest.approx(0.8)
        assert (whole["token_auc"], of_form["base", "legs", "all"]["token_auc"]) == (0.75, None)
        assert [row["verdict"] for row in of_form.values() if row["verdict"]] == [whole["verdict"]]


def test_reward_line_names_best_verdict_and_its_forms():
    verdicts = {"outcome": NEITHER, "process": EXACT, "prefix": GRADIENT}
    rows = [{"reward": "mine", "form": form, "verdict": text} for form, text in verdicts.items()]
    assert fidelity.verdict_lines(rows) == ["mine: gradient usable (form: prefix)"]
    assert fidelity.verdict_lines(rows[:2]) == ["mine: only exact scores usable (form: process)"]
    assert fidelity.verdict_lines(rows[:1]) == ["mine: neither"]


def test_text_and_figure_are_made_from_the_rows():
    rows = reward_rows() + fidelity.reward_rows(
        {"reward": "empty", "kind": "likelihood"}, {("base", "sums"): []}, [Quality(0.5, 0.5)]
    )
    text = fidelity.text(rows, "A note.")
    assert text.startswith(f"- mine: {GRADIENT} (form: outcome, process, prefix)\n- empty: {UNDECIDED}")
    assert fidelity.RULE in text
    assert "A note." in text
    figure = draw(pd.read_csv(io.StringIO(csv_text(fidelity.COLUMNS, rows))))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["mine", "empty"]
    matplotlib.pyplot.close(figure)
