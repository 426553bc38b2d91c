"""Baselines that decode from a likelihood reward's own model: alone, or mixed with the policy.

They measure how much accuracy comes from the reward's language model itself, without any search.
"""

import copy
import time
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import cost
from ..engine import batching, generation
from ..engine.numerics import NonFiniteError, first_non_finite
from ..engine.sampling import Sampling, draw, keyed_uniforms
from ..engine.sequences import likelihood_models
from ..engine.trajectory import seconds_share
from ..models.arguments import checked, checked_settings
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .lockstep import StepReader, decode, decoding_costs, judge_cost, solutions
from .reward_kinds import check_reward_kind
from .sample_pool import check_counts, prompts_within_context


@checked_settings
class JudgeGreedy:
    """The most likely token of the likelihood reward's model at every step; the policy is not used.

    A reference model of the reward is not used either, nor tokens that the policy does not know. A response ends with
    an end token of the judge's, or of the policy's if the policy does not know the judge's. The decoded tokens are
    charged as `decode_tokens`, at the number of parameters of the model that decodes them.

    Args:
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(self, *, max_new_tokens: int = 1024):
        check_counts({"max_new_tokens": max_new_tokens})
        self.max_new_tokens = max_new_tokens

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order.

        Raises:
            ValueError: a classifier reward, vocabularies that differ, or a prompt beyond the context of the judge, the
                reward or its reference.
        """
        begin = time.perf_counter()
        check_reward_kind("judge_greedy", ["likelihood"], reward.kind, reward.name)
        reward = reward.for_policy(policy)
        judge = _in_policy_tokens(reward, policy)
        prompts = prompts_within_context(problems, judge, self.max_new_tokens)
        prompts_within_context(problems, reward, self.max_new_tokens)  # its score reads the closing tokens too
        noise = [keyed_uniforms(seed, problem.id, repeat, "rollout 0", self.max_new_tokens) for problem in problems]
        limits = [self.max_new_tokens] * len(problems)
        rollouts = generation.sample(judge, prompts, noise, Sampling(0.0), limits)
        share = seconds_share(begin, len(problems))
        costs = [
            cost.total(
                [
                    cost.scoring(judge.size, cost.one_pass(0, len(prompt))),
                    cost.decoding(judge.size, rollout.decoded),
                    share,
                ]
            )
            for prompt, rollout in zip(prompts, rollouts, strict=True)
        ]
        writer = copy.copy(policy)  # whose text is the policy's, but is finished where the judge ends it
        writer.eos_ids = judge.eos_ids
        writer.texts = policy.texts._replace(open_block=judge.texts.open_block)  # of the prompt that the judge read
        return solutions(problems, writer, reward, [rollout.token_ids for rollout in rollouts], costs)


@checked_settings
class LogitMixture:
    """One response sampled from the logits z_policy + β z_judge (GenARM, arXiv 2410.08193; DExperts, 2105.03023).

    With a reference model the judge's logits are z_strong - z_reference, as in proxy-tuning (arXiv 2401.08565).
    Where the two models end a turn differently, the policy's end token gets the judge's logit of its own end token.

    Args:
        judge_weight: β >= 0; 0 is the policy alone.
        temperature, top_p, top_k: sampling of tokens from the mixture; temperature 0 takes the most likely one.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(
        self,
        *,
        judge_weight: float | int = 1.0,
        temperature: float | int = 0.0,
        top_p: float | int = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        check_counts({"max_new_tokens": max_new_tokens})
        if not judge_weight >= 0:
            raise ValueError(f"judge_weight (β) must be >= 0; got {judge_weight}. Use 0 for the policy alone.")
        self.judge_weight = judge_weight
        self.sampling = Sampling(temperature, top_p, top_k).check()
        self.max_new_tokens = max_new_tokens

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order.

        Raises:
            ValueError: a classifier reward, vocabularies that differ, or a prompt beyond the policy's context.
        """
        begin = time.perf_counter()
        check_reward_kind("logit_mixture", ["likelihood"], reward.kind, reward.name)
        reward = reward.for_policy(policy)
        limit = self.max_new_tokens
        prompts = prompts_within_context(problems, policy, limit)
        judge_prompts = prompts_within_context(problems, reward, limit)
        noise = [keyed_uniforms(seed, problem.id, repeat, "rollout 0", limit) for problem in problems]

        def run(indices: list[int]) -> list[list[int]]:
            reader = StepReader(policy, [prompts[i] for i in indices])
            judges = [
                (sign * self.judge_weight, StepReader(model, [judge_prompts[i] for i in indices]))
                for model, sign, _ in likelihood_models(reward, None)
            ]

            def choose(rows: list[int], responses: list[list[int]]) -> Int[Tensor, " rows"]:
                logits = reader.logits()
                for weight, judge in judges:
                    logits = logits + (weight * _with_policy_ends(judge.logits(), policy, reward)).to(policy.device)
                if first_non_finite(logits) is not None:  # each model's own are, so that the weight is too large
                    raise NonFiniteError(f"logits with judge_weight={self.judge_weight}", "Lower it.")
                uniform = [noise[indices[row]][len(responses[row])] for row in rows]
                uniform = torch.tensor(uniform, dtype=torch.float64, device=logits.device)
                return draw(logits, uniform, self.sampling)

            return decode(policy, [reader, *(judge for _, judge in judges)], choose, limit)

        lengths = [len(prompt) + limit for prompt in prompts]
        responses = batching.run(run, lengths, policy.batch_limits)
        share = seconds_share(begin, len(problems))
        judged = [
            judge_cost(reward, len(prompt), len(tokens), len(tokens))
            for prompt, tokens in zip(judge_prompts, responses, strict=True)
        ]
        costs = decoding_costs(policy, prompts, responses, judged, share)
        return solutions(problems, policy, reward, responses, costs)


def _in_policy_tokens(reward: RewardModel, policy: Policy) -> Policy:
    """Return the judge as a model that draws the policy's tokens only; it may end its turn with one of the policy's."""
    judge = copy.copy(reward.strong)
    judge.vocab_size = min(judge.vocab_size, policy.vocab_size)
    if judge.eos_ids[0] >= policy.vocab_size:
        whole = reward.strong.logits
        judge.logits = lambda hidden: _with_policy_ends(whole(hidden), policy, reward)
        judge.eos_ids = policy.eos_ids
    return judge


def _with_policy_ends(
    logits: Float[Tensor, "*rows judge_vocab"], policy: Policy, reward: RewardModel
) -> Float[Tensor, "*rows vocab"]:
    """Return a judge's logits of the policy's tokens; each end token of the policy has that of the judge's own."""
    known = logits[..., : policy.vocab_size]
    replaced = [token for token in policy.eos_ids if token in reward.replaced_ends and token < policy.vocab_size]
    if not replaced:
        return known
    known = known.clone()
    known[..., replaced] = logits[..., reward.eos_ids[:1]]
    return known
