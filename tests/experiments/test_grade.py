"""Target `grade`: three kinds of files, columns, verdicts equal to the library's verifiers, messages on bad input."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from reasoning_gym.factory import create_dataset

from nabla_reasoner.__main__ import main
from nabla_reasoner.cost import Cost
from nabla_reasoner.evaluation.records import append_records, failed_record, make_record
from nabla_reasoner.evaluation.statistics import accuracy_interval
from nabla_reasoner.tasks.grading import grade
from nabla_reasoner.tasks.problems import generate
from nabla_reasoner.tasks.worked_solutions import worked_solution
from nabla_reasoner.types import Solution

ROWS = [  # answer, response, task, whether it is right (None: not graded)
    ("1/2", r"so \boxed{0.5}", "math500", True),
    ("1/2", r"so \boxed{0.6}", "math500", False),
    ("7", "no idea", "math500", False),
    ("", r"\boxed{3}", "math500", None),
    ("8245", "7760+485=8245", "products", True),
    ("8245", "", "products", False),
]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def graded(path: Path) -> list[dict]:
    lines = Path(f"{path}.graded.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def written(folder: Path, kind: str) -> Path:
    """Write ROWS as a file of this kind, with columns of other names than the default ones."""
    path = folder / f"completions.{kind}"
    rows = [dict(zip(("gold", "model output", "benchmark"), row, strict=False)) for row in ROWS]
    if kind == "jsonl":
        return write_jsonl(path, [{key: value or None for key, value in row.items()} for row in rows])
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="needs the extra data; pip install -e '.[data]'")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(
            pyarrow.Table.from_pylist([{key: value or None for key, value in row.items()} for row in rows]), path
        )
        return path
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_of_every_kind_get_the_same_verdicts(kind: str, tmp_path: Path, capsys):
    path = written(tmp_path, kind)
    assert main(["grade", str(path), "answer=gold", "response=model output", "task=benchmark"]) == 0
    assert [row["correct"] for row in graded(path)] == [row[3] for row in ROWS]
    assert [row["model output"] or "" for row in graded(path)] == [row[1] for row in ROWS]
    printed = capsys.readouterr().out
    assert "math500: 33.3 % correct" in printed
    assert "3 completions of 3 problems; compared by mathematical equality" in printed
    assert "products: 50.0 % correct" in printed
    place, first = ("row", 1) if kind == "parquet" else ("line", 2 if kind == "csv" else 1)
    assert f"1 row without a right answer, not graded: {place} {first + 3}." in printed
    assert f"1 row without a completion, counted wrong: {place} {first + 5}." in printed
    assert f"1 row whose completion states no answer, counted wrong: {place} {first + 2}." in printed


def test_interval_of_equal_rows_is_clopper_pearsons_and_of_repeats_clustered(tmp_path: Path, capsys):
    right = {"answer": "4", "response": r"\boxed{4}"}
    path = write_jsonl(tmp_path / "a.jsonl", [right] * 6)
    assert main(["grade", str(path), "task=math500"]) == 0
    low = 100 * scipy.stats.binomtest(6, 6).proportion_ci(method="exact").low
    assert f"interval {low:.1f} to 100.0), 6 completions of 6 problems" in capsys.readouterr().out
    rows = [{"id": i, "answer": "4", "response": rf"\boxed{{{4 if r < i else 5}}}"} for i in range(4) for r in range(3)]
    path = write_jsonl(tmp_path / "b.jsonl", rows)
    assert main(["grade", str(path), "task=math500", "problem=id"]) == 0
    expected = accuracy_interval(np.array([[r < i for r in range(3)] for i in range(4)]))
    assert f"interval {expected.low:.1f} to {expected.high:.1f}), 12 completions of 4" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["products", "countdown", "word_sorting"])
def test_verdicts_on_generated_tasks_equal_the_librarys_verifier(task: str, tmp_path: Path, capsys):
    dataset = create_dataset(task, seed=5, size=4)
    entries = [dataset[index] for index in range(4)]
    answers = [entry["answer"] if index % 2 else "1" for index, entry in enumerate(entries)]
    rows = [
        {"answer": entry["answer"], "response": f"<answer>{answer}</answer>", "about": json.dumps(entry["metadata"])}
        for entry, answer in zip(entries, answers, strict=True)
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert main(["grade", str(path), f"task={task}", "metadata=about"]) == 0
    expected = [dataset.score_answer(answer, entry) == 1.0 for answer, entry in zip(answers, entries, strict=True)]
    assert [row["correct"] for row in graded(path)] == expected
    assert set(expected) == {True, False}
    capsys.readouterr()
    needs = task != "products"
    assert main(["grade", str(path), f"task={task}", "overwrite=true"]) == (2 if needs else 0)
    assert ("line 1: the verifier of task" in capsys.readouterr().err) == needs


def test_graded_records_keep_their_verdicts(tmp_path: Path):
    settings = {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}
    *problems, last = generate("products", split="validation", size=5, settings=settings)
    records = []
    for index, problem in enumerate(problems):
        response = worked_solution(problem) + ("1" if index == 1 else "")
        solution = Solution(problem.id, response, [], None, Cost(), {"finished": index != 2})
        names = {"policy": "p", "method": "m", "seed": 0, "repeat": 0}
        records.append(make_record(problem, solution, grade=grade, **names))
    records.append(failed_record(last, "E: no", **names))
    path = tmp_path / "p__products__m__s0.jsonl"
    append_records(path, records)
    assert main(["grade", str(path), "problem=problem_id", "finished=search.finished"]) == 0
    assert [row["correct"] for row in records] == [True, False, False, True, False]
    for before, after in zip(records, graded(path), strict=True):
        assert {**after, "grading_note": None} == {**before, "grading_note": None}


GOOD = '{"answer": "1", "response": "x", "task": "math500"}\n'


@pytest.mark.parametrize(
    ("name", "text", "words", "said"),
    [
        ("a.jsonl", GOOD + "{", [], "line 2: every line must be one JSON object"),
        ("a.jsonl", GOOD + "[1]", [], "line 2: every line must be one JSON object"),
        ("a.jsonl", GOOD, ["answer=gold"], "must have the column 'gold'; its columns: answer, response, task"),
        ("a.jsonl", GOOD, ["finished=search.done"], "must have the column 'search.done'"),
        ("a.jsonl", GOOD, ["finished=answer"], "line 1, column 'answer': it must be true or false; got '1'"),
        ("a.jsonl", GOOD, ["task=math5000"], "task must be a column of"),
        ("a.jsonl", GOOD, ["answer=a,b"], "one value per setting"),
        ("a.jsonl", GOOD, ["colour=red"], "unknown setting 'colour'"),
        ("a.jsonl", GOOD.replace('"1"', "[1]"), [], "line 1, column 'answer': a field must be text or a number"),
        ("a.jsonl", GOOD.replace('"1"', "true"), [], "column 'answer': a field must be text or a number; got True"),
        ("a.jsonl", GOOD + GOOD.replace('"math500"', "null"), [], "line 2, column 'task': a task is missing"),
        ("a.jsonl", GOOD.replace('"1"', "null"), [], "no row has one"),
        (
            "a.jsonl",
            GOOD + GOOD.replace('"1"', '"2"'),
            ["problem=task"],
            "line 2: problem 'math500' must have one right answer; got '2' here and '1' in line 1",
        ),
        (
            "a.jsonl",
            GOOD + GOOD.replace("math500", "Chain_Sum"),
            [],
            "line 2, column 'task': a task must be one of those that can be graded; got 'Chain_Sum'. Tasks: aime24,",
        ),
        ("a.jsonl", GOOD.replace("math500", "../task/math500"), [], "line 1, column 'task': a task must be one of"),
        ("a.jsonl", GOOD.replace('"math500"', "5"), [], "line 1, column 'task': a task must be one of"),
        ("a.jsonl", "\n", [], "must have at least one row"),
        ("a.csv", "answer,response,task\n1,x,math500\n1,x\n", [], "line 3: every row must have 3 fields"),
        ("a.csv", 'answer,response,task\n"1\n2",x,math500\n1,"x\n', [], "line 4: the row must be CSV"),
        ("a.csv", "answer,answer\n", [], "'answer' occurs twice"),
        ("a.parquet", "no", [], "must be a Parquet file"),
        ("a.txt", GOOD, [], "must end in .jsonl, .csv, .parquet"),
        ("a.jsonl", GOOD, ["output=a.jsonl"], "the output file must be new"),
        ("a.jsonl", GOOD, ["output=a.jsonl", "overwrite=true"], "must not be the file that is graded"),
        ("a.jsonl", GOOD, ["output=none/b.jsonl"], "cannot be written"),
        ("a.jsonl", GOOD, ["output=.", "overwrite=true"], "the output must be a file; . is a folder"),
        ("a.jsonl", GOOD.replace("{", '{"id": 1, "id": 2, ', 1), [], "two values of 'id'"),
    ],
)
def test_bad_input_is_refused_in_one_line(name, text, words, said, tmp_path: Path, monkeypatch, capsys):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="needs the extra data; pip install -e '.[data]'")
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text, encoding="utf-8")
    assert main(["grade", name, *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not captured.out
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert Path(name).read_text(encoding="utf-8") == text


def test_output_is_an_ordinary_file_and_a_link_stays_one(tmp_path: Path, capsys):
    """As root, output=/dev/null made an ordinary file of the device."""
    (tmp_path / "a.jsonl").write_text(GOOD, encoding="utf-8")
    os.mkfifo(tmp_path / "pipe")
    words = ["grade", str(tmp_path / "a.jsonl"), "overwrite=true"]
    assert main([*words, f"output={tmp_path / 'pipe'}"]) == 2
    assert "pipe is a device or pipe" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_text("old", encoding="utf-8")
    assert main([*words, f"output={tmp_path / 'link'}"]) == 0
    assert (tmp_path / "link").is_symlink()
    assert "math500" in (tmp_path / "target").read_text("utf-8")


def test_columns_of_single_precision_are_read_as_they_were_written(tmp_path: Path, capsys):
    """0.1 in single precision is 0.10000000149011612 in double, which no answer equals."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra data; pip install -e '.[data]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    values = np.array([0.1, 2.7, 18])
    responses = [rf"\boxed{{{value:g}}}" for value in values]
    for kind in ("float16", "float32", "float64"):
        table = pyarrow.table({"answer": pyarrow.array(values.astype(kind)), "response": responses})
        parquet.write_table(table, tmp_path / "a.parquet")
        assert main(["grade", str(tmp_path / "a.parquet"), "task=math500", "overwrite=true"]) == 0
        assert "math500: 100.0 % correct" in capsys.readouterr().out


def test_parquet_columns_of_one_name_are_named(tmp_path: Path, capsys):
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra data; pip install -e '.[data]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = pyarrow.Table.from_arrays([pyarrow.array(["1"])] * 2, names=["answer", "answer"])
    parquet.write_table(columns, tmp_path / "a.parquet")
    assert main(["grade", str(tmp_path / "a.parquet"), "task=math500"]) == 2
    assert "columns must have different names; 'answer' occurs twice. Rename one." in capsys.readouterr().err


def test_rows_of_one_problem_are_compared_by_the_answers_that_are_graded(tmp_path: Path, capsys):
    answers = ["18", None, 18, 18.0, "9 + 9 = 18\n#### 18", ""]
    rows = [{"id": 1, "answer": answer, "response": r"\boxed{18}"} for answer in answers]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert main(["grade", str(path), "task=math500", "problem=id"]) == 0
    assert [row["correct"] for row in graded(path)] == [True, None, True, True, True, None]
    printed = capsys.readouterr().out
    assert "4 completions of 1 problems" in printed
    assert "2 rows without a right answer, not graded: line 2, line 6." in printed


def test_half_a_surrogate_pair_loses_no_grade(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD + GOOD.replace('"x"', r'"\ud800 \\boxed{1}"'), encoding="utf-8")
    assert main(["grade", str(path)]) == 0
    first, second = graded(path)
    assert (first["correct"], second["correct"]) == (False, True)
    assert second["response"] == "\ud800 \\boxed{1}"


@pytest.mark.parametrize("character", ["\u2028", "\x0c", "\x85"])
def test_unquoted_character_that_is_no_line_break_of_csv_is_read(character: str, tmp_path: Path, capsys):
    path = tmp_path / "a.csv"
    path.write_text(f"answer,response,task\n1,a{character}\\boxed{{1}},math500\n", encoding="utf-8")
    assert main(["grade", str(path)]) == 0
    assert "100.0" in capsys.readouterr().out


def test_latin1_file_is_refused_with_its_line(tmp_path: Path, capsys):
    path = tmp_path / "a.csv"
    path.write_bytes("answer,response\n1,naïve\n".encode("latin-1"))
    assert main(["grade", str(path), "task=math500"]) == 2
    assert "line 2: the file must be UTF-8; got byte 0xef" in capsys.readouterr().err


def test_output_is_not_replaced_unasked(tmp_path: Path, capsys):
    path = write_jsonl(tmp_path / "a.jsonl", [{"answer": "1", "response": r"\boxed{1}"}])
    assert main(["grade", str(path), "task=math500"]) == 0
    Path(f"{path}.graded.jsonl").write_text("mine")
    assert main(["grade", str(path), "task=math500"]) == 2
    assert Path(f"{path}.graded.jsonl").read_text() == "mine"
    assert main(["grade", str(path), "task=math500", "overwrite=true"]) == 0
    assert graded(path)[0]["correct"]


def test_comparison_that_fails_is_said_and_ends_with_status_1(tmp_path: Path, monkeypatch, capsys):
    from nabla_reasoner.evaluation import completions
    from nabla_reasoner.tasks.grading import Grade

    monkeypatch.setattr(completions, "grade", lambda *_: Grade("1", False, "timeout"))
    path = write_jsonl(tmp_path / "a.jsonl", [{"answer": "1", "response": r"\boxed{1}"}])
    assert main(["grade", str(path), "task=math500"]) == 1
    assert "1 row whose comparison failed, counted wrong: line 1." in capsys.readouterr().out


def test_numbers_that_json_lacks_become_null(tmp_path: Path):
    """As those of a Parquet file do; every line of the output can be read by any parser of JSON."""
    row = {"answer": "1", "response": r"\boxed{1}", "task": "math500"}
    row |= {"loss": float("nan"), "more": {"scores": [float("inf"), -float("inf"), 0.5]}}
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    assert "NaN" in path.read_text(encoding="utf-8")
    assert main(["grade", str(path)]) == 0
    text = Path(f"{path}.graded.jsonl").read_text(encoding="utf-8")
    (found,) = [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in text.splitlines()]
    assert found["correct"] is True
    assert (found["loss"], found["more"]) == (None, {"scores": [None, None, 0.5]})
