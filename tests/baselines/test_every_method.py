"""What holds for every method: bad models and prompts are refused, no problems give no solutions."""

import pytest
import toys

from nabla_reasoner import Problem
from nabla_reasoner.config.build import build_method
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.config.schema import choices

PROBLEM = Problem("p", "7+7=?", None, "free")
SCORING = [name for name in choices("method") if compose_cells([f"method={name}"])[0].method.scored]


def method(name: str):
    return build_method(compose_cells([f"method={name}", "max_new_tokens=8"])[0])


@pytest.mark.parametrize("name", choices("method"))
def test_no_problems_give_no_solutions(name: str):
    assert method(name).solve([], toys.policy(), toys.reward()) == []


@pytest.mark.parametrize("name", SCORING)
def test_prompt_beyond_the_context_of_the_reward_is_refused(name: str):
    reward = toys.reward()
    for model in {id(reward): reward, id(reward.strong): reward.strong}.values():
        model.context = 10
    with pytest.raises(ValueError, match="context"):
        method(name).solve([PROBLEM], toys.policy(), reward)


@pytest.mark.parametrize("name", SCORING)
def test_reward_of_another_vocabulary_is_refused(name: str):
    reward = toys.reward()
    reward.tokenizer.add_tokens(["something else"])
    vocabulary = reward.tokenizer.get_vocab()
    reward.tokenizer.get_vocab = lambda: {token: index + 1 for token, index in vocabulary.items()}
    with pytest.raises(ValueError, match="vocabulary"):
        method(name).solve([PROBLEM], toys.policy(), reward)
