"""Small random models for tests: Hugging Face folders of both architectures, loaded by the package's own code."""

import functools
import tempfile

import torch
import transformers

from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.models.random_init import write_model
from nabla_reasoner.models.tokenizers import build_tokenizer

TEXTS = ["What is 12 + 34?", "Add 5 and 6, then take 7.", "12+34=46;46-7=39"]


@functools.cache
def model_folder(
    architecture: str, *, classifier: bool = False, seed: int = 0, width: int = 32, layers: int = 2
) -> str:
    """Write a random model and the shared tokenizer; return their folder.

    The weights are large enough that some next tokens are uncertain and some certain.
    """
    folder = tempfile.mkdtemp(prefix="nabla-toy-")
    shape = {
        "model_type": architecture,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": 0.35,
    }
    write_model(folder, shape, build_tokenizer(TEXTS, 280), classifier=classifier, seed=seed)
    return folder


def policy(architecture: str = "qwen2", dtype: str = "float64", seed: int = 0) -> Policy:
    return Policy.from_pretrained(model_folder(architecture, seed=seed), dtype=dtype)


@functools.cache
def token_classifier_folder(architecture: str, num_labels: int = 2) -> str:
    """Write a random token classifier, as TRL's trainer of process reward models does; return its folder."""
    config = transformers.AutoConfig.from_pretrained(model_folder(architecture, seed=7), num_labels=num_labels)
    torch.manual_seed(9)
    model = transformers.AutoModelForTokenClassification.from_config(config)
    torch.nn.init.normal_(model.score.bias)
    folder = tempfile.mkdtemp(prefix="nabla-toy-")
    model.save_pretrained(folder)
    build_tokenizer(TEXTS, 280).save_pretrained(folder)
    return folder


def reward(kind: str = "likelihood", architecture: str = "llama", dtype: str = "float64", *, reference: bool = False):
    if kind == "token_classifier":
        folder = token_classifier_folder(architecture)
    else:
        folder = model_folder(architecture, classifier=kind == "classifier", seed=7)
    return RewardModel.from_pretrained(
        folder, kind=kind, dtype=dtype, reference=model_folder("qwen2", seed=8) if reference else None
    )


shared_policy, shared_reward = functools.cache(policy), functools.cache(reward)  # for tests that change no model


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
