"""∇-Reasoner (Alg. 1 and 3, arXiv 2603.04948): DTO inside the decoding loop."""

import inspect
from collections.abc import Sequence
from typing import Any

from ..engine import scoring
from ..models.arguments import checked
from ..models.frozen import frozen
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .batched import BatchedDecoder
from .observer import DecodingObserver, check_observer
from .reference import ReferenceDecoder
from .settings import NablaSettings
from .state import DecodingState, start_state, to_solution


class NablaReasoner:
    """The paper's method; with `use_gradient=False` its null arm, the same loop without DTO.

    Args:
        keywords: max_rollouts, num_iterations, step_size, rollout_temperature, … (see `NablaSettings.from_keywords`;
            `inspect.signature(NablaReasoner)` lists all of them with their defaults).

    Attributes:
        settings: the same settings as one object.

    Raises:
        TypeError: an unknown keyword.
        ValueError: a setting out of range.
    """

    def __init__(self, **keywords: Any):
        self.settings = NablaSettings.from_keywords(**keywords)

    @checked
    def solve(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        reward: RewardModel,
        seed: int = 0,
        repeat: int = 0,
        *,
        observer: DecodingObserver | None = None,
    ) -> list[Solution]:
        """Solve problems together; in float32 the result does not depend on which problems share a batch.

        Args:
            observer: listener that is told of every event, with engine "fast" only.

        Returns:
            One solution per problem, in order. `search` counts rollouts, proposals and their outcomes, and holds the
            anytime trajectory.

        Raises:
            TypeError: an observer of another class.
        """
        check_observer(observer)
        reward = reward.for_policy(policy)
        limits = {
            "max_new_tokens": self.settings.max_new_tokens,
            "prompt_twice": self.settings.variant.prompt_twice,
        }
        states = [start_state(problem, policy, reward, seed=seed, repeat=repeat, **limits) for problem in problems]
        with frozen(policy, reward):
            return solve_states(self.settings, states, policy, reward, observer)


NablaReasoner.__signature__ = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in NablaSettings.keywords().items()
    ]
)


def solve_states(
    settings: NablaSettings,
    states: Sequence[DecodingState],
    policy: Policy,
    reward: RewardModel,
    observer: DecodingObserver | None = None,
) -> list[Solution]:
    """Decode problems from their first states; return one solution per state, in order.

    Args:
        observer: listener of the fast engine.

    Raises:
        ValueError: an observer for the reference engine, which has no events.
    """
    if settings.engine == "reference":
        if observer is not None:
            raise ValueError("the reference engine cannot be observed. Use engine=fast, which gives the same numbers.")
        for state in states:
            ReferenceDecoder(settings, state, policy, reward).run()
    else:
        BatchedDecoder(settings, list(states), policy, reward, observer or DecodingObserver()).run()
    unscored = [state for state in states if state.reward is None]  # for the record: no decision needed it, no cost
    rewards, _ = scoring.rewards(
        reward, [state.reward_prompt for state in unscored], [state.tokens for state in unscored]
    )
    for state, value in zip(unscored, rewards, strict=True):
        state.reward = value
    return [to_solution(state, policy) for state in states]
