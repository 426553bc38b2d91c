"""Target `all`: its stages, a failing stage, and resuming after an interruption."""

import json
import subprocess
from pathlib import Path

import pytest

from nabla_reasoner.__main__ import main
from nabla_reasoner.config import compose
from nabla_reasoner.config.settings import ResultsSettings
from nabla_reasoner.config.targets import Target, targets
from nabla_reasoner.evaluation import provenance
from nabla_reasoner.experiments import all as all_targets

ROOT = Path(__file__).resolve().parents[2]


def stage(name: str, *, scaled: bool = True, settings: str = "results") -> Target:
    scales = ("tiny", "small") if scaled else ()
    return Target(name=name, run="", summary="", settings=settings, example="", scales=scales, minutes=1)


THREE = (stage("table1"), stage("theorem", scaled=False), stage("table4"))


@pytest.fixture
def started(monkeypatch):
    """Record started commands; those in `failing` exit with status 1, those in `stopping` with an interrupt."""
    log = {"commands": [], "failing": set(), "stopping": set()}

    def fake(words, check):
        name = " ".join(words[2:])
        log["commands"].append(name)
        status = 1 if name in log["failing"] else 130 if name in log["stopping"] else 0
        return subprocess.CompletedProcess(words, status)

    monkeypatch.setattr(all_targets.subprocess, "run", fake)
    monkeypatch.setattr(all_targets, "code", lambda: "c0ffee")
    monkeypatch.setattr(provenance, "commit", lambda: {"commit": "c0ffee", "dirty": False})
    return log


def test_stages_are_all_targets_with_results():
    chosen = {name for name, target in targets().items() if target.in_all}
    tuning = {"tune", "tune-benchmark", "tune-likelihood"}
    others = {"solve", "plan", "models", "all", "grade", "export", "bench-gpu"}
    assert chosen == set(targets()) - others - tuning
    order = list(targets())
    assert all(order.index(source) < order.index(name) for name, target in targets().items() for source in target.reads)


@pytest.mark.parametrize("content", ["", "{", "{}", "null", '{"stages": 1}', '{"stages": {"table1": "done"}}'])
def test_damaged_state_is_replaced_with_a_line(tmp_path: Path, started, capsys, content: str):
    path = tmp_path / "stages.json"
    path.write_text(content, encoding="utf-8")
    assert all_targets.Stages(path, ["table1"]).stages == {}
    assert f"{path} is damaged" in capsys.readouterr().err


def test_release_target_has_the_released_variant():
    assert {cell.variant.name for cell in compose.compose_cells(["experiment=table1-release"])} == {"release"}


def settings(results: str = "results", scale: str = "tiny", wandb: str = "offline") -> ResultsSettings:
    return ResultsSettings(scale=scale, results_dir=results, wandb=wandb, keep=False)


def test_stage_arguments_hold_only_accepted_settings():
    assert all_targets.stage_arguments(THREE[0], settings("elsewhere", "small")) == [
        "table1",
        "scale=small",
        "results_dir=elsewhere",
    ]
    assert all_targets.stage_arguments(THREE[1], settings(scale="small")) == ["theorem"]
    drawn = stage("figures", scaled=False, settings="figures")
    assert all_targets.stage_arguments(drawn, settings()) == ["figures", "results_dir=results"]
    assert all_targets.stage_arguments(drawn, settings("elsewhere", wandb="online")) == ["figures"]


@pytest.mark.slow
@pytest.mark.parametrize("results", ["/tmp/a,b (1) it's", "/tmp/plain-1.2"])
def test_every_stage_takes_the_results_folder_and_the_mode_as_given(results):
    """Both reach the stage's own settings, whatever the folder is called."""
    for target in targets().values():
        if target.in_all and target.settings in ("cells", "theorem", "ppo", "results"):
            arguments = all_targets.stage_arguments(target, settings(results, wandb="disabled"))[1:]
            if target.settings == "cells":
                cell = compose.compose_cells([f"experiment={target.name}", *arguments])[0]
                given = (cell.results_dir, cell.wandb)
            else:
                composed = compose.compose_settings(target, arguments)
                given = (composed.results_dir, composed.wandb)
            assert given == (results, "disabled"), target.name


def test_failing_stage_is_reported_and_others_run(started, tmp_path: Path, capsys):
    results = str(tmp_path)
    started["failing"] = {f"theorem results_dir={results}"}
    assert all_targets.run_stages(THREE, settings(results)) == 1
    assert len(started["commands"]) == 3
    assert "exit status 1" in capsys.readouterr().out
    started["commands"].clear()
    started["failing"] = set()
    assert all_targets.run_stages(THREE, settings(results)) == 0
    assert started["commands"] == [f"theorem results_dir={results}"]


def test_interrupted_run_resumes_after_finished_stages(started, tmp_path: Path):
    results = str(tmp_path)
    started["stopping"] = {f"theorem results_dir={results}"}
    with pytest.raises(KeyboardInterrupt):
        all_targets.run_stages(THREE, settings(results))
    started["stopping"] = set()
    assert all_targets.run_stages(THREE, settings(results)) == 0
    assert [name.split()[0] for name in started["commands"]] == ["table1", "theorem", "theorem", "table4"]


def test_complete_run_or_changed_code_restarts_all_stages(started, tmp_path: Path, monkeypatch):
    results = str(tmp_path)
    assert all_targets.run_stages(THREE, settings(results)) == 0
    assert all_targets.run_stages(THREE, settings(results)) == 0
    assert len(started["commands"]) == 6
    started["failing"] = {f"theorem results_dir={results}"}
    assert all_targets.run_stages(THREE, settings(results)) == 1
    monkeypatch.setattr(all_targets, "code", lambda: "beef")
    assert all_targets.run_stages(THREE, settings(results)) == 1
    assert len(started["commands"]) == 12


def test_seconds_of_every_stage_are_recorded(started, tmp_path: Path):
    all_targets.run_stages(THREE, settings(str(tmp_path)))
    written = json.loads((tmp_path / "tiny" / "all" / "stages.json").read_text(encoding="utf-8"))
    assert len(written["stages"]) == 3
    assert all(entry["status"] == "finished" and entry["seconds"] >= 0 for entry in written["stages"].values())


@pytest.mark.parametrize("word", ["scale=tinny", "policy=tiny-base", "results_dir"])
def test_wrong_setting_starts_no_stage(word, started, capsys):
    assert main(["all", word]) == 2
    assert started["commands"] == []
    assert word.split("=")[0] in capsys.readouterr().err


def test_code_digest_depends_on_sources_not_figures(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(all_targets, "ROOT", tmp_path)
    for name in ("pyproject.toml", "reproduce.sh", "src/a.py", "configs/b.yaml", "assets/c.json", "figures/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    before = all_targets.code()
    (tmp_path / "figures/d.csv").write_text("2")
    assert all_targets.code() == before
    (tmp_path / "src/a.py").write_text("2")
    assert all_targets.code() != before
