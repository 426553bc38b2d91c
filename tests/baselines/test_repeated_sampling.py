import pytest
import toys

from nabla_reasoner.baselines.repeated_sampling import BestOfN, Greedy, SelfConsistency, majority
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
    import torch

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
        prompt, drawn = len(policy.prompt_ids(toys.chat(problem.question))), len(solution.token_ids)
        assert solution.cost.decode_tokens == drawn
        assert solution.cost.policy_prefill_tokens == prompt
        assert solution.cost.model_calls == drawn + 1
        assert solution.cost.flops == 2 * policy.parameters * (prompt + drawn)


def test_zero_samples_or_long_prompt_raises():
    with pytest.raises(ValueError, match=r"num_samples \(N\) must be >= 1; got 0"):
        BestOfN(num_samples=0)
    with pytest.raises(ValueError, match="context of 256"):
        Greedy(max_new_tokens=300).solve(PROBLEMS, toys.policy())
