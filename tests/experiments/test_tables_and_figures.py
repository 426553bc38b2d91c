"""Tables 3 to 5, Figures 3 and 4, from hand-made records with known numbers."""

import csv
import itertools
import json
import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import toy_runs

from nabla_reasoner.__main__ import main
from nabla_reasoner.config.data_folder import data_folder
from nabla_reasoner.cost import Cost
from nabla_reasoner.dto import gradient_passes
from nabla_reasoner.evaluation import json_files
from nabla_reasoner.evaluation.records import append_records, failed_record, record_path
from nabla_reasoner.evaluation.statistics import ratio_interval
from nabla_reasoner.experiments import figure3, figure4, table1, table2, table3, table4, table5
from nabla_reasoner.experiments.from_results import read_table1
from nabla_reasoner.reporting.method_names import STYLES
from nabla_reasoner.types import Problem

matplotlib.use("Agg")
SPENT = Cost(
    decode_tokens=100,
    gradient_evaluations=3,
    model_calls=120,
    gradient_calls=12,
    flops=1e6,
    gradient_flops=4e5,
    seconds=0.5,
)


def write(
    results: Path,
    method: str,
    searches,
    *,
    folder="table1/records",
    costs=None,
    failed=0,
    task="chain_sum",
    seed=0,
    **method_settings,
):
    """Write records of problems p0, p1, …; each is correct if the last step of its trajectory is."""
    records = []
    for index in range(len(searches) + failed):
        problem = Problem(f"p{index}", "q", "1", task)
        record = failed_record(problem, "ValueError: no", policy="tiny-base", method=method, seed=seed, repeat=0)
        if index < len(searches):
            search = searches[index]
            right = bool(search.get("trajectory") and search["trajectory"][-1]["correct"])
            spent = (costs[index] if costs else SPENT)._asdict()
            record |= {"correct": right, "status": "ok", "error": None, "cost": spent, "search": search}
        records.append(record)
    path = record_path(results / folder, "tiny-base", task, method, seed)
    append_records(path, records)
    path.with_suffix(".settings.json").write_text(json.dumps({"method": method_settings}), encoding="utf-8")


def counted(proposed: int, rejected: int, rewards=()) -> dict:
    samples = [{"reward": reward, "correct": False} for reward in rewards]
    return {"proposed": proposed, "rejected": rejected, **({"samples": samples} if samples else {})}


def kept(rewards) -> int:
    """Count the samples that exceed all before them, the first included."""
    return sum(all(before < value for before in rewards[:k]) for k, value in enumerate(rewards))


@pytest.mark.parametrize("rewards", [(1, 2, 3, 4, 5), (1, 1, 2, 2, 3), (7, 7, 7, 7, 7), (0, 3, 3, 1, 9)])
def test_expected_rejections_equal_mean_over_all_orders(rewards):
    orders = list(itertools.permutations(rewards))
    mean = sum(len(rewards) - kept(order) for order in orders) / len(orders)
    assert table3.expected_rejections([float(value) for value in rewards]) == pytest.approx(mean)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_theory_line_equals_mean_over_distinct_reward_orders(count):
    orders = list(itertools.permutations(range(count)))
    rejected = sum(count - kept(order) for order in orders) / len(orders)
    assert table3.theory(count) == pytest.approx((100 * rejected / count, 100 * rejected / (count - 1)))


def test_theory_line_for_eight_samples_equals_paper():
    assert [round(value, 1) for value in table3.theory(8)] == [66.0, 75.5]


def test_rejection_rates_follow_both_counting_rules(tmp_path: Path):
    samples = [counted(3, 2, (1.0, 2.0, 0.0, 1.5)), counted(3, 3, (5.0, 5.0, 5.0, 5.0))]
    write(tmp_path, "best_of_n", samples, num_samples=4)
    searches = [counted(1, 0), counted(4, 1), counted(0, 0)]
    write(tmp_path, "nabla_reasoner", searches, failed=1, max_rollouts=8, variant="fixed")
    base, own, release = table3.table_rows(tmp_path)
    assert base["rejected"] == pytest.approx(100 * 5 / 8)
    assert base["rejected_of_proposed"] == pytest.approx(100 * 5 / 6)
    by_chance = 4 - (1 + 1 / 2 + 1 / 3 + 1 / 4) + 3
    assert base["by_chance"] == pytest.approx(100 * by_chance / 8)
    assert base["paper_value"] == 65.9
    assert own["rejected"] == pytest.approx(100 * 1 / 8)
    assert own["rejected_of_proposed"] == pytest.approx(100 * 1 / 5)
    assert (own["num_failed"], own["num_problems"], own["candidates"]) == (1, 3, pytest.approx(8 / 3))
    assert own["ci_low"] <= own["rejected"] <= own["ci_high"]
    assert (release["variant"], release["status"], release["rejected"]) == ("release", "not run", None)


def test_released_acceptance_test_gets_separate_row_once_run(tmp_path: Path):
    write(tmp_path, "nabla_reasoner", [counted(2, 1)], max_rollouts=8, variant="fixed")
    assert "`./reproduce.sh table1-release`" in " ".join(table3.notes(table3.table_rows(tmp_path), "tiny"))
    again = {"folder": "table1-release/records", "max_rollouts": 8, "variant": "release"}
    write(tmp_path, "nabla_reasoner", [counted(3, 0)], **again)
    own, release = table3.table_rows(tmp_path)
    assert (own["variant"], own["rejected"]) == ("fixed", pytest.approx(100 / 3))
    assert (release["variant"], release["rejected"]) == ("release", 0.0)
    assert "./reproduce.sh" not in " ".join(table3.notes([own, release], "tiny"))


@pytest.mark.slow
def test_ratio_interval_has_nominal_coverage():
    random, hits = np.random.default_rng(3), 0
    for _ in range(100):
        wholes = random.integers(1, 9, size=60)
        parts = random.binomial(wholes, random.beta(2, 4, size=60))  # dependent draws: problems differ in difficulty
        found = ratio_interval(parts, wholes, share=True)
        hits += found.low <= 1 / 3 <= found.high
    assert 0.89 <= hits / 100 <= 0.99


def test_equal_shares_keep_interval_empty_totals_are_refused():
    found = ratio_interval(np.zeros(10), np.full(10, 8), share=True)
    assert (found.value, found.low, found.high) == (0, 0, pytest.approx(1 - 0.025 ** (1 / 10)))
    with pytest.raises(ValueError, match="total > 0"):
        ratio_interval(np.zeros(3), np.zeros(3))


@pytest.mark.parametrize(("parts", "wholes"), [([3], [2]), ([3, 6, 0], [2, 4, 0]), ([0.3, 0.1], [3, 1])])
def test_ratio_of_problems_without_spread_has_no_interval(parts: list[float], wholes: list[float]):
    found = ratio_interval(np.array(parts), np.array(wholes))
    assert found == (pytest.approx(parts[0] / wholes[0]), None, None)
    assert ratio_interval(np.array([3, 5]), np.array([2, 4])).low is not None


def test_ratio_of_nan_is_refused():
    for parts, wholes in (([1, np.nan], [2, 2]), ([1, 1], [2, np.nan])):
        with pytest.raises(ValueError, match="got NaN"):
            ratio_interval(np.array(parts), np.array(wholes))


def test_table5_ratios_use_problems_both_methods_solved(tmp_path: Path):
    cheap = [Cost(flops=flops, seconds=1.0, decode_tokens=8, peak_bytes=5) for flops in (10.0, 30.0)]
    dear = [Cost(flops=flops, seconds=2.0, decode_tokens=2, peak_bytes=7) for flops in (40.0, 20.0)]
    write(tmp_path, "best_of_n", [{}, {}, {}], costs=[*cheap, Cost(flops=1e9)])
    write(tmp_path, "nabla_reasoner", [{}, {}], costs=dear, failed=1)
    rows = {row["quantity"]: row for row in table5.table_rows(tmp_path)}
    assert (rows["flops"]["best_of_n"], rows["flops"]["nabla_reasoner"], rows["flops"]["ratio"]) == (20, 30, 1.5)
    assert rows["flops"]["paper_ratio"] == pytest.approx(2.46e17 / 9.54e15)
    assert rows["seconds"]["paper_ratio"] == pytest.approx(152.1 / 136.1)
    assert rows["decode_tokens"]["ratio"] == 0.25
    assert (rows["peak_bytes"]["nabla_reasoner"], rows["peak_bytes"]["ratio"]) == (7, None)


def test_table_5_says_its_n_and_settings_that_are_not_the_defaults(tmp_path: Path):
    for method, settings in (("best_of_n", {"num_samples": 4}), ("nabla_reasoner", {"max_rollouts": 8})):
        write(tmp_path, method, [{}, {}], **settings)
    assert {row["num_samples"] for row in table5.table_rows(tmp_path)} == {4}
    text = table5.table5(tmp_path, "tiny", "command")["table.md"]
    assert "\nSettings other than the defaults: best_of_n num_samples=4 (default 8).\n" in text
    for path in tmp_path.rglob("*best_of_n*.settings.json"):
        path.write_text(json.dumps({"method": {"num_samples": 8}}), encoding="utf-8")
    assert "other than the defaults" not in table5.table5(tmp_path, "tiny", "command")["table.md"]


def test_table_5_needs_no_defaults_of_a_task_without_any(tmp_path: Path):
    """At this scale the task has no limit of tokens, and a setting on the command line made the records."""
    for method in ("best_of_n", "nabla_reasoner"):
        write(tmp_path, method, [{}, {}], task="basic_arithmetic", max_new_tokens=24)
    text = table5.table5(tmp_path, "small", "command")["table.md"]
    assert "basic_arithmetic" in text
    assert "other than the defaults" not in text


def test_table_5_without_a_common_seed_says_so(tmp_path: Path):
    write(tmp_path, "best_of_n", [{}])
    write(tmp_path, "nabla_reasoner", [{}], seed=1)
    with pytest.raises(
        ValueError, match=r"no such problem and seed of best_of_n \(seeds 0\) and nabla_reasoner \(seeds 1\)"
    ):
        table5.table_rows(tmp_path)


def test_older_records_without_some_costs_are_read(tmp_path: Path):
    for method in ("best_of_n", "nabla_reasoner"):
        write(tmp_path, method, [{}, {}])
    for path in tmp_path.rglob("*.jsonl"):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for record in records:
            for name in ("gradient_flops", "gradient_calls", "gradient_evaluations", "peak_bytes"):
                del record["cost"][name]
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    rows = {row["quantity"]: row for row in table5.table_rows(tmp_path)}
    assert rows["flops"]["ratio"] == 1
    assert (rows["peak_bytes"]["best_of_n"], rows["peak_bytes"]["nabla_reasoner"]) == (None, None)
    _, own = figure3.cost_rows(read_table1(tmp_path).records)
    assert (own["model_calls"], own["gradients"], own["gradient_flops"]) == (120, 0, 0)


@pytest.mark.parametrize("file", ["table.csv", "comparisons.csv", "table.md"])
def test_reward_without_one_of_its_files_is_left_out_by_name(tmp_path: Path, file: str, capsys):
    json_files.warn_once.cache_clear()
    for reward in ("likelihood", "classifier"):
        write(tmp_path / reward, "best_of_n", [{}], folder="records", num_samples=8)
        row = {"policy": "tiny-base", "task": "chain_sum", "method": "best_of_n", "seeds": [0]}
        table1.write_table(tmp_path / reward, grid=[{**row, "paper_cell": {"policy": "p", "benchmark": "b"}}])
    (tmp_path / "likelihood" / file).unlink()
    table2.combine(tmp_path, ["likelihood", "classifier"])
    with (tmp_path / "table.csv").open(encoding="utf-8") as stream:
        assert [row["reward"] for row in csv.DictReader(stream)] == ["classifier"]
    said = f"The reward likelihood is left out: {file} missing in its folder. ./reproduce.sh table2 reward=likelihood"
    assert said in capsys.readouterr().err
    assert said in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_rows_of_other_names_are_said_by_table_5_and_figure_3(tmp_path: Path):
    write(tmp_path, "best_of_n", [{}], costs=[Cost(flops=1.0)])
    write(tmp_path, "bon16", [{}], costs=[Cost(flops=1.0)])
    with pytest.raises(ValueError, match=r"each of one setting, for a policy and task; got best_of_n, bon16\. Run"):
        table5.table_rows(tmp_path)
    (said,) = figure3.left_out(read_table1(tmp_path).records)
    assert said.endswith("shipped here: bon16.")


def test_model_call_parts_sum_to_total(tmp_path: Path):
    write(tmp_path, "best_of_n", [{}], costs=[Cost(decode_tokens=190, model_calls=200, flops=2e6)])
    write(tmp_path, "nabla_reasoner", [{}])
    base, own = figure3.cost_rows(read_table1(tmp_path).records)
    assert [own[part] for part in figure3.PARTS] == [100, 8, 12]
    assert [base[part] for part in figure3.PARTS] == [190, 10, 0]
    assert base["saving_percent"] == pytest.approx(40)
    assert own["saving_percent"] is None
    assert "40.2 %" in figure3.cost_caption([base, own], "c")


def test_panels_of_a_sparse_grid_are_drawn():
    """One policy was run on one task, another on another one: two of four panels have no rows at all."""
    parts = dict.fromkeys(figure3.PARTS, 10.0)
    rows = [
        {"policy": policy, "task": task, "method": method, "model_calls": 30.0, **parts}
        for policy, task in (("tiny-base", "products"), ("tiny-instruct", "leg_counting"))
        for method in ("greedy", "nabla_reasoner")
    ]
    panels = figure3.costs(pd.DataFrame(rows)).axes
    assert [panel.get_xlim()[1] for panel in panels].count(pytest.approx(34.5)) == 2


METHODS_WITH_GRADIENT = ["discrete_langevin", "nabla_reasoner", "nabla_reasoner_multipass", "nabla_reasoner_prefix"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
def test_parts_of_real_runs_are_counts_of_passes(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    """Real runs of tiny-base: no part is negative, and the gradients' part is the passes that evaluations ran."""
    passes, evaluate = [], gradient_passes.evaluate

    def recorded(*models, **options):
        gradients = evaluate(*models, **options)
        fields = [f"{model}_{way}_tokens" for model in ("policy", "reward") for way in ("forward", "backward")]
        passes.extend(sum(getattr(gradient.cost, field) > 0 for field in fields) for gradient in gradients)
        return gradients

    monkeypatch.setattr(gradient_passes, "evaluate", recorded)
    words = ["policy=tiny-base", f"reward={kind}", "task=products", "num_problems=2", "seed=0", "wandb=disabled"]
    counted = {}
    for method in [*METHODS_WITH_GRADIENT, "nabla_without_gradient", "best_of_n"]:
        passes.clear()
        assert main(["table1", *words, f"method={method}", f"results_dir={tmp_path}"]) == 0
        counted[method] = list(passes)
    outcomes = read_table1(tmp_path / "tiny").records
    rows = {row["method"]: row for row in figure3.cost_rows(outcomes)}
    assert rows.keys() == counted.keys()
    for method, row in rows.items():
        assert all(row[part] >= 0 for part in figure3.PARTS), (method, row)
        assert sum(row[part] for part in figure3.PARTS) == pytest.approx(row["model_calls"])
        assert row["gradients"] == pytest.approx(sum(counted[method]) / 2)
        assert set(counted[method]) <= ({4} if "prefix" not in method else {2} if kind == "classifier" else {0, 1})
    assert all(sum(counted[method]) > 0 for method in METHODS_WITH_GRADIENT)
    older = [
        {name: value for name, value in outcome.cost.items() if name != "gradient_calls"}
        for method in METHODS_WITH_GRADIENT
        for outcome in outcomes["tiny-base", "products", method]
    ]
    total = sum(map(figure3.gradient_calls, older)) / 2
    exact = [
        rows[method]["gradients"] for method in METHODS_WITH_GRADIENT if (kind, method[-6:]) != ("likelihood", "prefix")
    ]
    assert total == pytest.approx(sum(exact))


def pool(right) -> dict:
    """Return samples with the given correctness, of which Best-of-N always selects the first."""
    steps = toy_runs.ladder([right[0]] * len(right))
    return {"trajectory": steps, "samples": [{"reward": 0.0, "correct": bool(value)} for value in right]}


def ladder_cost(count: int) -> Cost:
    return Cost(decode_tokens=9 * count, model_calls=10 * count, flops=1000.0 * count, seconds=0.01 * count)


def make_curves(results: Path) -> list[dict]:
    write(results, "greedy", [pool([1]), pool([0])], costs=[ladder_cost(1)] * 2)
    write(results, "best_of_n", [pool([0, 1]), pool([0, 0])], costs=[ladder_cost(2)] * 2)
    larger = [pool([0, 1, 0, 0]), pool([0, 0, 0, 1])]
    write(results, "best_of_n", larger, folder="table1/budget", costs=[ladder_cost(4)] * 2)
    short = {"trajectory": toy_runs.ladder([0])}  # one rollout: no revision was proposed, but the search has a cost
    long = {"trajectory": toy_runs.ladder([0, 0, 1])}
    write(results, "nabla_reasoner", [long, short], costs=[Cost(model_calls=34), Cost(model_calls=16)])
    return figure4.curve_rows(read_table1(results), {})


def test_curve_has_accuracy_and_cost_at_every_budget(tmp_path: Path):
    found = {}
    for row in make_curves(tmp_path):
        found.setdefault(row["method"], []).append((row["rollouts"], row["model_calls"], row["accuracy"]))
    assert found["greedy"] == [(1, 10, 50)]
    assert found["best_of_n"] == [(1, 10, 0), (2, 20, 0), (3, 30, 0), (4, 40, 0)]  # of the larger pool
    assert found["any_of_n"] == [(1, 10, 0), (2, 20, 50), (3, 30, 50), (4, 40, 100)]
    # a limit of 1 stops both runs at their first rollout; with 2 the shorter ends by itself and is charged in full
    assert found["nabla_reasoner"] == [(1, 10, 0), (2, (20 + 16) / 2, 0), (3, (34 + 16) / 2, 50)]


def test_caption_compares_with_smallest_pool_costing_no_less(tmp_path: Path):
    assert "+50.0 at equal model calls (N = 3)" in figure4.caption(make_curves(tmp_path), "c", {})


def test_caption_has_the_end_of_every_curve_and_its_ceiling(tmp_path: Path):
    text = figure4.caption(make_curves(tmp_path), "c", {})
    assert "| accuracy at the end, % (N) | greedy | Best-of-N | ∇-Reasoner | any of N |" in text
    assert "| tiny-base, chain_sum | 50.0 (1) | 0.0 (4) | 50.0 (3) | 100.0 (4) |" in text


@pytest.mark.parametrize("axis", ["model_calls", "flops", "seconds"])
def test_curves_are_the_rows_on_each_axis(tmp_path: Path, axis: str):
    rows = pd.DataFrame(make_curves(tmp_path))
    (panel,) = figure4.curves(rows, axis).axes
    for method, name in (("best_of_n", "Best-of-N"), ("any_of_n", "ceiling of Best-of-N: any of the N samples right")):
        (drawn,) = [line for line in panel.lines if line.get_label() == name]
        expected = rows[rows.method == method]
        assert list(drawn.get_xdata()) == list(expected[axis])
        assert list(drawn.get_ydata()) == list(expected.accuracy)


def test_ceiling_uses_highest_known_reward(tmp_path: Path):
    make_curves(tmp_path)
    path = record_path(tmp_path / "table1/records", "tiny-base", "chain_sum", "greedy", 0)  # p0 is right, p1 wrong
    lines = [json.loads(line) | {"reward": -1.0} for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = {"p0": {"reward": -2.0, "correct": False}, "p1": {"reward": -0.5, "correct": True}}
    *_, line = figure4.curve_rows(read_table1(tmp_path), {"chain_sum": found})
    assert (line["method"], line["accuracy"], line["source"]) == (
        "best_reward",
        100,
        "beam search of the reward, 1 from records",
    )
    rows = figure4.curve_rows(read_table1(tmp_path), {"chain_sum": {**found, "p0": {"reward": -0.9, "correct": False}}})
    assert rows[-1]["accuracy"] == 50
    panel = figure4.curves(pd.DataFrame(rows)).axes[0]
    (drawn,) = [line for line in panel.lines if line.get_label() == "ceiling of the reward: highest reward found"]
    assert set(drawn.get_ydata()) == {50}
    floor = next(line for line in panel.lines if line.get_color() == STYLES["greedy"].colour)
    assert set(floor.get_ydata()) == {50}
    text = figure4.caption(rows, "c", {})
    assert "50.0 (beam search" in text
    assert "not searched" not in text


def test_caption_says_why_the_highest_reward_was_not_searched_for(tmp_path: Path):
    rows = make_curves(tmp_path)
    said = "The response of highest reward was not searched for here: its settings are unknown.\n"
    assert figure4.caption(rows, "c", {"chain_sum": "its settings are unknown"}).endswith(said)
    assert "here: some of the problems were not searched.\n" in figure4.caption(rows, "c", {})
    found = {problem: {"reward": 0.0, "correct": True} for problem in ("p0", "p1")}
    rows = figure4.curve_rows(read_table1(tmp_path), {"chain_sum": found})
    others = [{**row, "task": "products (split=validation)"} for row in rows if row["method"] == "greedy"]
    text = figure4.caption([*rows, *others], "c", {"products (split=validation)": "no test problems"})
    assert text.endswith("searched for everywhere: no test problems (tiny-base, products (split=validation)).\n")


@pytest.mark.slow
def test_changed_setting_at_paper_scale_has_no_reason():
    rows = table4.table_rows("paper")
    assert len(rows) == 4 * len(table4.SETTINGS)
    unexplained = [row for row in rows if row["verdict"] == "differs, no reason noted"]
    assert not unexplained, "note why in settings.REASONS, or go back to the paper's value"
    drifted = table4.table_rows("paper", ["task=math500", "method.step_size=0.02", "method.num_iterations=7"])
    wrong = {row["setting"] for row in drifted if row["verdict"] == "differs, no reason noted"}
    assert wrong == {"step_size", "step_size_final", "num_iterations"}


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_settings_unlike_paper_at_other_scales_have_reasons(scale):
    assert not [row for row in table4.table_rows(scale) if row["verdict"] == "differs, no reason noted"]


@pytest.mark.slow
def test_reason_applies_to_its_value_only():
    rows = table4.table_rows("tiny", ["task=products", "method.step_size=0.4"])
    assert {row["verdict"] for row in rows if row["setting"] == "step_size"} == {"differs, no reason noted"}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["table3", "table5", "figure3", "figure4"])
def test_target_without_records_names_command_writes_nothing(target, tmp_path: Path, capsys):
    assert main([target, f"results_dir={tmp_path}"]) == 2
    assert f"Run ./reproduce.sh table1 results_dir={tmp_path} first" in capsys.readouterr().err
    assert main([target, f"results_dir={tmp_path}", "scale=small"]) == 2
    assert f"Run ./reproduce.sh table1 scale=small results_dir={tmp_path} first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["policy=tiny-base", "scale=huge", "scale"])
def test_unknown_settings_are_refused(word, capsys):
    assert main(["table4", word]) == 2
    assert word.split("=")[-1] in capsys.readouterr().err


@pytest.mark.slow
def test_targets_write_documented_files(tmp_path: Path, capsys):
    results = tmp_path / "tiny"
    make_curves(results)
    before = {path: path.stat().st_mtime_ns for path in (data_folder() / "figures").rglob("*")}
    for target in ("figure3", "figure4", "table4", "table5"):
        assert main([target, f"results_dir={tmp_path}"]) == 0
    assert "| policy " in capsys.readouterr().out
    for name, parts in (("figure3", [""]), ("figure4", ["", "_flops", "_seconds"])):
        files = {f"{name}{part}.{suffix}" for part in parts for suffix in ("png", "pdf")}
        files |= {f"{name}.md", f"{name}.csv", "summary.json"}
        assert {path.name for path in (results / name).iterdir()} - {".lock"} == files
    table = pd.read_csv(results / "figure4" / "figure4.csv")
    assert list(table.columns) == list(figure4.COLUMNS)
    assert not math.isnan(table.accuracy.sum())
    written = {path.name for path in (results / "table4").iterdir()} - {".lock"}
    assert written == {"table.csv", "table.md", "summary.json"}
    assert {path: path.stat().st_mtime_ns for path in (data_folder() / "figures").rglob("*")} == before
