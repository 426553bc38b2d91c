"""The examples of docs/transformers.md, run in their order."""

import re
from pathlib import Path

import pytest
import torch
from transformers import dynamic_module_utils

from nabla_reasoner import NablaReasoner, Policy, Problem
from nabla_reasoner.huggingface import problem_id

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_examples_run_and_equal_solve(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/transformers.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert "=8245" in capsys.readouterr().out
    policy = Policy.from_pretrained(names["name"])
    prompts = [policy.prompt_ids(chat) for chat in names["chats"]]
    problems = [
        Problem(problem_id(ids), question, None, "free")
        for ids, question in zip(prompts, names["questions"], strict=True)
    ]
    method = NablaReasoner(step_size=0.3, grad_threshold=0.0, num_passes=4, max_new_tokens=24)
    solutions = method.solve(problems, policy, names["reward"], seed=0)
    answers = names["output"][:, names["inputs"]["input_ids"].shape[1] :]
    for solution, answer in zip(solutions, answers, strict=True):
        expected = torch.tensor(solution.token_ids)
        assert torch.equal(answer[: len(expected)], expected)
