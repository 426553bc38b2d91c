"""Tokenizer and chat template of an adapter: its own, where its folder has some, else its base's."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import transformers

from ..json_text import parse_json
from .tokenizers import load_tokenizer

TOKENS = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")  # each begins a tokenizer of its own
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
SETTINGS = "tokenizer_config.json"  # older versions of transformers write the template into it
FILES = (*TOKENS, *TEMPLATES, SETTINGS, "special_tokens_map.json", "added_tokens.json", "merges.txt")


def tokenizer_files(folder: str) -> list[Path]:
    """Return the files of a folder that belong to a tokenizer or are its chat templates, by name."""
    return _matching(folder, FILES)


def adapted_tokenizer(base: str, adapter: str) -> transformers.PreTrainedTokenizerBase:
    """Return the tokenizer of an adapter's folder; what it lacks, tokens or chat template, is its base's.

    Raises:
        ValueError: as `load_tokenizer`.
    """
    if not tokenizer_files(adapter):
        return load_tokenizer(base)
    if _matching(adapter, TOKENS) and _has_template(adapter):
        return load_tokenizer(adapter)
    with tempfile.TemporaryDirectory(prefix="nabla-tokenizer-") as folder:
        templates = _matching(base, TEMPLATES) if _has_template(adapter) else []
        _copy([file for file in tokenizer_files(base) if file not in templates], base, folder)
        shutil.copy(Path(base, "config.json"), folder)  # some tokenizers' classes are found by the model's
        _copy(tokenizer_files(adapter), adapter, folder)
        try:
            return load_tokenizer(folder)
        except ValueError as error:
            raise ValueError(str(error).replace(folder, f"{base} with the files of {adapter}")) from error


def _has_template(folder: str) -> bool:
    """Return whether a folder brings a chat template.

    Raises:
        ValueError: settings of its tokenizer that cannot be read.
    """
    settings = Path(folder, SETTINGS)
    if _matching(folder, TEMPLATES) or not settings.is_file():
        return bool(_matching(folder, TEMPLATES))
    try:
        return "chat_template" in parse_json(settings.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{settings} must be a JSON object; it cannot be read: {error}. Fetch it.") from error


def _matching(folder: str, patterns: Iterable[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in Path(folder).glob(pattern) if file.is_file()})


def _copy(files: Iterable[Path], source: str, target: str) -> None:
    for file in files:
        place = Path(target, file.relative_to(source))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
