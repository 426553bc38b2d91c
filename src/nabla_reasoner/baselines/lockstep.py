"""Decoding of one response per problem by several models that read the same tokens in lockstep."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import cost
from ..cost import Cost
from ..engine import generation, scoring
from ..engine.decoding_cache import DecodingCache, read_tokens
from ..engine.kv_cache import PrefixCache
from ..engine.numerics import NonFiniteError, at_least_float32, first_non_finite
from ..engine.trajectory import SampleLog
from ..models.language_models import Policy, RewardModel
from ..serving.rollouts import check_local
from ..types import Problem, Solution


class StepReader:
    """A language model that reads a batch of responses token by token.

    Attributes:
        hidden: by row, the hidden state that predicts the next token.
    """

    def __init__(self, model: Policy, prompts: Sequence[list[int]]):
        """Read the prompts, one per row.

        Raises:
            ValueError: a server samples for this model.
        """
        check_local(model, "chooses every token from the policy's own logits")
        self.model = model
        rows = list(range(len(prompts)))
        store = PrefixCache(len(prompts))
        hidden, _ = generation.prefill(model, store, dict(enumerate(prompts)))
        self.hidden: Float[Tensor, "rows hidden"] = torch.stack([hidden[row] for row in rows])
        self.cache = DecodingCache(store, len(prompts))
        self.cache.admit(rows, store, rows)

    def logits(self) -> Float[Tensor, "rows vocab"]:
        """Return the next-token logits of each row, in at least float32.

        Raises:
            NonFiniteError: NaN or infinite logits in some row.
        """
        logits = at_least_float32(self.model.logits(self.hidden))
        if (row := first_non_finite(logits)) is not None:
            raise NonFiniteError(f"logits of {self.model.name} after {self.cache.lengths[row]} tokens")
        return logits

    def read(self, tokens: Int[Tensor, " rows"]) -> None:
        """Read one more token in every row."""
        self.hidden = read_tokens(self.model, self.cache, tokens.to(self.model.device))

    def keep(self, rows: Sequence[int]) -> None:
        """Remove all rows but these."""
        self.cache.select(rows)
        self.hidden = self.hidden[list(rows)]


@torch.no_grad()
def decode(
    policy: Policy,
    readers: Sequence[StepReader],
    choose: Callable[[list[int], list[list[int]]], Int[Tensor, " rows"]],
    max_new_tokens: int,
) -> list[list[int]]:
    """Decode one response per row until the policy's end-of-response token or the length limit.

    Every reader reads each token but the last of a response.

    Args:
        readers: models that have read the prompts, the same rows in each.
        choose: returns the next token of the rows that go on, from their numbers and the responses of all rows so far.
    """
    responses: list[list[int]] = [[] for _ in range(len(readers[0].hidden))]
    active = list(range(len(responses)))
    while True:
        tokens = choose(active, responses)
        for row, token in zip(active, tokens.tolist(), strict=True):
            responses[row].append(token)
        going = [
            place
            for place, row in enumerate(active)
            if responses[row][-1] not in policy.eos_ids and len(responses[row]) < max_new_tokens
        ]
        if not going:
            return responses
        for reader in readers if len(going) < len(active) else ():
            reader.keep(going)
        active = [active[place] for place in going]
        for reader in readers:
            reader.read(tokens[going])


def judge_cost(reward: RewardModel, prompt_length: int, response_length: int, predictions: int) -> Cost:
    """Return the cost of a likelihood reward's models that take part in decoding a response.

    They read the prompt in one pass, then every token but the last one by one.

    Args:
        predictions: number of tokens that they predict.
    """
    reads = cost.decoded(prompt_length, response_length).with_outputs(predictions)
    return cost.total(
        [
            cost.scoring(reward.size, cost.one_pass(0, prompt_length)),
            cost.reward_steps(reward.size, reads),
        ]
    )


def decoding_costs(
    policy: Policy,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    reward_costs: Sequence[Cost],
    share: Cost,
) -> list[Cost]:
    """Return the cost of each problem: the policy reads its prompt and decodes its response, and what is added to that.

    Args:
        reward_costs: spent on the reward model, by problem.
        share: each problem's share of the time.
    """
    return [
        cost.total(
            [
                cost.prefill(policy.size, cost.one_pass(0, len(prompt))),
                cost.decoding(policy.size, cost.decoded(len(prompt), len(tokens))),
                spent,
                share,
            ]
        )
        for prompt, tokens, spent in zip(prompts, responses, reward_costs, strict=True)
    ]


def solutions(
    problems: Sequence[Problem],
    policy: Policy,
    reward: RewardModel,
    responses: Sequence[list[int]],
    costs: Sequence[Cost],
    counts: Sequence[dict[str, int]] | None = None,
) -> list[Solution]:
    """Return one response per problem as its solution.

    The reward of the response is for the record: no decision needed it, so that it has no cost.

    Args:
        costs: everything spent on each problem.
        counts: a method's own counts by problem.
    """
    values, _ = scoring.rewards(reward, [reward.prompt_ids(problem.messages) for problem in problems], responses)
    results = []
    for number, (problem, tokens, value) in enumerate(zip(problems, responses, values, strict=True)):
        log = SampleLog()
        log.trajectory.charge(costs[number])
        log.add(tokens, value)
        log.record(policy)
        results.append(log.solution(problem, policy, **(counts[number] if counts else {})))
    return results
