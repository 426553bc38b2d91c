"""Tree of Thoughts and RAP on random models, against brute force and independent recounts."""

import itertools

import pytest
import torch
import toys
from transformers import DynamicCache

from nabla_reasoner import cost
from nabla_reasoner.baselines import tree_search
from nabla_reasoner.baselines.rap import RAP
from nabla_reasoner.baselines.tree_of_thoughts import TreeOfThoughts
from nabla_reasoner.engine import generation, scoring
from nabla_reasoner.engine.sampling import Sampling, keyed_uniforms
from nabla_reasoner.engine.sequences import ModelCaches
from nabla_reasoner.models.language_models import Policy
from nabla_reasoner.types import Problem

QUESTIONS = ["What is 12 + 34?", "6", "99 + 1?", "Add 5 and 6, then take 7.", "1 2 3"]
PROBLEMS = [Problem(f"toy/{i}", text, "1", "chain_sum") for i, text in enumerate(QUESTIONS)]
SETTINGS = {"step_marks": list("aeiou0123456789 "), "temperature": 1.0, "max_new_tokens": 12}
METHODS = {
    "tot": lambda **more: TreeOfThoughts(breadth=2, num_proposals=3, **{**SETTINGS, **more}),
    "tot rollout": lambda **more: TreeOfThoughts(breadth=2, num_proposals=3, value="rollout", **{**SETTINGS, **more}),
    "rap": lambda **more: RAP(num_simulations=8, num_proposals=3, **{**SETTINGS, **more}),
}


def plain_reward(reward, question: str, tokens: list[int], *, close: bool = True) -> float:
    """r(y|x) by the Hugging Face forward of the whole text."""
    prompt, text = reward.prompt_ids(toys.chat(question)), list(tokens)
    if close and text[-1] not in reward.eos_ids:
        text.append(reward.eos_ids[0])
    if text[-1] in reward.eos_ids:
        text += reward.suffix_ids
    ids = torch.tensor([prompt + text])
    if reward.kind == "classifier":
        return reward.model(input_ids=ids).logits.item()
    total = 0.0
    for sign, model in ((1, reward.model), (-1, reward.reference and reward.reference.model)):
        if model is not None:
            logs = model(input_ids=ids).logits[0, :, : reward.strong.vocab_size].log_softmax(-1)
            total += sign * logs[torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]].sum().item()
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "reference"), [("likelihood", False), ("likelihood", True), ("classifier", False)])
@pytest.mark.parametrize("name", METHODS)
def test_solution_is_completed_response_of_highest_reward(name, kind, reference):
    policy, reward = toys.policy(), toys.reward(kind, reference=reference)
    for problem, solution in zip(PROBLEMS, METHODS[name]().solve(PROBLEMS, policy, reward), strict=True):
        assert solution.reward == pytest.approx(plain_reward(reward, problem.question, solution.token_ids), abs=1e-9)
        samples = solution.search["samples"]
        finished = [sample for sample in samples if sample["finished"]] or samples
        assert solution.reward == max(sample["reward"] for sample in finished)
        assert solution.search["rollouts"] == len(samples)
        assert solution.search["finished"] == (solution.token_ids[-1] in policy.eos_ids)
        assert [step["rollouts"] for step in solution.search["trajectory"]] == sorted(
            step["rollouts"] for step in solution.search["trajectory"]
        )
        last = solution.search["trajectory"][-1]
        assert (last["response"], last["flops"]) == (solution.response, solution.cost.flops)
        assert last["model_calls"] == solution.cost.model_calls


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_results_do_not_depend_on_batch_order(name):
    policy, reward = toys.policy("llama"), toys.reward("classifier", "qwen2")
    together = METHODS[name]().solve(PROBLEMS[::-1], policy, reward, seed=3)[::-1]
    for problem, one in zip(PROBLEMS, together, strict=True):
        (alone,) = METHODS[name]().solve([problem], policy, reward, seed=3)
        assert one.token_ids == alone.token_ids
        assert one.search["steps"] == alone.search["steps"]
        assert one.cost._replace(seconds=0, peak_bytes=0) == alone.cost._replace(seconds=0, peak_bytes=0)
        responses = [[sample["response"] for sample in each.search["samples"]] for each in (one, alone)]
        assert responses[0] == responses[1]
    other = METHODS[name]().solve(PROBLEMS, policy, reward, seed=4)
    assert [one.token_ids for one in other] != [one.token_ids for one in together]


def leaves(policy, question: str, length: int, choices: int) -> list[list[int]]:
    """Every response of up to `length` tokens, each among the `choices` most likely ones."""
    found, grown = [], [[]]
    prompt = policy.prompt_ids(toys.chat(question))
    for _ in range(length):
        logits = [policy.model(input_ids=torch.tensor([prompt + ids])).logits[0, -1] for ids in grown]
        likely = [own[: policy.vocab_size].topk(choices).indices.tolist() for own in logits]
        grown = [[*ids, token] for ids, tokens in zip(grown, likely, strict=True) for token in tokens]
        found += [ids for ids in grown if ids[-1] in policy.eos_ids]
        grown = [ids for ids in grown if ids[-1] not in policy.eos_ids]
    return found + grown


WIDE = {
    "num_proposals": 120,
    "step_marks": [*"aeiou0123456789 ", "\ufffd"],
    "temperature": 9.0,
    "top_k": 2,
    "max_new_tokens": 4,
}


@pytest.mark.slow
@pytest.mark.parametrize("method", [RAP(num_simulations=60, **WIDE), TreeOfThoughts(breadth=64, **WIDE)], ids=type)
def test_wide_search_completes_every_response(method):
    """120 draws among at most 16 nearly equally likely steps miss one with a probability of 1 %; the seed is fixed."""
    policy, reward = toys.policy(), toys.reward()
    for problem, solution in zip(PROBLEMS[:3], method.solve(PROBLEMS[:3], policy, reward, seed=1), strict=True):
        everything = leaves(policy, problem.question, 4, 2)
        assert len(solution.search["samples"]) < 60  # of itself, when nothing is left
        assert {sample["response"] for sample in solution.search["samples"]} == set(map(policy.decode, everything))
        rated = [(ids[-1] in policy.eos_ids, plain_reward(reward, problem.question, ids)) for ids in everything]
        finished, best = max(rated)
        assert solution.search["finished"] == finished
        assert solution.reward == pytest.approx(best, abs=1e-9)


@pytest.mark.slow
def test_narrow_tree_of_thoughts_follows_highest_value():
    """Steps drawn and valued here without a cache, one at a time."""
    policy, reward = toys.policy(), toys.reward()
    method, compared = TreeOfThoughts(breadth=1, num_proposals=4, **SETTINGS), 0
    for problem, solution in zip(PROBLEMS, method.solve(PROBLEMS, policy, reward), strict=True):
        prompt, stops = policy.prompt_ids(problem.messages), tree_search.stop_ids(policy, SETTINGS["step_marks"])
        rated = []
        for i in range(4):
            noise = keyed_uniforms(0, problem.id, 0, f"step {i} behind ", 12)
            (drawn,) = generation.sample(policy, [prompt], [noise], Sampling(1.0), [12], stops=[stops])
            final = drawn.finished or len(drawn.token_ids) == 12
            rated.append((plain_reward(reward, problem.question, drawn.token_ids, close=final), drawn.token_ids))
        (value, best), worst = max(rated), min(rated)[0]
        if not solution.search["finished"]:  # otherwise a response that was left behind may be the answer
            assert solution.token_ids[: len(best)] == best
            compared += value > worst
    assert compared >= 3


@pytest.mark.slow
def test_fewer_simulations_give_prefix_of_samples():
    policy, reward = toys.policy(), toys.reward()
    many = METHODS["rap"]().solve(PROBLEMS, policy, reward)
    few = RAP(num_simulations=3, num_proposals=3, **SETTINGS).solve(PROBLEMS, policy, reward)
    for large, small in zip(many, few, strict=True):
        assert large.search["samples"][:3] == small.search["samples"]
        assert large.search["trajectory"][2]["response"] == small.response
        assert large.search["trajectory"][2]["flops"] == small.cost.flops


def test_first_simulation_is_one_policy_sample():
    policy, reward = toys.policy(), toys.reward()
    for problem, solution in zip(
        PROBLEMS, RAP(num_simulations=1, num_proposals=1, **SETTINGS).solve(PROBLEMS, policy, reward), strict=True
    ):
        noise = keyed_uniforms(0, problem.id, 0, "step 0 behind ", 12)
        prompt = policy.prompt_ids(problem.messages)
        (drawn,) = generation.sample(policy, [prompt], [noise], Sampling(1.0), [12])
        assert solution.token_ids == drawn.token_ids


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
@pytest.mark.parametrize("name", METHODS)
def test_cost_equals_tokens_read_and_sampled(name, kind, monkeypatch):
    """Counts the rows of every forward pass that are not padding, and the tokens that were drawn."""
    policy, reward = toys.policy(), toys.reward(kind)
    read, drawn, sample = {"policy": 0, "reward": 0}, [], generation.sample

    def counting(model, whose):
        own = model.hidden_states

        def hidden_states(embeddings, **context):
            if isinstance(context["past_key_values"], DynamicCache):  # not a decoding step
                read[whose] += (embeddings != model.embedding[0]).any(-1).sum().item()  # padding is token 0
            return own(embeddings, **context)

        monkeypatch.setattr(model, "hidden_states", hidden_states)

    def sampling(*arguments, **settings):
        results = sample(*arguments, **settings)
        drawn.extend(token for rollout in results for token in rollout.token_ids)
        return results

    counting(policy, "policy")
    counting(reward if kind == "classifier" else reward.strong, "reward")
    monkeypatch.setattr(generation, "sample", sampling)
    spent = cost.total(one.cost for one in METHODS[name]().solve(PROBLEMS, policy, reward))
    assert 0 not in drawn
    assert spent.decode_tokens == len(drawn)
    assert spent.policy_prefill_tokens == read["policy"]
    assert spent.reward_forward_tokens == read["reward"]


def test_one_token_of_shared_prefix_is_read_again():
    """A scripted search by hand: prompts of P and R tokens; b = 1, k = 2, every token ends a step, three depths."""
    policy, reward = toys.policy(), toys.reward("classifier")
    every = sorted({character for index in range(policy.vocab_size) for character in policy.decode([index])})
    method = TreeOfThoughts(breadth=1, num_proposals=2, step_marks=every, temperature=9.0, top_k=2, max_new_tokens=3)
    (solution,) = method.solve(PROBLEMS[:1], policy, reward, seed=2)
    prompt = len(policy.prompt_ids(PROBLEMS[0].messages))
    assert not solution.search["finished"]
    assert solution.cost.decode_tokens == 6
    assert solution.cost.policy_prefill_tokens == prompt + 1 + 1  # then the one kept state's last token
    distinct, last = solution.search["steps"], len(solution.search["samples"])
    opening, closing = len(reward.prompt_ids(PROBLEMS[0].messages)), 1 + len(reward.suffix_ids)
    assert solution.cost.reward_forward_tokens == opening + distinct + last * closing
    # draws, three prefills, the reward's prompt, a score for every distinct step
    assert solution.cost.model_calls == 6 + 3 + 1 + distinct


@pytest.mark.parametrize(("kind", "reference"), [("likelihood", False), ("likelihood", True), ("classifier", False)])
def test_prefix_value_has_no_end_token(kind, reference):
    policy, reward = toys.policy(), toys.reward(kind, reference=reference)
    texts = [policy.tokenizer.encode(text) for text in ("1", "12+3", "the sum is")] + [[40, policy.eos_ids[0]]]
    prompts = [reward.prompt_ids(toys.chat(question)) for question in QUESTIONS[:4]]
    values, _ = scoring.rewards(reward, prompts, texts, close=False)
    for question, text, value in zip(QUESTIONS, texts, values, strict=False):
        assert value == pytest.approx(plain_reward(reward, question, text, close=False), abs=1e-9)
        if text[-1] not in reward.eos_ids:
            assert abs(value - plain_reward(reward, question, text)) > 1e-3


def test_stop_ids_are_tokens_containing_a_mark():
    policy = toys.policy()
    ids = tree_search.stop_ids(policy, [";", "="])
    assert {policy.decode([index]) for index in ids} >= {";", "="}
    assert all(";" in policy.decode([index]) or "=" in policy.decode([index]) for index in ids)
    assert not any(";" in policy.decode([index]) for index in set(range(policy.vocab_size)) - ids)
    with pytest.raises(ValueError, match="no token of .* contains 'no such text'"):
        tree_search.stop_ids(policy, [";", "no such text"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TreeOfThoughts(breadth=0), r"breadth \(b\) must be >= 1; got 0"),
        (lambda: TreeOfThoughts(breadth=1000, num_proposals=1000), r"\(b k\) must be at most 100,000.*got 1,000,000"),
        (lambda: RAP(num_proposals=10**6), r"num_proposals \(k\) must be at most 100,000"),
        (lambda: TreeOfThoughts(num_proposals=0), r"num_proposals \(k\) must be >= 1; got 0"),
        (lambda: TreeOfThoughts(value="vote"), "value must be one of partial, rollout; got 'vote'"),
        (lambda: TreeOfThoughts(step_marks=[]), "step_marks must be a list of texts"),
        (lambda: RAP(step_marks=[""]), "step_marks must be a list of texts"),
        (lambda: RAP(num_simulations=0), "num_simulations must be >= 1; got 0"),
        (lambda: RAP(exploration=-1.0), "exploration must be >= 0; got -1"),
        (lambda: RAP(max_new_tokens=0), "max_new_tokens must be >= 1; got 0"),
        (lambda: RAP(temperature=-1.0), "temperature must be >= 0"),
    ],
)
def test_setting_out_of_range_raises(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_prompt_beyond_context_raises():
    with pytest.raises(ValueError, match="context of 256"):
        RAP(step_marks=[" "], max_new_tokens=300).solve(PROBLEMS, toys.policy(), toys.reward())


def test_forks_share_prefix_rows_and_reuse_freed():
    policy, caches = toys.policy(), ModelCaches.branching()
    prompt, noise = policy.prompt_ids(toys.chat("6")), [keyed_uniforms(0, str(i), 0, "s", 6) for i in range(4)]
    draw = {"store": caches.policy, "slots": [0, 0, 0], "output_slots": [1, 2, None]}
    drawn = generation.sample(policy, [prompt] * 3, noise[:3], Sampling(1.0), [6] * 3, **draw)
    assert [rollout.prefilled.tokens for rollout in drawn] == [len(prompt), 0, 0]
    held = [len(rollout.token_ids) - 1 for rollout in drawn]
    places = [caches.policy.rows[slot] for slot in (0, 1, 2)]
    assert places[0] == places[1][: len(prompt)] == places[2][: len(prompt)]
    assert len(set(itertools.chain(*places))) == len(prompt) + held[0] + held[1]
    text = prompt + drawn[0].token_ids
    draw = {"store": caches.policy, "slots": [1]}
    (behind,) = generation.sample(policy, [text], noise[3:], Sampling(1.0), [6], **draw, output_slots=[3])
    (fresh,) = generation.sample(policy, [text], noise[3:], Sampling(1.0), [6])
    assert behind.token_ids == fresh.token_ids
    assert (behind.prefilled.tokens, fresh.prefilled.tokens) == (1, len(text))
    capacity = len(caches.policy.log_probabilities)
    free = len(caches.policy.free)
    caches.policy.cut(3, len(text))
    assert len(caches.policy.free) == free + len(behind.token_ids) - 1
    (again,) = generation.sample(policy, [text], noise[3:], Sampling(1.0), [6], **draw, output_slots=[4])
    assert again.token_ids == fresh.token_ids
    assert len(caches.policy.log_probabilities) == capacity


def test_tree_methods_are_public():
    import nabla_reasoner

    assert nabla_reasoner.RAP is RAP
    assert nabla_reasoner.TreeOfThoughts is TreeOfThoughts
    assert isinstance(toys.policy(), Policy)
