"""Expected tokens and decoding steps of a cell, by the way in which its method spends them.

P and L are tokens of prompt and response, k the responses that `answers` of a method counts. Per problem:

    samples     k responses of L tokens; if scored, the reward model reads the prompt and the distinct share of k L
    tree        the same, step by step; with value=rollout every new state is also completed
    particles   as `tree`
    rap         1.2 k responses: k are completed, and a new state draws further steps
    tpo         responses as `samples`, two critiques a round, and prompts that hold earlier responses
    chain       a first response, then ends of half its length
    langevin    a response, then gradients of the whole of it
    lockstep    a response that policy and reward model read together
    judge       a response of the reward model alone
    nabla       a response and its revisions (`revisions`); gradients from their positions on

What is typical of a task (`config.estimate`) was measured; the rules were checked against records of every method.
"""

import math
from collections.abc import Callable

from ..config.cell import Cell
from .gradient_work import langevin, nabla
from .work import Case, Decoding, Work, check_budget, expected_answers, typical

RAP_SHARE = 1.2  # tokens of RAP per completed response, in responses
TEMPLATE_TOKENS = 60  # of TPO's own words in each of its prompts


def case_of(cell: Cell, batch: int) -> Case:
    """Return what the rules need of a cell whose problems are solved `batch` at a time."""
    _, numbers = typical(cell)
    check_budget(cell.method)
    return Case(
        typical=numbers,
        length=min(numbers.response_tokens, cell.response_limit),
        limit=cell.response_limit,
        answers=expected_answers(cell.method) or 1,
        settings=cell.method.keywords(),
        cell=cell,
        batch=batch,
    )


def work(case: Case) -> Work:
    """Return the expected work of a cell."""
    return RULES[case.cell.method.work](case)


def _samples(case: Case) -> Work:
    decoded = case.answers * case.length
    scored = case.prompt + case.typical.distinct * decoded if case.answers > 1 else case.prompt + case.length
    waves = math.ceil(math.log2(case.answers + 1))  # prefixes that samples share are read before what follows
    return Work(
        decode=decoded,
        prefill=case.prompt,
        reward_forward=scored if case.cell.method.scored else 0.0,
        decodings=(case.side_by_side(case.batch * case.answers),),
        passes=1.0 + (waves if case.cell.method.scored else 0),
        kept_tokens=case.prompt,
    )


def _tree(case: Case) -> Work:
    """Return the work of Tree of Thoughts and of particle filters, whose rounds wait for the longest step."""
    sampled = _samples(case)
    (decoding,) = sampled.decodings
    rows = case.batch * case.answers
    waiting = 1 + case.cell.estimate.spread * math.sqrt(2 * math.log(rows))
    decoding = decoding._replace(steps=case.longest(case.batch) * waiting)
    paths = case.settings.get("breadth", case.answers) * case.length
    grown = sampled._replace(
        decodings=(decoding,),
        passes=1.0 + _steps(case),
        kept_tokens=case.prompt + paths + case.answers * case.length / _steps(case),
        padded=False,
    )
    if case.settings.get("value") != "rollout":
        return grown
    completed = sampled.decode * case.typical.distinct * _steps(case) / 2
    return grown._replace(
        decode=sampled.decode + completed,
        reward_forward=sampled.reward_forward + completed,
        decodings=(decoding, case.side_by_side(case.batch * completed / case.length)),
    )


def _steps(case: Case) -> float | int:
    """Return the steps of a response, about as many as it has pieces of 25 tokens and at least two."""
    return max(case.length / 25, 2.0)


def _rap(case: Case) -> Work:
    sampled = _samples(case)
    decoded = RAP_SHARE * sampled.decode
    rounds = case.side_by_side(case.batch)
    steps = case.answers * case.settings["num_proposals"] * case.length / _steps(case)  # all that stay in the tree
    return sampled._replace(
        decode=decoded,
        reward_forward=case.prompt + math.sqrt(case.typical.distinct) * decoded,
        decodings=(rounds.times(case.answers, RAP_SHARE),),
        passes=1.0 + 2 * case.answers,
        kept_tokens=case.prompt + min(steps + case.length, decoded),
        padded=False,
    )


def _tpo(case: Case) -> Work:
    rounds = case.settings["num_iterations"]
    sampled = case.settings["num_samples"]
    reply = min(case.cell.estimate.critique_tokens, case.settings["max_critique_tokens"])
    responses = sampled * (1 + rounds)
    prompts = 4 * case.length + 2 * reply + 3 * case.prompt + 3 * TEMPLATE_TOKENS  # critique, instructions, revision
    answered = case.side_by_side(case.batch * sampled)
    replied = Decoding(case.batch * reply, float(reply), case.batch)
    return Work(
        decode=responses * case.length + 2 * rounds * reply,
        prefill=case.prompt + rounds * prompts,
        reward_forward=(1 + rounds) * case.prompt + case.typical.distinct * responses * case.length,
        decodings=(answered.times(1 + rounds), replied.times(2 * rounds)),
        passes=1.0 + 3 * rounds + 3 * (1 + rounds),
        kept_tokens=case.prompt + case.length,
    )


def _chain(case: Case) -> Work:
    steps = case.answers - 1
    decoded = case.length * (1 + steps / 2)
    half = case.side_by_side(case.batch, 0.5)
    longest = half._replace(steps=max(case.longest(case.batch) * case.batch / (case.batch + 1), 1.0))
    return Work(
        decode=decoded,
        prefill=case.prompt + steps,
        reward_forward=case.prompt + math.sqrt(case.typical.distinct) * decoded,
        decodings=(case.side_by_side(case.batch), *([longest.times(steps)] if steps else [])),
        passes=2.0 * case.answers,
        kept_tokens=2 * (case.prompt + case.length),
    )


def _lockstep(case: Case) -> Work:
    both = case.likelihood
    scored_tokens = case.typical.uncertain
    exact = case.settings.get("scorer") == "exact"
    candidates = scored_tokens * (case.settings.get("num_candidates", 1) if exact else 1)
    return Work(
        decode=case.length,
        prefill=case.prompt,
        reward_forward=case.prompt + (0 if both else case.length + candidates),
        reward_backward=0 if both or exact else scored_tokens,
        reward_steps=case.length - 1 if both else 0,
        decodes="both" if both else "policy",
        decodings=(case.side_by_side(case.batch),),
        passes=2.0 if both else 2.0 + min(scored_tokens * case.batch, case.longest(case.batch)),  # one at a step
        row_steps=0 if both else candidates,
        kept_tokens=case.prompt,
    )


def _judge(case: Case) -> Work:
    return Work(
        decode=case.length,
        reward_forward=case.prompt,
        decodes="reward",
        decodings=(case.side_by_side(case.batch),),
        passes=1.0,
        kept_tokens=case.prompt,
    )


RULES: dict[str, Callable[[Case], Work]] = {
    "samples": _samples,
    "tree": _tree,
    "particles": _tree,
    "rap": _rap,
    "tpo": _tpo,
    "chain": _chain,
    "langevin": langevin,
    "lockstep": _lockstep,
    "judge": _judge,
    "nabla": nabla,
}
