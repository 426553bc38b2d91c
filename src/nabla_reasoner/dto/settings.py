"""Settings of one DTO descent (Table 4, arXiv 2603.04948), and what it returns."""

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from .. import cost
from .straight_through import FLIPS

PARAMETERS = ("logits", "latents")


class DTOSettings(NamedTuple):
    """Settings of one descent; defaults are the paper's Table 4.

    Attributes:
        parameter: "logits" moves z itself; "latents" moves the last hidden state that yields z.
        num_iterations: T >= 1.
        step_size: η > 0, Adam's learning rate at the first step; cosine decay follows.
        min_step_ratio: in [0, 1], the share of η that the decay tends to.
        ste_temperature: τ > 0 of the straight-through estimator.
        gradient_caching: evaluate ∂L/∂y only when a hard token changed (Alg. 4); the result is the same without.
        flip: a row's hard token is the sampled one until the row's argmax differs from its first ("argmax"), or the
            argmax of the row with the Gumbel noise that explains the sampled one held fixed ("gumbel").
        draw_temperature: τ > 0 at which tokens were sampled (flip "gumbel").
    """

    parameter: str = "logits"
    num_iterations: int = 20
    step_size: float = 0.01
    min_step_ratio: float = 0.1
    ste_temperature: float = 1.0
    gradient_caching: bool = True
    flip: str = "argmax"
    draw_temperature: float = 1.0

    def check(self) -> "DTOSettings":
        """Raise ValueError on a value out of range; returns itself."""
        if self.parameter not in PARAMETERS:
            raise ValueError(f"parameter must be one of {', '.join(PARAMETERS)}; got {self.parameter!r}.")
        if self.num_iterations < 1:
            raise ValueError(f"num_iterations (T) must be >= 1; got {self.num_iterations}.")
        if self.step_size <= 0:
            raise ValueError(f"step_size (η) must be > 0; got {self.step_size}.")
        if not 0 <= self.min_step_ratio <= 1:
            raise ValueError(f"min_step_ratio must be in [0, 1]; got {self.min_step_ratio}.")
        if self.ste_temperature <= 0:
            raise ValueError(f"ste_temperature (τ) must be > 0; got {self.ste_temperature}.")
        if self.flip not in FLIPS:
            raise ValueError(f"flip must be one of {', '.join(FLIPS)}; got {self.flip!r}.")
        if self.flip == "gumbel" and self.draw_temperature <= 0:
            raise ValueError(
                f"flip=gumbel needs tokens sampled at a temperature > 0; got {self.draw_temperature}. Use flip=argmax."
            )
        return self

    def step(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0."""
        decay = 0.5 * (1 + math.cos(math.pi * iteration / self.num_iterations))
        return self.step_size * (self.min_step_ratio + (1 - self.min_step_ratio) * decay)


class DTOResult(NamedTuple):
    """What DTO did to one sequence.

    Attributes:
        logits: optimised logits z of the updated rows (the first row, or all of them).
        objective: L at the hard sequence of each iteration. It need not fall: only the relaxed objective does.
        gradient_evaluations: how often ∂L/∂y was computed for this sequence.
        token_ids: hard tokens of the whole rollout after the last step.
        cost: of the gradient evaluations counted above.
    """

    logits: Float[Tensor, "rows vocab"]
    objective: list[float]
    gradient_evaluations: int
    token_ids: list[int]
    cost: cost.Cost


UPDATES, ENGINES = ("first", "all"), ("fast", "reference")
