"""Rewards scored by a server: the scores of Hugging Face's model, faults retried, another model refused."""

import copy
import json
import math
import pickle

import pytest
import torch
import toys
from fake_server import FakeServer
from toy_runs import without_timings

from nabla_reasoner import BestOfN, MHResampling, NablaReasoner, Problem, RewardModel, TreeOfThoughts
from nabla_reasoner.engine import scoring
from nabla_reasoner.serving import client as client_module
from nabla_reasoner.serving.client import ATTEMPTS, Client, ServerError
from nabla_reasoner.serving.completions import BadAnswerError
from nabla_reasoner.serving.prompt_scores import ScoreRequest, read_scores, score_body
from nabla_reasoner.serving.served_scores import ServedScores, check_scores

PROBLEMS = [Problem(f"p{k}", question, None, "free") for k, question in enumerate(["12 + 34?", "5 and 6?", "46-7=?"])]
LIMIT = 6
METHODS = {
    "best_of_n": BestOfN(num_samples=4, max_new_tokens=LIMIT),
    "tree_of_thoughts": TreeOfThoughts(num_proposals=2, value="partial", step_marks=["1", "2"], max_new_tokens=LIMIT),
    "mh_resampling": MHResampling(num_steps=3, max_new_tokens=LIMIT),
    "nabla_reasoner": NablaReasoner(
        max_rollouts=3,
        step_size=0.5,
        grad_threshold=0.0,
        confidence_threshold=1.0,
        resample_temperature=1.5,
        max_new_tokens=LIMIT,
    ),
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(client_module, "PAUSE", 0.001)


@pytest.fixture(scope="module")
def policy():
    return toys.policy()


@pytest.fixture(scope="module")
def reward() -> RewardModel:
    return toys.reward()


@pytest.fixture
def server(reward):
    with FakeServer(reward.strong) as running:
        yield running


def scored_by(reward: RewardModel, server: FakeServer) -> RewardModel:
    return reward.scored_by(ServedScores(Client(server.url, "served")))


def rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in without_timings(value).items() if key not in ("flops", "cost")}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return round(value, 6) if isinstance(value, float) else value


def prompts(reward: RewardModel) -> list[list[int]]:
    return [reward.prompt_ids(problem.messages) for problem in PROBLEMS]


def test_scores_are_the_sums_of_hugging_faces_own_log_probabilities(reward, server):
    responses = [[9, 12, 30], [9, 12, 30], [14, reward.eos_ids[0]]]
    values, costs = scoring.rewards(scored_by(reward, server), prompts(reward), responses)
    for value, prompt, response in zip(values, prompts(reward), responses, strict=True):
        text = [*prompt, *response, *([] if response[-1] in reward.eos_ids else [reward.eos_ids[0]])]
        logits = reward.model(torch.tensor([text])).logits[0].log_softmax(-1)
        own = sum(logits[place - 1, text[place]].item() for place in range(len(prompt), len(text)))
        assert value == pytest.approx(own, abs=1e-9)
        assert text in [body["prompt"] for body in server.bodies]
    own, own_costs = scoring.rewards(reward, prompts(reward), responses)
    assert values == pytest.approx(own)
    assert costs == own_costs, "texts that share nothing cost what they cost here"


def test_equal_responses_of_a_pool_are_asked_for_once(reward, server):
    (prompt, *_), response = prompts(reward), [9, 12, 30]
    values, costs = scoring.rewards(scored_by(reward, server), [prompt] * 3, [response, response, [9, 12]])
    assert len(server.bodies) == 2
    assert values[0] == values[1] != values[2]
    assert [spent.model_calls for spent in costs] == [1, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_methods_find_the_same_by_served_scores(name, policy, reward, server):
    own = METHODS[name].solve(PROBLEMS, policy, reward, seed=3)
    other = METHODS[name].solve(PROBLEMS, policy, scored_by(reward, server), seed=3)
    assert server.bodies
    for ours, theirs in zip(own, other, strict=True):
        assert theirs.token_ids == ours.token_ids
        assert theirs.reward == pytest.approx(ours.reward, abs=1e-6)
        kept = ("samples", "revisions", "proposed")
        assert [rounded(theirs.search.get(key)) for key in kept] == [rounded(ours.search.get(key)) for key in kept]
        assert theirs.cost.decode_tokens == ours.cost.decode_tokens
        assert theirs.cost.reward_backward_tokens == ours.cost.reward_backward_tokens


def test_request_asks_for_the_texts_own_log_probabilities():
    body = score_body("m", ScoreRequest([3, 4, 5], 1))
    assert (body["prompt"], body["prompt_logprobs"], body["max_tokens"], body["temperature"]) == ([3, 4, 5], 1, 1, 0.0)


def test_answer_without_the_texts_own_log_probabilities_is_refused():
    request = ScoreRequest([3, 4, 5], 1)
    good = [None, {"4": {"logprob": -1.0}}, {"5": {"logprob": -0.5}, "7": {"logprob": -0.1}}]

    def answer(entries: object) -> bytes:
        return json.dumps({"choices": [{"prompt_logprobs": entries}]}).encode()

    assert read_scores(answer(good), request, 10) == ([4, 5], [-1.0, -0.5], [4, 7])
    for place, wrong in (
        (1, None),
        (1, {"5": {"logprob": -1.0}}),
        (2, {"5": {"logprob": math.nan}}),
        (2, {"5": {"logprob": 0.5}}),
        (2, {"5": {"logprob": -1.0}, "10": {"logprob": -0.1}}),
        (2, {"5": -1.0}),
        (2, {"five": {"logprob": -1.0}}),
    ):
        entries = copy.deepcopy(good)
        entries[place] = wrong
        with pytest.raises(BadAnswerError):
            read_scores(answer(entries), request, 10)
    for entries in (None, good[:2], [*good, None], {}):
        with pytest.raises(BadAnswerError, match="log-probabilities of a text of 3 tokens"):
            read_scores(answer(entries), request, 10)


@pytest.mark.parametrize("kind", ["500", "truncated", "cut", "no choices", "scores"])
def test_passing_fault_is_retried_and_lasting_fault_is_an_error(kind, reward):
    responses = [[9, 12, 30]] * 3
    wanted, _ = scoring.rewards(reward, prompts(reward), responses)
    with FakeServer(reward.strong, lambda body, number: kind if number % 2 else None) as server:
        other = scored_by(reward, server)
        assert scoring.rewards(other, prompts(reward), responses)[0] == pytest.approx(wanted)
        assert other.text_scores.take_retries() > 0
    with FakeServer(reward.strong, lambda body, number: kind) as server:
        with pytest.raises(ServerError, match=f"attempt {ATTEMPTS} of {ATTEMPTS}"):
            scoring.rewards(scored_by(reward, server), prompts(reward)[:1], responses[:1])


def test_differences_of_the_engines_are_measured(reward, server):
    answer = server.answer

    def shifted(body):
        result = answer(body)
        entries = result["choices"][0]["prompt_logprobs"]
        key = str(body["prompt"][-1])
        entries[-1] = {key: {"logprob": entries[-1][key]["logprob"] - 0.03}}
        return result

    server.answer = shifted
    other = scored_by(reward, server)
    scoring.rewards(other, prompts(reward)[:1], [[9, 12, 30]])
    found = other.text_scores.take_mismatch()
    assert (found.tokens, found.total) == (4, pytest.approx(0.03, abs=1e-6))
    assert found.largest == pytest.approx(0.03, abs=1e-6)
    assert other.text_scores.take_mismatch().tokens == 0


def test_other_model_behind_the_url_is_refused_with_both_scores(reward, server):
    found = check_scores(Client(server.url, "served"), reward, prompts(reward))
    assert found["largest_log_prob_difference"] < 1e-5
    changed = RewardModel.from_pretrained(toys.model_folder("llama", seed=7), kind="likelihood", dtype="float64")
    with torch.no_grad():
        changed.strong.head.weight += 0.01 * torch.randn(
            changed.strong.head.weight.shape, generator=torch.Generator().manual_seed(0)
        )
    with pytest.raises(ValueError, match=r"wrong model behind http.* log-likelihood -\d+\.\d{4} there and -\d+\.\d{4}"):
        check_scores(Client(server.url, "served"), changed, prompts(reward))


@pytest.mark.parametrize(("kind", "reference"), [("classifier", False), ("likelihood", True)])
def test_reward_of_another_kind_cannot_be_served(kind, reference, server):
    with pytest.raises(ValueError, match="only a likelihood reward without a reference model"):
        scored_by(toys.reward(kind, reference=reference), server)


def test_served_reward_survives_a_new_policy_and_another_process(policy, reward, server):
    other = pickle.loads(pickle.dumps(scored_by(reward, server).for_policy(policy)))
    value, _ = scoring.rewards(other, prompts(reward)[:1], [[9, 12, 30]])
    assert len(server.bodies) == 1
    assert value == pytest.approx(scoring.rewards(reward, prompts(reward)[:1], [[9, 12, 30]])[0])
