"""Loading of models and tokenizers from folders or the hub, with checks that nothing is missing or damaged."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors
import torch
import transformers

from .double_norms import replace_norms
from .folder_files import check_files
from .folder_size import check_sizes
from .plain_weights import check_configuration, check_plain
from .quiet import quiet_transformers
from .tokenizers import load_tokenizer, split_commit

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
# Weights of another kind's head on the same layers. A causal LM's folder may have a score head, a classifier's an
# output matrix; what the files hold besides for the model's own head is read by nothing and is refused.
SCORE_HEADS = re.compile(r"^(score|classifier)\.")
OUTPUT_MATRICES = re.compile(r"^(lm_head|embed_out)\.")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
NAMED_KEYS = 3  # keys that an error lists


def load(
    auto: type, name_or_path: str | Path, device: str | torch.device, dtype: str
) -> tuple[torch.nn.Module, transformers.PreTrainedTokenizerBase]:
    """Return model, in eval mode and frozen, and tokenizer.

    Args:
        auto: transformers' auto class, e.g. `AutoModelForCausalLM`.
        name_or_path: folder, hub name, or OWNER/NAME@COMMIT.

    Raises:
        ValueError: missing folder; weights that are damaged, missing, left over, quantised or not finite; a LoRA
            adapter beside them; code of its own; no chat template; unknown dtype or device.
    """
    name, device = str(name_or_path), str(device)
    check_request(name, device, dtype)
    tokenizer = load_tokenizer(name)
    model, report = read_weights(auto, name, dtype)
    check_keys(name, report, SCORE_HEADS if auto is transformers.AutoModelForCausalLM else OUTPUT_MATRICES)
    classifiers = [kind for kind in saved_classes(name, model.config) if "Classification" in kind]
    if classifiers and auto is transformers.AutoModelForCausalLM:
        raise ValueError(
            f"a language model's layers must have been trained to predict tokens; {name} is of {classifiers[0]}. "
            "Use kind='classifier' for a reward, or choose a causal language model."
        )
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"{name} cannot be moved to device {device!r}: {_first_line(error)}. Use device=cpu."
        ) from error
    if dtype == "float64":
        replace_norms(model, name)
    check_finite(name, model)
    return model.eval().requires_grad_(False), tokenizer


def read_weights(
    auto: type, name: str, dtype: str, **settings: int
) -> tuple[transformers.PreTrainedModel, dict[str, Any]]:
    """Return a model on the CPU with the weights that its files have, and transformers' report of those they lack.

    The report is for `check_keys`: transformers has filled weights that are missing with random numbers.

    Args:
        settings: further settings of the configuration, e.g. the number of labels.

    Raises:
        ValueError: files that are missing or cannot be read; quantised weights; a LoRA adapter beside them; code of its
            own.
    """
    plain, commit = split_commit(name)
    if not Path(name).is_dir():
        check_configuration(_configuration(name), name)
    try:
        with _without_notices():
            model, report = auto.from_pretrained(
                plain,
                revision=commit or "main",
                dtype=DTYPES[dtype],
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # `check_keys` refuses them by name
                output_loading_info=True,
                **settings,
            )
    except Exception as error:  # safetensors, hub and torch each raise their own types for damaged or missing files
        raise ValueError(_reading_error(name, error)) from error
    if not Path(name).is_dir():
        file = huggingface_hub.try_to_load_from_cache(plain, "config.json", revision=commit)
        if isinstance(file, str):
            check_plain(Path(file).parent, name)
    if getattr(model, "_hf_peft_config_loaded", False):  # of a hub name; only where peft is installed
        raise _adapter_error(name, ADAPTER_FILES[0])
    return model, report


def outline(
    auto: type, name_or_path: str | Path, device: str, dtype: str
) -> tuple[torch.nn.Module, transformers.PreTrainedTokenizerBase]:
    """Return a model without weights (on torch's meta device) and its tokenizer, for what needs no weights.

    Raises:
        ValueError: missing folder, weight files that are damaged, quantised or of other sizes than the configuration
            says, a LoRA adapter beside them, an architecture that cannot be built, no chat template, unknown dtype or
            device.
    """
    name = str(name_or_path)
    check_request(name, device, dtype)
    tokenizer = load_tokenizer(name)
    try:
        for file in sorted(Path(name).glob("*.safetensors")):
            with safetensors.safe_open(file, "pt"):  # reads the header: a file that was cut is refused
                pass
    except Exception as error:  # safetensors raises types of its own
        raise ValueError(_reading_error(name, error)) from error
    config = _configuration(name)
    check_configuration(config, name)
    try:
        with torch.device("meta"), _without_notices():
            model = auto.from_config(config, trust_remote_code=False)
    except Exception as error:  # configurations raise types of their own
        raise ValueError(_reading_error(name, error)) from error
    check_head(name, auto, next(iter(saved_classes(name, config)), ""))
    return model, tokenizer


def _configuration(name: str) -> transformers.PreTrainedConfig:
    """Return the configuration of a folder or hub name; raises as `read_weights`."""
    plain, commit = split_commit(name)
    try:
        with _without_notices():
            return transformers.AutoConfig.from_pretrained(plain, trust_remote_code=False, revision=commit or "main")
    except Exception as error:  # configurations raise types of their own
        raise ValueError(_reading_error(name, error)) from error


def saved_classes(name: str, config: transformers.PretrainedConfig) -> list[str]:
    """Return the classes of the saved model, as its configuration names them; may be empty.

    Raises:
        ValueError: they are no list of texts.
    """
    classes = config.architectures or []
    if not isinstance(classes, list) or not all(isinstance(entry, str) for entry in classes):
        raise ValueError(
            f"architectures in config.json of {name} must be a list of class names; got {str(classes)[:60]}. "
            "Fetch or correct it."
        )
    return classes


def check_head(name: str, auto: type, saved: str) -> None:
    """Raise ValueError on a language model that is to be read as a classifier, or the other way round.

    Args:
        saved: class of the saved model, as its configuration names it; may be empty.
    """
    if auto is transformers.AutoModelForCausalLM:
        wrong, wanted = saved.endswith("Classification"), "a language model"
    else:
        wrong, wanted = saved.endswith(("ForCausalLM", "LMHeadModel")), "a classifier"
    if wrong:
        raise ValueError(
            f"{name} must be {wanted}; got {saved}. Give another path, or the reward's kind that belongs to it."
        )


def check_dtype(dtype: str) -> None:
    """Raise ValueError on an unknown precision."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")


def check_request(name: str, device: str, dtype: str) -> None:
    """Raise ValueError on an unknown dtype or device, or a folder without its files or with some not to be read."""
    check_dtype(dtype)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} needs an NVIDIA GPU and a CUDA build of torch; neither was found. Use device=cpu."
        )
    if device.partition(":")[0] == "meta":
        raise ValueError(f"device must hold the weights of {name}; got {device!r}, which has none. Use device=cpu.")
    if (name.startswith((".", "/", "~")) or name.count("/") != 1) and not Path(name, "config.json").is_file():
        raise ValueError(f"a model must be a hub name or a folder with a config.json; got {name!r}. Check the path.")
    for file in ADAPTER_FILES:
        if Path(name, file).is_file():
            raise _adapter_error(name, file)
    if Path(name).is_dir():
        check_files(Path(name), name)
        check_plain(Path(name), name)
    check_sizes(Path(name), name)


@contextmanager
def refusing(name: str, model: torch.nn.Module) -> Iterator[None]:
    """Turn an error of an unknown architecture's interface into a ValueError that names the model."""
    try:
        yield
    except (ValueError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # architectures raise types of their own
        raise ValueError(
            f"{name} ({type(model).__name__}) is not a causal transformer that can be served "
            f"({type(error).__name__}: {_first_line(error)}). Use another architecture, e.g. Qwen or Llama."
        ) from error


def _adapter_error(name: str, file: str) -> ValueError:
    """Return the refusal of a LoRA adapter, which transformers applies with peft and ignores without."""
    return ValueError(
        f"a model's folder must hold whole weights; {name} also has the LoRA file {file}, which computes another model "
        "where peft is installed than where it is not. Use a folder with the adapter merged (peft's merge_and_unload), "
        "or one without it."
    )


def _reading_error(name: str, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"{name} brings code of its own (auto_map in its config.json), which is never run here. "
            "Use a model whose architecture transformers has."
        )
    if "safetensors" in text and isinstance(error, OSError) and not Path(name).is_dir():  # a folder's were looked for
        return f"the weights of {name} must be safetensors files; the hub has none. Choose another model."
    reason = f"unknown value {text}" if isinstance(error, KeyError) else " ".join(text.split())[:300]
    return (
        f"the weights of {name} cannot be read: {reason or type(error).__name__}. Fetch or retrain the model; if that "
        "names a field or a value of config.json, correct it there."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_keys(name: str, report: dict[str, Any], other_heads: re.Pattern[str]) -> None:
    """Raise ValueError if the files lack weights, which would be random numbers, or hold some that nothing reads.

    Args:
        other_heads: surplus keys that are accepted, those of another kind of model.
    """
    if report["mismatched_keys"]:
        key, in_file, by_config = min(report["mismatched_keys"])
        raise ValueError(
            f"the weights of {name} must be those of its config.json; {key} has the shape {list(in_file)}, and by "
            f"config.json {list(by_config)}. Correct config.json, or fetch the model again."
        )
    missing = sorted(report["missing_keys"])
    surplus = sorted(key for key in report["unexpected_keys"] if not other_heads.match(key))
    for keys, fault in ((missing, "are missing"), (surplus, "are not read by the model")):
        if keys:
            more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
            raise ValueError(
                f"the weights of {name} must be those of its config.json; {', '.join(keys[:NAMED_KEYS])}{more} "
                f"{fault}. Correct config.json, fetch the complete weights, or choose another kind of model."
            )


def check_finite(name: str, model: torch.nn.Module) -> None:
    """Raise ValueError naming the first weight with NaN or infinity."""
    tensors = dict(model.named_parameters())
    wide = [torch.promote_types(weight.dtype, torch.float32) for weight in tensors.values()]
    sums = torch.stack([weight.sum(dtype=d).cpu().double() for weight, d in zip(tensors.values(), wide, strict=True)])
    for (key, weight), finite in zip(tensors.items(), sums.isfinite().tolist(), strict=True):
        if not finite and not weight.isfinite().all():
            raise ValueError(
                f"the weights of {name} must be finite numbers; {key} holds NaN or infinity. "
                "Fetch or retrain the model."
            )


@contextmanager
def _without_notices() -> Iterator[None]:
    """Hide transformers' notices on unused settings and its table of missing weights, which are errors here."""
    with quiet_transformers(hide_bars=False), warnings.catch_warnings(action="ignore"):
        yield
