"""docs/extending.md: its files, Python blocks and commands work as they stand, in a copy of the repository."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_processes import shared

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|yaml)\n(.*?)^```$", re.M | re.S)
NAMED = re.compile(r"# (\S+\.(?:yaml|py))\n")
LINES = re.compile(r"`(\S+\.jsonl)`:\n\n```json\n(.*?)^```$", re.M | re.S)
STEP = re.compile(r"^```python\n(?!# \S+\.py\n)(?P<code>.*?)^```$|^    \./reproduce\.sh (?P<line>[^\n#]+)", re.M | re.S)
# Runs the steps of the page in one process, as importing the package takes longer than most of them.
RUNNER = """
import shlex, sys
from nabla_reasoner.__main__ import main

names = dict()
for kind, text in {steps!r}:
    print("---", text, flush=True)
    if kind == "code":
        exec(text, names)
    elif status := main(shlex.split(text)):
        sys.exit("exit status %s: %s" % (status, text))
"""


def files() -> dict[str, str]:
    """Return the files of the page by path; the line with the path is left out of the YAML files and the code."""
    named = [(NAMED.match(text), text) for _, text in BLOCK.findall(TEXT)]
    found = {match[1]: text[match.end() :] for match, text in named if match}
    return found | dict(LINES.findall(TEXT))


def steps() -> list[tuple[str, str]]:
    """Return the Python blocks that are no files, and the commands, in the order of the page."""
    return [
        ("code", match["code"]) if match["code"] else ("line", match["line"].strip()) for match in STEP.finditer(TEXT)
    ]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository with the files of the page."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copyfile(ROOT / "pyproject.toml", folder / "pyproject.toml")
    for name in ("src", "configs", "assets"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name, text in files().items():
        assert not (folder / name).exists(), f"{name} is a file of the repository"
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def variables(copy: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}


def run(copy: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=copy, env=variables(copy), capture_output=True, text=True)


def test_page_has_a_file_and_a_command_for_each_kind():
    names = files()
    for kind in ("configs/policy", "configs/reward", "configs/task", "configs/method", "configs/experiment"):
        assert any(name.startswith(f"{kind}/") for name in names), kind
    lines = " ".join(text for kind, text in steps() if kind == "line")
    for word in ("policy=mine", "reward=mine", "task=lcm", "task=mine", "method=two_pools", "lengths", "best_of_16"):
        assert word in lines


@pytest.mark.slow
def test_files_of_the_page_obey_the_rules_of_the_code(copy: Path):
    scripts = Path(sys.executable).parent
    added = [name for name in files() if name.endswith(".py")]
    checked = run(copy, str(scripts / "ruff"), "check", "--no-cache", *added)
    assert checked.returncode == 0, checked.stdout
    formatted = run(copy, str(scripts / "ruff"), "format", "--no-cache", "--diff", *added)
    assert formatted.returncode == 0, formatted.stdout
    layers = run(copy, str(scripts / "lint-imports"), "--no-cache")
    assert layers.returncode == 0, layers.stdout


def table(copy: Path, folder: str, target: str = "table1") -> dict[tuple[str, str, str], dict[str, str]]:
    path = copy / "results" / folder / "tiny" / target / "table.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        return {(row["policy"], row["task"], row["method"]): row for row in csv.DictReader(stream)}


@pytest.mark.slow
def test_steps_of_the_page_run_in_order(copy: Path):
    done = shared().run_code(RUNNER.format(steps=steps()), variables(copy), copy, copy / "src")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert table(copy, "mine")["mine", "products", "greedy"]["status"] == "ok"
    (settings,) = (copy / "results" / "ratio").rglob("mine__products__nabla_reasoner__s0.settings.json")
    assert json.loads(settings.read_text(encoding="utf-8"))["reward"]["reference"] == "models/mine"
    assert table(copy, "lcm")["tiny-base", "lcm", "greedy"]["num_problems"] == "4"
    assert table(copy, "questions")["tiny-base", "mine", "greedy"]["num_problems"] == "2"

    pools, strict = (table(copy, name)["tiny-base", "products", "two_pools"] for name in ("pools", "strict"))
    best = table(copy, "pools")["tiny-base", "products", "best_of_n"]
    assert float(pools["decode_tokens"]) <= float(strict["decode_tokens"])
    assert float(best["decode_tokens"]) < float(
        strict["decode_tokens"]
    )  # both pools, where the small one is not enough
    lengths = table(copy, "mine", "lengths")["mine", "products", "best_of_n"]
    assert lengths["right"] or lengths["wrong"]
