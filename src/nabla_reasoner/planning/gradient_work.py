"""Expected work of the methods that evaluate gradients: ∇-Reasoner in all its forms, and discrete Langevin sampling."""

import math

from ..decoding import pauses
from .revisions import PASSES, Revisions, expected
from .work import Case, Decoding, Work

SPREAD = 0.3  # standard deviation of a response's uncertain tokens over their mean: 0.299 on GSM8K, 1,319 problems


def nabla(case: Case) -> Work:
    settings, estimate = case.settings, case.cell.estimate
    if settings["engine"] != "fast":  # reads both models at every iteration that changes a token
        raise ValueError(f"method.engine must be fast for a plan; got {settings['engine']}. Leave method.engine out.")
    proposals = case.typical.proposals
    if settings["use_gradient"] and not case.likelihood:
        proposals *= estimate.classifier_proposals_ratio
    revised = expected(
        case.length,
        proposals,
        max_rollouts=settings["max_rollouts"],
        num_passes=settings["num_passes"],
        later_passes=estimate.later_passes,
        batch=case.batch,
    )
    if _pauses(case):  # nothing is decoded that a later revision replaces
        revised = revised._replace(tokens=revised.count)
    tested = settings["acceptance"] == "higher"
    common = Work(
        decode=case.length + revised.tokens,
        prefill=case.prompt + revised.count,
        reward_forward=revised.tokens if tested else 0.0,
        decodings=_paused(case, case.length + revised.tokens) if _pauses(case) else _whole(case, revised),
        passes=1.0 + revised.rounds * tested,
        kept_tokens=(2 if tested else 1) * (case.prompt + case.length),
    )
    if settings["use_gradient"]:
        unlimited = proposals * sum(
            estimate.later_passes**number for number in range(min(settings["num_passes"], PASSES))
        )
        visits = case.typical.uncertain * settings["num_passes"] * min(revised.count / unlimited, 1.0)
        common = common._replace(row_steps=settings["num_iterations"] * visits)
    if settings["use_gradient"] or settings["grad_threshold"] > 0:  # the null arm selects tokens by the gradient too
        return _with_gradients(case, common, revised)
    reads = revised.any * (case.prompt + case.length) * tested  # of the first response, when a proposal is tested
    return common._replace(reward_forward=common.reward_forward + reads, rows=1.0)


def _pauses(case: Case) -> bool:
    return case.settings["rollout_end"] == "uncertain"


def _whole(case: Case, revised: Revisions) -> tuple[Decoding, ...]:
    """Return the decoding of the first responses, and of the rollouts after their revisions."""
    first = case.side_by_side(case.batch)
    tail = case.longest(case.batch) / case.length
    again = Decoding(case.batch * revised.tokens, max(revised.steps * tail, revised.rounds), case.batch)
    return (first, again) if revised.rounds else (first,)


def _paused(case: Case, tokens: float | int) -> tuple[Decoding, Decoding]:
    """Return the decoding of rollouts that pause, and the reading of all weights for the few tokens at their pauses.

    A batch takes as many rounds as the response with the most pauses has. Arithmetic of the tokens at pauses counts
    with the passes.

    Args:
        tokens: decoded tokens per problem.
    """
    share = min(case.typical.uncertain / case.length, 1.0)
    most = 1 + SPREAD * math.sqrt(2 * math.log(case.batch))
    rounds = max(min(case.length * pauses.pauses(share) * most, case.limit), 1.0)
    steps = rounds * pauses.decoding_steps(share, case.batch)
    return (
        Decoding(case.batch * tokens, max(steps, 1.0), min(case.batch, case.cell.decode_rows)),
        Decoding(0.0, rounds, 0.0, readers="both" if case.likelihood else "policy"),
    )


def _with_gradients(case: Case, common: Work, revised: Revisions) -> Work:
    """Add the gradient evaluations of ∇-Reasoner to what it spends without them."""
    settings, estimate = case.settings, case.cell.estimate
    rows = case.length if settings["update"] == "all" or settings["variant"] == "paper" else 1.0
    read = common._replace(reward_forward=common.reward_forward + case.prompt + case.length, gradient=True, rows=rows)
    if settings["reward_form"] == "prefix":  # a token at a time: a likelihood's own prediction of it, no backward pass
        scored_tokens = 0.0 if case.likelihood else case.typical.uncertain
        at_pauses = case.likelihood and _pauses(case)  # counted by `_paused`
        return read._replace(
            reward_forward=read.reward_forward + scored_tokens,
            reward_backward=scored_tokens,
            passes=read.passes + (0.0 if at_pauses else case.typical.uncertain),
            gradient=not case.likelihood,
            rows=1.0,
        )
    starts = 1 + (settings["num_passes"] - 1) / 3  # a later pass begins with an evaluation of its own, but not always
    if settings["gradient_caching"]:
        first, later = 0.85 * case.length * starts, estimate.gradients_per_proposal * revised.tokens
        rounds = starts + estimate.gradients_per_proposal * revised.rounds
    else:
        evaluations = settings["num_iterations"] * case.typical.uncertain * settings["num_passes"]
        first, later = 0.0, evaluations * case.length / 2
        rounds = evaluations
    policy_tokens = first + later if settings["nll_weight"] else 0.0
    return read._replace(
        policy_forward=policy_tokens,
        policy_backward=policy_tokens,
        reward_forward=read.reward_forward + later,
        reward_backward=first + later,
        passes=read.passes + 3 * rounds,
    )


def langevin(case: Case) -> Work:
    evaluations = 1 + case.cell.estimate.langevin_change_share * (case.answers - 1)
    read = evaluations * case.length
    return Work(
        decode=case.length,
        prefill=case.prompt,
        policy_forward=case.prompt + read,
        policy_backward=read,
        reward_forward=case.prompt + read,
        reward_backward=read,
        decodings=(case.side_by_side(case.batch),),
        passes=1.0 + 3.0 * case.answers,
        kept_tokens=case.prompt,
        gradient=True,
        rows=case.length,
    )
