"""Rewards of prefixes of responses: values by Hugging Face's own forward passes, and tokens read."""

import pytest
import torch
import toys

from nabla_reasoner.engine.prefix_rewards import PrefixRequest, candidate_prefix_rewards
from nabla_reasoner.engine.sequences import ModelCaches, likelihood_models

TOKENS = [50, 1, 60]  # the second one ends a response: the score is read at it, not at what a template writes after it


def plain_reward(reward, ids, prompt_length):
    batch = torch.tensor([ids])
    if reward.kind == "classifier":
        return reward.model(input_ids=batch).logits.item()
    if reward.kind == "token_classifier":
        return reward.model(input_ids=batch).logits[0, -1].diff().item()
    total = 0.0
    for model, sign, _ in likelihood_models(reward, None):
        log_probabilities = model.model(input_ids=batch).logits[0].log_softmax(-1)
        total += sign * sum(log_probabilities[i - 1, ids[i]].item() for i in range(prompt_length, len(ids)))
    return total


@pytest.mark.parametrize(
    ("kind", "reference"),
    [("classifier", False), ("token_classifier", False), ("likelihood", False), ("likelihood", True)],
)
def test_prefix_rewards_equal_plain_passes_and_read_new_tokens_only(kind, reference):
    reward, caches = toys.reward(kind, reference=reference), ModelCaches(2)
    prompts = [reward.prompt_ids(toys.chat(text)) for text in ("What is 12 + 34?", "6")]
    prefixes = [[], [9, 12]]
    for step in range(3):
        requests = [PrefixRequest(i, prompts[i], prefixes[i], TOKENS[: 3 - i]) for i in range(2)]
        values, costs = candidate_prefix_rewards(reward, requests, caches)
        for request, by_token, spent in zip(requests, values, costs, strict=True):
            start = len(request.prompt)
            expected = [plain_reward(reward, [*request.prompt, *request.prefix, t], start) for t in request.tokens]
            assert by_token == pytest.approx(expected, abs=1e-9)
            text = start + len(request.prefix)
            if kind == "likelihood":  # the last token of the prefix predicts all candidates
                read = text if step == 0 else 1 + (2, 0)[step - 1]
            else:
                read = len(request.tokens) + (text if step == 0 else (2, 0)[step - 1])
            assert spent.reward_forward_tokens == read
            assert spent.model_calls == 1
        if step == 0:
            prefixes = [prefix + [44, 45] for prefix in prefixes]


def test_known_hidden_states_cost_predictions_only():
    reward, caches = toys.reward(reference=True), ModelCaches(1)
    prompt, prefix = reward.prompt_ids(toys.chat("6")), [9, 12]
    candidate_prefix_rewards(reward, [PrefixRequest(0, prompt, prefix, [50])], caches)
    ids = torch.tensor([prompt + prefix])
    hidden = [model.hidden_states(model.embedding[ids])[0, -1] for model, _, _ in likelihood_models(reward, None)]
    (values,), (spent,) = candidate_prefix_rewards(reward, [PrefixRequest(0, prompt, prefix, TOKENS, hidden)], caches)
    assert values == pytest.approx([plain_reward(reward, [*prompt, *prefix, t], len(prompt)) for t in TOKENS], abs=1e-9)
    assert (spent.reward_forward_tokens, spent.model_calls) == (0, 0)
    assert spent.flops == 2 * reward.size.head * 2  # of the first candidate, and of all together
    (fresh,), (whole,) = candidate_prefix_rewards(
        reward, [PrefixRequest(0, prompt, prefix, TOKENS, hidden)], ModelCaches(1)
    )
    assert fresh == pytest.approx(values, abs=1e-9)  # the value needs the prefix's likelihood: it is read
    assert whole.reward_forward_tokens == len(prompt) + 2
