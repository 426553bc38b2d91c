"""Valid names, types with ranges, and the message about a wrong setting."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ..types import COMMIT
from .data_folder import data_folder

CONFIGS = data_folder() / "configs"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
GROUPS = ("policy", "reward", "variant", "task", "method", "scale")
NABLA_METHODS = ("nabla_reasoner", "nabla_reasoner_multipass", "nabla_reasoner_prefix")  # forms of ∇-Reasoner
# Classes of the shipped methods. Their names stand for them in records; any other method's records name its class.
SHIPPED_METHODS = {
    "best_of_n": "BestOfN",
    "discrete_langevin": "DiscreteLangevin",
    "greedy": "Greedy",
    "guided_decoding": "GuidedDecoding",
    "guided_decoding_gradient": "GuidedDecoding",
    "judge_greedy": "JudgeGreedy",
    "logit_mixture": "LogitMixture",
    "mh_resampling": "MHResampling",
    "nabla_prefix_without_gradient": "NablaReasoner",
    "nabla_without_gradient": "NablaReasoner",
    **dict.fromkeys(NABLA_METHODS, "NablaReasoner"),
    "particle_filter": "ParticleFilter",
    "rap": "RAP",
    "self_consistency": "SelfConsistency",
    "soft_best_of_n": "SoftBestOfN",
    "tpo": "TPO",
    "tree_of_thoughts": "TreeOfThoughts",
    "weighted_self_consistency": "WeightedSelfConsistency",
}
SPLITS = ("test", "validation")
ROLLOUTS = ("hf", "vllm")

LARGEST = 10**12  # of a count or length; products of several stay finite
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Threads = Annotated[int, Field(ge=1, le=1024)]  # torch crashes at many more than there are cores
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0)]
Device = Literal["cpu", "cuda"]
SAME, NEXT, CPU = REWARD_DEVICES = ("same", "next", "cpu")  # where the reward model lies
REWARD_KINDS = ("classifier", "token_classifier", "likelihood")
WANDB_MODES = ("offline", "online", "disabled")
Wandb = Literal[WANDB_MODES]


def _plain_path(text: str) -> str:
    """Return a path as `Path` writes it, so that two spellings of one folder are one text."""
    if not text.strip():
        raise PydanticCustomError("string_too_short", "text that is not empty")
    if text.startswith("~"):
        raise PydanticCustomError("folder_home", "a path in which ~ is written out, such as $HOME/results")
    return str(Path(text))


Folder = Annotated[str, AfterValidator(_plain_path)]
Commit = Annotated[str, Field(pattern=f"^{COMMIT}$")]
Name = Annotated[str, Field(min_length=1)]


def choices(group: str) -> list[str]:
    """Return the names that `group=NAME` may take."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@functools.cache
def choice_file(group: str, name: str) -> dict[str, Any]:
    """Return what configs/GROUP/NAME.yaml says, as it stands; empty if there is no such file. Not to be changed."""
    file = CONFIGS / group / f"{name}.yaml"
    return read_yaml(file.read_text(encoding="utf-8")) if file.is_file() else {}


def read_yaml(text: str) -> Any:
    """Return the plain values that a text in YAML holds."""
    return yaml.load(text, LOADER)


class Settings(BaseModel):
    """Settings of one target; immutable, unknown keys refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Section(BaseModel):
    """A group of settings whose further keys have no range of their own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


class ModelShape(Section):
    """Configuration of a model with random weights, as transformers names it."""

    model_type: Name
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count


def check_finite_numbers(values: Any, key: str = "") -> None:
    """Raise ValueError naming the first number in nested settings that is not finite or exceeds 64 bits."""
    if isinstance(values, float) and not math.isfinite(values):
        raise ValueError(f"{key} must be a finite number; got {values}. Write {key}=VALUE.")
    if isinstance(values, int) and not -(2**63) <= values < 2**63:
        raise ValueError(f"{key} must be a number of at most 64 bits; got {len(str(abs(values)))} digits.")
    if isinstance(values, dict | list):
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            check_finite_numbers(value, f"{key}.{name}" if key else str(name))


def check_ascending(name: str, values: Sequence[float | int]) -> None:
    """Raise ValueError unless the values ascend without repeats."""
    if values != sorted(set(values)):
        raise ValueError(f"{name} must ascend without repeats; got {values}.")


def broken_rule(error: ErrorDetails) -> str:
    """Return what must hold of the value that an error of pydantic is about, to be read after "must be"."""
    context, kind = error.get("ctx", {}), error["type"]
    least = context.get("ge")
    rules = {
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "list_type": "a list",
        "dict_type": "a group of settings",
        "model_type": "a group of settings",
        "finite_number": "a finite number",
        "greater_than_equal": f"a {'number' if isinstance(least, float) else 'whole number'} >= {least}",
        "greater_than": f"a number > {context.get('gt')}",
        "less_than_equal": f"a number <= {context.get('le')}",
        "literal_error": f"one of {str(context.get('expected', '')).replace(' or ', ', ')}",
        "too_short": f"a list of at least {context.get('min_length')}",
        "too_long": f"a list of at most {context.get('max_length')}",
        "string_pattern_mismatch": f"text like {context.get('pattern')}",
        "string_too_short": "text that is not empty",
        "missing": "given",
        "extra_forbidden": "a known setting",
    }
    return rules.get(kind, error["msg"][0].lower() + error["msg"][1:])


def describe_error(error: ValidationError) -> str:
    """Return one sentence on the first error."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    kind, value = first["type"], first["input"]
    if kind == "value_error":
        message = str(first["ctx"]["error"])
        return f"{key}.{message}" if key else message
    rule = broken_rule(first)
    example = "[A,B]" if kind in ("list_type", "too_short") else "VALUE"
    return f"{key} must be {rule}; got {value!r}. Write {key}={example}."
