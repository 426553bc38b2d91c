"""Counts of the tokens that models really read and sample, to compare with the cost that methods book."""

from transformers import DynamicCache

from nabla_reasoner.engine import generation
from nabla_reasoner.models.language_models import Policy, RewardModel


class PassCounter:
    """Counts tokens of policy and reward model in every forward pass, padding left out.

    Attributes:
        read: tokens read in whole-sequence passes, by "policy" and "reward".
        stepped: tokens read one per row in decoding steps, by "policy" and "reward"; rows that have ended included.
        drawn: tokens that `generation.sample` returned.
    """

    def __init__(self, monkeypatch, policy: Policy, reward: RewardModel):
        self.read = {"policy": 0, "reward": 0}
        self.stepped = {"policy": 0, "reward": 0}
        self.drawn = 0
        for whose, model in (("policy", policy), ("reward", reward if reward.strong is None else reward.strong)):
            self._count(monkeypatch, model, whose)
        sample = generation.sample

        def sampling(*arguments, **settings):
            results = sample(*arguments, **settings)
            self.drawn += sum(len(rollout.token_ids) for rollout in results)
            return results

        monkeypatch.setattr(generation, "sample", sampling)

    def _count(self, monkeypatch, model, whose: str) -> None:
        forward = model.hidden_states

        def hidden_states(embeddings, **context):
            tokens = (embeddings != model.embedding[0]).any(-1).sum().item()  # padding is token 0
            whole = isinstance(context.get("past_key_values"), (DynamicCache, type(None)))
            (self.read if whole else self.stepped)[whose] += tokens
            return forward(embeddings, **context)

        monkeypatch.setattr(model, "hidden_states", hidden_states)
