"""The real engine: vLLM in an environment of its own, started and stopped by a run (docs/serving.md)."""

import json
import os
from pathlib import Path

import pytest
import toys
from toy_runs import command

from nabla_reasoner.__main__ import main
from nabla_reasoner.evaluation.records import read_records
from nabla_reasoner.serving.client import Client, ServerError

VARIABLE = "NABLA_VLLM_PYTHON"


@pytest.mark.slow
@pytest.mark.skipif(
    VARIABLE not in os.environ,
    reason=f"needs {VARIABLE}=PYTHON of an environment with vLLM; docs/serving.md has the commands that make one",
)
def test_vllm_gives_hugging_faces_greedy_tokens_and_is_stopped(tmp_path: Path):
    # vLLM's CPU engine takes heads of 32, 64, ... numbers; those of the shipped models have 28
    folder = toys.model_folder("llama", width=128)
    words = [word for word in command(tmp_path, "method=greedy,nabla_reasoner") if not word.startswith("policy.path")]
    words += [f"policy.path={folder}", "method.max_new_tokens=12"]
    own, other = ([word.replace(str(tmp_path), str(tmp_path / run)) for word in words] for run in ("hf", "vllm"))
    assert main(own) == 0
    assert main([*other, "rollouts=vllm", f"server_python={os.environ[VARIABLE]}"]) == 0
    path = next((tmp_path / "hf").rglob("*greedy__s0.jsonl"))
    greedy = [read_records(tmp_path / run / path.relative_to(tmp_path / "hf")) for run in ("hf", "vllm")]
    assert [record["response"] for record in greedy[0]] == [record["response"] for record in greedy[1]]
    records = read_records(next((tmp_path / "vllm").rglob("*nabla_reasoner__s0.jsonl")))
    assert [record["status"] for record in records] == ["ok"] * 5
    engines = json.loads(next((tmp_path / "vllm").rglob("summary.json")).read_text("utf-8"))["engines"]
    print(json.dumps(engines))
    assert engines["tokens_compared"] > 5 * 12, "every rollout of ∇-Reasoner is compared"
    assert engines["largest_log_prob_difference"] < 1e-3
    assert engines["share_of_differing_argmaxes"] < 0.05
    log = next((tmp_path / "vllm").rglob("server.log")).read_text("utf-8", errors="replace")
    port = log.split("--port ")[1].split()[0]
    with pytest.raises(ServerError):
        Client(f"http://127.0.0.1:{port}", timeout=5).get("/v1/models")
