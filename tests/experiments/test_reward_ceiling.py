"""Beam search of the reward model, against all one-token responses, worked solutions, and other batches."""

import json
from pathlib import Path

import pytest
import toys

from nabla_reasoner.__main__ import main
from nabla_reasoner.config import build, compose, fingerprint
from nabla_reasoner.engine import scoring
from nabla_reasoner.evaluation.records import append_records, failed_record, record_path
from nabla_reasoner.experiments import reward_ceiling
from nabla_reasoner.tasks import worked_solutions
from nabla_reasoner.types import Problem

PROBLEMS = [Problem(f"p{number}", "1+" * number + "1", "1", "toy") for number in range(1, 5)]  # of different lengths


def test_beams_find_best_one_token_response():
    reward = toys.reward("likelihood")
    size = reward.strong.vocab_size
    ((tokens, value),) = reward_ceiling.beam_search(reward, PROBLEMS[:1], num_beams=size, max_new_tokens=1)
    values, _ = scoring.rewards(reward, [reward.prompt_ids(PROBLEMS[0].messages)] * size, [[i] for i in range(size)])
    assert value == pytest.approx(max(values))
    assert values[tokens[0]] == max(values)


@pytest.mark.slow
def test_beams_reach_reward_of_worked_solutions():
    cells = compose.compose_cells(["task=products,chain_sum", "method=greedy", "num_problems=6", "threads=1"])
    for cell in cells:
        policy, reward = build.load_models(cell)
        problems = build.build_problems(cell)
        best = reward_ceiling.beam_search(reward, problems, num_beams=4, max_new_tokens=cell.max_new_tokens)
        texts = [worked_solutions.worked_solution(problem) for problem in problems]
        solved = [policy.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        responses = [tokens + reward.eos_ids[:1] for tokens in solved]
        values, _ = scoring.rewards(reward, [reward.prompt_ids(problem.messages) for problem in problems], responses)
        assert all(response.reward >= value - 1e-3 for response, value in zip(best, values, strict=True))
        assert all(response.tokens[-1] in reward.eos_ids for response in best)


def test_result_is_independent_of_batch():
    reward = toys.reward("likelihood")
    settings = {"num_beams": 4, "max_new_tokens": 5}
    together = reward_ceiling.beam_search(reward, PROBLEMS, **settings)
    alone = reward_ceiling.beam_search(reward, PROBLEMS, batch_size=1, **settings)
    assert [tokens for tokens, _ in together] == [tokens for tokens, _ in alone]


@pytest.mark.slow
def test_search_has_the_length_limit_of_the_records_and_is_repeated_for_another(tmp_path: Path):
    narrow = ["policy=tiny-base", "task=products", "reward=likelihood", "method=greedy", "seed=0", "num_problems=1"]
    for limit in (2, 3):
        words = [*narrow, "threads=1", "wandb=disabled", f"max_new_tokens={limit}", "overwrite=true"]
        assert main(["table1", *words, f"results_dir={tmp_path}"]) == 0
        (row,) = reward_ceiling.search(tmp_path / "tiny", "tiny").rows["products"].values()
        assert row["max_new_tokens"] == limit
        assert not row["correct"], "two or three tokens do not hold a product's steps"


def test_search_is_repeated_for_other_questions_of_the_same_ids(tmp_path: Path):
    words = ["policy=tiny-base", "task=products", "reward=likelihood", "method=greedy", "num_problems=2", "threads=1"]
    (cell,) = compose.compose_cells([*words, "max_new_tokens=2"])
    (easier,) = compose.compose_cells(
        [*words, "max_new_tokens=2", "difficulty.products.max_digits=1", "difficulty.products.min_digits=1"]
    )
    file = tmp_path / "rows.jsonl"
    first, second, again = (reward_ceiling._stored(file, "weights", item) for item in (cell, easier, easier))
    assert first.keys() == second.keys()
    for row, problem in zip(second.values(), build.build_problems(easier), strict=True):
        assert row["question"] == problem.question != first[problem.id]["question"]
    assert again == second


def write_cell(results: Path, method: str, changes: dict[str, object], task: str = "gsm8k") -> None:
    """Write one record of tiny-base with the settings of a default run, some of them changed."""
    (cell,) = compose.compose_cells(
        ["policy=tiny-base", f"task={task}", "reward=likelihood", f"method={method}", "max_new_tokens=24"]
    )
    names = {"policy": "tiny-base", "method": method, "seed": 0, "repeat": 0}
    path = record_path(results / "table1" / "records", "tiny-base", task, method, 0)
    append_records(path, [failed_record(Problem("p0", "q", "1", task), "ValueError: no", **names)])
    settings = json.loads(json.dumps(fingerprint.fingerprint(cell))) | changes
    path.with_suffix(".settings.json").write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"num_problems": None}, None),
        ({"split": "validation"}, "these records are not of test problems"),
        ({"reward": {"name": "classifier", "kind": "classifier"}}, reward_ceiling.UNSUITABLE),
        ({"reward": {"name": "mine", "kind": "likelihood"}}, "no file in configs/ describes reward mine"),
        (
            {"reward": {"name": "likelihood", "kind": "likelihood", "reference": "x"}},
            "the reward has a reference model",
        ),
        ({"task": {}}, "these records were made with other settings of the task than its present ones"),
        ({"num_problems": -3}, "num_problems must be"),
        ({"method": {}}, "the settings of these records are unknown"),
    ],
)
def test_records_are_searched_or_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], reason: str | None
):
    monkeypatch.setattr(reward_ceiling, "_stored", lambda path, weights, cell: {"p0": {"asked": cell.num_problems}})
    write_cell(tmp_path, "greedy", changes)
    found, reasons = reward_ceiling.search(tmp_path, "tiny")
    if reason is None:
        (task,) = found.values()
        assert task["p0"]["asked"] == changes.get("num_problems", 300)
        assert not reasons
        return
    assert not found
    ((name, said),) = reasons.items()
    assert name.startswith("gsm8k")
    assert said.startswith(reason)


def test_a_validation_cell_leaves_the_ceiling_of_the_test_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reward_ceiling, "_stored", lambda path, weights, cell: {"p0": {}})
    write_cell(tmp_path, "best_of_n", {})
    write_cell(tmp_path, "greedy", {"split": "validation"})
    found, reasons = reward_ceiling.search(tmp_path, "tiny")
    assert list(found) == ["gsm8k"]
    assert reasons == {"gsm8k (split=validation)": "these records are not of test problems"}


def test_more_beams_raise_reward_and_classifier_is_refused():
    reward = toys.reward("likelihood")
    few, many = (reward_ceiling.beam_search(reward, PROBLEMS, num_beams=k, max_new_tokens=4) for k in (1, 30))
    assert sum(value for _, value in many) > sum(value for _, value in few)
    with pytest.raises(ValueError, match="likelihood"):
        reward_ceiling.beam_search(toys.reward("classifier"), PROBLEMS, num_beams=2, max_new_tokens=4)
