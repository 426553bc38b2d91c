"""The data folder in a checkout and in an installed package, and what needs a checkout."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nabla_reasoner
from nabla_reasoner.__main__ import main
from nabla_reasoner.config import data_folder
from nabla_reasoner.config.targets import targets
from nabla_reasoner.evaluation import provenance
from nabla_reasoner.experiments import all as all_targets
from nabla_reasoner.experiments import models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this process believe that the package is installed; return the package's folder.

    The folder above it has a `configs/` of another project, which must not be mistaken for ours.
    """
    package = tmp_path / "libraries" / "nabla_reasoner"
    package.mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").touch()
    monkeypatch.setattr(data_folder, "PACKAGE", package)
    return package


def test_checkout_is_found_first():
    assert data_folder.repository() == data_folder.data_folder() == ROOT
    assert data_folder.spelled("Run ./reproduce.sh table1.") == "Run ./reproduce.sh table1."


def test_installed_package_has_its_own_data(installed: Path):
    assert data_folder.repository() is None
    assert data_folder.data_folder() == installed / "_data"
    assert data_folder.spelled("Run ./reproduce.sh table1.") == "Run nabla-reasoner table1."


def test_path_is_found_here_then_in_data_else_unchanged(installed: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = installed / "_data" / "assets" / "policy"
    shipped.mkdir(parents=True)
    assert data_folder.locate("assets/policy") == str(shipped)
    (tmp_path / "assets" / "policy").mkdir(parents=True)
    assert data_folder.locate("assets/policy") == "assets/policy"
    assert data_folder.locate("Qwen/Qwen2.5-7B") == "Qwen/Qwen2.5-7B"


def test_commit_of_surrounding_repository_is_not_ours(installed: Path):
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"]):
        subprocess.run(["git", "-C", str(installed), *words], check=True)
    assert provenance.commit() == {"commit": None, "dirty": None}


@pytest.mark.parametrize("words", [["figures"], ["figure1", "keep=true"], ["report", "docs=true"]])
def test_what_needs_a_checkout_is_refused_without_one(words: list[str], installed: Path, tmp_path: Path, capsys):
    results = [f"results_dir={tmp_path / 'results'}"] if words[0] == "report" else []
    assert main([*words, *results]) == 2
    assert "needs the repository" in capsys.readouterr().err
    assert not (tmp_path / "results" / "tiny").exists()


def test_all_runs_every_stage_but_those_that_need_a_checkout(installed: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(all_targets, "PACKAGE", installed)
    monkeypatch.setattr(all_targets, "ROOT", installed / "_data")
    started = []
    (installed / "code.py").write_text("1")
    before = all_targets.code()
    (installed / "code.py").write_text("2")
    assert all_targets.code() != before

    def note(words: list[str], check: bool) -> subprocess.CompletedProcess:
        started.append(words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(all_targets.subprocess, "run", note)
    assert main(["all", f"results_dir={tmp_path}"]) == 0
    assert all(words[:3] == [sys.executable, "-m", "nabla_reasoner"] for words in started)
    expected = {target.name for target in targets().values() if target.in_all} - {"figures"}
    assert {words[3] for words in started} == expected
    assert "needs a checkout of the repository: figures." in capsys.readouterr().out


def test_help_of_installed_package_names_its_own_command(installed: Path, capsys):
    assert main(["help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: nabla-reasoner TARGET")
    assert "reproduce.sh" not in printed
    assert "test [--all]" not in printed


def test_training_starts_from_shipped_files_and_writes_here(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    models.copy_shipped("assets/tokenizer")
    names = [path.name for path in sorted((tmp_path / "assets" / "tokenizer").iterdir())]
    assert names == [path.name for path in sorted((ROOT / "assets" / "tokenizer").iterdir())]
    (tmp_path / "assets" / "tokenizer" / names[0]).write_text("mine")
    models.copy_shipped("assets/tokenizer")
    assert (tmp_path / "assets" / "tokenizer" / names[0]).read_text() == "mine"
    assert capsys.readouterr().out.count("Copied the shipped models") == 1


def test_import_loads_the_standard_library_only():
    code = (
        "import sys; before = set(sys.modules); "
        "import nabla_reasoner; nabla_reasoner.__version__; dir(nabla_reasoner); "
        "added = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(added - sys.stdlib_module_names))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "['nabla_reasoner']"


def test_names_for_type_checkers_equal_names_at_run_time():
    tree = ast.parse(Path(nabla_reasoner.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {name.asname: line.module for line in block.body for name in line.names if name.asname == name.name}
    assert declared == nabla_reasoner._HOMES
    for name in nabla_reasoner.__all__:
        assert getattr(nabla_reasoner, name).__name__ == name
    assert set(nabla_reasoner.__all__) <= set(dir(nabla_reasoner))
