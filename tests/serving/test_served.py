"""Methods whose continuations a server samples: the same results as with the policy's own, and keyed requests."""

import pickle

import numpy as np
import pytest
import torch
import toys
from fake_server import FakeServer
from toy_runs import without_timings

from nabla_reasoner import BestOfN, MHResampling, NablaReasoner, Policy, Problem, TreeOfThoughts
from nabla_reasoner.baselines.guided_decoding import GuidedDecoding
from nabla_reasoner.engine import generation
from nabla_reasoner.engine.kv_cache import PrefixCache
from nabla_reasoner.engine.sampling import Sampling, keyed_uniforms
from nabla_reasoner.serving import identity, teacher_forcing
from nabla_reasoner.serving.client import Client
from nabla_reasoner.serving.mismatch import Mismatch, joined
from nabla_reasoner.serving.rollouts import ServedPolicy, rollouts_of
from nabla_reasoner.serving.served import ServedRollouts

PROBLEMS = [Problem(f"p{k}", question, None, "free") for k, question in enumerate(["12 + 34?", "5 and 6?", "46-7=?"])]
LIMIT = 6


@pytest.fixture(scope="module")
def policy() -> Policy:
    return toys.policy()


@pytest.fixture(scope="module")
def reward():
    return toys.reward()


@pytest.fixture
def server(policy):
    with FakeServer(policy) as running:
        yield running


def served(policy: Policy, server: FakeServer) -> ServedPolicy:
    return ServedPolicy(policy, ServedRollouts(Client(server.url, "served")))


def plain(value: object) -> object:
    """Return a solution's search without timings, floats rounded."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in without_timings(value).items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return round(value, 6) if isinstance(value, float) else value


GREEDY = {  # at temperature 0 both engines must give the same tokens
    "best_of_n": BestOfN(num_samples=2, temperature=0.0, max_new_tokens=LIMIT),
    "tree_of_thoughts": TreeOfThoughts(
        num_proposals=2, value="rollout", step_marks=["1", "2"], temperature=0.0, max_new_tokens=LIMIT
    ),
    "mh_resampling": MHResampling(num_steps=3, temperature=0.0, max_new_tokens=LIMIT),
}


@pytest.mark.parametrize("name", GREEDY)
def test_searches_get_the_results_and_costs_of_the_policys_own_rollouts(name, policy, reward, server):
    own = GREEDY[name].solve(PROBLEMS, policy, reward)
    other = GREEDY[name].solve(PROBLEMS, served(policy, server), reward)
    assert server.bodies
    for ours, theirs in zip(own, other, strict=True):
        assert theirs.token_ids == ours.token_ids
        assert plain(theirs.search) == plain(ours.search)
        assert plain(theirs.cost._asdict()) == plain(ours.cost._asdict())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_nabla_gets_the_results_of_the_policys_own_rollouts(engine, policy, reward, server):
    method = NablaReasoner(
        max_rollouts=3,
        step_size=0.5,
        grad_threshold=0.0,
        confidence_threshold=1.0,
        rollout_temperature=0.0,
        resample_temperature=1.5,
        max_new_tokens=LIMIT,
        engine=engine,
    )
    own = method.solve(PROBLEMS[:2], policy, reward, seed=3)
    other = method.solve(PROBLEMS[:2], served(policy, server), reward, seed=3)
    assert all(solution.search["proposed"] for solution in own), "proposals were rolled out"
    for ours, theirs in zip(own, other, strict=True):
        assert theirs.token_ids == ours.token_ids
        assert plain(theirs.search["revisions"]) == plain(ours.search["revisions"])
        assert theirs.cost.decode_tokens == ours.cost.decode_tokens
    if engine == "fast":
        assert all(b.cost.policy_forward_tokens > a.cost.policy_forward_tokens for a, b in zip(own, other, strict=True))


@pytest.mark.slow
def test_same_streams_send_the_same_requests_and_others_do_not(policy, reward, server):
    method = BestOfN(num_samples=2, max_new_tokens=2)

    def requests(seed: int = 0, repeat: int = 0, problems=PROBLEMS[:2]) -> set[tuple]:
        server.bodies.clear()
        method.solve(problems, served(policy, server), reward, seed=seed, repeat=repeat)
        return {(body["seed"], *body["prompt"]) for body in server.bodies}

    first = requests()
    assert len(first) == 4, "each sample of each problem has a stream of its own"
    assert len({seed for seed, *_ in first}) == 4
    assert requests() == requests(problems=PROBLEMS[1::-1]) == first
    assert not requests(seed=1) & first
    assert not requests(repeat=1) & first


def test_samples_are_what_the_server_drew(policy, reward, server):
    (solution,) = BestOfN(num_samples=4, max_new_tokens=LIMIT).solve(PROBLEMS[:1], served(policy, server), reward)
    drawn = [server.answer(body)["choices"][0]["token_ids"] for body in server.bodies]
    texts = sorted(policy.decode(tokens) for tokens in drawn)
    assert sorted(sample["response"] for sample in solution.search["samples"]) == texts


def test_teacher_forcing_gives_what_decoding_gives_and_fills_the_cache(policy):
    prompts = [policy.prompt_ids(problem.messages) for problem in PROBLEMS]
    noise = [keyed_uniforms(0, problem.id, 0, "a", LIMIT) for problem in PROBLEMS]
    stores = PrefixCache(3), PrefixCache(3)
    settings = {"predictions": True, "slots": [0, 1, 2]}
    own = generation.sample(policy, prompts, noise, Sampling(1.0), [LIMIT, 4, 1], store=stores[0], **settings)
    tokens = [rollout.token_ids for rollout in own]
    forced = teacher_forcing.predict(policy, prompts, tokens, stores[1], [0, 1, 2])
    for rollout, other in zip(own, forced, strict=True):
        for a, b in zip(rollout.predictions, other.predictions, strict=True):
            torch.testing.assert_close(a, b)
        texts = torch.log_softmax(policy.logits(rollout.predictions.hidden), -1)
        torch.testing.assert_close(other.log_probs, texts[range(len(texts)), rollout.token_ids])
    assert stores[0].ids == stores[1].ids
    for (a, b), text in zip(zip(*(store.layers[1] for store in stores), strict=True), stores[0].ids, strict=False):
        torch.testing.assert_close(a[0, :, : len(text)], b[0, :, : len(text)])


def test_mismatch_compares_the_same_tokens(policy, server):
    answer = server.answer

    def shifted(body):
        result = answer(body)
        part = result["choices"][0]["logprobs"]
        part["token_logprobs"][0] += 0.02
        part["top_logprobs"][1] = {"token_id:3": -0.1}
        return result

    server.answer = shifted
    other = served(policy, server)
    prompts = [policy.prompt_ids(problem.messages) for problem in PROBLEMS[:2]]
    noise = [np.full(5, 0.5)] * 2
    rollouts_of(other)(other, prompts, noise, Sampling(0.0), [5, 5], predictions=True)
    found = other.rollouts.take_mismatch()
    assert found.tokens == sum(len(server.answer(body)["choices"][0]["token_ids"]) for body in server.bodies[:2])
    assert found.total == pytest.approx(0.04, abs=1e-6)
    assert found.largest == pytest.approx(0.02, abs=1e-6)
    assert found.argmaxes == 2
    assert other.rollouts.take_mismatch() == Mismatch()
    assert joined([found, found]).summary()["share_of_differing_argmaxes"] == pytest.approx(2 / found.tokens)


def test_policy_whose_rollouts_are_served_can_be_sent_to_another_process(policy, server):
    other = pickle.loads(pickle.dumps(served(policy, server)))
    prompt = policy.prompt_ids(PROBLEMS[0].messages)
    (rollout,) = rollouts_of(other)(other, [prompt], [np.full(5, 0.5)], Sampling(0.0), [5])
    (own,) = generation.sample(policy, [prompt], [np.full(5, 0.5)], Sampling(0.0), [5])
    assert rollout.token_ids == own.token_ids


def test_method_that_takes_tokens_one_by_one_refuses_a_server(policy, reward, server):
    with pytest.raises(ValueError, match=r"rollouts=vllm cannot serve .* own logits"):
        GuidedDecoding(max_new_tokens=3).solve(PROBLEMS, served(policy, server), reward)


def test_other_model_behind_the_url_is_refused_with_both_numbers(policy, server):
    prompts = [policy.prompt_ids(problem.messages) for problem in PROBLEMS]
    client = Client(server.url, "served")
    found = identity.check_model(client, policy, prompts, 16)
    assert found["largest_log_prob_difference"] < 1e-5
    assert found["share_of_differing_argmaxes"] == 0
    with pytest.raises(
        ValueError, match=r"wrong model behind http.* log-probability -\d+\.\d{4} there and -\d+\.\d{4}"
    ):
        identity.check_model(client, toys.policy(seed=1), prompts, 16)


def test_slightly_different_weights_are_another_model(policy, server):
    prompts = [policy.prompt_ids(problem.messages) for problem in PROBLEMS]
    other = toys.policy(seed=0)
    with torch.no_grad():
        other.head.weight += 0.01 * torch.randn(other.head.weight.shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="wrong model"):
        identity.check_model(Client(server.url, "served"), other, prompts, 16)


def test_server_must_be_reachable_and_serve_one_long_enough_model(policy, server):
    assert identity.served_model(Client(server.url)) == ("served", 256)
    with pytest.raises(ValueError, match=r"300 tokens together; .* max_model_len=256"):
        identity.check_length(Client(server.url), 256, 300)
    server.models = ["one", "two"]
    with pytest.raises(ValueError, match="exactly one model; got one, two"):
        identity.served_model(Client(server.url))
    server.kill()
    with pytest.raises(ValueError, match="must be reachable"):
        identity.served_model(Client(server.url))
