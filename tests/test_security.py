"""Secrets of the environment stay out of all results; nothing that others wrote is run as code."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_models
import torch
import yaml
from command_processes import PLANTED, shared
from toy_runs import command

from nabla_reasoner import Policy
from nabla_reasoner.config.schema import LOADER

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
SECRETS = [*(value for name, value in PLANTED.items() if name != "https_proxy"), "plantedProxyPassword"]
RUN_AS_CODE = {"eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads"}


@pytest.mark.slow
def test_planted_secrets_are_in_no_result(tmp_path: Path):
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {PLANTED['WANDB_API_KEY']}\n")
    (tmp_path / "netrc").chmod(0o600)
    known = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = {**known, **PLANTED, "NETRC": str(tmp_path / "netrc"), "PYTHONPATH": str(ROOT / "src")}
    results, said = tmp_path / "results", ""
    wrong = ["policy.path=nothing", "policy.name=other", f"results_dir={tmp_path / 'wrong'}"]
    for words, status in (
        ([*command(results), "method=greedy", "wandb=offline"], 0),
        (["report", f"results_dir={results}"], 0),
        ([*command(results), *wrong, "method=greedy"], 2),  # messages of errors too
    ):
        done = shared().run_command(words, environment)
        assert done.returncode == status, done.stderr
        said += done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "netrc"]
    assert {".jsonl", ".wandb", ".html", ".log"} <= {path.suffix for path in files}
    for secret in SECRETS:
        assert secret not in said
        assert not [path for path in files if secret.encode() in path.read_bytes()]


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield dotted name and node of each call in a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.slow
def test_nothing_that_others_wrote_is_run_as_code():
    found = []
    for path in SOURCES:
        for name, node in calls(path):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            risky = (
                name in RUN_AS_CODE
                or (name == "yaml.load" and [ast.unparse(word) for word in node.args[1:]] != ["LOADER"])
                or (name == "torch.load" and given.get("weights_only") != "True")
                or given.get("shell", "False") != "False"
                or given.get("trust_remote_code", "False") != "False"
                or given.get("use_safetensors", "True") != "True"
            )
            found += [f"{path.relative_to(ROOT)}:{node.lineno} {name}"] if risky else []
    assert not found
    assert LOADER in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", None))


def test_weights_that_could_hold_code_are_refused(tmp_path: Path):
    """A pickled state dict beside a sound configuration is not read."""
    folder = small_models.folder("llama")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="must be safetensors files"):
        Policy.from_pretrained(str(folder))
