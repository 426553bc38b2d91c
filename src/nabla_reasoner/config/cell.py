"""A cell: the resolved settings of one (policy, task, method, seed)."""

import re
import shlex
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from .estimate import Estimate
from .parts import MethodSettings, ModelSettings, Part, RewardSettings, TaskSettings
from .schema import (
    CPU,
    NEXT,
    REWARD_DEVICES,
    ROLLOUTS,
    SAME,
    SPLITS,
    Count,
    Device,
    Folder,
    Positive,
    Section,
    Seed,
    Threads,
    Wandb,
)

# Arguments of vLLM that a server started here must have as we choose them, or we could not reach it.
TAKEN_ARGUMENTS = re.compile(r"--(host|port|uds|api-key|ssl-\S+|root-path)(=|$)")
SECRET_ARGUMENTS = re.compile(r"--\S*(token|key|password|secret)(=|$)")  # would stand in the results


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
        starts_server = self.server_python or self.server_arguments
        if self.rollouts == "hf" and (self.server or starts_server):
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
        try:
            arguments = shlex.split(self.server_arguments or "")
        except ValueError as error:
            raise ValueError(
                f"server_arguments must be words as in a shell; got {self.server_arguments!r} ({error}). "
                "Close the quote."
            ) from error
        if taken := [part for part in arguments if TAKEN_ARGUMENTS.match(part)]:
            raise ValueError(
                "server_arguments must leave out address, key and encryption, which are chosen here; got "
                f"{taken[0].partition('=')[0]}. "
                "For a server of your own, start it and write server=URL."
            )
        if secret := [part for part in arguments if SECRET_ARGUMENTS.match(part)]:
            raise ValueError(
                "server_arguments must hold no secret, because settings stand in the results; got "
                f"{secret[0].partition('=')[0]}. Set the environment variable instead: HF_TOKEN for the hub."
            )
        return self

    @model_validator(mode="after")
    def _check_addresses(self) -> "RunSettings":
        for name in ("server", "reward_server"):
            address = urlsplit(getattr(self, name) or "")
            if address.query or address.fragment:
                raise ValueError(
                    f"{name} must be an address without '?' and '#', because settings stand in the results and what "
                    f"follows is never sent. Write {name}={address.scheme}://{address.netloc.rpartition('@')[2]}."
                )
            if "@" in address.netloc:
                raise ValueError(
                    f"{name} must be without user name and password, because settings stand in the results; got an "
                    "address with '@'. Use a server that needs no key, for example through a tunnel to this machine."
                )
        return self


class Cell(RunSettings):
    """What every cell has; methods and models check their own settings when they are built.

    `further`, `extra` and `grid` name further sweeps; `setting` says which change a sweep of changes makes; `absent`
    says why a method has no records at this scale; `estimate` holds typical sizes for `plan`.
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
