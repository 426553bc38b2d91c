"""Target `ablations`: settings, table, and comparison with the default, on random models."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy_runs
import toys
from safetensors.torch import load_file, save_file

from nabla_reasoner.__main__ import WRONG, main
from nabla_reasoner.config import build, compose, fingerprint
from nabla_reasoner.config.sweeps import compose_sweeps
from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
from nabla_reasoner.evaluation import statistics
from nabla_reasoner.evaluation.records import read_records
from nabla_reasoner.experiments import ablations as target
from nabla_reasoner.experiments import right_token
from nabla_reasoner.experiments.command import FAILED
from nabla_reasoner.reporting import ablation_runs, ablations
from nabla_reasoner.types import Problem


def command(results: Path, *more: str) -> list[str]:
    return ["ablations", *(word for word in toy_runs.command(results, *more)[1:] if word != "seed=0")]


def rows_of(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    lines = (folder / "tiny" / "ablations" / "table.csv").read_text(encoding="utf-8").splitlines()
    return {(row["setting"], row["task"]): row for row in csv.DictReader(lines)}


@pytest.mark.slow
def test_every_setting_builds_with_separate_folder():
    sweeps = compose_sweeps("ablations", ["task=products"])
    names = [part.cells[0].setting for part in sweeps]
    assert names[0] == "default"
    settings = {name: changes for group in sweeps[0].cells[0].settings.values() for name, changes in group.items()}
    assert names[1:] == list(settings)
    assert len(set(names)) == len(names)
    for cells in [part.cells for part in sweeps]:
        assert {cell.records for cell in cells} == {f"results/tiny/ablations/{cells[0].setting}"}
        build.build_method(cells[0])
    plain = fingerprint.fingerprint(sweeps[0].cells[0])
    for cells in [part.cells for part in sweeps[1:]]:
        changed = fingerprint.differences(plain, fingerprint.fingerprint(cells[0]))
        stated = settings[cells[0].setting]
        allowed = [key for key in changed if key.startswith("variant")] if "variant" in stated else []
        assert 1 <= len(changed) <= len(stated) + len(allowed), f"{cells[0].setting} changes what it states: {changed}"


@pytest.mark.slow
def test_default_setting_equals_table1_cell():
    ours = compose_sweeps("ablations", ["only=[flip]", "task=products"])[0].cells[0]
    (theirs,) = compose.compose_cells(
        [
            "experiment=table1",
            "policy=tiny-base",
            "task=products",
            "method=nabla_reasoner",
            "seed=0",
            "reward=likelihood",
        ]
    )
    assert fingerprint.differences(fingerprint.fingerprint(ours), fingerprint.fingerprint(theirs)) == []


@pytest.mark.slow
@pytest.mark.parametrize("only", ["[flp]", "flip", "[]", "[flip,12]"])
def test_unknown_setting_error_names_valid_ones_writes_nothing(tmp_path: Path, capsys, only: str):
    assert main(command(tmp_path / "results", f"only={only}")) == WRONG
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: only must be a list of flip, direction, form, gradient")
    assert "gumbel" in error
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_settings_compare_with_default_on_same_problems(tmp_path: Path, capsys):
    few = ("num_problems=4", "method.max_rollouts=4", "method.num_iterations=5")
    assert main(command(tmp_path, "only=[sharpen,passes_1,without_caching]", *few)) == 0
    rows = rows_of(tmp_path)
    default = rows["default", "products"]
    assert default["num_problems"] == "4"
    assert default["p_value"] == ""
    same = rows["without_caching", "products"]
    assert (same["accuracy"], float(same["difference"]), float(same["p_holm"])) == (default["accuracy"], 0.0, 1.0)
    assert float(same["same_response"]) == 100
    assert float(same["flops_ratio"]) > 1
    assert rows["sharpen", "products"]["verdict"] == "no difference shown"
    assert rows["random", "products"]["status"] == "not run"
    cut = rows["passes_1, N_max 4", "products"]  # the default here, since N_max is 4 on the command line
    for name in ("accuracy", "rejected"):
        assert cut[name] == default[name]
    assert cut["same_response"] == ""
    folder = tmp_path / "tiny" / "ablations"
    assert {path.parent.parent.name for path in folder.rglob("*.jsonl")} == {
        "default",
        "sharpen",
        "passes_1",
        "without_caching",
    }
    for name in ("ablations.png", "ablations.pdf", "ablations.md", "table.md", "summary.json"):
        assert (folder / name).stat().st_size > 0
    before = toy_runs.records_below(tmp_path)
    assert main(command(tmp_path, "only=[direction]", *few)) == 0
    assert rows_of(tmp_path)["without_caching", "products"] == same, "a narrowed command keeps the rows of earlier ones"
    after = toy_runs.records_below(tmp_path)
    assert {name: after[name] for name in before} == before
    assert "12/12" not in capsys.readouterr().err


@pytest.mark.slow
def test_run_cut_afterwards_equals_run_with_limit(tmp_path: Path):
    few = ("only=[right_token]", "num_problems=3", "method.num_passes=2", "method.num_iterations=5")
    assert main([*command(tmp_path, *few, "method.max_rollouts=6")]) == 0
    assert main([*command(tmp_path / "short", *few, "method.max_rollouts=3")]) == 0
    folder = tmp_path / "tiny" / "ablations" / "default"
    loaded = ablation_runs.load_runs(folder)["tiny-base", "products"]
    cut = {key.problem: ablation_runs.stopped(attempt, 3) for key, attempt in loaded.attempts.items()}
    (path,) = (tmp_path / "short" / "tiny" / "ablations" / "default" / "records").glob("*.jsonl")
    assert loaded.status == "ok"
    for record in read_records(path):
        run_of = cut[f"products/{record['problem_id']}"]
        assert run_of.outcome.correct == record["correct"]
        assert len(run_of.accepted) == record["search"]["proposed"]
        assert run_of.accepted.count(False) == record["search"]["rejected"]
        assert run_of.outcome.cost["flops"] == pytest.approx(record["cost"]["flops"])


def test_holm_matches_hand_computed_values():
    assert statistics.holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_verdict_uses_adjusted_p_value():
    row = {"difference": 5.0, "difference_low": 1.0, "difference_high": 9.0, "p_value": 0.02}
    family = [dict.fromkeys(ablations.COLUMNS), dict(row), *({**row, "p_value": 0.5} for _ in range(3))]
    assert [each["verdict"] for each in ablations.with_verdicts(family)[1:]] == ["no difference shown"] * 4
    assert ablations.with_verdicts([dict.fromkeys(ablations.COLUMNS), dict(row)])[1]["verdict"] == "better"


@pytest.mark.slow
def test_positions_are_uncertain_and_updates_have_equal_kl():
    policy, reward = toys.policy(), toys.reward()
    problems = build.build_problems(compose.compose_cells(["task=products", "num_problems=4"])[0])
    found = right_token.positions(policy, problems, 0.97, 24)
    wrong = sum(place.greedy != place.right for place in found)
    assert wrong > 0
    assert len(found) <= 2 * wrong
    method = NablaReasoner(step_size=0.02, num_iterations=3, grad_threshold=0.0, max_new_tokens=24)
    few = found[:6]
    moved = right_token.rows(policy, reward, problems, few, method.settings, 0)
    from nabla_reasoner.dto.equal_kl_moves import divergence

    for place, row in zip(few, moved["first"], strict=True):
        assert row.argmax().item() == place.greedy
    wanted = divergence(moved["gradient"], moved["first"])
    assert (wanted > 0).all()
    for arm in ("sharpen", "random"):
        np.testing.assert_allclose(divergence(moved[arm], moved["first"]), wanted, rtol=1e-5)
    table = right_token.table_rows({"policy": "p", "task": "t"}, few, moved)
    own = {row["arm"]: row for row in table if row["greedy_is"] == "wrong"}
    assert set(own) == set(right_token.MOVES)
    assert own["sharpen"]["minus_sharpen"] == 0
    after, before = (own["gradient"][name] for name in ("right_after", "right_before"))
    assert own["gradient"]["difference"] == pytest.approx(after - before)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task.name=all"], "task.name must not be 'all', which names the rows over all tasks"),
        (["num_problems=null"], "that the setting every_position takes; got 3. Write num_problems=3, the most"),
        (["num_problems=50"], "must hold the 50 problems that the setting every_position takes; got 3."),
    ],
)
def test_problem_files_are_checked_before_compute(tmp_path: Path, capsys, words: list[str], said: str):
    lines = [f'{{"id": "{i}", "problem": "1+{i}?", "answer": "{i + 1}"}}\n' for i in range(3)]
    (tmp_path / "three.jsonl").write_text("".join(lines), encoding="utf-8")
    given = ["task=gsm8k", f"task.path={tmp_path / 'three.jsonl'}", "only=[every_position]", *words]
    results = tmp_path / "results"
    assert main(["ablations", "policy=tiny-base", f"results_dir={results}", *given]) == WRONG
    assert said in capsys.readouterr().err
    assert not results.exists()


def test_no_figure_is_drawn_without_a_table(tmp_path: Path):
    target.write_figure(tmp_path, "ablations", "./reproduce.sh ablations")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_cells_that_cannot_be_loaded_are_listed(tmp_path: Path, capsys):
    folder = shutil.copytree(toys.model_folder("qwen2"), tmp_path / "broken")
    (path,) = folder.glob("*.safetensors")
    weights = {name: weight * float("nan") for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    assert main([*command(tmp_path / "results", "only=[flip]"), f"policy.path={folder}"]) == FAILED
    assert "not done: tiny-base products default seed 0" in capsys.readouterr().err


def test_problem_without_worked_solution_is_refused():
    with pytest.raises(ValueError, match="worked solution"):
        right_token.positions(toys.policy(), [Problem("a", "1+1?", "2", "free")], 0.97, 24)


@pytest.mark.slow
def test_figure_is_drawn_for_a_policy_whose_name_looks_like_a_missing_value(tmp_path: Path):
    kept = Path(__file__).resolve().parents[2] / "figures/data/ablations.csv"
    (tmp_path / "table.csv").write_text(kept.read_text(encoding="utf-8").replace("tiny-base", "NA"), encoding="utf-8")
    target.write_figure(tmp_path, "ablations", "./reproduce.sh ablations")
    assert (tmp_path / "ablations.png").stat().st_size > 10_000
