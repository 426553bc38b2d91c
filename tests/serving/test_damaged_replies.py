"""Random damage to the replies of a server: each is read as what was asked for, or refused by name."""

import json
import math

import pytest
from damaged_json import DAMAGE, damage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nabla_reasoner.engine.sampling import Sampling
from nabla_reasoner.serving.client import Client, ServerError, _message
from nabla_reasoner.serving.completions import BadAnswerError, Completion, CompletionRequest, read_completion
from nabla_reasoner.serving.identity import served_model
from nabla_reasoner.serving.prompt_scores import ScoreRequest, read_scores

VOCABULARY, STOP, LIMIT = 280, 2, 4
REQUEST = CompletionRequest([5, 6, 7], Sampling(0.8), 1, LIMIT, [STOP], log_probs=True)
SCORED = ScoreRequest([5, 6, 7, 8], 2)
SAMPLED_IDS = [9, 10, STOP]
CHOICE = {
    "token_ids": SAMPLED_IDS,
    "prompt_token_ids": [5, 6, 7],
    "finish_reason": "stop",
    "logprobs": {
        "tokens": [f"token_id:{token}" for token in SAMPLED_IDS],
        "token_logprobs": [-0.5, -1.5, -0.25],
        "top_logprobs": [{f"token_id:{token}": -0.2, "token_id:3": -0.1} for token in SAMPLED_IDS],
    },
}
SCORES = {
    "token_ids": [3],
    "prompt_token_ids": [5, 6, 7, 8],
    "finish_reason": "length",
    "prompt_logprobs": [None, *({str(token): {"logprob": -0.5, "rank": 1}} for token in (6, 7, 8))],
}
WHOLE = settings(max_examples=350, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def damaged(reply: dict, faults: list) -> bytes:
    return json.dumps(damage(reply, faults)).encode()


def assert_helpful(error: Exception) -> None:
    assert "\n" not in str(error)
    assert 5 < len(str(error)) < 400


def assert_sound(result: Completion) -> None:
    """Check what later code relies on."""
    assert all(type(token) is int and 0 <= token < VOCABULARY for token in [*result.token_ids, *result.most_likely])
    assert len(result.token_ids) == len(result.log_probs) == len(result.most_likely)
    assert all(math.isfinite(value) and value <= 0 for value in result.log_probs)


@pytest.mark.slow
@WHOLE
@given(st.lists(DAMAGE, min_size=0, max_size=2))
def test_damaged_continuation_is_sound_or_refused(faults):
    try:
        result = read_completion(damaged({"choices": [CHOICE]}, faults), REQUEST, VOCABULARY)
    except BadAnswerError as error:
        assert faults
        assert_helpful(error)
    else:
        assert_sound(result)
        assert len(result.token_ids) <= LIMIT
        assert STOP not in result.token_ids[:-1]
        assert result.token_ids[-1] == STOP or len(result.token_ids) == LIMIT


@pytest.mark.slow
@WHOLE
@given(st.lists(DAMAGE, min_size=0, max_size=2))
def test_damaged_scores_are_sound_or_refused(faults):
    try:
        result = read_scores(damaged({"choices": [SCORES]}, faults), SCORED, VOCABULARY)
    except BadAnswerError as error:
        assert faults
        assert_helpful(error)
    else:
        assert_sound(result)
        assert result.token_ids == [7, 8]


@WHOLE
@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode), st.integers(0, 250)))
def test_bytes_that_are_no_reply_are_refused(payload):
    whole = json.dumps({"choices": [CHOICE]}).encode()
    payload = whole[:payload] if isinstance(payload, int) else payload
    with pytest.raises(BadAnswerError) as refused:
        read_completion(payload, REQUEST, VOCABULARY)
    assert_helpful(refused.value)
    assert len(_message(payload)) <= 300


@pytest.mark.parametrize("depth", [10**4, 10**6])
def test_reply_nested_without_end_is_refused(depth):
    payload = b"[" * depth
    with pytest.raises(BadAnswerError, match="no whole JSON"):
        read_completion(payload, REQUEST, VOCABULARY)
    assert _message(payload).startswith("[[")


@pytest.mark.slow
@WHOLE
@given(st.lists(DAMAGE, min_size=0, max_size=2))
def test_damaged_list_of_models_is_read_or_refused(faults):
    client = Client("http://127.0.0.1:8000")
    listed = damaged({"data": [{"id": "served", "max_model_len": 256}]}, faults)
    client._send = lambda *request: listed
    try:
        model = served_model(client)
    except ValueError as error:
        assert faults
        assert_helpful(error)
    else:
        assert model.name
        assert model.max_tokens is None or (type(model.max_tokens) is int and model.max_tokens > 0)


def test_reply_nested_without_end_is_refused_wherever_replies_are_read():
    client = Client("http://127.0.0.1:8000")
    client._send = lambda *request: b"[" * 10**6
    with pytest.raises(ServerError, match="/version: "):
        client.get("/version")
