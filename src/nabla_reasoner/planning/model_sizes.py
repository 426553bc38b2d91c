"""Sizes of models, from `configs/model_sizes.yaml` or a folder's own files, and the bytes that follow from them."""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from ..config.data_folder import locate
from ..config.schema import CONFIGS, Count, Settings, describe_error
from ..cost import ModelSize as Arithmetic
from ..json_text import parse_json

TABLE = CONFIGS / "model_sizes.yaml"
KEYS = {  # of config.json
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "rows": "vocab_size",
}


class ModelSize(Settings):
    """Sizes of a transformer with gated feed-forward layers (Llama, Qwen and relatives).

    Attributes:
        heads, kv_heads: heads of the queries, and of keys and values.
        rows: rows of the embedding matrix; some families pad it.
        tokens: tokens that the tokenizer knows.
        vocabulary: name shared by models whose tokenizers give the same ids to the tokens that they share.
        tied: whether the output matrix is the embedding matrix.
        head_norms: whether queries and keys are normalised by head (Qwen3).
    """

    layers: Count
    hidden: Count
    intermediate: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    rows: Count
    tokens: Count
    vocabulary: str
    tied: bool
    head_norms: bool


class Model(NamedTuple):
    """A policy or reward model.

    Attributes:
        name: folder or hub name.
        size: its sizes.
        classifier: whether it has a score head in place of an output matrix.
        elements: number of parameters.
        on_disk: bytes of the weight files; 0 if they are not on this machine.
    """

    name: str
    size: ModelSize
    classifier: bool
    elements: int
    on_disk: int

    @property
    def arithmetic(self) -> Arithmetic:
        """What the model computes per token, as `models.backbone.model_size` counts it."""
        head = self.size.hidden * (1 if self.classifier else self.size.rows)
        attention = self.size.layers * self.size.heads * self.size.head_dim
        return Arithmetic(self.matmul_parameters - head, head, attention)

    @property
    def matmul_parameters(self) -> int:
        """The parameters in matrix products: neither norms nor an embedding that is only looked up."""
        norms = self.size.layers * 2 * (self.size.hidden + self.size.head_dim * self.size.head_norms) + self.size.hidden
        looked_up = self.classifier or not self.size.tied
        return self.elements - norms - self.size.rows * self.size.hidden * looked_up

    def cache_bytes(self, width: int) -> int:
        """Return the bytes of keys and values per token, with numbers of `width` bytes."""
        return 2 * self.size.layers * self.size.kv_heads * self.size.head_dim * width

    def kept_bytes(self, width: int) -> int:
        """Return the bytes that a pass with a gradient keeps per token until it runs backward.

        The weights are frozen, so that matrix products keep nothing. Per layer are kept: the input of both norms in
        float32; queries, keys, values and output of attention, keys and values repeated for every head, as in
        PyTorch's attention with a mask; gate, activated gate and other factor of the feed-forward layer.
        """
        size = self.size
        queries = size.heads * size.head_dim
        norms = 4 * 2 * size.hidden
        if size.head_norms:
            norms += 4 * (queries + size.kv_heads * size.head_dim)
        return size.layers * (norms + width * (4 * queries + 3 * size.intermediate) + 4 * size.heads)

    def layer_bytes(self, width: int) -> int:
        """Return the bytes of one layer's temporary values per token, in a pass without gradients."""
        size = self.size
        return width * (3 * size.intermediate + 4 * size.heads * size.head_dim) + 8 * size.hidden


def parameters(size: ModelSize, *, classifier: bool) -> int:
    """Return the number of parameters; biases, which some families have, are left out."""
    queries, keys = size.heads * size.head_dim, size.kv_heads * size.head_dim
    attention = 2 * size.hidden * queries + 2 * size.hidden * keys
    norms = 2 * size.hidden + (2 * size.head_dim if size.head_norms else 0)
    layer = attention + 3 * size.hidden * size.intermediate + norms
    matrices = 1 if size.tied or classifier else 2
    return size.layers * layer + size.hidden * (matrices * size.rows + 1)


@functools.cache
def load(path: str, *, classifier: bool) -> Model:
    """Return a model by folder or hub name; no weights are read.

    Raises:
        ValueError: a folder whose files do not say the sizes, or a hub model that the table does not have.
    """
    folder = Path(locate(path))
    if (folder / "config.json").is_file():
        return _from_folder(path, folder, classifier=classifier)
    known = _table()
    if path not in known:
        raise ValueError(
            f"the sizes of {path!r} must be known to plan a run: it is no folder with a config.json, and "
            f"configs/model_sizes.yaml does not have it. Add it there, or give a folder. Known: {', '.join(known)}."
        )
    size = known[path]
    return Model(path, size, classifier, parameters(size, classifier=classifier), 0)


@functools.cache
def _table() -> dict[str, ModelSize]:
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    try:
        return {name: ModelSize.model_validate(row) for name, row in rows.items()}
    except ValidationError as error:
        raise ValueError(f"configs/model_sizes.yaml: {describe_error(error)}") from error


def _from_folder(path: str, folder: Path, *, classifier: bool) -> Model:
    settings = _json(folder / "config.json")
    settings = settings.get("text_config") or settings
    missing = [key for key in KEYS.values() if not isinstance(settings.get(key), int)]
    if missing:
        raise ValueError(
            f"{folder / 'config.json'} must give {', '.join(missing)} to plan a run with {path}. Use a model like "
            "Llama or Qwen."
        )
    experts = settings.get("num_local_experts") or settings.get("num_experts") or 1
    if experts > 1:
        raise ValueError(
            f"a plan is for models whose layers have one feed-forward block; {path} has {experts} experts. Run a few "
            "problems instead, with num_problems=N."
        )
    files = sorted(folder.glob("*.safetensors"))
    shapes = {name: shape for file in files for name, shape in _shapes(file).items()}
    named_tied = bool(settings.get("tie_word_embeddings"))
    sizes = {name: settings[key] for name, key in KEYS.items()}
    size = ModelSize(
        **sizes,
        kv_heads=settings.get("num_key_value_heads") or settings["num_attention_heads"],
        head_dim=settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"],
        tokens=len(token_ids(path)) or settings["vocab_size"],
        vocabulary=str(folder),
        tied="lm_head.weight" not in shapes if shapes else named_tied,
        head_norms=any(name.endswith("q_norm.weight") for name in shapes) or settings.get("model_type") == "qwen3",
    )
    count = sum(map(math.prod, shapes.values())) if shapes else parameters(size, classifier=classifier)
    return Model(path, size, classifier, count, sum(file.stat().st_size for file in files))


def _shapes(file: Path) -> dict[str, list[int]]:
    """Return the shape of every tensor of a safetensors file, from its header: a length in 8 bytes, then JSON."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length <= file.stat().st_size else b""
    try:
        return {name: entry["shape"] for name, entry in parse_json(header).items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} must be a safetensors file; its header cannot be read. Fetch it again.") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        values = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} must be a readable JSON file; got {error}. Fetch the model again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold a JSON object. Fetch the model again.")
    return values


@functools.cache
def token_ids(path: str) -> dict[str, int]:
    """Return the tokens of a folder's tokenizer.json with their ids; empty if there is none."""
    file = Path(locate(path)) / "tokenizer.json"
    if not file.is_file():
        return {}
    content = _json(file)
    vocabulary = content.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # of Unigram tokenizers: pairs of token and score
        vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in content.get("added_tokens", [])}}


def check_vocabulary(policy: Model, reward: Model) -> None:
    """Raise ValueError if policy and reward model would be refused when the run begins: they must read the same ids.

    A folder is compared token by token with another folder. With a hub model, whose tokens are not here, nothing is
    known but the number of rows.
    """
    ids, others = token_ids(policy.name), token_ids(reward.name)
    if ids and others:
        agree = all(others.get(token) == index for token, index in ids.items())
    else:
        agree = bool(ids or others) or policy.size.vocabulary == reward.size.vocabulary
    if not agree or reward.size.rows < policy.size.tokens or policy.size.rows < policy.size.tokens:
        raise ValueError(
            f"policy and reward must share one vocabulary; {policy.name} has {policy.size.tokens:,} tokens in "
            f"{policy.size.rows:,} rows, and {reward.name} has {reward.size.tokens:,} in {reward.size.rows:,}. They "
            "do not agree, so that the run would be refused. Choose a reward model of the same family, or leave the "
            "policy out with policy=NAME."
        )
