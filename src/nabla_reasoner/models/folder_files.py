"""Files of a model folder: those that decide what it computes, and those that must be there before it is loaded."""

from pathlib import Path

from ..json_text import parse_json

# Files that decide what a model folder computes: weights, settings, tokenizer and chat templates.
MODEL_SUFFIXES = {
    ".json",
    ".safetensors",
    ".gguf",
    ".jinja",
    ".model",
    ".txt",
    ".bpe",
    ".tiktoken",
}
INDEX = "model.safetensors.index.json"  # names the file of every weight, if there are several files
SETTINGS = "generation_config.json"  # transformers reads a damaged one as if there were none


def check_files(folder: Path, name: str) -> None:
    """Look for what a folder's loading reads.

    Raises:
        ValueError: no weight file, or one that the index names is not there; an index or a generation_config.json that
            is no JSON object.
    """
    for file in (folder / SETTINGS, folder / INDEX):
        if file.is_file():
            _object(file, name)
    if (folder / INDEX).is_file():
        named = _object(folder / INDEX, name).get("weight_map")
        files = sorted({str(file) for file in named.values()}) if isinstance(named, dict) else []
        missing = [file for file in files if not (folder / file).is_file()]
        if missing or not files:
            what = (
                f"{', '.join(missing)} {'are' if len(missing) > 1 else 'is'} not there" if missing else "it names none"
            )
            raise ValueError(
                f"{name} must have the weight files that its {INDEX} names; {what}. Fetch the whole model."
            )
    elif not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"the weights of {name} must be safetensors files; none was found. Fetch model.safetensors, or write it "
            "with save_pretrained."
        )


def _object(file: Path, name: str) -> dict[str, object]:
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # json's, and that of bytes that are no UTF-8
        raise ValueError(
            f"{file.name} of {name} must be a JSON object; it cannot be read: {error}. Fetch it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} of {name} must be a JSON object; it holds {str(content)[:40]}. Fetch it.")
    return content
