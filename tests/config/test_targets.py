"""Targets: complete files, help for every setting, and refusals before heavy imports."""

import importlib
import inspect
import subprocess
import sys

import pytest
from hydra.utils import get_method

from nabla_reasoner.__main__ import FAILED, main
from nabla_reasoner.config.cell import Cell, RunSettings
from nabla_reasoner.config.overrides import written_out
from nabla_reasoner.config.settings import SETTINGS
from nabla_reasoner.config.targets import find, targets
from nabla_reasoner.config.theorem_settings import CHECKS
from nabla_reasoner.theory.suite import GROUPS


def test_schema_check_names_equal_theory_groups():
    assert CHECKS == tuple(GROUPS)


@pytest.mark.parametrize("name", sorted(targets()))
def test_target_file_names_code_settings_and_sources(name: str):
    target = targets()[name]
    shared = {
        "table1-release": "table1",
        "tune-benchmark": "tune",
        "tune-likelihood": "tune",
        "ablations-classifier": "ablations",
        "bench-gpu": "bench",
    }
    assert target.run == f"nabla_reasoner.experiments.{shared.get(name, name)}.run"
    assert len(inspect.signature(get_method(target.run)).parameters) == 2
    assert target.settings in {*SETTINGS, "train"}
    assert issubclass(SETTINGS[target.cell], Cell)
    assert all(map(get_method, [*target.condensed.values(), *([target.kept_figure] if target.kept_figure else [])]))
    assert all(hasattr(importlib.import_module(module), "wanted") for module in target.side_rows.values())
    assert set(target.side_rows) <= set(target.keeps.values())
    assert set(target.condensed) <= set(target.keeps)
    assert set(target.reads) <= set(targets())
    assert target.example.startswith(f"./reproduce.sh {name}")
    assert len(target.summary) <= 100


def test_targets_come_after_targets_they_read():
    order = list(targets())
    assert all(order.index(source) < order.index(name) for name in order for source in targets()[name].reads)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(targets()))
def test_help_shows_settings_and_example(name: str, capsys):
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    target = targets()[name]
    assert printed.startswith(f"usage: ./reproduce.sh {name}")
    assert printed.rstrip().endswith(target.example)
    if target.settings in SETTINGS:
        model = RunSettings if target.settings in ("cells", "cell") else SETTINGS[target.settings]
        for key in model.model_fields:
            assert f"\n  {key} " in printed, key


def test_help_flag_of_solve_shows_argument(capsys):
    assert main(["solve", "-h"]) == 0
    assert "QUESTION" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("words", [["table1", "seed=-1"], ["theorem", "threads=0"], ["figure3", "x=1"], ["nothing"]])
def test_refusal_loads_no_torch(words: list[str]):
    code = (
        "import sys; from nabla_reasoner.__main__ import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules); print(status, sorted(heavy))"
    )
    shown = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "2 []"
    assert shown.stderr.startswith("error: ")


@pytest.mark.parametrize("name", ["solve", "plan"])
def test_missing_argument_is_refused_with_example(name: str, capsys):
    assert main([name]) == 2
    assert find(name).example in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        (["seed=1", "--trace", "out.html"], ["seed=1", "trace=out.html"]),
        (["--trace=out.html", "--quiet", "seed=1"], ["trace=out.html", "quiet=true", "seed=1"]),
        (["--quiet", "--trace", "a.html"], ["quiet=true", "trace=a.html"]),
        (["--trace"], ["trace=true"]),
        ([], []),
    ],
)
def test_dashes_are_another_spelling_of_settings(arguments, overrides):
    assert written_out(arguments) == overrides


@pytest.mark.slow
def test_output_that_nobody_reads_ends_the_command_quietly():
    words = [sys.executable, "-m", "nabla_reasoner", "help"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # as `head` does
    assert process.wait(timeout=60) == FAILED
    assert process.stderr.read() == ""
    process.stderr.close()
