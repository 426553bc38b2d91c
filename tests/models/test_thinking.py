"""Think blocks in responses: marks that are special tokens, and blocks that the prompt opened."""

import copy

import pytest
import toys

from nabla_reasoner import Greedy, Problem, SelfConsistency
from nabla_reasoner.baselines.sample_pool import vote
from nabla_reasoner.engine.generation import Rollout
from nabla_reasoner.evaluation.records import make_record
from nabla_reasoner.models.language_models import Policy
from nabla_reasoner.tasks import grading

PROBLEM = Problem("1", "What is 2 + 2?", "4", "math500")
OPENED = "<|assistant|>{% endif %}"


def policy_with(special: list[str], opened: str = "") -> Policy:
    """Return a toy policy with further special tokens, whose prompts end with `opened`."""
    toy = toys.policy()
    tokenizer, model = copy.deepcopy(toy.tokenizer), copy.deepcopy(toy.model)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": special}, replace_extra_special_tokens=False)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    assert OPENED in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(OPENED, f"<|assistant|>{opened}{{% endif %}}")
    return Policy(model, tokenizer, "toy")


def ids(policy: Policy, text: str) -> list[int]:
    return policy.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("special", "response", "expected"),
    [
        (["[THINK]", "[/THINK]"], "[THINK]Perhaps \\boxed{4}? Let me check", None),
        (["[THINK]", "[/THINK]"], "[THINK]Perhaps \\boxed{4}? No.[/THINK]The answer is 5.<|end|>", "5"),
        (["<seed:think>", "</seed:think>"], "<seed:think>\\boxed{4}</seed:think>\\boxed{5}<|end|>", "5"),
        (["<|channel|>", "<|message|>"], "<|channel|>analysis<|message|>Perhaps \\boxed{4}? Let me check", None),
        (
            ["<|channel|>", "<|message|>", "<|start|>"],
            "<|channel|>analysis<|message|>\\boxed{4}?<|start|>assistant<|channel|>final<|message|>\\boxed{5}<|end|>",
            "5",
        ),
        ([], "<think>Perhaps \\boxed{4}? Let me check", None),
    ],
)
def test_marks_that_are_special_tokens_stay_in_the_text(special: list[str], response: str, expected: str | None):
    policy = policy_with(special)
    tokens = ids(policy, response)
    written = [mark for mark in special if mark in response]
    assert set(policy.tokenizer.convert_tokens_to_ids(written)) <= set(tokens), "each is one token"
    text = policy.response_text(tokens)
    assert "<|end|>" not in text, "other special tokens are left out"
    assert grading.extract_answer(text, "math500", finished=response.endswith("<|end|>")) == expected


@pytest.mark.parametrize(
    ("opened", "response", "expected"),
    [
        ("<think>\n", "Perhaps \\boxed{4}? Let me check", None),
        ("<think>\n", "Perhaps \\boxed{4}? No.\n</think>\n\nThe answer is \\boxed{5}.<|end|>", "5"),
        ("<think>\n\n</think>\n\n", "The answer is \\boxed{4}.<|end|>", "4"),
        ("", "The answer is \\boxed{4}.<|end|>", "4"),
    ],
)
def test_block_that_the_prompt_opened_is_thought(opened: str, response: str, expected: str | None):
    policy = policy_with([], opened)
    tokens = ids(policy, response)
    text = policy.response_text(tokens)
    assert grading.extract_answer(text, "math500", finished=response.endswith("<|end|>")) == expected
    rollouts = [Rollout(tokens, response.endswith("<|end|>")), Rollout(ids(policy, "x"), True)]
    assert vote(PROBLEM, policy, rollouts, [0.0, 0.0]) == [0, 0]
    right = [*rollouts[:1], Rollout(ids(policy, "a</think>\\boxed{4}<|end|>"), True)]
    assert vote(PROBLEM, policy, right, [0.0, 0.0])[-1] == (1 if expected is None else 0)


def test_records_of_a_policy_whose_prompt_opens_a_block_have_its_beginning():
    plain, policy = policy_with([]), policy_with([], "<think>\n")
    assert (plain.texts.open_block, policy.texts.open_block) == ("", "<think>\n")
    for method in (Greedy(max_new_tokens=6), SelfConsistency(num_samples=2, max_new_tokens=6)):
        (solution,) = method.solve([PROBLEM], policy)
        assert solution.response == "<think>\n" + policy.decode(solution.token_ids)
        names = {"policy": "x", "method": "y", "seed": 0, "repeat": 0}
        record = make_record(PROBLEM, solution, **names, grade=grading.grade)
        assert record["response"].startswith("<think>\n")
        assert record["extracted"] is None
        (solution,) = method.solve([PROBLEM], plain)
        assert solution.response == plain.decode(solution.token_ids)
