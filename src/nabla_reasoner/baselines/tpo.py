"""Test-Time Preference Optimization (TPO; Li et al., 2025, arXiv 2501.12895).

In each round the policy compares the best and the worst response so far (the textual loss) and turns the comparison
into instructions (the textual gradient). New responses are sampled given the question, the best response and the
instructions.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import cost
from ..engine import scoring
from ..engine.generation import Rollout
from ..engine.sampling import Sampling
from ..engine.trajectory import SampleLog, seconds_share
from ..models.arguments import checked, checked_settings
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .sample_pool import KeyedSampler, check_counts, check_responses

CRITIQUE = """Two answers were given to one question. A grader preferred the first of them.

Question:
{question}

Preferred answer:
{best}

Other answer:
{worst}

Compare the two in a few sentences. Why is the preferred answer better? What is still wrong or missing in it? Which \
mistakes of the other answer must not be made again? Do not write a new answer."""
INSTRUCTIONS = """An answer to a question has been reviewed.

Question:
{question}

Answer:
{best}

Review:
{critique}

Turn the review into a short list of concrete instructions for rewriting the answer. Do not write the new answer \
itself."""
REVISION = """{question}

Draft of an answer:
{best}

Instructions for improving the draft:
{instructions}

Write the improved answer in full, in the form that the question asks for, without mentioning draft or instructions."""


@dataclass
class _Case:
    """One problem, and the log of all responses to it."""

    problem: Problem
    reward_prompt: list[int]
    log: SampleLog = field(default_factory=SampleLog)


@checked_settings
class TPO:
    """Rounds of critique, instructions and revision; for policies that follow instructions.

    A reward is always that of a response to the original question. The answer is the response of highest reward, ties
    going to the earlier one.

    Differs from the paper: the prompts are our own.

    Args:
        num_samples: responses sampled in each round, >= 2.
        num_iterations: rounds of revision after the first round, >= 1.
        max_critique_tokens: length limit of a critique and of instructions, >= 1.
        temperature, top_p, top_k: sampling of tokens, in responses, critiques and instructions.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(
        self,
        *,
        num_samples: int = 4,
        num_iterations: int = 1,
        max_critique_tokens: int = 256,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        if num_samples < 2:
            raise ValueError(f"num_samples must be >= 2, a best and a worst response; got {num_samples}.")
        check_responses({"num_samples": num_samples})
        check_counts(
            {
                "num_iterations": num_iterations,
                "max_critique_tokens": max_critique_tokens,
                "max_new_tokens": max_new_tokens,
            }
        )
        self.num_samples = num_samples
        self.num_iterations = num_iterations
        self.max_critique_tokens = max_critique_tokens
        self.max_new_tokens = max_new_tokens
        self.sampling = Sampling(temperature, top_p, top_k).check()

    def check_prompts(self, problems: Sequence[Problem], policy: Policy) -> None:
        """Raise ValueError if a request would exceed the policy's context with replies at their length limits in it."""
        answer, critique = self.max_new_tokens, self.max_critique_tokens
        stages = {  # template, length of the replies in it, limit of the reply to it
            "critique": (CRITIQUE, 2 * answer, critique),
            "instructions": (INSTRUCTIONS, answer + critique, critique),
            "revision": (REVISION, answer + critique, answer),
        }
        written = dict.fromkeys(("best", "worst", "critique", "instructions"), "x")  # parts what stands around a reply
        for problem in problems:
            for stage, (template, replies, limit) in stages.items():
                length = len(_request_ids(policy, template.format(question=problem.question, **written))) + replies
                _check_fits(policy, problem, f"{stage}, with replies of full length,", length, limit)

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order; responses do not depend on which problems share a batch.

        Raises:
            ValueError: a prompt (question, critique, instructions or revision) beyond the policy's context, or a
                response beyond the reward model's.
        """
        reward = reward.for_policy(policy)
        sampler = KeyedSampler(policy, self.sampling, seed, repeat)
        cases = [_Case(problem, reward.prompt_ids(problem.messages)) for problem in problems]
        for case in cases:
            reward.check_length(len(case.reward_prompt), self.max_new_tokens)
        self.check_prompts(problems, policy)
        self._respond(sampler, reward, cases, [problem.question for problem in problems], "round 0")
        for number in range(1, self.num_iterations + 1):
            texts = [_extremes(case, policy, self.max_new_tokens) for case in cases]
            for key, template in (("critique", CRITIQUE), ("instructions", INSTRUCTIONS)):
                requests = [template.format(**text) for text in texts]
                replies = self._ask(sampler, cases, requests, f"round {number} {key}")
                for text, reply in zip(texts, replies, strict=True):
                    text[key] = reply
            requests = [REVISION.format(**text) for text in texts]
            self._respond(sampler, reward, cases, requests, f"round {number}")
        return [case.log.solution(case.problem, policy) for case in cases]

    def _ask(self, sampler: KeyedSampler, cases: Sequence[_Case], requests: Sequence[str], stage: str) -> list[str]:
        """Return the policy's reply to one request per problem: a critique or instructions."""
        begin = time.perf_counter()
        replies = _sample(sampler, cases, requests, stage, 1, self.max_critique_tokens)
        share = seconds_share(begin, len(cases))
        for case, (reply,) in zip(cases, replies, strict=True):
            case.log.trajectory.charge(cost.decoding(sampler.policy.size, reply.decoded), share)
        texts = [sampler.policy.decode(reply.token_ids).strip() for (reply,) in replies]
        return [_within(text, sampler.policy, self.max_critique_tokens) for text in texts]

    def _respond(
        self, sampler: KeyedSampler, reward: RewardModel, cases: Sequence[_Case], requests: Sequence[str], stage: str
    ) -> None:
        """Sample responses to one request per problem, score them as responses to the question, and record them."""
        begin = time.perf_counter()
        policy = sampler.policy
        rollouts = _sample(sampler, cases, requests, stage, self.num_samples, self.max_new_tokens)
        values, costs = scoring.rewards(
            reward,
            [case.reward_prompt for case in cases for _ in range(self.num_samples)],
            [rollout.token_ids for responses in rollouts for rollout in responses],
            pools=[number for number in range(len(cases)) for _ in range(self.num_samples)],
        )
        share = seconds_share(begin, len(values))
        results = iter(zip(values, costs, strict=True))
        for case, responses in zip(cases, rollouts, strict=True):
            log = case.log
            for response in responses:
                value, scoring_cost = next(results)
                log.trajectory.charge(cost.decoding(policy.size, response.decoded), scoring_cost, share)
                log.add(response.token_ids, value)
                log.record(policy)


def _extremes(case: _Case, policy: Policy, limit: int) -> dict[str, str]:
    """Return the question, the best and the worst response so far; among equal ones, the first and the last.

    Args:
        limit: largest number of tokens of a response.
    """
    samples = case.log.samples
    worst = min(range(len(samples)), key=lambda i: (samples[i].reward, -i))
    return {
        "question": case.problem.question,
        "best": _within(policy.decode(case.log.best_sample.token_ids), policy, limit),
        "worst": _within(policy.decode(samples[worst].token_ids), policy, limit),
    }


def _within(text: str, policy: Policy, limit: int) -> str:
    """Return a reply's text, cut where it would be read as more than `limit` tokens.

    A reply is decoded and encoded again, which may lengthen it: a byte that is no UTF-8 becomes three tokens.
    """
    whole = ids = policy.tokenizer.encode(text, add_special_tokens=False)
    kept = limit
    while len(ids) > limit:  # the cut may part a character, which is then read as three tokens again
        text = policy.tokenizer.decode(whole[:kept])
        ids = policy.tokenizer.encode(text, add_special_tokens=False)
        kept -= 1
    return text


def _sample(
    sampler: KeyedSampler, cases: Sequence[_Case], requests: Sequence[str], stage: str, count: int, limit: int
) -> list[list[Rollout]]:
    """Return `count` replies of at most `limit` tokens to each request; one prefill per request is charged."""
    policy = sampler.policy
    prompts = [_request_ids(policy, request) for request in requests]
    for case, prompt in zip(cases, prompts, strict=True):
        _check_fits(policy, case.problem, stage, len(prompt), limit)
        case.log.trajectory.charge(cost.prefill(policy.size, cost.one_pass(0, len(prompt))))
    return sampler.draw([case.problem for case in cases], prompts, f"{stage} sample", count, limit)


def _request_ids(policy: Policy, request: str) -> list[int]:
    return policy.prompt_ids([{"role": "user", "content": request}])


def _check_fits(policy: Policy, problem: Problem, stage: str, length: int, limit: int) -> None:
    """Raise ValueError if a prompt of `length` tokens and a reply of `limit` exceed the policy's context."""
    if length + limit > policy.context:
        raise ValueError(
            f"TPO's prompt of {stage} and its reply must fit the context of {policy.context} tokens of "
            f"{policy.name}; got {length} + {limit} for problem {problem.id}. Lower max_new_tokens or "
            "max_critique_tokens, or use a policy with a longer context."
        )
