"""Memory of gradient passes over texts of 3,072 tokens: bounded by tokens_per_pass, and within what `plan` expects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nabla_reasoner.benchmark.memory import RESET_PEAK, peak_of
from nabla_reasoner.dto import gradient_passes
from nabla_reasoner.engine.sequences import TokenSequence
from nabla_reasoner.models.backbone import BatchLimits
from nabla_reasoner.models.random_init import random_models
from nabla_reasoner.planning.model_sizes import Model, ModelSize, parameters

SOURCE = Path(__file__).resolve().parents[2] / "src"
LENGTH, PROMPT, COUNT, VOCABULARY = 3072, 64, 3, 512
SIZE = ModelSize(
    layers=4,
    hidden=128,
    intermediate=448,
    heads=4,
    kv_heads=2,
    head_dim=32,
    rows=VOCABULARY,
    tokens=VOCABULARY,
    vocabulary="toy",
    tied=False,
    head_norms=False,
)
SHAPE = {
    "model_type": "llama",
    "hidden_size": SIZE.hidden,
    "intermediate_size": SIZE.intermediate,
    "num_hidden_layers": SIZE.layers,
    "num_attention_heads": SIZE.heads,
    "num_key_value_heads": SIZE.kv_heads,
    "head_dim": SIZE.head_dim,
    "max_position_embeddings": 4096,
}


def peak(tokens_per_pass: int) -> int:
    """Return the bytes that ∂L/∂y of three long texts adds to this process at its peak."""
    torch.set_num_threads(1)
    policy, reward = random_models(SHAPE, SHAPE, VOCABULARY, "likelihood", torch.device("cpu"), torch.float32)
    for model in (policy, reward, reward.strong):
        model.batch_limits = BatchLimits(tokens_per_pass)
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(5, VOCABULARY, (COUNT, LENGTH), generator=generator).tolist()
    sequences = [TokenSequence(text[:PROMPT], text[:PROMPT], [], text[PROMPT:]) for text in texts]

    def evaluate(batch: list[TokenSequence]) -> None:
        gradient_passes.evaluate(policy, reward, batch, reward_weight=1.0, nll_weight=0.001)

    evaluate([sequences[0]._replace(rollout=sequences[0].rollout[:8])])
    return peak_of(lambda: evaluate(sequences), torch.device("cpu"))[0]


def measured_apart(tokens_per_pass: int) -> int:
    """Return `peak` of a process of its own, with none of the variables that other tests may have set."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(SOURCE)])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", f"import test_long_texts; print(test_long_texts.peak({tokens_per_pass}))"]
    return int(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not RESET_PEAK.exists() or not Path("/proc/self/status").exists(), reason="measures Linux's /proc")
def test_pass_of_3072_tokens_keeps_what_the_plan_expects_of_one_text():
    bounded, together = (measured_apart(tokens) for tokens in (4096, 4 * 4096))
    model = Model("toy", SIZE, False, parameters(SIZE, classifier=False), 0)
    activations, layer = LENGTH * model.kept_bytes(4), LENGTH * model.layer_bytes(4)
    others = LENGTH * (model.cache_bytes(4) + 4 * VOCABULARY * 4) + 2 * COUNT * LENGTH * 2 * SIZE.hidden * 4
    assert 0.7 * activations < bounded < 1.2 * (activations + 2 * layer + others), "one text at a time, and its logits"
    assert together > 2 * bounded, "three texts in one pass keep three times as much"
