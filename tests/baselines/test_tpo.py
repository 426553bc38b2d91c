"""TPO: its prompts, cost and answer."""

import pytest
import toys

from nabla_reasoner import cost
from nabla_reasoner.baselines import tpo
from nabla_reasoner.baselines.tpo import TPO
from nabla_reasoner.cost import Cost
from nabla_reasoner.engine import generation, scoring
from nabla_reasoner.engine.generation import Rollout
from nabla_reasoner.types import Problem

PROBLEMS = [Problem(f"toy/{i}", text, "1", "free") for i, text in enumerate(["12 + {3}?", "6"])]
SHORT = {"num_samples": 2, "max_critique_tokens": 5, "max_new_tokens": 6}


class Script:
    """A sampler that replies from a list and a reward looked up by text; both log their inputs."""

    def __init__(self, policy, monkeypatch, replies: list[list[str]], rewards: dict[str, float]):
        self.policy, self.replies, self.rewards = policy, iter(replies), rewards
        self.asked: list[list[str]] = []
        self.limits: list[list[int]] = []
        self.scored: list[tuple[str, str]] = []
        monkeypatch.setattr(generation, "sample", self.sample)
        monkeypatch.setattr(scoring, "rewards", self.score)

    def sample(self, policy, prefixes, noise, sampling, limits):
        self.asked.append([policy.tokenizer.decode(list(prefix)) for prefix in prefixes])
        self.limits.append(list(limits))
        texts = [[*policy.tokenizer.encode(text), policy.eos_ids[0]] for text in next(self.replies)]
        return [
            Rollout(text, True, decoded=cost.decoded(len(prefix), len(text)))
            for prefix, text in zip(prefixes, texts, strict=True)
        ]

    def score(self, reward, prompts, responses, *, pools):
        assert len(pools) == len(prompts)
        texts = [self.policy.decode(ids) for ids in responses]
        self.scored += zip([reward.tokenizer.decode(list(p)) for p in prompts], texts, strict=True)
        return [self.rewards[text] for text in texts], [Cost(reward_forward_tokens=10, model_calls=1)] * len(texts)


def test_round_prompts_contain_best_and_worst_response(monkeypatch):
    policy, reward = toys.policy(), toys.reward()
    rounds = [["low", "high", "mid"], ["new", "newer", "worse"], ["x", "y", "z"]]
    replies = [rounds[0], ["CRITIQUE"], ["ADVICE"], rounds[1], ["C2"], ["A2"], rounds[2]]
    values = {"low": -5, "high": 2, "mid": 0, "new": 1, "newer": 3, "worse": -9, "x": 2.5, "y": 0, "z": 0}
    script = Script(policy, monkeypatch, replies, {text: float(value) for text, value in values.items()})
    method = TPO(num_samples=3, num_iterations=2, max_critique_tokens=8, max_new_tokens=6)
    monkeypatch.setattr(policy, "context", 2000)
    (solution,) = method.solve(PROBLEMS[:1], policy, reward)
    opening, critique, advice, revision, second, _, third = script.asked
    question = PROBLEMS[0].question
    assert opening == [policy.tokenizer.decode(policy.prompt_ids(PROBLEMS[0].messages))] * 3
    for text, present, absent in [
        (critique[0], [question, "Preferred answer:\nhigh", "Other answer:\nlow"], ["mid"]),
        (advice[0], [question, "Answer:\nhigh", "Review:\nCRITIQUE"], ["low"]),
        (revision[0], [question, "Draft of an answer:\nhigh", "ADVICE"], ["CRITIQUE"]),
        (second[0], [question, "Preferred answer:\nnewer", "Other answer:\nworse"], ["high"]),
        (third[0], [question, "Draft of an answer:\nnewer", "A2"], ["ADVICE"]),
    ]:
        assert all(part in text for part in present), text
        assert not any(part in text for part in absent), text
    assert [len(asked) for asked in script.asked] == [3, 1, 1, 3, 1, 1, 3]
    assert [limits[0] for limits in script.limits] == [6, 8, 8, 6, 8, 8, 6]
    assert {prompt for prompt, _ in script.scored} == {reward.tokenizer.decode(reward.prompt_ids(PROBLEMS[0].messages))}
    assert [text for _, text in script.scored] == ["low", "high", "mid", "new", "newer", "worse", "x", "y", "z"]
    assert (solution.response, solution.reward) == ("newer", 3.0)
    bests = [step["response"] for step in solution.search["trajectory"]]
    assert bests == ["low", "high", "high", "high", *["newer"] * 5]
    assert [step["rollouts"] for step in solution.search["trajectory"]] == list(range(1, 10))
    counts = [solution.search[key] for key in ("rollouts", "proposed", "accepted", "rejected")]
    assert counts == [9, 8, 2, 6]


def test_scripted_search_cost_equals_hand_count(monkeypatch):
    policy, reward = toys.policy(), toys.reward()
    replies = [["1", "2"], ["345"], ["67"], ["8", "9"]]
    script = Script(policy, monkeypatch, replies, {"1": 0.0, "2": 1.0, "8": 2.0, "9": 0.0})
    monkeypatch.setattr(policy, "context", 2000)
    (solution,) = TPO(**SHORT).solve(PROBLEMS[:1], policy, reward)
    # digits stand alone and every reply has an end token: 2 + 2, 4, 3, 2 + 2
    assert solution.cost.decode_tokens == 15
    prompts = [len(policy.tokenizer.encode(texts[0])) for texts in script.asked]
    assert solution.cost.policy_prefill_tokens == sum(prompts)  # each once, also if two responses follow it
    assert solution.cost.reward_forward_tokens == 40
    assert solution.cost.model_calls == 15 + 4 + 4
    replies = [(prompts[0], 2), (prompts[0], 2), (prompts[1], 4), (prompts[2], 3), (prompts[3], 2), (prompts[3], 2)]
    reads = sum((cost.one_pass(0, prompt) for prompt in prompts), cost.Reads())
    reads += sum((cost.decoded(prompt, tokens) for prompt, tokens in replies), cost.Reads())
    assert solution.cost.flops == cost.forward_flops(policy.size, reads)
    steps = solution.search["trajectory"]
    # the third response comes after critique and instructions
    assert steps[2]["model_calls"] - steps[1]["model_calls"] == (1 + 4) + (1 + 3) + 1 + 2 + 1
    assert steps[-1]["flops"] == solution.cost.flops


@pytest.fixture
def wide(monkeypatch):
    """A random policy that may read long prompts (its positions are relative)."""
    policy = toys.policy()
    monkeypatch.setattr(policy, "context", 4000)
    return policy


def test_cost_equals_tokens_read_by_models(wide, monkeypatch):
    from transformers import DynamicCache

    reward, read = toys.reward(), {"policy": 0, "reward": 0}

    def counting(model, whose):
        own = model.hidden_states

        def hidden_states(embeddings, **context):
            if isinstance(context["past_key_values"], DynamicCache):  # not a decoding step
                read[whose] += (embeddings != model.embedding[0]).any(-1).sum().item()  # padding is token 0
            return own(embeddings, **context)

        monkeypatch.setattr(model, "hidden_states", hidden_states)

    counting(wide, "policy")
    counting(reward.strong, "reward")
    spent = cost.total(one.cost for one in TPO(**SHORT).solve(PROBLEMS, wide, reward))
    assert spent.policy_prefill_tokens == read["policy"]
    assert spent.reward_forward_tokens == read["reward"]


@pytest.mark.slow
def test_samples_depend_on_keys_not_on_batch(wide):
    reward, method = toys.reward("classifier"), TPO(**SHORT, temperature=1.0)
    together = method.solve(PROBLEMS[::-1], wide, reward, seed=1)[::-1]
    for problem, one in zip(PROBLEMS, together, strict=True):
        (alone,) = method.solve([problem], wide, reward, seed=1)
        assert [sample["response"] for sample in alone.search["samples"]] == [
            sample["response"] for sample in one.search["samples"]
        ]
        assert alone.cost._replace(seconds=0, peak_bytes=0) == one.cost._replace(seconds=0, peak_bytes=0)
    for other in (method.solve(PROBLEMS, wide, reward, seed=2), method.solve(PROBLEMS, wide, reward, seed=1, repeat=1)):
        assert [one.search["samples"] for one in other] != [one.search["samples"] for one in together]


def test_fewer_rounds_give_prefix_of_samples(wide):
    reward = toys.reward()
    many = TPO(**SHORT, num_iterations=2).solve(PROBLEMS, wide, reward)
    few = TPO(**SHORT, num_iterations=1).solve(PROBLEMS, wide, reward)
    for large, small in zip(many, few, strict=True):
        assert [s["response"] for s in large.search["samples"][:4]] == [s["response"] for s in small.search["samples"]]
        assert large.search["trajectory"][3]["flops"] == small.cost.flops


def test_prompt_beyond_context_raises_naming_problem():
    with pytest.raises(ValueError, match=r"TPO's prompt of critique, .* full length, .* context of 256 .* toy/0"):
        TPO(**SHORT).solve(PROBLEMS, toys.policy(), toys.reward())


def test_sampled_answers_beyond_context_raise_naming_round(wide, monkeypatch):
    TPO(**SHORT).check_prompts(PROBLEMS, wide)
    monkeypatch.setattr(TPO, "check_prompts", lambda *_: None)  # decoded and read again, a reply may grow
    monkeypatch.setattr(tpo, "CRITIQUE", tpo.CRITIQUE + "{best}" * wide.context)
    with pytest.raises(ValueError, match=r"TPO's prompt of round 1 critique and its reply .* problem toy/0"):
        TPO(**SHORT).solve(PROBLEMS, wide, toys.reward())


@pytest.mark.parametrize("replies", ["bytes", "words"])
def test_replies_that_grow_when_read_again_are_cut_to_their_limit(replies, monkeypatch):
    """FAULTS K8: one such reply ended the whole batch; a byte that is no character is read as three tokens."""
    policy, reward, method = toys.policy(), toys.reward(), TPO(**SHORT)
    byte = policy.tokenizer.convert_tokens_to_ids("Ã")  # 0xC3, the first half of a character
    words = policy.tokenizer.encode("7 is it so 7", add_special_tokens=False)

    def sample(policy, prefixes, noise, sampling, limits):
        reply = [byte] * 6 if replies == "bytes" else words
        return [
            Rollout(tokens := reply[:limit], False, decoded=cost.decoded(len(prefix), len(tokens)))
            for prefix, limit in zip(prefixes, limits, strict=True)
        ]

    monkeypatch.setattr(generation, "sample", sample)
    assert len(policy.tokenizer.encode(policy.decode([byte] * 6))) == 18
    for context in range(200, 4000):  # the smallest one that is allowed
        policy.context = context
        try:
            method.check_prompts(PROBLEMS, policy)
            break
        except ValueError:
            continue
    solutions = method.solve(PROBLEMS, policy, reward)
    assert [len(solution.search["samples"]) for solution in solutions] == [4, 4]
    assert tpo._within("ab", policy, 2) == "ab"
    assert tpo._within("\ufffd\ufffd", policy, 5) == "\ufffd"
    assert tpo._within("\ufffd", policy, 2) == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 1}, "num_samples must be >= 2"),
        ({"num_samples": 10**6}, "num_samples must be at most 100,000"),
        ({"num_iterations": 0}, "num_iterations must be >= 1; got 0"),
        ({"max_critique_tokens": 0}, "max_critique_tokens must be >= 1; got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1; got 0"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_setting_out_of_range_raises(settings, message):
    with pytest.raises(ValueError, match=message):
        TPO(**settings)
