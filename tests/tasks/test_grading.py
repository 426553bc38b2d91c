"""Grading: tasks and their graders, votes, and isolation from answers that hang or crash the comparison."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nabla_reasoner.tasks import equality, grading, math_verify_process
from nabla_reasoner.tasks.grading import answers_match, grade
from nabla_reasoner.tasks.problems import generate, load_jsonl
from nabla_reasoner.tasks.worked_solutions import worked_solution
from nabla_reasoner.types import Problem

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
DIFFICULTY = {
    "chain_sum": {"min_terms": 5, "max_terms": 6, "min_digits": 2, "max_digits": 2},
    "leg_counting": {"min_animals": 3, "max_animals": 4, "min_instances": 1, "max_instances": 15},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
    "gcd": {"min_numbers": 2, "max_numbers": 2, "min_value": 10, "max_value": 299},
    "simple_equations": {"min_terms": 2, "max_terms": 2, "max_value": 60, "operators_weights": [0.5, 0.5, 0.0]},
    "basic_arithmetic": {"max_terms": 2, "operators": ["+", "-", "*"], "allow_parentheses": False},
}


# Orders, Roman numerals, coins, directions, words and names: as products of symbols the two would be equal.
ANAGRAMS = [
    ("VI", "IV"),
    ("CAB", "BAC"),
    ("ABCD", "CBDA"),
    ("HTH", "HHT"),
    ("NW", "WN"),
    ("act", "cat"),
    ("Tom", "Mot"),
]


@pytest.mark.parametrize("task", DIFFICULTY)
def test_worked_solutions_correct_and_changed_ones_wrong(task):
    for problem in generate(task, split="validation", size=30, settings=DIFFICULTY[task]):
        solution = worked_solution(problem)
        assert grade(problem, solution).correct
        assert grade(problem, f"<answer>{problem.answer}</answer>").correct
        assert not grade(problem, solution + "1").correct
        assert not grade(problem, solution, finished=False).correct
        assert not grade(problem, solution + "=x").correct
        assert grade(problem, "").extracted is None


def test_partial_credit_counts_as_wrong():
    problem = generate("chain_sum", split="test", size=1, settings=DIFFICULTY["chain_sum"])[0]
    entry = {"question": problem.question, "answer": problem.answer, "metadata": problem.metadata}
    vague = f"{problem.answer} or so"
    assert grading.score_function("chain_sum")(vague, entry) < 1
    assert not grade(problem, f"={vague}").correct


@pytest.mark.parametrize(
    ("gold", "response", "correct"),
    [
        (r"\frac{14}{3}", r"\boxed{14/3}", True),
        (r"\frac{1}{2}", r"\boxed{0.5}", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}", True),
        ("x^2+2x+1", r"\boxed{(x+1)^2}", True),
        ("1234", "#### 1,234", True),
        ("25", "final answer is 25", True),
        (r"\text{Evelyn}", r"\boxed{Evelyn}", True),
        (r"\text{(C)}", r"\boxed{C}", True),
        ("5", r"\boxed{5, 6}", False),
        ("(1,2)", r"\boxed{(2,1)}", False),
        (r"\text{east}", r"\boxed{seat}", False),  # as products of symbols the two are equal
        *((answer, rf"\boxed{{{other}}}", False) for answer, other in ANAGRAMS),
        *((answer, rf"\boxed{{\text{{{answer}}}}}", True) for answer, _ in ANAGRAMS),
        ("ab", r"\boxed{ba}", True),
        ("2xyz", r"\boxed{2zyx}", True),
        ("25", "25", False),  # states no answer
        ("25", r"\boxed{}", False),
        ("25", r"\boxed{\frac{}{}{{}", False),
    ],
)
def test_benchmark_answers_compared_as_mathematics(gold, response, correct):
    assert grade(Problem("p", "q", gold, "math500"), response).correct is correct


def test_problem_without_reference_rejected():
    with pytest.raises(ValueError, match="needs a reference answer"):
        grade(Problem("p", "q", None, "math500"), r"\boxed{1}")


def test_task_without_reference_answers_is_graded_by_its_own_verifier():
    for problem in generate("propositional_logic", split="test", size=3, settings={}):
        assert problem.answer is None
        assert grade(problem, f"<answer>{problem.metadata['example_answer']}</answer>").correct
        assert not grade(problem, "<answer>P and not P</answer>").correct


@pytest.mark.parametrize("task", ["math500", "products"])
def test_answers_that_are_no_text_are_refused(task):
    metadata = {"source_dataset": task} if task == "products" else None
    for value in (18, 1.5, ["18"], True):
        with pytest.raises(TypeError, match="the answer of problem 'p' must be text; got .*. Write ."):
            grade(Problem("p", "q", value, task, metadata), r"\boxed{18}")
        with pytest.raises(TypeError, match="a response must be text|type hint"):
            grade(Problem("p", "q", "18", task, metadata), value)
        for pair in ((value, "18"), ("18", value), (value, None)):
            with pytest.raises(TypeError, match="an answer must be text; got .*. Write .|type hint"):
                answers_match(*pair, task)


def test_votes_agree_on_equal_text_or_mathematics():
    assert answers_match("12 ", "12", "chain_sum")
    assert not answers_match("12.0", "12", "chain_sum")
    assert answers_match(r"\frac{1}{2}", "0.5", "amc")
    assert not answers_match("1", "2", "amc")
    assert not answers_match(None, None, "amc")


@pytest.mark.slow
def test_hanging_answer_times_out_and_next_is_graded():
    worker = math_verify_process.Worker(timeout_seconds=0.8)
    try:
        assert worker.verify("1", "1") == (True, None)
        first = worker.process.pid
        begin = time.monotonic()
        correct, note = worker.verify("1", "9^{9^{9^{9}}}")
        assert time.monotonic() - begin < 5
        assert not correct
        assert note == "grading took more than 0.8 seconds"
        assert worker.process is None
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        assert worker.verify(r"\frac{1}{2}", "0.5") == (True, None)
    finally:
        worker.stop()


@pytest.mark.slow
def test_dead_worker_is_replaced():
    worker = math_verify_process.Worker(timeout_seconds=5)
    try:
        assert worker.verify("2", "2") == (True, None)
        os.kill(worker.process.pid, signal.SIGSTOP)
        worker.timeout_seconds = 0.2  # stopped: it neither answers nor ends
        assert worker.verify("2", "2") == (False, "grading took more than 0.2 seconds")
        worker.timeout_seconds = 5
        assert worker.verify("3", "3") == (True, None)
        worker.process.kill()
        worker.process.wait()
        assert worker.verify("4", "4") == (True, None)
        threading.Timer(0.3, worker.process.kill).start()
        assert worker.verify("1", "9^{9^{9^{9}}}") == (False, "the grading process died")
        assert worker.verify("5", "5") == (True, None)
    finally:
        worker.stop()


@pytest.mark.slow
def test_timeout_note_reaches_grade(monkeypatch):
    worker = math_verify_process.Worker(timeout_seconds=0.6)
    monkeypatch.setattr(equality, "worker", lambda: worker)
    try:
        result = grade(Problem("p", "q", "7", "math500"), r"\boxed{9^{9^{9^{9}}}}")
        assert (result.extracted, result.correct) == ("9^{9^{9^{9}}}", False)
        assert "more than 0.6 seconds" in result.note
    finally:
        worker.stop()


@pytest.mark.slow
def test_grading_works_in_script_from_standard_input():
    code = (
        "from nabla_reasoner.tasks.grading import grade\nfrom nabla_reasoner.types import Problem\n"
        "print(grade(Problem('p', 'q', '1/2', 'math500'), r'\\boxed{0.5}').correct)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable], input=code, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "True\n"


@pytest.mark.slow
def test_hanging_worker_ends_after_parent_is_killed():
    code = (
        "import os, signal\nfrom nabla_reasoner.tasks.math_verify_process import Worker\n"
        "worker = Worker(0.5)\nworker.verify('1', '2')\n"
        'worker.process.stdin.write(\'["1", "9^{9^{9^{9}}}"]\\n\')\nworker.process.stdin.flush()\n'
        "print(worker.process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable], input=code, capture_output=True, text=True, env=environment, check=False)
    pid, limit = int(done.stdout), time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < limit:
        if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
            break  # ended; its exit status is not collected yet
        time.sleep(0.1)
    else:
        assert not Path(f"/proc/{pid}").exists()


def benchmark(name: str, task: str) -> list[Problem]:
    if not (DATA / name).is_file():
        pytest.skip(f"needs {DATA / name}, a benchmark file that is not part of the repository")
    return load_jsonl(str(DATA / name), task=task)


@pytest.mark.parametrize("name", ["aime24", "aime25", "amc83"])
def test_competition_answers_equal_raw_forms_only(name):
    problems = benchmark(f"{name}.jsonl", name)
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    for problem, row in zip(problems, rows, strict=True):
        assert grade(problem, rf"so \boxed{{{row.get('answer_raw', row['answer'])}}}").correct
        assert not grade(problem, rf"so \boxed{{{int(problem.answer) + 1}}}").correct
