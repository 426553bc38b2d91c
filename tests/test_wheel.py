"""The wheel: built, installed into a folder of its own, and run outside the repository."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_processes import shared

import nabla_reasoner
from nabla_reasoner.config.targets import targets

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "Solve the following multiplication: 97 * 85. Give only the result as your final answer."
CELL = ["table1", "policy=tiny-base", "task=products", "method=greedy", "reward=likelihood", "num_problems=4"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the tracked folders, and install it without its dependencies."""
    copy, folder = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("libraries")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, copy / name)
    for name in ("src", "configs", "assets", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    words = [*pip, "install", "-q", "--no-build-isolation", "--no-deps", "--target", folder, copy]  # builds the wheel
    subprocess.run(words, check=True)
    return folder


def files_below(folder: Path) -> set[str]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in files if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_wheel_holds_code_configs_assets_version_and_types(site: Path):
    files = files_below(site / "nabla_reasoner")
    code = files_below(ROOT / "src" / "nabla_reasoner") - {"_data/README.md"}
    data = {f"_data/{name}/{file}" for name in ("configs", "assets") for file in files_below(ROOT / name)}
    assert files == code | data | {"_data/docs/deviations.md", "_data/docs/outputs.md"}
    (metadata,) = site.glob("*.dist-info/METADATA")
    assert f"\nVersion: {nabla_reasoner.__version__}\n" in metadata.read_text(encoding="utf-8")
    (scripts,) = site.glob("*.dist-info/entry_points.txt")
    assert "nabla-reasoner = nabla_reasoner.__main__:run_console" in scripts.read_text(encoding="utf-8")


@pytest.mark.slow
def test_installed_commands_work_in_an_empty_folder(site: Path, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def said(shown: subprocess.CompletedProcess, status: int = 0) -> str:
        assert shown.returncode == status, shown.stderr
        assert "reproduce.sh" not in shown.stdout
        return shown.stdout if status == 0 else shown.stderr

    def run_program(*words: str) -> str:
        return said(subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True))

    overview = run_program(str(site / "bin" / "nabla-reasoner"), "help")
    assert overview == run_program(sys.executable, "-m", "nabla_reasoner", "help")
    assert all(f"\n  {name} " in overview for name in targets())

    def run(*words: str, status: int = 0) -> str:
        return said(shared().run_command(words, environment, tmp_path, site), status)

    assert "results would go to results/tiny/table1" in run("plan", *CELL[:3], "seed=0")
    assert "nabla-reasoner table1 first" in run("report", status=2)
    assert "right: the answer is 8245" in run("solve", QUESTION)
    run(*CELL, "seed=0")
    run("report")
    results = tmp_path / "results" / "tiny"
    (records,) = results.glob("table1/records/*.jsonl")
    assert len(records.read_text(encoding="utf-8").splitlines()) == 4
    assert "greedy accuracy" in (results / "table1" / "table.md").read_text(encoding="utf-8")  # of assets/manifest.json
    summary = json.loads((results / "table1" / "summary.json").read_text(encoding="utf-8"))
    assert summary["command"].startswith("nabla-reasoner table1 ")
    report = (results / "report" / "report.html").read_text(encoding="utf-8")
    assert "reproduce.sh" not in report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


def test_every_package_data_pattern_finds_files():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {"nabla_reasoner": ROOT / "src" / "nabla_reasoner", "nabla_reasoner._data": ROOT}
    for package, patterns in settings["package-data"].items():
        for pattern in patterns:
            assert any(folders[package].glob(pattern)), f"{package}: {pattern}"
