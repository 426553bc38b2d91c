"""Random models over the letters of the `ppo` task."""

import tempfile
from pathlib import Path

import torch

from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.ppo import letter_task

SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
}


def models() -> tuple[Policy, RewardModel]:
    """Build random models over the letters, in float64."""
    folder = Path(tempfile.mkdtemp(prefix="nabla-letters-"))
    for number, name in enumerate(("policy", "judge")):
        torch.manual_seed(number)
        model = letter_task.build_model(SHAPE)
        if name == "judge":
            model.generation_config.eos_token_id = list(range(letter_task.END))
        model.save_pretrained(folder / name)
        letter_task.build_tokenizer().save_pretrained(folder / name)
    policy = Policy.from_pretrained(str(folder / "policy"), dtype="float64")
    return policy, RewardModel.from_pretrained(str(folder / "judge"), kind="likelihood", dtype="float64")
