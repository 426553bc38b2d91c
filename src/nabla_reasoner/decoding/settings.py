"""Settings of ∇-Reasoner: one dataclass, the three variants of the algorithm, and the flat keywords of both."""

import dataclasses
import inspect
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..dto.equal_kl_moves import MOVES
from ..dto.reward_forms import PREFIX
from ..dto.settings import ENGINES, DTOSettings
from ..engine.sampling import Sampling, check_choice, check_whole
from ..models.arguments import check_kinds, check_names


class Variant(NamedTuple):
    """Points on which the paper's text, its released code and the corrected code differ.

    Attributes:
        selection: "confidence": top probability <= confidence_threshold; "entropy": H > entropy_threshold.
        gate: the norm that ε_grad is compared with, of ∂L/∂"onehot" or of ∂L/∂"logits".
        update: rows that DTO updates, "first" or "all".
        hard_tokens: tokens that DTO's first hard forward reads, "sampled" or the "argmax" of the rollout's logits.
        prompt_twice: whether the incumbent is scored with the chat prompt repeated inside its answer.
    """

    selection: str
    gate: str
    update: str
    hard_tokens: str
    prompt_twice: bool


VARIANTS = {
    "fixed": Variant("confidence", "onehot", "first", "sampled", prompt_twice=False),
    "release": Variant("confidence", "onehot", "first", "argmax", prompt_twice=True),  # decoding.py:280, optimize.py:33
    "paper": Variant("entropy", "logits", "all", "sampled", prompt_twice=False),
}
SELECTIONS = ("confidence", "entropy")
ROLLOUT_ENDS = ("response", "uncertain")
ACCEPTANCES = ("higher", "prefix_higher", "always")
ROLLOUT_SAMPLING = Sampling(temperature=0.6, top_p=0.95)
RESAMPLE_SAMPLING = Sampling(temperature=0.5, top_p=0.95)


@dataclass(frozen=True)
class NablaSettings:
    """Settings of ∇-Reasoner; this is the only place of their defaults, next to `DTOSettings`.

    Attributes:
        max_rollouts: N_max >= 1, the first rollout included.
        num_passes: left-to-right passes until N_max is used, >= 1. 1 is the paper's algorithm.
        max_new_tokens: length limit of a response, >= 1.
        confidence_threshold: positions more certain than this are committed without DTO, in (0, 1].
        entropy_threshold: ε_ent >= 0 in nats (selection "entropy").
        grad_threshold: ε_grad >= 0; positions with a smaller gradient are committed. 0 switches this gate off.
        use_gradient: False leaves DTO out: the same selection, resampling and acceptance test.
        move: update of the logits, "gradient" (DTO), or "sharpen" or "random" at the same KL divergence.
        acceptance: "higher" keeps a proposal if the reward of the whole response rises. "prefix_higher" keeps a new
            token, before any rollout, if r(y_<l, new) > r(y_<l, old). "always" keeps every one; nothing is scored.
        rollout_end: "response": a rollout goes on to the end of the response. "uncertain": it pauses at the next
            uncertain token, and goes on from there if that token stays. The response is the same at less cost, where
            nothing reads what follows the cursor: in prefix form, one pass, without "higher". The reference engine
            always makes whole rollouts.
        engine: "fast", or "reference": the plain algorithm, one problem at a time.
        variant: see `Variant`.
        rollout: sampling of rollouts.
        resample: sampling of a token from its optimised logits.
        dto: settings of DTO; `update` follows the variant, `draw_temperature` the rollouts' temperature.

    Raises:
        ValueError: a value out of range.
    """

    max_rollouts: int = 8
    num_passes: int = 1
    max_new_tokens: int = 1024
    confidence_threshold: float = 0.97
    entropy_threshold: float = 0.25
    grad_threshold: float = 8.0
    use_gradient: bool = True
    move: str = "gradient"
    acceptance: str = "higher"
    rollout_end: str = "response"
    engine: str = "fast"
    variant: Variant = VARIANTS["fixed"]
    rollout: Sampling = ROLLOUT_SAMPLING
    resample: Sampling = RESAMPLE_SAMPLING
    dto: DTOSettings = field(default_factory=DTOSettings)

    def __post_init__(self) -> None:
        check_kinds(vars(self), type(self).__annotations__)
        counts = {
            "max_rollouts (N_max)": self.max_rollouts,
            "num_passes": self.num_passes,
            "max_new_tokens": self.max_new_tokens,
        }
        check_whole(counts)
        for label, value in counts.items():
            if value < 1:
                raise ValueError(f"{label} must be >= 1; got {value}.")
        if not 0 < self.confidence_threshold <= 1:
            raise ValueError(f"confidence_threshold must be in (0, 1]; got {self.confidence_threshold}.")
        if self.entropy_threshold < 0:
            raise ValueError(f"entropy_threshold (ε_ent) must be >= 0; got {self.entropy_threshold}.")
        if self.grad_threshold < 0:
            raise ValueError(f"grad_threshold (ε_grad) must be >= 0; got {self.grad_threshold}.")
        check_choice("move", self.move, MOVES)
        check_choice("acceptance", self.acceptance, ACCEPTANCES)
        check_choice("rollout_end", self.rollout_end, ROLLOUT_ENDS)
        check_choice("engine", self.engine, ENGINES)
        check_choice("selection", self.variant.selection, SELECTIONS)
        self.rollout.check()
        self.resample.check()
        dto = self.dto.replace(update=self.variant.update, draw_temperature=self.rollout.temperature)
        object.__setattr__(self, "dto", dto)
        if self.pauses and not (
            dto.reward_form == PREFIX
            and self.acceptance != "higher"
            and self.num_passes == 1
            and self.variant.hard_tokens == "sampled"
        ):
            raise ValueError(
                "rollout_end=uncertain must not change the response, so it needs reward_form=prefix, acceptance "
                f"prefix_higher or always, num_passes=1 and no variant=release; got reward_form={dto.reward_form}, "
                f"acceptance={self.acceptance}, num_passes={self.num_passes}. Use rollout_end=response."
            )

    @property
    def pauses(self) -> bool:
        """Whether rollouts pause at uncertain tokens."""
        return self.rollout_end == "uncertain"

    def with_whole_rollouts(self) -> "NablaSettings":
        """Return the settings with rollouts that go on to the end of the response: the same responses, more cost."""
        return dataclasses.replace(self, rollout_end="response")

    @property
    def decoding_dto(self) -> DTOSettings:
        """DTO's settings in the loop, which draws a token from the first row only.

        In the prefix form later rows do not act on the first one, so that they need not be updated.
        """
        return self.dto.replace(update="first") if self.dto.reward_form == PREFIX else self.dto

    @classmethod
    def keywords(cls) -> dict[str, Any]:
        """Return every keyword of `from_keywords` with its default."""
        defaults = cls()
        scalars = {name: getattr(defaults, name) for name in _SCALARS}
        samplings = {
            f"{stage}_{name}": getattr(getattr(defaults, stage), name) for stage in _SAMPLINGS for name in _SAMPLING
        }
        dto = {name: getattr(defaults.dto, name) for name in _DTO}
        return {**scalars, **samplings, **dto, "variant": "fixed", "selection": None, "update": None}

    @classmethod
    def from_keywords(cls, **given: Any) -> "NablaSettings":
        """Return settings from flat keywords, as a YAML file or a command gives them.

        Args:
            given: scalar fields of this class; fields of `DTOSettings`; `rollout_` or `resample_` and a field of
                `Sampling`; `variant`, a name of `VARIANTS`; `selection` and `update`, which replace the variant's own
                choice unless None. What is missing keeps its default.

        Raises:
            TypeError: an unknown keyword.
            ValueError: a value out of range.
        """
        values = cls.keywords()
        check_names(given, values)
        check_kinds(given, _KINDS)
        values |= given
        check_choice("variant", values["variant"], VARIANTS)
        replaced = {name: values[name] for name in ("selection", "update") if values[name] is not None}
        samplings = {stage: Sampling(**{name: values[f"{stage}_{name}"] for name in _SAMPLING}) for stage in _SAMPLINGS}
        return cls(
            **{name: values[name] for name in _SCALARS},
            **samplings,
            variant=VARIANTS[values["variant"]]._replace(**replaced),
            dto=DTOSettings(**{name: values[name] for name in _DTO}),
        )


_SAMPLINGS = ("rollout", "resample")
_SAMPLING = tuple(inspect.signature(Sampling).parameters)
_SCALARS = tuple(f.name for f in dataclasses.fields(NablaSettings) if f.name not in ("variant", "dto", *_SAMPLINGS))
_KINDS = {  # `update` may be None here
    **{name: kind for name, kind in DTOSettings.__annotations__.items() if name != "update"},
    **NablaSettings.__annotations__,
    **{f"{stage}_{name}": kind for stage in _SAMPLINGS for name, kind in Sampling.__annotations__.items()},
}
_DTO = tuple(f.name for f in dataclasses.fields(DTOSettings) if f.name not in ("update", "draw_temperature"))
