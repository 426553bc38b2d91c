"""What holds for every method: bad models, prompts and arguments are refused, no problems give no solutions."""

import functools

import pytest
import toys

from nabla_reasoner import Problem
from nabla_reasoner.config.build import build_method
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.config.schema import choices

PROBLEM = Problem("p", "7+7=?", None, "free")
EVERY = f"method={','.join(choices('method'))}"
CELLS = {cell.method.name: cell for cell in compose_cells([EVERY, "max_new_tokens=8"])}
SCORING = [name for name, cell in CELLS.items() if cell.method.scored]


@functools.cache
def method(name: str):
    return build_method(CELLS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("method"))
def test_no_problems_give_no_solutions(name: str):
    assert method(name).solve([], toys.policy(), toys.reward()) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", ["policy", "reward", "reference"])
@pytest.mark.parametrize("name", SCORING)
def test_prompt_beyond_the_context_of_one_model_alone_is_refused(name: str, part: str):
    """A reward reads one token more than a policy: the end of the answer. A judge decodes without the policy."""
    policy, reward = toys.policy(), toys.reward(reference=True)
    model = {"policy": policy, "reward": reward, "reference": reward.reference}[part]
    model.context = 10 if part == "policy" else len(reward.prompt_ids(PROBLEM.messages)) + 8
    if (name, part) == ("judge_greedy", "policy"):
        assert method(name).solve([PROBLEM], policy, reward)[0].token_ids
        return
    with pytest.raises(ValueError, match=rf"context of {model.context} tokens"):
        method(name).solve([PROBLEM], policy, reward)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORING)
def test_reward_of_another_vocabulary_is_refused(name: str):
    reward = toys.reward()
    reward.tokenizer.add_tokens(["something else"])
    vocabulary = reward.tokenizer.get_vocab()
    reward.tokenizer.get_vocab = lambda: {token: index + 1 for token, index in vocabulary.items()}
    with pytest.raises(ValueError, match="vocabulary"):
        method(name).solve([PROBLEM], toys.policy(), reward)


WRONG = {
    "text": (lambda policy, reward: ("7+7=?", policy, reward), {}, "problems must be a list of Problem; got '7"),
    "texts": (lambda policy, reward: (["7+7=?"], policy, reward), {}, "problems must be a list of Problem; it holds"),
    "one problem": (lambda policy, reward: (PROBLEM, policy, reward), {}, "problems must be a list of Problem; got"),
    "nothing": (lambda policy, reward: (None, policy, reward), {}, "problems must be a list of Problem; got None"),
    "number as id": (lambda policy, reward: ([PROBLEM._replace(id=7)], policy, reward), {}, "id must be text; got 7"),
    "no question": (
        lambda policy, reward: ([PROBLEM._replace(question=None)], policy, reward),
        {},
        "question must be text; got None",
    ),
    "models in another order": (
        lambda policy, reward: ([PROBLEM], reward, policy),
        {},
        "policy must be a Policy; got RewardModel.*tokens, float64 on cpu.* the policy before the reward",
    ),
    "name of a model": (lambda policy, reward: ([PROBLEM], "gpt2", reward), {}, "policy must be a Policy; got 'gpt2'"),
    "seed": (lambda policy, reward: ([PROBLEM], policy, reward), {"seed": 0.5}, "seed must be a whole number; got 0.5"),
    "repeat": (
        lambda policy, reward: ([PROBLEM], policy, reward),
        {"repeat": None},
        "repeat must be a whole number; got None",
    ),
}


@pytest.mark.parametrize("name", choices("method"))
def test_wrong_arguments_are_named(name: str):
    policy, reward = toys.policy(), toys.reward()
    for arguments, keywords, message in WRONG.values():
        with pytest.raises(TypeError, match=message):
            method(name).solve(*arguments(policy, reward), **keywords)


@pytest.mark.parametrize("name", SCORING)
def test_a_method_that_scores_needs_a_reward_model(name: str):
    with pytest.raises(TypeError, match="reward must be a RewardModel; got None"):
        method(name).solve([PROBLEM], toys.policy(), None)


@pytest.mark.slow
def test_problems_may_be_any_iterable():
    policy, reward = toys.policy(), toys.reward()
    problems = [PROBLEM, PROBLEM._replace(id="q")]
    for name in ("best_of_n", "nabla_reasoner"):
        listed, generated = (method(name).solve(given, policy, reward) for given in (problems, iter(problems)))
        assert [solution.token_ids for solution in listed] == [solution.token_ids for solution in generated]
