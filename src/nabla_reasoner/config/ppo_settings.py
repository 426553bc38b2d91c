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
    """Shape and training of policy and reward model."""

    shape: ShapeSettings
    num_steps: Count
    learning_rate: Positive
    batch: Count


class TestTimeSettings(Section):
    """Settings of methods that spend compute on each prompt.

    Attributes:
        draws: N of Best-of-N and of the weighted choice.
        steps: ascending numbers of Metropolis steps, sweeps and noisy DTO steps at which distributions are read.
        langevin_step: η of the token Langevin step.
        noise_step: η of the noisy and noiseless DTO without Adam.
        particles: number of particles of noisy DTO, whose distribution is an estimate.
        iterations, step_size: T and η of DTO.
        resample_temperature, resample_top_p: sampling of a token from optimised logits in the released loop.
        confidence_threshold: gate of the released loop.
        solved: number of answers per prompt sampled with the engine itself, as a check.
    """

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
    """Settings of trained policies.

    Attributes:
        num_steps: number of optimiser steps.
        prompts, group: number of prompts in a batch, and of answers to each.
        epochs: number of optimiser steps on each batch.
        clip: ε of the clipped ratio.
        critic_rate: share by which PPO's critic, one value per prompt, approaches each batch's mean return.
    """

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
        rounded = [weight for weight in self.reward_weights if float(f"{weight:.6g}") != weight]
        if rounded:  # rows are found by them, in files with six digits
            raise ValueError(f"reward_weights must have at most six significant digits; got {rounded[0]}.")
        if self.compared > self.trained[-1]:
            raise ValueError(f"compared must be <= trained[-1] = {self.trained[-1]}; got {self.compared}.")
        return self
