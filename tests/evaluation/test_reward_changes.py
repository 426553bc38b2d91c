"""First-order and exact changes of rewards: autograd on whole passes, `scoring.rewards`, and a linear reward."""

import itertools

import numpy as np
import pytest
import torch
import toys

from nabla_reasoner.dto.reward_forms import REWARD_FORMS
from nabla_reasoner.engine import scoring
from nabla_reasoner.evaluation import fidelity, token_values
from nabla_reasoner.evaluation.fidelity import Case
from nabla_reasoner.models.language_models import RewardModel

PROMPT = [3, 9, 30, 4]
RESPONSES = ([7, 11, 12, 8, 1], [20, 21, 22])  # closed by the end token, and cut off
REWARDS = (("classifier", False), ("token_classifier", False), ("likelihood", False), ("likelihood", True))


def cases() -> list[Case]:
    return [
        Case(PROMPT[i:], response, position, [response[position], 40, 1, 50])
        for i, response in enumerate(RESPONSES)
        for position in range(len(response))
    ]


def onehot_values(reward: RewardModel, case: Case, onehot: torch.Tensor) -> torch.Tensor:
    """Return the reward in every form as a function of the relaxed token at the case's position, without a cache."""
    text, index, n = case.text(reward), case.index, len(case.response)
    total = torch.zeros(len(REWARD_FORMS), dtype=torch.float64)
    for model, sign in token_values.scorers(reward):
        rows = torch.eye(len(model.embedding), dtype=torch.float64)[text]
        rows = torch.cat([rows[:index], onehot[None], rows[index + 1 :]])
        hidden = model.model.base_model(inputs_embeds=(rows @ model.embedding)[None]).last_hidden_state[0]
        start = len(case.prompt)
        if reward.strong is None:
            scored = model.model.score(hidden)[start:]
            at_tokens = scored[:, 0] if scored.shape[1] == 1 else scored[:, 1] - scored[:, 0]
            at_end, prefixes = at_tokens[-1], at_tokens[:n]
        else:
            log_probabilities = torch.log_softmax(model.logits(hidden[start - 1 : -1]), -1)
            at_tokens = (log_probabilities * rows[start:, : log_probabilities.shape[1]]).sum(-1)
            at_end, prefixes = at_tokens.sum(), at_tokens[:n].cumsum(0)
        forms = {"outcome": at_end, "process": prefixes[case.position :].sum(), "prefix": prefixes[case.position]}
        total = total + sign * torch.stack([forms[form] for form in REWARD_FORMS])
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_predictions_equal_autograd_and_exact_changes_equal_whole_passes(kind: str, reference: bool):
    reward = toys.reward(kind, reference=reference)
    for case, change in zip(cases(), fidelity.changes(reward, cases()), strict=True):
        eye = torch.eye(len(reward.embedding), dtype=torch.float64)
        row = eye[case.response[case.position]]
        gradient = torch.autograd.functional.jacobian(lambda y, case=case: onehot_values(reward, case, y), row)
        expected = gradient @ (eye[case.candidates] - row).T
        np.testing.assert_allclose(change.predicted, expected, rtol=1e-5, atol=1e-6)
        for column, token in enumerate(case.candidates):
            new, before = case.replaced(token), onehot_values(reward, case, row)
            exact = onehot_values(reward, new, eye[token]) - before
            np.testing.assert_allclose(change.exact[:, column], exact.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_exact_outcome_and_prefix_changes_equal_scores(kind: str, reference: bool):
    reward = toys.reward(kind, reference=reference)
    for case, change in zip(cases(), fidelity.changes(reward, cases()), strict=True):
        texts = [case.response, *(case.replaced(token).response for token in case.candidates)]
        for row, cut, close in ((0, None, True), (2, case.position + 1, False)):
            beginnings = [text[:cut] for text in texts]
            scored, _ = scoring.rewards(reward, [case.prompt] * len(texts), beginnings, close=close)
            np.testing.assert_allclose(change.exact[row], np.array(scored[1:]) - scored[0], rtol=1e-5, atol=1e-6)


def test_changes_do_not_depend_on_order_or_batches():
    reward = toys.reward("classifier")
    whole = fidelity.changes(reward, cases())
    reward.batch_limits.tokens = 1
    alone = fidelity.changes(reward, cases()[::-1])[::-1]
    for a, b in zip(itertools.chain(*whole), itertools.chain(*alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert fidelity.changes(reward, []) == []


@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_prefix_rewards_equal_scores_of_beginnings(kind: str, reference: bool):
    reward = toys.reward(kind, reference=reference)
    prompts = [PROMPT, PROMPT[1:]]
    for prompt, response, row in zip(
        prompts, RESPONSES, token_values.prefix_rewards(reward, prompts, RESPONSES), strict=True
    ):
        beginnings = [response[: length + 1] for length in range(len(response))]
        expected, _ = scoring.rewards(reward, [prompt] * len(beginnings), beginnings, close=False)
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_foreign_end_token_is_read_as_the_rewards_own(kind: str, reference: bool):
    reward, end = toys.reward(kind, reference=reference), 60

    def foreign(tokens: list[int]) -> list[int]:
        return [end if token in reward.eos_ids else token for token in tokens]

    expected = fidelity.changes(reward, cases())
    values = token_values.prefix_rewards(reward, [PROMPT] * 2, RESPONSES)
    reward.replaced_ends = frozenset([end])
    drawn = [case._replace(response=foreign(case.response), candidates=foreign(case.candidates)) for case in cases()]
    assert drawn != cases()
    for actual, wanted in zip(fidelity.changes(reward, drawn), expected, strict=True):
        np.testing.assert_array_equal(actual.predicted, wanted.predicted)
        np.testing.assert_array_equal(actual.exact, wanted.exact)
    for actual, wanted in zip(
        token_values.prefix_rewards(reward, [PROMPT] * 2, [*map(foreign, RESPONSES)]), values, strict=True
    ):
        np.testing.assert_array_equal(actual, wanted)


def test_reward_linear_in_embeddings_is_predicted_exactly():
    reward = toys.reward("classifier")
    layers = reward.model.base_model
    for layer in layers.layers:  # without attention and MLP a hidden state is the token's embedding
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    layers.norm = torch.nn.Identity()
    for change in fidelity.changes(reward, cases()):
        np.testing.assert_allclose(change.predicted[1:], change.exact[1:], rtol=1e-6, atol=1e-8)
        assert np.abs(change.exact[2]).max() > 0.01


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="outcome, process, prefix"):
        fidelity.weights(toys.reward("classifier"), cases()[0], "end")
