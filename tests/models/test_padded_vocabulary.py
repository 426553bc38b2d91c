"""Matrices with more rows than the tokenizer has tokens, as in Qwen2.5: 151,936 or 152,064 rows for 151,665 tokens."""

from pathlib import Path

import pytest
import small_models
import torch
import toys
from safetensors.torch import load_file, save_file

from nabla_reasoner import BestOfN, NablaReasoner, Policy, Problem, RewardModel

PROBLEMS = [Problem(str(number), f"What is {number} + 7?", "1", "free") for number in range(2)]
NABLA = {"step_size": 3.0, "grad_threshold": 0.0, "max_new_tokens": 5, "max_rollouts": 3}
METHODS = {
    "greedy pool": lambda: BestOfN(num_samples=2, temperature=1.0, max_new_tokens=5),
    "outcome form": lambda: NablaReasoner(**NABLA),
    "prefix form": lambda: NablaReasoner(**NABLA, reward_form="prefix"),
    "plain engine": lambda: NablaReasoner(**NABLA, engine="reference"),
}


def padded(tmp_path: Path, folder: Path, rows: int) -> str:
    """Return a copy of a model folder whose matrices have rows for no token, which would win every draw."""
    copy = tmp_path / f"{folder.name}-{rows}"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = load_file(copy / "model.safetensors")
    for name in [name for name in weights if "embed_tokens" in name or "lm_head" in name]:
        matrix = weights[name]
        extra = 50 * torch.randn(rows - len(matrix), matrix.shape[1], generator=torch.Generator().manual_seed(1))
        weights[name] = torch.cat([matrix, extra.to(matrix)])
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    small_models.edit(copy / "config.json", vocab_size=rows)
    return str(copy)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
@pytest.mark.parametrize("name", METHODS)
def test_rows_of_no_token_change_nothing(tmp_path: Path, name: str, kind: str):
    """Policy and reward have different numbers of such rows, as Qwen2.5-7B and the Skywork rewards have."""
    plain_policy = Path(small_models.folder("qwen2", seed=3))
    plain_reward = Path(small_models.folder("llama", classifier=kind == "classifier", seed=4))
    expected = METHODS[name]().solve(
        PROBLEMS,
        Policy.from_pretrained(str(plain_policy), dtype="float64"),
        RewardModel.from_pretrained(str(plain_reward), kind, dtype="float64"),
    )
    policy = Policy.from_pretrained(padded(tmp_path, plain_policy, 320), dtype="float64")
    reward = RewardModel.from_pretrained(padded(tmp_path, plain_reward, 300), kind, dtype="float64")
    actual = METHODS[name]().solve(PROBLEMS, policy, reward)
    assert policy.vocab_size == reward.vocab_size == 280
    for plain, other in zip(expected, actual, strict=True):
        assert other.token_ids == plain.token_ids
        assert other.reward == pytest.approx(plain.reward, rel=1e-9)


def test_padded_matrix_would_win_every_draw(tmp_path: Path):
    policy = Policy.from_pretrained(padded(tmp_path, Path(toys.model_folder("qwen2")), 320))
    logits = policy.model(input_ids=torch.tensor([policy.prompt_ids(toys.chat("2+3"))])).logits[0, -1]
    assert logits.argmax() >= policy.vocab_size
