"""Beam search of the reward: against every one-token response of a toy, and whatever shares its batch."""

import pytest
import toys

from nabla_reasoner.config import build, compose
from nabla_reasoner.engine import scoring
from nabla_reasoner.experiments import reward_ceiling
from nabla_reasoner.tasks import worked_solutions
from nabla_reasoner.types import Problem

PROBLEMS = [Problem(f"p{number}", "1+" * number + "1", "1", "toy") for number in range(1, 5)]  # of different lengths


def test_beams_find_the_best_of_all_one_token_responses():
    reward = toys.reward("likelihood")
    size = reward.strong.vocab_size
    ((tokens, value),) = reward_ceiling.beam_search(reward, PROBLEMS[:1], num_beams=size, max_new_tokens=1)
    values, _ = scoring.rewards(reward, [reward.prompt_ids(PROBLEMS[0].messages)] * size, [[i] for i in range(size)])
    assert value == pytest.approx(max(values))
    assert values[tokens[0]] == max(values)


def test_shipped_judge_has_nothing_better_than_what_beams_find_in_the_worked_solutions():
    cells = compose.compose_cells(["task=products,chain_sum", "method=greedy", "num_problems=6", "threads=1"])
    for cell in cells:
        policy, reward = build.load_models(cell)
        problems = build.build_problems(cell)
        found = reward_ceiling.beam_search(reward, problems, num_beams=4, max_new_tokens=cell["max_new_tokens"])
        texts = [worked_solutions.worked_solution(each) for each in problems]
        solved = [policy.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        responses = [tokens + reward.eos_ids[:1] for tokens in solved]
        values, _ = scoring.rewards(reward, [reward.prompt_ids(each.messages) for each in problems], responses)
        assert all(best >= value - 1e-3 for (_, best), value in zip(found, values, strict=True))
        assert all(tokens[-1] in reward.eos_ids for tokens, _ in found)


def test_result_does_not_depend_on_the_batch():
    reward = toys.reward("likelihood")
    settings = {"num_beams": 4, "max_new_tokens": 5}
    together = reward_ceiling.beam_search(reward, PROBLEMS, **settings)
    alone = reward_ceiling.beam_search(reward, PROBLEMS, batch_size=1, **settings)
    assert [tokens for tokens, _ in together] == [tokens for tokens, _ in alone]


def test_more_beams_find_no_worse_and_a_classifier_is_refused():
    reward = toys.reward("likelihood")
    few, many = (reward_ceiling.beam_search(reward, PROBLEMS, num_beams=k, max_new_tokens=4) for k in (1, 30))
    assert sum(value for _, value in many) > sum(value for _, value in few)
    with pytest.raises(ValueError, match="likelihood"):
        reward_ceiling.beam_search(toys.reward("classifier"), PROBLEMS, num_beams=2, max_new_tokens=4)
