"""Gains of the prefix form joined with the quality of the reward, and their figure."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from nabla_reasoner.reporting import reward_quality


def comparison(reward: str, difference: float | None, **changes: str) -> dict[str, object]:
    row = {"reward": reward, "policy": "p", "task": "t", "method": "nabla_reasoner_prefix", "baseline": "best_of_n"}
    low, high = (None, None) if difference is None else (difference - 2, difference + 3)
    return {**row, "matched_on": "rollouts", "difference": difference, "ci_low": low, "ci_high": high, **changes}


def quality(reward: str, auc: float, **changes: str) -> dict[str, object]:
    row = {"reward": reward, "policy": "p", "task": "t", "form": "prefix", "part": "all"}
    return {**row, "auc_within": 0.0, "gain_gradient": 10 * auc, **changes}


def manifest(**aucs: float | None) -> dict[str, object]:
    rewards = {name.replace("_", "-"): {"auc": 1.0, "auc_within": auc} for name, auc in aucs.items()}
    return {"models": {"p": {"validation": {"t": {"rewards": rewards}}}, "likelihood": {"folder": "rewards/x"}}}


def rows() -> pd.DataFrame:
    others = [{"method": "nabla_reasoner"}, {"baseline": "greedy"}, {"matched_on": "flops"}, {"task": "other"}]
    comparisons = [comparison("likelihood", 9.0), comparison("verifier-implicit-300", -4.0)]
    comparisons += [comparison("likelihood", 50.0, **change) for change in others]
    comparisons += [comparison("classifier", None), comparison("unmeasured", 1.0)]
    measured = [quality("likelihood", 0.9), quality("likelihood", 0.1, form="outcome"), quality("classifier", 0.8)]
    measured += [quality("verifier-implicit-300", 0.6), quality("likelihood", 0.2, part="first third")]
    aucs = reward_quality.within_aucs(manifest(likelihood=0.9, classifier=0.8, verifier_implicit_300=0.6))
    return reward_quality.gain_rows(pd.DataFrame(measured), pd.DataFrame(comparisons), aucs)


def test_gains_are_joined_with_quality_by_reward_policy_and_task():
    joined = rows()
    assert joined[["reward", "auc_within", "gain_gradient", "difference"]].values.tolist() == [
        ["likelihood", 0.9, 9.0, 9.0],
        ["verifier-implicit-300", 0.6, 6.0, -4.0],
    ]


def test_figure_has_a_point_per_row_and_a_legend_of_families_and_tasks():
    figure = reward_quality.gains(rows())
    for panel, column in zip(figure.axes, reward_quality.QUALITIES, strict=True):
        points = [bars[0].get_xydata().tolist() for bars in panel.containers]
        assert points == [[[row[column], row.difference]] for _, row in rows().iterrows()]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["likelihood of a language model", "verifier, log-ratio to its start, at four steps", "t"]
    plt.close(figure)


def test_a_reward_without_an_auc_has_no_point_there():
    """The manifest has null where a policy is always right or always wrong."""
    aucs = reward_quality.within_aucs(manifest(likelihood=None))
    assert aucs.auc_within.isna().all()
    joined = reward_quality.gain_rows(
        pd.DataFrame([quality("likelihood", 0.9)]), pd.DataFrame([comparison("likelihood", 9.0)]), aucs
    )
    plt.close(reward_quality.gains(joined))


@pytest.mark.parametrize(("name", "label"), [("verifier-process", "verifier with a score head"), ("mine", "mine")])
def test_family_of_a_reward(name: str, label: str):
    assert reward_quality.family(name)[0] == label
