"""Target tune: which settings it marks as chosen, and a run of a few cells."""

import pandas as pd
import pytest

from nabla_reasoner.__main__ import main
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.config.targets import find
from nabla_reasoner.experiments import tune


def row(
    group: str,
    setting: str,
    task: str,
    accuracy: float | None,
    flops: float | None,
    status: str = "ok",
    num_runs: int = 10,
) -> dict:
    names = {"group": group, "setting": setting, "policy": "p", "task": task, "num_problems": num_runs}
    costs = {"accuracy": accuracy, "flops": flops, "difference": None, "flops_ratio": None}
    return names | costs | {"status": status, "num_runs": num_runs}


def test_best_mean_is_chosen_and_ties_go_to_the_cheaper():
    rows = [
        row("default", "default", "all", 90.0, 1.0),
        row("default", "default", "sums", 90.0, 1.0),
        row("default", "default", "products", 90.0, 1.0),
        row("a", "low", "sums", 40.0, 1.0),
        row("a", "low", "products", 60.0, 1.0),
        row("a", "dear", "sums", 50.0, 3.0),
        row("a", "dear", "products", 60.0, 3.0),
        row("a", "cheap", "sums", 60.0, 2.0),
        row("a", "cheap", "products", 50.0, 2.0),
        row("a", "cheap", "all", 0.0, 2.0),
        row("a", "partial", "sums", 99.0, 1.0),
        row("a", "partial", "products", None, 1.0, "not run"),
    ]
    marked = tune.mark_chosen(rows)
    assert {entry["setting"] for entry in marked if entry["chosen"]} == {"cheap"}
    means = {entry["setting"]: entry["mean_accuracy"] for entry in marked}
    assert means == {"default": 90.0, "low": 50.0, "dear": 55.0, "cheap": 55.0, "partial": None}


def test_settings_of_other_problems_are_not_compared_and_a_failed_one_costs_most():
    rows = [
        row("default", "default", "sums", 90.0, 1.0),
        row("a", "two problems", "sums", 99.0, 1.0, num_runs=2),
        row("a", "whole", "sums", 10.0, 1.0),
        row("a", "failed", "sums", 10.0, None),
    ]
    marked = tune.mark_chosen(rows)
    assert [entry["setting"] for entry in marked if entry["chosen"]] == ["whole"]
    told = {line[1]: line[2] for line in tune.format_settings(marked)}
    assert told == {"default": "90.0", "two problems": tune.OTHER_PROBLEMS, "whole": "10.0", "failed": "10.0"}


def test_every_setting_is_of_a_method_on_validation_problems():
    (first,) = compose_cells(["experiment=tune", "policy=tiny-base", "task=products"])
    assert first.split == "validation"
    assert first.method.name == "best_of_n"
    for settings in first.settings.values():
        assert all("method" in changes for changes in settings.values())
        assert len({tuple(sorted(changes.items())) for changes in settings.values()}) == len(settings)


@pytest.mark.parametrize("setting", ["split=test", "method=greedy"])
@pytest.mark.parametrize("target", ["tune", "tune-likelihood", "tune-benchmark"])
def test_what_the_table_counts_on_cannot_be_changed(target, setting, tmp_path, capsys):
    """Settings are chosen on validation problems, and compared with Best-of-N."""
    scale = [f"scale={name}" for name in find(target).scales[:1]]
    assert main([target, *scale, setting, "num_problems=4", f"results_dir={tmp_path}"]) == 2
    assert f"{setting.partition('=')[0]} cannot be changed for {target}: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_table_marks_one_setting_of_the_group_that_ran(tmp_path):
    words = ["policy=tiny-base", "task=products", "num_problems=4", f"results_dir={tmp_path}"]
    assert main(["tune", "only=[soft_best_of_n]", *words]) == 0
    table = pd.read_csv(tmp_path / "tiny" / "tune" / "table.csv")
    ran = table[table.group == "soft_best_of_n"]
    assert ran.chosen.sum() == 1
    assert (ran.status == "ok").all()
    assert not table[table.group != "soft_best_of_n"].chosen.any()
