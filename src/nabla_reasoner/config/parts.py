"""Parts of a cell, each from a file of its group: policy or reward model, task, method."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from .data_folder import locate
from .hub_cache import is_hub_name
from .schema import REWARD_KINDS, SHIPPED_METHODS, Commit, Count, Section, choice_file, choices
from .targets import FILE_ENDS, RECORDS

# Ways in which methods spend their tokens.
WORKS = ("samples", "tree", "rap", "particles", "tpo", "chain", "langevin", "lockstep", "judge", "nabla")

# A backslash and an n that do not begin a command of LaTeX.
WRITTEN_BREAK = re.compile(r"\\n(?!(?:abla|eq?|eg|ot|otin|u|i|mid|leq|geq)(?![A-Za-z]))")

TAKEN = ("wandb", *RECORDS)  # folders of results beside those that Table 2 has for each reward

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
        shipped_path = choice_file("policy", self.name)["path"]
        if Path(locate(self.path)).resolve() != Path(locate(shipped_path)).resolve():
            raise ValueError(
                f"path of {self.name} must be {shipped_path}, because tables show what training made of "
                f"{self.base}, and its cost; got {self.path}. Write policy={self.base} policy.path={self.path}, or "
                "give it a policy.name."
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
        if name.lower() in TAKEN or name.startswith(".") or Path(name).suffix in FILE_ENDS:
            raise PydanticCustomError(
                "name",
                "a name that no file or folder of results has: other than " + ", ".join(TAKEN) + ", without a dot at "
                "its beginning, and without an end like .csv or .json",
            )
        return name

    manifest: dict[str, str] | None = None


class HubData(Section):
    """A data set on the hub; further keys are those of `tasks.problems.load_hub`."""

    repository: str
    revision: Commit | None = None


class TaskSettings(Part):
    """A task: generated if it has a `dataset`, otherwise read from the file `path` or from the hub.

    Attributes:
        size: problems of the benchmark; null: not known.
        training_split: the hub's split that split=validation reads; null: none. A file at `path` is read as it is.
        training_size: problems of that split.
    """

    repeats: Count
    max_new_tokens: Count | None = None
    dataset: str | None = None
    path: str | None = None
    hub: HubData | None = None
    size: Count | None = None
    suffix: str = ""
    training_split: str | None = None
    training_size: Count | None = None
    paper: str | None = None

    @model_validator(mode="after")
    def _check_dataset(self) -> "TaskSettings":
        if self.dataset is not None and self.dataset != self.name:
            raise ValueError(
                f"name and dataset of a generated task must be the same, because records and graders go by it; got "
                f"{self.name} and {self.dataset}. Choose the task by task=NAME."
            )
        if self.dataset is not None or ("hub" in choice_file("task", self.name)):
            return self
        from ..tasks.generated_tasks import is_generated

        if is_generated(self.name):
            raise ValueError(
                f"name must not be that of a generated task, by which answers are graded; got {self.name} for problems "
                "of a file. Write another task.name."
            )
        return self

    @field_validator("suffix")
    @classmethod
    def _check_line_breaks(cls, suffix: str) -> str:
        if WRITTEN_BREAK.search(suffix):
            raise PydanticCustomError(
                "line_break", "text with line breaks as such, which bash writes as $'task.suffix=\"\\nText\"'"
            )
        return suffix

    def size_of(self, split: str) -> int | None:
        """Return the number of problems of a split of the benchmark; None if it is not known."""
        return self.size if split == "test" else self.training_size


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

    @model_validator(mode="after")
    def _check_class(self) -> "MethodSettings":
        """Refuse another class under the name of a shipped method, which stands for its class in records."""
        shipped = f"nabla_reasoner.{SHIPPED_METHODS.get(self.name)}"
        if self.name in SHIPPED_METHODS and self.target != shipped:
            raise ValueError(
                f"_target_ of {self.name} must be {shipped}; got {self.target}. Give it a name of its own."
            )
        return self

    def keywords(self) -> dict[str, Any]:
        """Return the keywords of the method's class."""
        return {key: value for key, value in self.content().items() if key not in NOT_KEYWORDS}


NOT_KEYWORDS = ("name", "budget", "_target_", "reward_kinds", "served", "answers", "scored", "work", "meaning")
