"""Records: what is written, what survives a kill, what is refused."""

import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest
from damaged_json import DAMAGE, damage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nabla_reasoner.cost import Cost
from nabla_reasoner.evaluation.outcomes import load_outcomes, outcome_of
from nabla_reasoner.evaluation.records import (
    append_records,
    failed_record,
    make_record,
    read_records,
    record_path,
)
from nabla_reasoner.types import Problem, Solution

NAMES = {"policy": "tiny-base", "method": "best_of_n", "seed": 1, "repeat": 0}
STEP = {"rollouts": 2, "model_calls": 1, "flops": 1, "seconds": 1, "correct": False}
FIELDS = (
    "problem_id policy task method seed repeat response extracted answer correct reward status error cost search"
).split()


class Verdict(NamedTuple):
    extracted: str | None
    correct: bool
    note: str | None = None


class Grader:
    """Calls a response correct when it ends in the answer; counts what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, problem, response, finished=True):
        self.asked.append((response, finished))
        return Verdict(response[-1:], finished and response.endswith(problem.answer))


def problem(name: str = "p1") -> Problem:
    return Problem(name, "1+1=?", "2", "chain_sum", {})


def solution(**changes) -> Solution:
    step = {"rollouts": 1, "model_calls": 5, "flops": 123456789.125, "seconds": 0.1234567891, "response": "1+1=3"}
    search = {
        "rollouts": 2,
        "finished": True,
        "trajectory": [step, {**step, "rollouts": 2, "response": "1+1=2"}],
        "samples": [{"response": "1+1=3", "reward": -3.14159265}, {"response": "1+1=2", "reward": float("-inf")}],
    }
    return Solution("p1", "1+1=2", [1, 2], -0.123456789, Cost(model_calls=9, flops=1.5), search)._replace(**changes)


def test_record_has_documented_fields_and_graded_responses():
    grader = Grader()
    record = make_record(problem(), solution(), grade=grader, **NAMES)
    assert list(record) == FIELDS
    assert (record["status"], record["error"], record["correct"], record["extracted"]) == ("ok", None, True, "2")
    assert record["cost"] == Cost(model_calls=9, flops=1.5)._asdict()
    assert [step["correct"] for step in record["search"]["trajectory"]] == [False, True]
    assert [sample["correct"] for sample in record["search"]["samples"]] == [False, True]
    assert all("response" not in e for key in ("trajectory", "samples") for e in record["search"][key])
    assert sorted(grader.asked) == [("1+1=2", True), ("1+1=3", True)]  # each distinct text once


def test_rewards_are_rounded_but_costs_are_not():
    record = make_record(problem(), solution(), grade=Grader(), **NAMES)
    assert record["reward"] == -0.123457
    assert [sample["reward"] for sample in record["search"]["samples"]] == [-3.14159, None]
    assert record["search"]["trajectory"][0]["flops"] == 123456789.125
    assert record["search"]["trajectory"][0]["seconds"] == 0.1234567891


def test_truncated_response_is_graded_as_truncated():
    cut = solution(search={**solution().search, "finished": False})
    record = make_record(problem(), cut, grade=Grader(), **NAMES)
    assert not record["correct"]
    assert [step["correct"] for step in record["search"]["trajectory"]] == [False, False]


def test_entry_with_its_own_finish_is_graded_accordingly():
    samples = [{"response": "x2", "reward": 0.0, "finished": finished} for finished in (False, True)]
    record = make_record(problem(), solution(search={"samples": samples}), grade=Grader(), **NAMES)
    assert record["search"]["samples"] == [{"reward": 0.0, "correct": False}, {"reward": 0.0, "correct": True}]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(solution(error="MemoryError: no room"), "no room"), (solution(reward=float("nan")), "reward must be a finite")],
)
def test_failure_is_not_graded_and_wrong(broken, reason):
    grader = Grader()
    record = make_record(problem(), broken, grade=grader, **NAMES)
    assert list(record) == FIELDS
    assert grader.asked == []
    assert (record["status"], record["correct"], record["response"], record["extracted"]) == ("failed", False, "", None)
    assert reason in record["error"]
    json.dumps(record, allow_nan=False)


def test_records_come_back_as_they_were_written(tmp_path):
    path = record_path(tmp_path / "new", "tiny-base", "chain_sum", "best_of_n", 1)
    assert path.name == "tiny-base__chain_sum__best_of_n__s1.jsonl"
    first = make_record(problem("p1"), solution(response="∇ “2"), grade=Grader(), **NAMES)
    second = failed_record(problem("p2"), "ValueError: line\nbreak", **NAMES)
    append_records(path, [first])
    append_records(path, [])
    append_records(path, [second])
    assert read_records(path) == [first, second]
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.slow
def test_unfinished_last_line_is_recovered_and_rewritten(tmp_path):
    whole = [failed_record(problem(f"p{i}"), "because of ∇", **NAMES) for i in range(3)]
    path = tmp_path / "whole.jsonl"
    append_records(path, whole)
    data = path.read_bytes()
    last = data[:-1].rfind(b"\n") + 1
    torn = tmp_path / "torn.jsonl"
    for end in range(last, len(data)):  # a kill may leave any prefix of the last line
        torn.write_bytes(data[:end])
        complete = end == len(data) - 1  # only the line's end is missing: the record is whole
        assert read_records(torn) == (whole if complete else whole[:2])
        append_records(torn, [failed_record(problem("p3"), "", **NAMES)] if complete else whole[2:])
        assert read_records(torn)[:3] == whole
        if not complete:
            assert torn.read_bytes() == data


def test_unfinished_line_longer_than_a_block_is_cut(tmp_path):
    path = tmp_path / "r.jsonl"
    append_records(path, [failed_record(problem("p0"), "", **NAMES)])
    with path.open("ab") as stream:
        stream.write(b'{"response": "' + b"x" * 200_000)
    append_records(path, [failed_record(problem("p1"), "", **NAMES)])
    assert [record["problem_id"] for record in read_records(path)] == ["p0", "p1"]


@pytest.mark.slow
def test_killed_writer_leaves_a_resumable_file(tmp_path):
    path = tmp_path / "r.jsonl"
    code = (
        "import sys; from pathlib import Path; from nabla_reasoner.types import Problem\n"
        "from nabla_reasoner.evaluation.records import append_records, failed_record\n"
        "for i in range(10**9):\n"
        "    p = Problem(f'p{i}', 'q' * 50, '1', 'chain_sum')\n"
        "    names = dict(policy='tiny-base', method='best_of_n', seed=1, repeat=0)\n"
        "    append_records(Path(sys.argv[1]), [failed_record(p, 'x', **names)])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment)
    limit = time.monotonic() + 60
    while (not path.exists() or path.stat().st_size < 20_000) and time.monotonic() < limit:
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    before = [record["problem_id"] for record in read_records(path)]
    assert before == [f"p{i}" for i in range(len(before))]
    assert len(before) > 10
    append_records(path, [failed_record(problem(f"p{len(before)}"), "", **NAMES)])
    assert [record["problem_id"] for record in read_records(path)] == [f"p{i}" for i in range(len(before) + 1)]


def _write_many(path, name):
    for i in range(40):
        append_records(path, [failed_record(problem(f"{name}-{i}-{k}"), "e" * 300, **NAMES) for k in range(3)])


def test_processes_sharing_a_file_write_whole_lines(tmp_path):
    path = tmp_path / "r.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records = read_records(path)
    assert len(records) == 3 * 40 * 3
    for name in "abc":
        own = [record["problem_id"] for record in records if record["problem_id"].startswith(name)]
        assert own == [f"{name}-{i}-{k}" for i in range(40) for k in range(3)]


def test_append_waits_for_the_process_holding_the_file(tmp_path):
    path = tmp_path / "r.jsonl"
    path.touch()
    writer = threading.Thread(target=append_records, args=(path, [failed_record(problem(), "", **NAMES)]))
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer.start()
        time.sleep(0.2)
        assert path.stat().st_size == 0
    writer.join()
    assert len(read_records(path)) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"problem_id": "p', "line 2: every line must be one JSON object"),
        (b"", "line 2: every line must be one JSON object"),
        (b"[1, 2]", "line 2: every line must be one JSON object"),
        (b'{"problem_id": "p"}', "line 2: a record must have"),
    ],
)
def test_corrupt_inner_line_is_named(tmp_path, line, message):
    path = tmp_path / "r.jsonl"
    good = json.dumps(failed_record(problem("p0"), "", **NAMES)).encode()
    other = json.dumps(failed_record(problem("p1"), "", **NAMES)).encode()
    path.write_bytes(good + b"\n" + line + b"\n" + other + b"\n")
    with pytest.raises(ValueError, match=message) as error:
        read_records(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"correct": "false"}, 'line 2: correct of a record must be true or false; got "false"'),
        ({"correct": 1}, "correct of a record must be true or false; got 1"),
        ({"cost": None}, "cost of a record must be an object; got null"),
        ({"problem_id": 7}, "problem_id of a record must be a text; got 7"),
        ({"repeat": True}, "repeat of a record must be a whole number; got true"),
        ({"correct": True}, "correct of a record must be false where its status is failed; got true"),
        ({"status": "fine"}, r"status of a record must be one of 'ok', 'failed'; got \"fine\""),
        ({"response": 1.5}, "response of a record must be a text; got 1.5"),
        ({"answer": [1]}, r"answer of a record must be a text; got \[1\]"),
        ({"error": -0.0}, "error of a record must be a text; got -0.0"),
        ({"cost": {}}, "a record must have cost.decode_tokens"),
        ({"cost": {**Cost()._asdict(), "flops": "5"}}, 'cost.flops of a record must be a number; got "5"'),
        ({"cost": {**Cost()._asdict(), "flops": True}}, "cost.flops of a record must be a number; got true"),
        ({"cost": {**Cost()._asdict(), "flops": -1e12}}, "cost.flops of a record must be a number >= 0"),
        ({"search": {"trajectory": None}}, "search.trajectory of a record must be a list; got null"),
        ({"search": {"samples": [{"correct": "false"}]}}, "search.samples.0.correct of a record must be true or false"),
        ({"search": {"trajectory": [{"rollouts": 1}]}}, "a record must have search.trajectory.0.model_calls"),
        ({"search": {"trajectory": [STEP, {**STEP, "rollouts": 1}]}}, r"rollouts .* must not fall; got \[2, 1\]"),
    ],
)
def test_field_of_another_type_is_named(tmp_path, changed, message):
    """The text "false" would count as a right answer."""
    path = tmp_path / "r.jsonl"
    append_records(path, [failed_record(problem("p0"), "", **NAMES)])
    append_records(path, [{**failed_record(problem("p1"), "", **NAMES), **changed}])
    with pytest.raises(ValueError, match=message):
        read_records(path)


def test_cost_beyond_all_floats_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    record = {**failed_record(problem("p0"), "", **NAMES), "cost": {**Cost()._asdict(), "flops": 7.5}}
    path.write_text(json.dumps(record).replace("7.5", "1e400") + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: cost.flops of a record must be a finite number; got Infinity"):
        read_records(path)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(DAMAGE, min_size=1, max_size=2))
def test_damaged_record_counts_as_what_it_says_or_is_named(tmp_path, faults):
    path = tmp_path / "r.jsonl"
    sound = make_record(problem("p0"), solution(), grade=Grader(), **NAMES)
    lines = [sound, damage(make_record(problem("p1"), solution(), grade=Grader(), **NAMES), faults), sound]
    lines[2] = {**sound, "problem_id": "p2"}
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    try:
        records = read_records(path)
    except ValueError as error:
        said = str(error)
    else:
        said = f"{path}, line 2: sound"
        assert json.dumps(records[1]) == json.dumps(lines[1])
        outcome = outcome_of(records[1])
        assert outcome.correct is records[1]["correct"]
        numbers = [*outcome.cost.values(), *(value for step in outcome.steps for value in step[1:4])]
        assert all(0 <= value < np.inf for value in numbers)
        rollouts = [step.rollouts for step in outcome.steps]
        assert rollouts == sorted(rollouts)
    assert said.startswith(f"{path}, line 2: ")
    assert "\n" not in said
    assert len(said) < len(str(path)) + 300


def test_two_records_of_one_problem_are_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    append_records(path, [failed_record(problem("p0"), "", **NAMES)] * 2)
    with pytest.raises(ValueError, match=r"line 2: problem 'p0', repeat 0 is a duplicate of line 1"):
        read_records(path)


@pytest.mark.parametrize("name", ["", "a__b", "a/b", "a_", "_a", "_", ".a", "a\nb"])
def test_ambiguous_cell_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="names of cells"):
        record_path(tmp_path, name, "t", "m", 0)


def test_outcomes_follow_the_file(tmp_path):
    path = record_path(tmp_path, "tiny-base", "chain_sum", "best_of_n", 1)
    append_records(path, [make_record(problem("p0"), solution(), grade=Grader(), **NAMES)])
    ((first,),) = load_outcomes(tmp_path).values()
    assert (first.key, first.correct, first.ok) == (("p0", 1, 0, "2"), True, True)
    assert [(step[0], step[-1]) for step in first.steps] == [(1, False), (2, True)]
    append_records(path, [failed_record(problem("p1"), "", **NAMES)])
    assert [outcome.ok for outcome in load_outcomes(tmp_path)["tiny-base", "chain_sum", "best_of_n"]] == [True, False]


def test_solution_that_no_record_can_hold_is_a_failure_with_its_cost():
    steps = [{**STEP, "rollouts": number, "response": ""} for number in (2, 1)]
    wrong = solution(search={"trajectory": steps}, cost=Cost(flops=5.0))
    record = make_record(problem(), wrong, grade=Grader(), **NAMES)
    assert (record["status"], record["correct"], record["cost"]["flops"]) == ("failed", False, 5.0)
    worse = make_record(problem(), wrong._replace(cost=Cost(flops=float("inf"))), grade=Grader(), **NAMES)
    assert (worse["status"], worse["cost"]) == ("failed", Cost()._asdict())
    json.dumps(worse, allow_nan=False)
