"""Scores of the candidates at visited positions by every reward form, for a trace that is shown.

A candidate stands in place of the current token, and all other tokens of the response that was current stay. With the
outcome form the score is r(y|x) of that response. The prefix form has r(y_≤l|x), l the position, which ends with the
candidate. The process form sums r(y_≤i|x) over i ≥ l. In the search the tokens after a new one are sampled again, so
that none of these is the reward of a proposal.
"""

from ..dto import gradient_passes
from ..dto.reward_forms import OUTCOME, PREFIX, PROCESS
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from .trace import Trace, Visit

WITHOUT_BACKWARD = {"reward_weight": 1.0, "nll_weight": 0.0, "terms": ("prefix",)}


def with_scores(trace: Trace, policy: Policy, reward: RewardModel) -> Trace:
    """Return the trace with the scores of all its candidates; reads each of them once by each of two passes."""
    prompts = policy.prompt_ids(trace.problem.messages), reward.prompt_ids(trace.problem.messages)
    sequences = []
    for visit in trace.visits:
        tokens = trace.responses[visit.response].tokens
        prefix, rest = tokens[: visit.position], tokens[visit.position + 1 :]
        for candidate in visit.candidates:
            ends = candidate.token in policy.eos_ids
            sequences.append(TokenSequence(*prompts, prefix, [candidate.token, *([] if ends else rest)]))
    by_outcome, by_token = (
        gradient_passes.evaluate(policy, reward, sequences, **WITHOUT_BACKWARD, reward_form=form)
        for form in (OUTCOME, PROCESS)
    )
    scores = [
        {
            OUTCOME: whole.reward,
            PROCESS: parts.prefix_rewards.sum().item(),
            PREFIX: parts.prefix_rewards[0].item(),
        }
        for whole, parts in zip(by_outcome, by_token, strict=True)
    ]
    return trace._replace(visits=[_scored(visit, scores) for visit in trace.visits])


def _scored(visit: Visit, scores: list[dict[str, float]]) -> Visit:
    """Return a visit whose candidates have the next scores of the list, which are removed from it."""
    return visit._replace(candidates=[candidate._replace(scores=scores.pop(0)) for candidate in visit.candidates])
