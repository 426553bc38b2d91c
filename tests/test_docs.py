"""README and docs: every command line composes, every target is listed, every link resolves."""

import re
import shlex
from pathlib import Path

import pytest

from nabla_reasoner import __main__
from nabla_reasoner.config.targets import find, targets

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = {  # names that stand for the reader's own: something that exists in their stead
    "NAME": "table1",
    "TARGET": "table1",
    "variant=NAME": "variant=paper",
    "policy=mine": "policy=tiny-base",
    "reward=mine": "reward=likelihood",
    "task=gcd": "task=products",
    "method=better_of_two,best_of_n": "method=greedy,best_of_n",
}
COMMAND = re.compile(r"\./reproduce\.sh +([^`\n|]+)")


def commands() -> list[str]:
    """Every command line of the pages, without comments."""
    lines = [match[1].split(" #")[0].strip() for page in PAGES for match in COMMAND.finditer(page.read_text("utf-8"))]
    return sorted(set(lines))


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
