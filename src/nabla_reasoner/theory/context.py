"""Settings, spaces and models that the groups of checks share."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from ..config import build
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
    """One space and the settings of its checks: a section of configs/experiment/theorem.yaml, which explains the keys.

    Attributes:
        problem: the space's flow problem with β = 1.
        limit_step: step of Euler's rule in the long run; None leaves Euler's rule out.
    """

    name: str
    problem: FlowProblem
    argmin_cells: int
    probe_width: float
    particles: int
    step: float
    times: list[float]
    limit_particles: int
    limit_step: float | None
    limit_time: float
    exact_step: float
    coarse_step: float


class WithoutNoiseSettings(NamedTuple):
    """Section `without_noise` of configs/experiment/theorem.yaml."""

    particles: int
    step: float
    time: float


class NoiseSettings(NamedTuple):
    """Section `noise` of configs/experiment/theorem.yaml."""

    kl_weights: list[float]
    time: float
    particles: int
    step: float
    scan_particles: int
    factors: list[float]


class ConvergenceSettings(NamedTuple):
    """Section `convergence` of configs/experiment/theorem.yaml."""

    scale: float
    reward_weight: float
    separations: list[float]
    simulated: int
    particles: int
    step: float
    cells: int


class TheoryContext:
    """Settings of a run, and the spaces and models they describe, built on first use.

    Args:
        settings: checked contents of configs/experiment/theorem.yaml.
    """

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        self.seed: int = settings["seed"]
        self._spaces: dict[str, Space] = {}

    @cached_property
    def relaxed_text(self) -> RelaxedText:
        """The two-token text with its models, in float64."""
        text = self.settings["text"]
        _, cell = next(gradient_checks.cells(text["policy"], text["reward"], ["chain_sum"]))
        policy, reward = build.load_models(cell.changed(dtype="float64", threads=None))
        return RelaxedText(
            policy,
            reward,
            [{"role": "user", "content": text["question"]}],
            prefix=text["prefix"],
            text=text["response"],
            positions=text["positions"],
            others=text["others"],
        )

    def _landscape(self, name: str) -> Landscape:
        if name == "text":
            return self.relaxed_text.landscape(self.settings["text"]["nodes"])
        return landscapes.mixture(**self.settings[name]["shape"])

    def space(self, name: str) -> Space:
        """Return a space of SPACES; the same object each time."""
        if name not in self._spaces:
            section = self.settings[name]
            problem = FlowProblem(
                self._landscape(name),
                reward_weight=section["reward_weight"],
                kl_weight=1.0,
                cells=section["cells"],
                bins=section["bins"],
            )
            shared = {key: value for key, value in section.items() if key in Space._fields}
            self._spaces[name] = Space(name=name, problem=problem, **shared)
        return self._spaces[name]

    def spaces(self) -> Iterator[Space]:
        """Yield every space, each built when it is reached."""
        return map(self.space, SPACES)

    def runs(self, count: int, step: float, *stream: int) -> Runs:
        """Return the settings of two runs with a random stream of their own."""
        return Runs(count=count, step=step, seed=[self.seed, *stream], threads=self.settings["threads"])


def named(check: Check, suffix: str) -> Check:
    """Return the check with a suffix to its name; `_seen` stays at the end."""
    stem = check.name.removesuffix("_seen")
    return check._replace(name=f"{stem}__{suffix}" + ("_seen" if stem != check.name else ""))
