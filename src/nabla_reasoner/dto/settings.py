"""Settings of a DTO descent (Table 4, arXiv 2603.04948) and its result."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..engine.sampling import LEAST_TEMPERATURE, check_choice, check_whole
from ..engine.sequences import TokenSequence
from ..models.arguments import check_kinds, check_names
from . import objective
from .reward_forms import OUTCOME, OWN_TERMS, PREFIX, REWARD_FORMS, TERMS, used_terms
from .straight_through import FLIPS

PARAMETERS = ("logits", "latents")
UPDATES = ("first", "all")
ENGINES = ("fast", "reference")


@dataclass(frozen=True)
class DTOSettings:
    """Settings of one descent on L(y) = -λ r(y|x) - ν log π(y|x) (Eq. 2); this is the only place of their defaults.

    Attributes:
        parameter: "logits" optimises z itself; "latents" optimises the last hidden state that yields z.
        update: "first" moves the first rollout row only (the released scripts); "all" moves every row (Alg. 2).
        reward_weight: λ >= 0.
        nll_weight: ν >= 0, weight of the policy's negative log-likelihood.
        reward_form: where the reward is read, "outcome" (Eq. 2), "process" or "prefix" (see `reward_forms`).
        terms: parts of ∂L/∂y that the descent uses, of `reward_forms.TERMS`; at least one that the form has.
        num_iterations: T >= 1.
        step_size: η > 0, Adam's learning rate at the first step; cosine decay follows.
        min_step_ratio: share of η that the decay tends to, in [0, 1].
        ste_temperature: τ >= `LEAST_TEMPERATURE` of the straight-through estimator.
        gradient_caching: evaluate ∂L/∂y only when a hard token changed (Alg. 4); the result is the same without.
        flip: rule of the hard token (see `straight_through.hard_tokens`): "argmax" without noise, "gumbel" with the
            Gumbel noise that explains the sampled token.
        draw_temperature: τ at which the rollouts were sampled; > 0 with flip "gumbel", unused otherwise.

    Raises:
        ValueError: a value out of range.
    """

    parameter: str = "logits"
    update: str = "first"
    reward_weight: float = 1.0
    nll_weight: float = 0.001
    reward_form: str = OUTCOME
    terms: Sequence[str] = TERMS
    num_iterations: int = 20
    step_size: float = 0.01
    min_step_ratio: float = 0.1
    ste_temperature: float = 1.0
    gradient_caching: bool = True
    flip: str = "argmax"
    draw_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_kinds(vars(self), type(self).__annotations__)
        object.__setattr__(self, "terms", tuple(self.terms))  # a YAML file gives a list
        check_choice("parameter", self.parameter, PARAMETERS)
        check_choice("update", self.update, UPDATES)
        check_choice("flip", self.flip, FLIPS)
        check_choice("reward_form", self.reward_form, REWARD_FORMS)
        objective.check_weights(self.reward_weight, self.nll_weight)
        if not self.terms or not set(self.terms) <= set(TERMS):
            raise ValueError(f"terms must be some of {', '.join(TERMS)}; got {', '.join(self.terms) or 'none'}.")
        if not used_terms(self.terms, self.reward_form):
            raise ValueError(
                f"with reward_form={self.reward_form}, terms must hold one of {', '.join(OWN_TERMS)}; "
                f"got {', '.join(self.terms)}. Add one or choose another form."
            )
        check_whole({"num_iterations (T)": self.num_iterations})
        if self.num_iterations < 1:
            raise ValueError(f"num_iterations (T) must be >= 1; got {self.num_iterations}.")
        if self.step_size <= 0:
            raise ValueError(f"step_size (η) must be > 0; got {self.step_size}.")
        if not 0 <= self.min_step_ratio <= 1:
            raise ValueError(f"min_step_ratio must be in [0, 1]; got {self.min_step_ratio}.")
        if self.ste_temperature < LEAST_TEMPERATURE:
            raise ValueError(f"ste_temperature (τ) must be >= {LEAST_TEMPERATURE:g}; got {self.ste_temperature}.")
        if self.flip == "gumbel" and self.draw_temperature <= 0:
            raise ValueError(
                f"flip=gumbel needs tokens sampled at a temperature > 0; got {self.draw_temperature}. Use flip=argmax."
            )

    @property
    def weights(self) -> dict[str, float]:
        """λ and ν as the keywords of `gradient_passes.evaluate` and of `objective`."""
        return {"reward_weight": self.reward_weight, "nll_weight": self.nll_weight}

    @property
    def objective(self) -> dict[str, float | int | str | tuple[str, ...]]:
        """λ, ν, the used terms and the reward form, as the same keywords."""
        return {**self.weights, "terms": self.terms, "reward_form": self.reward_form}

    def relevant_part(self, sequence: TokenSequence) -> TokenSequence:
        """Return the part of a sequence that L and ∂L/∂y of the updated rows depend on.

        In the prefix form a row depends on no later token: with update "first" the rollout is its first token.
        """
        if self.reward_form == PREFIX and self.update == "first":
            return sequence._replace(rollout=sequence.rollout[:1])
        return sequence

    def replace(self, **changes: object) -> "DTOSettings":
        """Return settings with some values replaced, checked again.

        Raises:
            TypeError: an unknown setting.
            ValueError: a value out of range.
        """
        check_names(changes, [field.name for field in dataclasses.fields(self)])
        return dataclasses.replace(self, **changes)

    def step(self, iteration: int) -> float:
        """Return the learning rate of an iteration, counted from 0."""
        decay = 0.5 * (1 + math.cos(math.pi * iteration / self.num_iterations))
        return self.step_size * (self.min_step_ratio + (1 - self.min_step_ratio) * decay)


class DTOResult(NamedTuple):
    """Outcome of DTO for one sequence.

    Attributes:
        logits: optimised logits z of the updated rows (the first row, or all of them).
        objective: L at the hard sequence of each iteration. It need not fall: only the relaxed objective does. In the
            prefix form L is summed over the updated rows (see `reward_forms`).
        gradient_evaluations: number of evaluations of ∂L/∂y for this sequence.
        token_ids: hard tokens of the whole rollout after the last step.
        cost: cost of the gradient evaluations counted above.
    """

    logits: Float[Tensor, "rows vocab"]
    objective: list[float]
    gradient_evaluations: int
    token_ids: list[int]
    cost: cost.Cost
