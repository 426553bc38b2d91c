"""Settings of the comparison with PPO; values as in configs/experiment/ppo.yaml."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .schema import Count, Folder, ModelShape, Positive, Section, Seed, Settings, Threads, Wandb, check_ascending

Share = Annotated[float, Field(gt=0, le=1)]


class ShapeSettings(ModelShape):
    initializer_range: Positive

    @model_validator(mode="after")
    def _check_heads(self) -> "ShapeSettings":
        for whole, part in (("hidden_size", "num_attention_heads"), ("num_attention_heads", "num_key_value_heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole} must be a multiple of {part}; got {getattr(self, whole)} and {getattr(self, part)}."
                )
        return self


class PPOModelSettings(Section):
    shape: ShapeSettings
    num_steps: Count
    learning_rate: Positive
    batch: Count


class TestTimeSettings(Section):
    draws: Annotated[list[Count], Field(min_length=1)]
    steps: Annotated[list[Count], Field(min_length=1)]
    langevin_step: Positive
    noise_step: Positive
    particles: Count
    iterations: Count
    step_size: Positive
    resample_temperature: Positive
    resample_top_p: Share
    confidence_threshold: Share
    solved: Count


class AmortisedSettings(Section):
    num_steps: Count
    learning_rate: Positive
    prompts: Count
    group: Annotated[int, Field(ge=2)]
    epochs: Count
    clip: Share
    critic_rate: Share


class PPOSettings(Settings):
    scale: Literal["tiny"]
    results_dir: Folder
    wandb: Wandb
    keep: bool
    threads: Threads | None
    seed: Seed
    length: Count
    compared: Count
    trained: Annotated[list[Count], Field(min_length=1)]
    held_out: Count
    reward_weights: Annotated[list[Positive], Field(min_length=1)]
    main: Positive
    targets: Annotated[list[Positive], Field(min_length=1)]
    models: PPOModelSettings
    deamortised: TestTimeSettings
    amortised: AmortisedSettings

    @model_validator(mode="after")
    def _check_sizes(self) -> "PPOSettings":
        for name, values in (
            ("trained", self.trained),
            ("reward_weights", self.reward_weights),
            ("deamortised.draws", self.deamortised.draws),
            ("deamortised.steps", self.deamortised.steps),
        ):
            check_ascending(name, values)
        if self.main not in self.reward_weights:
            raise ValueError(f"main must be one of reward_weights {self.reward_weights}; got {self.main}.")
        if self.compared > self.trained[-1]:
            raise ValueError(f"compared must be <= trained[-1] = {self.trained[-1]}; got {self.compared}.")
        return self
