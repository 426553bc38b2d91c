"""Names that the code looks up on modules of this package: each must exist, in branches that no test runs too."""

import ast
import importlib
import types
from pathlib import Path

import pytest

import nabla_reasoner

SOURCE = Path(nabla_reasoner.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.Module, path: Path) -> dict[str, types.ModuleType]:
    """Return the modules of this package that a file imports, by the name that they have in it."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            source = importlib.import_module("." * node.level + (node.module or ""), package)
            for alias in node.names:
                if not hasattr(source, alias.name):  # a module that nothing has imported yet
                    importlib.import_module(f"{source.__name__}.{alias.name}")
                value = getattr(source, alias.name)
                if isinstance(value, types.ModuleType):
                    found[alias.asname or alias.name] = value
    return found


def missing_names(path: Path, text: str) -> list[str]:
    tree = ast.parse(text)
    modules = imported_modules(tree, path)
    local = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    local |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return [
        f"{path.name}:{node.lineno}: {node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules.keys() - local
        and not hasattr(modules[node.value.id], node.attr)
    ]


@pytest.mark.slow
def test_every_name_of_a_module_exists():
    if not FILES:
        pytest.fail(f"no source files in {SOURCE}")
    assert [
        line
        for path in FILES
        if path.name != "math_verify_worker.py"
        for line in missing_names(path, path.read_text("utf-8"))
    ] == []


def test_missing_name_is_found():
    path = SOURCE / "experiments" / "fidelity.py"
    changed = path.read_text(encoding="utf-8").replace("figures.save(", "figures.exhibit(")
    (line,) = missing_names(path, changed)
    assert line.endswith("figures.exhibit")
