"""Small random models of many architectures: Hugging Face folders with the toys' tokenizer."""

import functools
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import toys
import transformers

from nabla_reasoner.models.random_init import write_model
from nabla_reasoner.models.tokenizers import build_tokenizer

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


@functools.cache
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    return build_tokenizer(toys.TEXTS, 280)


def folder(architecture: str, *, classifier: bool = False, seed: int = 0, **settings: Any) -> Path:
    """Write a random model of an architecture; settings of its configuration override SHAPE, None removes one."""
    path = Path(tempfile.mkdtemp(prefix="nabla-small-"))
    shape = {"model_type": architecture, **SHAPE, **settings}
    shape = {key: value for key, value in shape.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # settings that an architecture does not have
        write_model(path, shape, tokenizer(), classifier=classifier, seed=seed)
    return path


def edit(path: Path, **settings: Any) -> None:
    """Change settings of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
