import math

import pytest
import torch
import toys
from pass_counter import PassCounter

from nabla_reasoner import cost
from nabla_reasoner.baselines import sample_pool
from nabla_reasoner.baselines.repeated_sampling import (
    BestOfN,
    Greedy,
    SelfConsistency,
    SoftBestOfN,
    WeightedSelfConsistency,
    majority,
)
from nabla_reasoner.cost import Reads, forward_flops
from nabla_reasoner.engine import scoring
from nabla_reasoner.engine.branch_cache import BranchCache
from nabla_reasoner.engine.generation import Rollout
from nabla_reasoner.tasks import grading
from nabla_reasoner.types import Problem

PROBLEMS = [Problem(f"toy/{i}", text, "1", "chain_sum") for i, text in enumerate(["What is 12 + 34?", "6", "99 + 1?"])]
DRAW = {"temperature": 1.0, "max_new_tokens": 8}


def drafts(policy, *texts):
    return [Rollout([*policy.tokenizer.encode(text), policy.eos_ids[0]], True) for text in texts]


def test_best_of_n_returns_highest_reward_of_prefix():
    policy, reward = toys.policy(), toys.reward("classifier")
    many = BestOfN(num_samples=6, **DRAW).solve(PROBLEMS, policy, reward)
    few = BestOfN(num_samples=3, **DRAW).solve(PROBLEMS, policy, reward)
    for large, small in zip(many, few, strict=True):
        rewards = [sample["reward"] for sample in large.search["samples"]]
        assert large.reward == max(rewards)
        assert small.reward == pytest.approx(max(rewards[:3]), abs=1e-9)
        assert large.search["trajectory"][2]["response"] == small.response
        assert large.search["trajectory"][2]["flops"] == small.cost.flops


def test_best_of_n_reward_equals_hugging_face_forward():
    policy, reward = toys.policy(), toys.reward("classifier")
    for problem, solution in zip(PROBLEMS, BestOfN(num_samples=4, **DRAW).solve(PROBLEMS, policy, reward), strict=True):
        closing = [] if solution.token_ids[-1] in reward.eos_ids else [reward.eos_ids[0]]
        ids = reward.prompt_ids(toys.chat(problem.question)) + solution.token_ids + closing + reward.suffix_ids
        assert solution.reward == pytest.approx(reward.model(input_ids=torch.tensor([ids])).logits.item(), abs=1e-9)


def test_majority_tie_goes_to_first_answer():
    policy = toys.policy()
    votes = drafts(policy, "1+1=3", "1+1=2", "2=2", "1+2=3", "no answer", "9=3")
    assert majority(PROBLEMS[0], policy, votes) == [0, 0, 1, 0, 0, 0]
    assert majority(PROBLEMS[0], policy, drafts(policy, "nothing", "5")) == [0, 0]


def test_self_consistency_response_is_one_of_samples():
    policy = toys.policy()
    for problem, solution in zip(PROBLEMS, SelfConsistency(num_samples=5, **DRAW).solve(PROBLEMS, policy), strict=True):
        answers = [grading.extract_answer(s["response"], problem.task) for s in solution.search["samples"]]
        assert solution.response in [s["response"] for s in solution.search["samples"]]
        assert len(answers) == 5


def test_greedy_cost_is_tokens_and_one_prefill():
    policy = toys.policy()
    for problem, solution in zip(PROBLEMS, Greedy(max_new_tokens=8).solve(PROBLEMS, policy), strict=True):
        prompt, length = len(policy.prompt_ids(toys.chat(problem.question))), len(solution.token_ids)
        assert solution.cost.decode_tokens == length
        assert solution.cost.policy_prefill_tokens == prompt
        assert solution.cost.model_calls == length + 1
        layers, head, attention = policy.size
        pairs = prompt**2 + sum(range(prompt + 1, prompt + length))
        flops = 2 * layers * (prompt + length - 1) + 2 * head * length + 4 * attention * pairs
        assert solution.cost.flops == flops


def test_zero_samples_or_long_prompt_raises():
    with pytest.raises(ValueError, match=r"num_samples \(N\) must be >= 1; got 0"):
        BestOfN(num_samples=0)
    with pytest.raises(ValueError, match=r"num_samples \(N\) must be at most 100,000.*got 1,000,000,000"):
        SelfConsistency(num_samples=10**9)
    with pytest.raises(ValueError, match="context of 256"):
        Greedy(max_new_tokens=300).solve(PROBLEMS, toys.policy())


FEW_CHOICES = {"num_samples": 7, "temperature": 9.0, "top_k": 2, "max_new_tokens": 3}  # at most 8 different responses
REWARDS = [("likelihood", False), ("likelihood", True), ("classifier", False)]


@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_pool_equals_single_scores_and_books_tokens_read(kind, reference, monkeypatch):
    policy, reward = toys.policy(), toys.reward(kind, reference=reference)
    counter = PassCounter(monkeypatch, policy, reward)
    solutions = BestOfN(**FEW_CHOICES).solve(PROBLEMS, policy, reward)
    spent = cost.total(solution.cost for solution in solutions)
    assert spent.reward_forward_tokens == counter.read["reward"]
    assert spent.policy_prefill_tokens == counter.read["policy"]
    assert spent.decode_tokens == counter.drawn
    for problem, solution in zip(PROBLEMS, solutions, strict=True):
        sampler = sample_pool.KeyedSampler(policy, sample_pool.Sampling(9.0, top_k=2), 0, 0)
        prompts = [policy.prompt_ids(problem.messages)]
        (rollouts,) = sampler.draw([problem], prompts, "rollout", 7, 3)
        texts = [tuple(rollout.token_ids) for rollout in rollouts]
        assert len(set(texts)) < 7
        prompt = reward.prompt_ids(problem.messages)
        plain = [scoring.rewards(reward, [prompt], [list(text)])[0][0] for text in texts]
        assert [sample["reward"] for sample in solution.search["samples"]] == pytest.approx(plain, abs=1e-9)
        assert solution.token_ids == list(texts[plain.index(max(plain))])
        assert solution.cost.model_calls == 1 + sum(map(len, texts)) + len(set(texts))


def test_tokens_of_a_pool_counted_by_hand(monkeypatch):
    """Samples abc, abd, abc, xyz, ab$, abd: the classifier reads abc, d, nothing, xyz, nothing more for the last."""
    policy, reward = toys.policy(), toys.reward("classifier")
    texts = [[31, 32, 33], [31, 32, 34], [31, 32, 33], [41, 42, 43], [31, 32, policy.eos_ids[0]], [31, 32, 34]]
    decoded = Reads(2, 2 * 50, 3)
    rollouts = [Rollout(text, text[-1] in policy.eos_ids, decoded=decoded) for text in texts]
    monkeypatch.setattr(sample_pool.KeyedSampler, "draw", lambda self, problems, *rest: [rollouts] * len(problems))
    closing = 1 + len(reward.suffix_ids)
    tails = [3 + closing, 1 + closing, 0, 3 + closing, closing, 0]  # beyond what was read before
    for problem, solution in zip(
        PROBLEMS, BestOfN(num_samples=6, max_new_tokens=3).solve(PROBLEMS, policy, reward), strict=True
    ):
        prompt = len(reward.prompt_ids(problem.messages))
        assert solution.cost.reward_forward_tokens == prompt + sum(tails)
        spent = [entry["flops"] for entry in solution.search["trajectory"]]
        ends = [prompt + 3 + closing, 0, prompt + 3 + closing, prompt + 2 + closing, 0]
        for before, after, tail, end in zip(spent, spent[1:], tails[1:], ends, strict=False):
            scored = forward_flops(reward.size, Reads(tail, tail * end, tail > 0))
            assert after - before == forward_flops(policy.size, decoded) + scored


def test_equal_questions_in_a_batch_share_nothing():
    policy, reward = toys.policy(), toys.reward("classifier")
    twins = [PROBLEMS[0], PROBLEMS[0]._replace(id="toy/twin")]
    together = BestOfN(**FEW_CHOICES).solve(twins, policy, reward)
    for problem, solution in zip(twins, together, strict=True):
        (alone,) = BestOfN(**FEW_CHOICES).solve([problem], policy, reward)
        assert solution.cost._replace(seconds=0, peak_bytes=0) == alone.cost._replace(seconds=0, peak_bytes=0)


def test_selectors_share_samples_and_cost():
    policy, reward = toys.policy(), toys.reward()
    methods = [BestOfN, SoftBestOfN, WeightedSelfConsistency]
    best, soft, weighted = (method(num_samples=5, **DRAW).solve(PROBLEMS, policy, reward) for method in methods)
    for solutions in zip(best, soft, weighted, strict=True):
        assert len({str(solution.search["samples"]) for solution in solutions}) == 1
        assert len({solution.cost.flops for solution in solutions}) == 1
        assert all(solution.reward in [s["reward"] for s in solution.search["samples"]] for solution in solutions)


def test_cold_soft_choice_is_best_and_prefix_consistent():
    policy, reward = toys.policy(), toys.reward("classifier")
    best = BestOfN(num_samples=6, **DRAW).solve(PROBLEMS, policy, reward)
    cold = SoftBestOfN(num_samples=6, reward_temperature=1e-9, **DRAW).solve(PROBLEMS, policy, reward)
    assert [a.token_ids for a in best] == [a.token_ids for a in cold]
    many = SoftBestOfN(num_samples=6, **DRAW).solve(PROBLEMS, policy, reward)
    few = SoftBestOfN(num_samples=3, **DRAW).solve(PROBLEMS, policy, reward)
    for large, small in zip(many, few, strict=True):
        assert large.search["trajectory"][2]["response"] == small.response
        assert large.search["trajectory"][2]["flops"] == small.cost.flops


def test_soft_best_of_n_draws_with_softmax_probabilities():
    """4,000 draws by rewards 0, 1 and 2: frequencies within four standard errors of the softmax."""
    method, rewards = SoftBestOfN(num_samples=3, reward_temperature=2.0), [0.0, 1.0, 2.0]
    problems = [Problem(str(i), "6", "1", "chain_sum") for i in range(4000)]
    counts = torch.zeros(3, dtype=torch.float64)
    for problem in problems:
        counts[method._draw(0, 0, problem, [Rollout([5], False)] * 3, rewards)[-1]] += 1
    expected = torch.softmax(torch.tensor(rewards, dtype=torch.float64) / 2, 0)
    error = (expected * (1 - expected) / 4000).sqrt()
    assert ((counts / 4000 - expected).abs() < 4 * error).all()


def test_weighted_vote_sums_weights_of_equal_answers():
    policy = toys.policy()
    votes = drafts(policy, "1+1=3", "1+1=2", "2=2", "1+2=3", "no answer", "9=3")
    weights = [0.3, 0.2, 0.2, 0.05, 5.0, 0.06]  # 3: 0.3, 0.35, 0.41; 2: 0.2, 0.4
    winners = sample_pool.vote(PROBLEMS[0], policy, votes, [math.log(w) - 900 for w in weights])
    assert winners == [0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize("method", [SoftBestOfN, WeightedSelfConsistency])
def test_reward_temperature_out_of_range_raises(method):
    with pytest.raises(ValueError, match=r"reward_temperature \(τ\) must be > 0 and finite; got 0"):
        method(reward_temperature=0)


@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
def test_pool_short_of_memory_has_same_rewards(kind, monkeypatch):
    """Memory runs out while keys are stored, in passes over more than three texts."""
    policy, reward = toys.policy(), toys.reward(kind)
    method = BestOfN(num_samples=6, temperature=9.0, top_k=2, max_new_tokens=4)
    expected = method.solve(PROBLEMS, policy, reward)
    write, put = torch.Tensor.__setitem__, BranchCache.put
    stored: list[int] = []
    sizes = []

    def limited(self, index, value):
        if isinstance(index, torch.Tensor) and index.dim() == 1 and value.dim() == 3 and stored and stored[-1] > 3:
            sizes.append(stored[-1])
            raise torch.OutOfMemoryError("CUDA out of memory.")
        write(self, index, value)

    def counted(self, slots, *rest):
        stored.append(len(slots))
        put(self, slots, *rest)
        stored.append(0)

    monkeypatch.setattr(BranchCache, "put", counted)
    monkeypatch.setattr(torch.Tensor, "__setitem__", limited)
    with pytest.warns(UserWarning, match="halved"):
        short = method.solve(PROBLEMS, policy, reward)
    assert sizes
    for solution, other in zip(expected, short, strict=True):
        rewards = [[sample["reward"] for sample in result.search["samples"]] for result in (solution, other)]
        assert rewards[0] == pytest.approx(rewards[1], abs=1e-9)
        assert solution.cost.flops == other.cost.flops
