"""Guided decoding: at uncertain positions a candidate token's reward score is added to the policy's log-probability.

After ARGS (Khanov et al., arXiv 2402.01694) and RAD (Deng and Raffel, arXiv 2310.09520).
"""

import time
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..cost import Cost
from ..engine import batching
from ..engine.numerics import NonFiniteError, at_least_float32, first_non_finite
from ..engine.sampling import check_whole
from ..engine.sequences import likelihood_models, token_as_read
from ..engine.trajectory import seconds_share
from ..models.arguments import checked, checked_settings
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .lockstep import StepReader, decode, decoding_costs, judge_cost, solutions
from .prefix_scores import SCORERS, PrefixScorer
from .sample_pool import check_counts, prompts_within_context


@checked_settings
class GuidedDecoding:
    """One response, decoded by argmax of log π(v|y_<l) + w·s(v); where the policy is certain, by argmax of π.

    The score s of a candidate token v, one of the policy's `num_candidates` most likely ones:

    - likelihood reward: the judge's log π(v|y_<l) (minus the reference's), so that the rule is a product of experts.
      It is linear in the token, so that both scorers agree; it needs no further pass.
    - classifier reward: log σ(r(y_<l, v)), with r the score at the last token of the prefix.

    Differs from ARGS and RAD: the gate, without which every token is scored; and decoding takes the best candidate.

    Args:
        reward_weight: w >= 0.
        num_candidates: k >= 2, candidate tokens at an uncertain position.
        confidence_threshold: a position is uncertain if the policy's largest probability is at most this, in (0, 1].
        scorer: of a classifier, "exact": every candidate is read; "gradient": the most likely one is read, and the
            others' r is predicted to first order, r(b) = r(a) + (E_b - E_a)·∂r/∂e_a.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(
        self,
        *,
        reward_weight: float | int = 1.0,
        num_candidates: int = 8,
        confidence_threshold: float | int = 0.97,
        scorer: str = "exact",
        max_new_tokens: int = 1024,
    ):
        check_counts({"max_new_tokens": max_new_tokens})
        if not reward_weight >= 0:
            raise ValueError(f"reward_weight (w) must be >= 0; got {reward_weight}. Use 0 for greedy decoding.")
        check_whole({"num_candidates (k)": num_candidates})
        if num_candidates < 2:
            raise ValueError(f"num_candidates (k) must be >= 2, to have a choice; got {num_candidates}.")
        if not 0 < confidence_threshold <= 1:
            raise ValueError(
                f"confidence_threshold must be in (0, 1]; got {confidence_threshold}. Use 1 to score every token."
            )
        if scorer not in SCORERS:
            raise ValueError(f"scorer must be one of {', '.join(SCORERS)}; got {scorer!r}.")
        self.reward_weight = reward_weight
        self.num_candidates = num_candidates
        self.confidence_threshold = confidence_threshold
        self.scorer = scorer
        self.max_new_tokens = max_new_tokens

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order; nothing is drawn, so that `seed` and `repeat` change nothing.

        Raises:
            ValueError: vocabularies that differ, or a prompt beyond the policy's context.
            NonFiniteError: a score that overflows when it is multiplied by w.
        """
        begin = time.perf_counter()
        reward = reward.for_policy(policy)
        prompts = prompts_within_context(problems, policy, self.max_new_tokens)
        reward_prompts = prompts_within_context(problems, reward, self.max_new_tokens)
        expert = _Classifier if reward.has_score_head else _Judge

        def run(indices: list[int]) -> list[tuple[list[int], Cost, int]]:
            policy_reader = StepReader(policy, [prompts[i] for i in indices])
            guide = _Guide(self, policy_reader, expert(reward, [reward_prompts[i] for i in indices], self.scorer))
            responses = decode(policy, [policy_reader, *guide.expert.readers], guide.choose, self.max_new_tokens)
            return list(zip(responses, guide.expert.spent(responses), guide.uncertain, strict=True))

        lengths = [len(prompt) + self.max_new_tokens for prompt in prompts]
        results = batching.run(run, lengths, policy.batch_limits)
        responses = [tokens for tokens, _, _ in results]
        share = seconds_share(begin, len(problems))
        costs = decoding_costs(policy, prompts, responses, [spent for _, spent, _ in results], share)
        counts = [{"uncertain": uncertain} for _, _, uncertain in results]
        return solutions(problems, policy, reward, responses, costs, counts)


class _Judge:
    """Scores by a likelihood reward's models, which read every token in lockstep with the policy."""

    def __init__(self, reward: RewardModel, prompts: Sequence[list[int]], scorer: str):
        self.reward = reward
        self.prompts = prompts
        self.signs = [sign for _, sign, _ in likelihood_models(reward, None)]
        self.readers = [StepReader(model, prompts) for model, _, _ in likelihood_models(reward, None)]
        self.predictions = [0] * len(prompts)  # by row, positions whose candidates were scored

    def scores(
        self, rows: list[int], places: list[int], responses: list[list[int]], candidates: Int[Tensor, "rows k"]
    ) -> Float[Tensor, "rows k"]:
        """Return the score of each candidate; `places` are the rows' places in the readers.

        A policy's end token has the score of the judge's own. The models may know different numbers of tokens.
        """
        for row in rows:
            self.predictions[row] += 1
        read = torch.tensor([[token_as_read(token, self.reward) for token in tokens] for tokens in candidates.tolist()])
        total = torch.zeros(candidates.shape, device=candidates.device)
        for sign, reader in zip(self.signs, self.readers, strict=True):
            logs = torch.log_softmax(reader.logits()[places], -1)
            total = total + sign * logs.gather(1, read.to(logs.device)).to(candidates.device)
        return total

    def commit(self, row: int, place: int) -> None:
        """Do nothing: the chosen token is read in lockstep."""

    def spent(self, responses: Sequence[list[int]]) -> list[Cost]:
        """Return the cost of each row."""
        return [
            judge_cost(self.reward, len(prompt), len(tokens), count)
            for prompt, tokens, count in zip(self.prompts, responses, self.predictions, strict=True)
        ]


class _Classifier:
    """Scores log σ(r) by a classifier, which reads only what it is asked about."""

    def __init__(self, reward: RewardModel, prompts: Sequence[list[int]], scorer: str):
        self.readers: list[StepReader] = []
        self.prefixes = PrefixScorer(reward, prompts, scorer)
        self.commit = self.prefixes.commit

    def scores(
        self, rows: list[int], places: list[int], responses: list[list[int]], candidates: Int[Tensor, "rows k"]
    ) -> Float[Tensor, "rows k"]:
        """Return the score of each candidate."""
        values = self.prefixes.scores(rows, [responses[row] for row in rows], candidates.tolist())
        return torch.nn.functional.logsigmoid(values).to(candidates.device)

    def spent(self, responses: Sequence[list[int]]) -> list[Cost]:
        """Return the cost of each row."""
        return self.prefixes.costs


class _Guide:
    """The choice of the next tokens; counts uncertain positions by row."""

    def __init__(self, settings: GuidedDecoding, policy_reader: StepReader, expert: _Judge | _Classifier):
        self.settings = settings
        self.policy_reader = policy_reader
        self.expert = expert
        self.uncertain = [0] * len(policy_reader.hidden)

    def choose(self, rows: list[int], responses: list[list[int]]) -> Int[Tensor, " rows"]:
        """Return the next token of each row."""
        log_probabilities = torch.log_softmax(at_least_float32(self.policy_reader.logits()), -1)
        count = min(self.settings.num_candidates, log_probabilities.shape[1])
        likely = log_probabilities.topk(count, -1)
        tokens = likely.indices[:, 0].clone()
        confidence = likely.values[:, 0].exp()
        places = (confidence <= self.settings.confidence_threshold).nonzero()[:, 0].tolist()
        if not places:
            return tokens
        uncertain_rows = [rows[place] for place in places]
        candidates = likely.indices[places]
        scores = self.expert.scores(uncertain_rows, places, responses, candidates)
        weighted = self.settings.reward_weight * scores
        if first_non_finite(weighted) is not None:  # the scores themselves are, so that the weight is too large
            raise NonFiniteError(f"scores with reward_weight={self.settings.reward_weight}", "Lower it.")
        best = (likely.values[places] + weighted).argmax(-1)
        tokens[places] = candidates.gather(1, best[:, None])[:, 0]
        for row, place in zip(uncertain_rows, best.tolist(), strict=True):
            self.uncertain[row] += 1
            self.expert.commit(row, place)
        return tokens
