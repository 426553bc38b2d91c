"""Settings, spaces and models that the groups of checks share."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from ..config import build
from ..config.theorem_settings import GaussianSpaceSettings, SpaceSettings, TextSettings, TheoremSettings
from . import gradient_checks, landscapes
from .check import Check, Point
from .gradient_checks import TermRow
from .landscapes import FlowProblem, Landscape
from .particles import Runs
from .relaxed_text import RelaxedText

SPACES = ("line", "plane", "text")


class Findings(NamedTuple):
    """Rows of a group: checks, points of curves, and gradient terms."""

    checks: Sequence[Check]
    points: Sequence[Point] = ()
    terms: Sequence[TermRow] = ()


class Space(NamedTuple):
    """One space of the checks.

    Attributes:
        problem: the space's flow problem with β = 1.
        settings: the space's section of configs/experiment/theorem.yaml.
    """

    name: str
    problem: FlowProblem
    settings: SpaceSettings


class TheoryContext:
    """Settings of a run, and the spaces and models they describe, built on first use."""

    def __init__(self, settings: TheoremSettings):
        self.settings = settings
        self.seed = settings.seed
        self._spaces: dict[str, Space] = {}

    @cached_property
    def relaxed_text(self) -> RelaxedText:
        """The two-token text with its models, in float64."""
        text = self.settings.text
        _, cell = next(gradient_checks.cells(text.policy, text.reward, ["chain_sum"]))
        policy, reward = build.load_models(cell.changed(dtype="float64", threads=None))
        return RelaxedText(
            policy,
            reward,
            [{"role": "user", "content": text.question}],
            prefix=text.prefix,
            text=text.response,
            positions=text.positions,
            others=text.others,
        )

    def _landscape(self, section: GaussianSpaceSettings | TextSettings) -> Landscape:
        if isinstance(section, TextSettings):
            return self.relaxed_text.landscape(section.nodes)
        return landscapes.mixture(**section.shape.model_dump())

    def space(self, name: str) -> Space:
        """Return a space of SPACES; the same object each time."""
        if name not in self._spaces:
            section = getattr(self.settings, name)
            problem = FlowProblem(
                self._landscape(section),
                reward_weight=section.reward_weight,
                kl_weight=1.0,
                cells=section.cells,
                bins=section.bins,
            )
            self._spaces[name] = Space(name, problem, section)
        return self._spaces[name]

    def spaces(self) -> Iterator[Space]:
        """Yield every space, each built when it is reached."""
        return map(self.space, SPACES)

    def runs(self, count: int, step: float, *stream: int) -> Runs:
        """Return the settings of two runs with a random stream of their own."""
        return Runs(count=count, step=step, seed=[self.seed, *stream], threads=self.settings.threads)


def named(check: Check, suffix: str) -> Check:
    """Return the check with a suffix to its name; `_seen` stays at the end."""
    stem = check.name.removesuffix("_seen")
    return check._replace(name=f"{stem}__{suffix}" + ("_seen" if stem != check.name else ""))
