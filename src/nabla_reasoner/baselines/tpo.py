"""TPO: the policy revises its answers by criticising them in words, guided by the reward model.

Test-Time Preference Optimization (Li et al., 2025, arXiv 2501.12895). A round, per problem: the best and the worst
response so far are compared in words (the textual loss), the comparison becomes instructions (the textual gradient),
and new responses are drawn from the question with the best response and the instructions.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import cost
from ..cost import Cost
from ..engine import generation, scoring
from ..engine.generation import Rollout
from ..engine.sampling import Sampling, keyed_uniforms
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution

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
    """One problem on its way: all responses with their rewards, in the order drawn, and what was spent."""

    problem: Problem
    reward_prompt: list[int]
    spent: Cost = field(default_factory=Cost)
    responses: list[Rollout] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)  # index of the best of the first n responses
    trajectory: list[dict[str, Any]] = field(default_factory=list)

    def charge(self, *spent: Cost) -> None:
        self.spent = cost.total([self.spent, *spent])


class TPO:
    """Rounds of critique, instructions and revision; for policies that follow instructions.

    Rewards are always those of a response to the original question. The answer is the response of highest reward seen,
    ties going to the earlier.

    Differs from the paper: prompts in words of our own.

    Args:
        num_samples: responses drawn in each round, >= 2.
        num_iterations: rounds of revision behind the first, >= 1.
        max_critique_tokens: length limit of a critique and of instructions, >= 1.
        temperature, top_p, top_k: how everything is drawn.
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
        for name, value in (
            ("num_iterations", num_iterations),
            ("max_critique_tokens", max_critique_tokens),
            ("max_new_tokens", max_new_tokens),
        ):
            if value < 1:
                raise ValueError(f"{name} must be >= 1; got {value}.")
        self.num_samples, self.num_iterations = num_samples, num_iterations
        self.max_critique_tokens, self.max_new_tokens = max_critique_tokens, max_new_tokens
        self.sampling = Sampling(temperature, top_p, top_k).check()

    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """One solution per problem, in order; responses do not depend on which problems share a batch.

        Raises:
            ValueError: a prompt (of a question, critique, instructions or revision) beyond the policy's context.
        """
        reward.check_vocabulary(policy)
        writer = _Writer(policy, self.sampling, seed, repeat)
        cases = [_Case(problem, reward.prompt_ids(problem.messages)) for problem in problems]
        self._respond(writer, reward, cases, [problem.question for problem in problems], "round 0")
        for number in range(1, self.num_iterations + 1):
            texts = [self._extremes(case, policy) for case in cases]
            for key, template in (("critique", CRITIQUE), ("instructions", INSTRUCTIONS)):
                asked = [template.format(**own) for own in texts]
                for own, reply in zip(texts, self._ask(writer, cases, asked, f"round {number} {key}"), strict=True):
                    own[key] = reply
            asked = [REVISION.format(**own) for own in texts]
            self._respond(writer, reward, cases, asked, f"round {number}")
        return [_solution(case, policy) for case in cases]

    def _extremes(self, case: _Case, policy: Policy) -> dict[str, str]:
        """The question with the best and the worst response so far; of equal ones the earlier is the best."""
        best = case.chosen[-1]
        worst = min(range(len(case.rewards)), key=lambda i: (case.rewards[i], -i))
        text = [policy.decode(case.responses[i].token_ids) for i in (best, worst)]
        return {"question": case.problem.question, "best": text[0], "worst": text[1]}

    def _ask(self, writer: "_Writer", cases: Sequence[_Case], asked: Sequence[str], stage: str) -> list[str]:
        """One reply of the policy to each text."""
        begin = time.perf_counter()
        drawn = writer.draw(cases, asked, stage, 1, self.max_critique_tokens)
        seconds = (time.perf_counter() - begin) / len(cases)
        for case, (reply,) in zip(cases, drawn, strict=True):
            case.charge(cost.decoding(writer.policy.parameters, len(reply.token_ids)), Cost(seconds=seconds))
        return [writer.policy.decode(reply.token_ids).strip() for (reply,) in drawn]

    def _respond(
        self, writer: "_Writer", reward: RewardModel, cases: Sequence[_Case], asked: Sequence[str], stage: str
    ) -> None:
        """Draw responses to each text, score them as responses to the question, and enter them."""
        begin = time.perf_counter()
        drawn = writer.draw(cases, asked, stage, self.num_samples, self.max_new_tokens)
        values, spent = scoring.rewards(
            reward,
            [case.reward_prompt for case in cases for _ in range(self.num_samples)],
            [response.token_ids for own in drawn for response in own],
        )
        seconds = (time.perf_counter() - begin) / len(values)
        results = iter(zip(values, spent, strict=True))
        for case, own in zip(cases, drawn, strict=True):
            for response in own:
                value, scored = next(results)
                decoded = cost.decoding(writer.policy.parameters, len(response.token_ids))
                case.charge(decoded, scored, Cost(seconds=seconds))
                _enter(case, response, value, writer.policy)


class _Writer:
    """The policy as author of everything: responses, critiques, instructions."""

    def __init__(self, policy: Policy, sampling: Sampling, seed: int, repeat: int):
        self.policy, self.sampling, self.seed, self.repeat = policy, sampling, seed, repeat

    def draw(
        self, cases: Sequence[_Case], asked: Sequence[str], stage: str, count: int, limit: int
    ) -> list[list[Rollout]]:
        """`count` continuations of a chat that asks each text; a prompt is read once for all of them."""
        prompts = [self.policy.prompt_ids([{"role": "user", "content": text}]) for text in asked]
        for case, prompt in zip(cases, prompts, strict=True):
            if len(prompt) + limit > self.policy.context:
                raise ValueError(
                    f"TPO's prompt of {stage} and its reply must fit the context of {self.policy.context} tokens of "
                    f"{self.policy.name}; got {len(prompt)} + {limit} for problem {case.problem.id}. Lower "
                    "max_new_tokens or max_critique_tokens."
                )
            case.charge(cost.prefill(self.policy.parameters, len(prompt)))
        noise = [
            keyed_uniforms(self.seed, case.problem.id, self.repeat, f"{stage} sample {k}", limit)
            for case in cases
            for k in range(count)
        ]
        prefixes = [prompt for prompt in prompts for _ in range(count)]
        drawn = generation.sample(self.policy, prefixes, noise, self.sampling, [limit] * len(prefixes))
        return [drawn[i : i + count] for i in range(0, len(drawn), count)]


def _enter(case: _Case, response: Rollout, value: float, policy: Policy) -> None:
    """Add a scored response and write down the best so far."""
    case.responses.append(response)
    case.rewards.append(value)
    better = not case.chosen or value > case.rewards[case.chosen[-1]]
    case.chosen.append(len(case.rewards) - 1 if better else case.chosen[-1])
    best = case.responses[case.chosen[-1]]
    case.trajectory.append(
        {
            "rollouts": len(case.responses),
            "model_calls": case.spent.model_calls,
            "flops": case.spent.flops,
            "seconds": case.spent.seconds,
            "response": policy.decode(best.token_ids),
            "finished": best.finished,
        }
    )


def _solution(case: _Case, policy: Policy) -> Solution:
    best, count = case.chosen[-1], len(case.responses)
    changes = sum(before != after for before, after in zip(case.chosen, case.chosen[1:], strict=False))
    return Solution(
        problem_id=case.problem.id,
        response=policy.decode(case.responses[best].token_ids),
        token_ids=case.responses[best].token_ids,
        reward=case.rewards[best],
        cost=case.spent._replace(peak_bytes=cost.peak_bytes(policy.device)),
        search={
            "rollouts": count,
            "proposed": count - 1,
            "accepted": changes,
            "rejected": count - 1 - changes,
            "finished": case.responses[best].finished,
            "trajectory": case.trajectory,
            "samples": [
                {"response": policy.decode(own.token_ids), "finished": own.finished, "reward": value}
                for own, value in zip(case.responses, case.rewards, strict=True)
            ],
        },
    )
