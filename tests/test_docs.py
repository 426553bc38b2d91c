"""README and docs: valid command lines, complete list of targets, working links."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from nabla_reasoner import __main__
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.config.method_rules import check_method
from nabla_reasoner.config.targets import find, targets
from nabla_reasoner.planning.machines import MACHINES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = {  # placeholders in the pages, and existing names that replace them
    "NAME": "table1",
    "TARGET": "table1",
    "variant=NAME": "variant=paper",
    "policy=mine": "policy=tiny-base",
    "reward=mine": "reward=likelihood",
    "task=mine": "task=products",
    "task=lcm": "task=products",
    "method=two_pools,best_of_n": "method=greedy,best_of_n",
    "method=two_pools": "method=greedy",
    "method=best_of_16": "method=best_of_n",
    "method.threshold=-0.1": "method.max_new_tokens=8",
    "lengths": "table3",
    **{f"{part}.revision=COMMIT": f"{part}.revision={40 * 'a'}" for part in ("policy", "reward", "task.hub")},
}
NARROW = {"policy": "tiny-base", "reward": "likelihood", "task": "products", "method": "nabla_reasoner", "seed": "0"}
COMMAND = re.compile(r"\./reproduce\.sh +([^`\n|]+)")


def commands() -> list[str]:
    """Return every command line of the pages, without comments."""
    lines = [match[1].split(" #")[0] for page in PAGES for match in COMMAND.finditer(page.read_text("utf-8"))]
    return sorted({line.removesuffix("-->").strip().rstrip("'") for line in lines})


@pytest.mark.parametrize("line", commands())
def test_documented_command_is_valid(line: str):
    name, *words = [EXAMPLES.get(word, word) for word in shlex.split(line)]
    if name in ("test", "help") or "--help" in words:
        assert name in ("test", "help", *targets())
        return
    target = find(name)
    overrides = words[1:] if target.argument else words
    assert not target.argument or words, "the argument is missing"
    planned = find(words[0]) if name == "plan" else target
    if name == "plan":  # the only setting of its own
        machines = [word.removeprefix("gpu=") for word in overrides if word.startswith("gpu=")]
        assert all(machine in MACHINES for machine in machines)
        overrides = [word for word in overrides if not word.startswith("gpu=")]
    if planned.settings == "cells":  # one cell of the main grid is enough to check a command
        given = {word.split("=")[0] for word in overrides}
        narrow = {key: NARROW[key] for key in NARROW if "scale=" not in line or key in ("method", "seed")}
        if given & {"rollouts", "reward"}:  # what decides which methods can run
            narrow.pop("method")
        overrides += [f"{key}={value}" for key, value in narrow.items() if key not in given]
        for cell in compose_cells([f"experiment={planned.name}", *overrides]):
            check_method(cell)
        return
    __main__._settings(planned, overrides)


def test_readme_is_short_and_opens_with_quick_start():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 250
    assert "## Quick start" in lines[:40]


def test_readme_lists_every_target():
    text = (ROOT / "README.md").read_text("utf-8")
    for name in targets():
        assert f"`./reproduce.sh {name}" in text, name


def test_relative_links_resolve():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def definitions(path: Path) -> set[str]:
    """Return the names of functions, classes, methods and constants of a module."""
    tree = ast.parse(path.read_text("utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return names | {node.id for node in assigned}


def test_named_definitions_exist():
    for page in PAGES:
        for file, name in re.findall(r"([\w/]+\.py):([A-Za-z_][\w.]*)", page.read_text("utf-8")):
            path = ROOT / "src" / "nabla_reasoner" / file
            assert path.exists(), f"{page.name}: {file}"
            assert set(name.split(".")) <= definitions(path), f"{page.name}: {file}:{name}"


def test_named_files_exist():
    known = {str(path.relative_to(ROOT / "src" / "nabla_reasoner")) for path in ROOT.glob("src/nabla_reasoner/**/*.py")}
    for page in PAGES:
        for file in re.findall(r"`([a-z_/0-9]+\.py)[`:]", page.read_text("utf-8")):
            assert file in known or (ROOT / file).exists(), f"{page.name}: {file}"
