"""Reward forms: where in the response the reward model is read, and which of these reads act on a token.

    outcome   r(y|x), read once at the end of the closed response (Eq. 2, arXiv 2603.04948)
    process   R(y|x) = Σ_l r(y_≤l|x) (App. B.2); its gradient at token l is Σ_{i≥l} ∂r(y_≤i|x)/∂y_l
    prefix    the process form's own term alone, i = l: ∂r(y_≤l|x)/∂y_l

l runs over the tokens of the rollout, a sampled end token included. Committed tokens are not counted, and neither are
tokens that only close a response for the outcome form. A score head is read at token l. A likelihood reward has
r(y_≤l|x) = log π_strong(y_≤l|x), so its own term is log π_strong(·|y_<l, x), which needs no backward pass.

In the prefix form a token answers for nothing after it. The policy's likelihood of the later tokens is left out too,
and ∂L/∂y_l = -λ ∂r(y_≤l|x)/∂y_l - ν log π(·|y_<l, x). This is not the gradient of one scalar: the value reported is
that of the process form, L = Σ_l -λ r(y_≤l|x) - ν log π(y_l|y_<l, x), with l over the rows that are updated.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ..models.language_models import RewardModel

REWARD_FORMS = ("outcome", "process", "prefix")
OUTCOME, PROCESS, PREFIX = REWARD_FORMS
TERMS = ("prefix", "postfix", "reward_prefix", "reward_postfix")  # parts of ∂L/∂y
OWN_TERMS = ("prefix", "reward_prefix")  # those that the prefix form has


class Objective(NamedTuple):
    """What is minimised, and the parts of its gradient that are used.

    Attributes:
        reward_weight, nll_weight: λ and ν.
        terms: parts of ∂L/∂y that are used, of `TERMS`. At token l, "prefix" is -ν log π(·|y_<l), "postfix" the effect
            on the likelihood of later tokens, "reward_prefix" the own term -λ ∂r(y_≤l)/∂y_l and "reward_postfix" the
            rest of the reward's gradient. An outcome score is read after all tokens, so it has no own term.
        reward_form: one of `REWARD_FORMS`.
    """

    reward_weight: float | int
    nll_weight: float | int
    terms: Sequence[str] = TERMS
    reward_form: str = OUTCOME

    def uses(self, term: str) -> bool:
        """Return whether a part of the gradient is used, exists in this form and has a weight above 0."""
        weight = self.reward_weight if term.startswith("reward") else self.nll_weight
        return term in used_terms(self.terms, self.reward_form) and weight > 0

    @property
    def policy_backward(self) -> bool:
        """Whether ∂L/∂y needs a backward pass of the policy."""
        return self.uses("postfix")

    def reward_backward(self, reward: RewardModel) -> bool:
        """Return whether ∂L/∂y needs a backward pass of the reward model."""
        own_term = reward.has_score_head and self.reward_form != OUTCOME and self.uses("reward_prefix")
        return own_term or self.uses("reward_postfix")


def used_terms(terms: Sequence[str], reward_form: str) -> tuple[str, ...]:
    """Return the given parts of the gradient that the form has."""
    return tuple(term for term in terms if reward_form != PREFIX or term in OWN_TERMS)
