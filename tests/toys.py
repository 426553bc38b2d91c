"""Small random models for tests: Hugging Face folders of both architectures, loaded by the package's own code."""

import copy
import functools
import tempfile
from typing import TypeVar

import torch
import transformers

from nabla_reasoner.models import forward_check
from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.models.random_init import write_model
from nabla_reasoner.models.tokenizers import build_tokenizer

Model = TypeVar("Model", Policy, RewardModel)

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


@functools.cache
def shared_policy(architecture: str = "qwen2", dtype: str = "float64", seed: int = 0) -> Policy:
    """Load a policy once; for tests that change nothing of it."""
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


@functools.cache
def shared_reward(
    kind: str = "likelihood", architecture: str = "llama", dtype: str = "float64", *, reference: bool = False
) -> RewardModel:
    """Load a reward model once; for tests that change nothing of it."""
    if kind == "token_classifier":
        folder = token_classifier_folder(architecture)
    else:
        folder = model_folder(architecture, classifier=kind == "classifier", seed=7)
    return RewardModel.from_pretrained(
        folder, kind=kind, dtype=dtype, reference=model_folder("qwen2", seed=8) if reference else None
    )


def policy(*choices: str, **settings: object) -> Policy:
    """Return a policy of the caller's own; a copy takes a twentieth of the time of loading."""
    return _copied(shared_policy(*choices, **settings))


def reward(*choices: str, **settings: object) -> RewardModel:
    return _copied(shared_reward(*choices, **settings))


def _copied(model: Model) -> Model:
    copied = copy.deepcopy(model)
    for part in (copied, *(getattr(copied, name, None) for name in ("reference", "strong"))):
        if part is not None:
            forward_check._CHECKED.add(part.model)  # the same weights passed the check when they were loaded
    return copied


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
