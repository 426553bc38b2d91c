"""∇-Reasoner: DTO inside the decoding loop (Alg. 1 and 3, arXiv 2603.04948); its settings, and the way in.

Engine "fast" advances many problems together (`lockstep`); engine "reference" is the plain loop (`oracle`).
"""

from collections.abc import Sequence

from ..dto import equal_kl_moves, objective
from ..dto.gradients import TERMS
from ..dto.settings import ENGINES, UPDATES, DTOSettings
from ..engine import scoring
from ..engine.sampling import Sampling
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from . import batched, reference
from .settings import ACCEPTANCES, VARIANTS
from .state import start_state, to_solution


class NablaReasoner:
    """The paper's method; with `use_gradient=False` its null arm: same gate, same resampling, same test, no DTO.

    Args:
        max_rollouts: N_max >= 1, the first rollout included.
        num_passes: left-to-right passes until N_max is used. 1 is the paper's algorithm.
        num_iterations, step_size, min_step_ratio, ste_temperature, parameter, gradient_caching, flip:
            see `descent.Descent`; flips of flip "gumbel" are of tokens drawn at `rollout_temperature`.
        reward_weight, nll_weight: λ and ν of Eq. 2, both >= 0.
        terms: parts of ∂L/∂y that DTO (and the second gate) sees, of `gradients.TERMS`.
        move: "gradient", or in place of DTO's a move of equal KL: "sharpen" or "random" (`displacement.replaced`).
        acceptance: "higher": a proposal stays if its reward is; "always": without that test.
        confidence_threshold: in (0, 1]; positions more certain than this are committed unseen.
        entropy_threshold: ε_ent in nats (variant "paper").
        grad_threshold: ε_grad >= 0; positions with a smaller gradient are committed. 0 switches the gate off.
        rollout_temperature, rollout_top_p, rollout_top_k: how rollouts are drawn.
        resample_temperature, resample_top_p, resample_top_k: how a token is drawn from its optimised logits.
        max_new_tokens: length limit of a response.
        variant: "fixed", "release" or "paper" (see `walk.Variant`).
        selection, update: replace the variant's own choice; None keeps it.
        engine: "fast", or "reference": the plain algorithm, one problem at a time, nothing shared.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        *,
        max_rollouts: int = 8,
        num_passes: int = 1,
        num_iterations: int = 20,
        step_size: float = 0.01,
        min_step_ratio: float = 0.1,
        ste_temperature: float = 1.0,
        parameter: str = "logits",
        gradient_caching: bool = True,
        flip: str = "argmax",
        reward_weight: float = 1.0,
        nll_weight: float = 0.001,
        terms: Sequence[str] = TERMS,
        move: str = "gradient",
        acceptance: str = "higher",
        confidence_threshold: float = 0.97,
        entropy_threshold: float = 0.25,
        grad_threshold: float = 8.0,
        rollout_temperature: float = 0.6,
        rollout_top_p: float = 0.95,
        rollout_top_k: int = 0,
        resample_temperature: float = 0.5,
        resample_top_p: float = 0.95,
        resample_top_k: int = 0,
        max_new_tokens: int = 1024,
        use_gradient: bool = True,
        variant: str = "fixed",
        selection: str | None = None,
        update: str | None = None,
        engine: str = "fast",
    ):
        for name, value in (
            ("max_rollouts (N_max)", max_rollouts),
            ("num_passes", num_passes),
            ("max_new_tokens", max_new_tokens),
        ):
            if value < 1:
                raise ValueError(f"{name} must be >= 1; got {value}.")
        if not 0 < confidence_threshold <= 1:
            raise ValueError(f"confidence_threshold must be in (0, 1]; got {confidence_threshold}.")
        if min(entropy_threshold, grad_threshold) < 0:
            raise ValueError(f"thresholds must be >= 0; got entropy {entropy_threshold}, gradient {grad_threshold}.")
        for name, value, valid in (
            ("variant", variant, VARIANTS),
            ("engine", engine, ENGINES),
            ("move", move, equal_kl_moves.MOVES),
            ("acceptance", acceptance, ACCEPTANCES),
        ):
            if value not in valid:
                raise ValueError(f"{name} must be one of {', '.join(valid)}; got {value!r}.")
        objective.check_terms(terms)
        objective.check_weights(reward_weight, nll_weight)
        self.max_rollouts, self.num_passes, self.max_new_tokens = max_rollouts, num_passes, max_new_tokens
        self.descent = DTOSettings(
            parameter,
            num_iterations,
            step_size,
            min_step_ratio,
            ste_temperature,
            gradient_caching,
            flip,
            rollout_temperature,
        ).check()
        self.weights, self.terms = {"reward_weight": reward_weight, "nll_weight": nll_weight}, tuple(terms)
        self.move, self.acceptance = move, acceptance
        self.confidence_threshold, self.entropy_threshold = confidence_threshold, entropy_threshold
        self.grad_threshold, self.use_gradient = grad_threshold, use_gradient
        self.rollout_sampling = Sampling(rollout_temperature, rollout_top_p, rollout_top_k).check()
        self.resample_sampling = Sampling(resample_temperature, resample_top_p, resample_top_k).check()
        self.variant, self.engine = VARIANTS[variant], engine
        if selection is not None:
            self.variant = self.variant._replace(selection=selection)
        if update is not None:
            self.variant = self.variant._replace(update=update)
        if self.variant.selection not in ("confidence", "entropy") or self.variant.update not in UPDATES:
            raise ValueError(f"selection must be confidence or entropy, update first or all; got {self.variant}.")

    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Solve problems together; the result does not depend on which problems share a batch.

        Returns:
            One solution per problem, in order. `search` counts rollouts, proposals and their fate, and holds the
            anytime trajectory.
        """
        reward.check_vocabulary(policy)
        walks = [start_state(problem, policy, reward, self.max_new_tokens) for problem in problems]
        if self.engine == "reference":
            for each in walks:
                reference.decode_reference(self, each, policy, reward, seed, repeat)
        else:
            batched.BatchedDecoder(self, walks, policy, reward, seed, repeat).run()
        unscored = [each for each in walks if each.reward is None]  # for the record only: no decision read it, no cost
        values, _ = scoring.rewards(reward, [w.reward_prompt for w in unscored], [w.tokens for w in unscored])
        for each, value in zip(unscored, values, strict=True):
            each.reward = value
        return [to_solution(each, policy) for each in walks]
