import json
import random
import re

import pytest
from hydra import compose, initialize_config_dir

from nabla_reasoner.config.schema import CONFIGS
from nabla_reasoner.tasks import problems, worked_solutions
from nabla_reasoner.training.recipes import tiny
from nabla_reasoner.types import Problem

SETTINGS = {
    "chain_sum": {"min_terms": 5, "max_terms": 6, "min_digits": 2, "max_digits": 2},
    "leg_counting": {"min_animals": 3, "max_animals": 5},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
    "gcd": {"min_numbers": 2, "max_numbers": 2, "min_value": 10, "max_value": 299},
    "simple_equations": {"min_terms": 2, "max_terms": 2, "max_value": 60, "operators_weights": [0.5, 0.5, 0.0]},
    "basic_arithmetic": {"max_terms": 2, "operators": ["+", "-", "*"], "allow_parentheses": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_splits_reproducible_and_disjoint(name):
    test = problems.generate(name, split="test", size=200, settings=SETTINGS[name])
    assert test == problems.generate(name, split="test", size=200, settings=SETTINGS[name])
    keys = frozenset(problems.question_key(p.question) for p in test)
    train = problems.generate(name, split="train", size=2000, settings=SETTINGS[name], avoid=keys)
    assert not keys & {problems.question_key(p.question) for p in train}
    assert not {p.question for p in test} & {p.question for p in train}
    assert len({p.question for p in train}) == len({p.id for p in train}) == 2000


@pytest.mark.parametrize(
    ("question", "same", "other"),
    [
        ("Solve 12 * 34. Give", "Solve 34 * 12. Give", "Solve 12 * 43. Give"),
        ("What is 5 - 3 + 20 =", "What is 20 + 5 - 3 =", "What is 3 - 5 + 20 ="),
        ("you have 3 cats, 12 crabs?", "you have 12 crabs, 3 cats?", "you have 12 cats, 3 crabs?"),
    ],
)
def test_key_ignores_order_of_terms_only(question: str, same: str, other: str):
    assert problems.question_key(question) == problems.question_key(same) != problems.question_key(other)


@pytest.mark.slow
def test_no_held_out_product_is_trained_in_either_order():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        data = tiny.splits(compose("train/tiny", ["tasks.chain_sum.train=1", "tasks.leg_counting.train=1"]))["products"]

    def pairs(split: str) -> set[frozenset[str]]:
        return {frozenset(re.findall(r"\d+", problem.question)) for problem in data[split]}

    assert not pairs("train") & (pairs("test") | pairs("validation"))
    assert not pairs("test") & pairs("validation")


@pytest.mark.parametrize("name", SETTINGS)
def test_worked_solution_equations_hold_and_end_in_answer(name):
    for problem in problems.generate(name, split="validation", size=100, settings=SETTINGS[name]):
        solution = worked_solutions.worked_solution(problem)
        for line in solution.removesuffix(f"gcd={problem.answer}").strip(";").split(";"):
            left, right = line.split("=")
            assert eval(left) == int(right)  # the test's own arithmetic, on our own text
        assert solution.split("=")[-1] == problem.answer


@pytest.mark.parametrize(
    ("equation", "solution"),
    [
        ("6*s + 32 = 50", "50-32=18;18/6=3"),
        ("22*p - 38 = 358", "358+38=396;396/22=18"),
        ("50 - 2*s = 6", "50-6=44;44/2=22"),
        ("7 + 3*x = 19", "19-7=12;12/3=4"),
    ],
)
def test_linear_equations_are_solved_in_two_steps(equation: str, solution: str):
    problem = Problem("1", "q", "a", "simple_equations", {"equation": equation})
    assert worked_solutions.worked_solution(problem) == solution


def test_legs_of_a_single_kind_of_animal_are_a_product():
    problem = Problem("1", "q", "48", "leg_counting", {"animals": {"dog": 12}})
    assert worked_solutions.worked_solution(problem) == "12*4=48"


def test_unseen_families_are_trained_by_the_recipe_of_the_tuned_ones():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        tuned, unseen = (compose(f"train/{name}").models for name in ("tiny", "unseen"))
    for name, other in (("unseen-base", "tiny-base"), ("likelihood", "likelihood"), ("classifier", "classifier")):
        changed = {key for key in {**unseen[name], **tuned[other]} if unseen[name].get(key) != tuned[other].get(key)}
        assert changed <= {"folder", "batch", "policies"}
        assert sum(unseen[name].batch.values()) == sum(tuned[other].batch.values())


def test_chain_sum_solutions_average_over_forty_characters():
    solved = problems.generate("chain_sum", split="validation", size=200, settings=SETTINGS["chain_sum"])
    lengths = [len(worked_solutions.worked_solution(p)) for p in solved]
    assert sum(lengths) / len(lengths) > 40


def test_unknown_names_settings_and_sizes_rejected():
    with pytest.raises(ValueError, match="reasoning-gym dataset; got 'sums'"):
        problems.generate("sums", split="test", size=1, settings={})
    with pytest.raises(ValueError, match="rejects the settings"):
        problems.generate("products", split="test", size=1, settings={"colour": 1})
    with pytest.raises(ValueError, match="train, validation, test; got 'dev'"):
        problems.generate("products", split="dev", size=1, settings={})
    with pytest.raises(ValueError, match="too few distinct questions"):
        problems.generate(
            "products", split="test", size=500, settings={**SETTINGS["products"], "min_digits": 1, "max_digits": 1}
        )
    with pytest.raises(ValueError, match="worked solution is defined for"):
        worked_solutions.worked_solution(Problem("1", "q", "a", "math500"))


def write(path, *rows):
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def test_jsonl_read_in_order_up_to_size(tmp_path):
    rows = [json.dumps({"id": str(i), "problem": f"p{i}", "answer": "1"}) for i in range(4)]
    path = write(tmp_path / "a.jsonl", *rows)
    assert [p.id for p in problems.load_jsonl(path, task="math500", size=3)] == ["0", "1", "2"]
    assert problems.load_jsonl(path, task="math500", suffix="!")[0].question == "p0!"
    with pytest.raises(ValueError, match="a.jsonl: .* between 1 and 4; got 9. Lower num_problems"):
        problems.load_jsonl(path, task="math500", size=9)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 2: every line must be one JSON object"),
        ('{"id": "a", "problem": "1", "problem": "2", "answer": "3"}', "line 2: .*two values of 'problem'"),
        ('{"id": "2", "problem": "q"}', "line 2: field 'answer' must be there; it is missing"),
        ('{"id": "2", "problem": " ", "answer": "1"}', "line 2: field 'problem'"),
        ('{"id": "2", "problem": 7, "answer": "1"}', "line 2: field 'problem' must be a non-empty string; got 7"),
        (
            '{"id": "2", "problem": "q", "answer": 4.5}',
            "line 2: field 'answer'.* or an integer; got 4.5. Write it as text",
        ),
        ('{"id": true, "problem": "q", "answer": 4}', "line 2: field 'id'.*got True"),
        ('{"id": "2", "problem": "q", "answer": null}', "line 2: field 'answer'.*got None"),
        ('{"id": "2", "problem": "\\ud83d", "answer": "1"}', "line 2: field 'problem' must be valid Unicode"),
        ("[1]", "line 2: every line must be one JSON object; got .1.. Write"),
        ('{"id": "2", "problem": "q", "ans', "line 2: every line must be one JSON object.*may have been cut off"),
        ('{"id": "1", "problem": "q", "answer": "1"}', "line 2: ids must be unique; got '1', as on line 1. Rename one"),
        ('{"id": 1, "problem": "q", "answer": "1"}', "line 2: ids must be unique"),
        ("[" * 100_000, "line 2: every line must be one JSON object"),
        ('{"id": "2", "problem": "q", "answer": ' + "1" * 5000 + "}", "line 2: every line must be one JSON object"),
    ],
)
def test_malformed_row_error_names_line(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", '{"id": "1", "problem": "q", "answer": "1"}', row)
    with pytest.raises(ValueError, match=message):
        problems.load_jsonl(path, task="math500")


def test_missing_empty_or_unreadable_file_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"must exist; got .*nothing.jsonl"):
        problems.load_jsonl(str(tmp_path / "nothing.jsonl"), task="amc")
    with pytest.raises(ValueError, match="must exist; got"):
        problems.load_jsonl(str(tmp_path), task="amc")
    for text in ("", " \n\n"):
        with pytest.raises(ValueError, match="e.jsonl, line 1: .* must have at least one row; it is empty. Write one"):
            problems.load_jsonl(write(tmp_path / "e.jsonl", text), task="amc")
    (tmp_path / "u.jsonl").write_bytes(ROW.encode() + b"\n" + "é".encode("latin-1"))
    with pytest.raises(ValueError, match="u.jsonl, line 2: a problem file must be UTF-8; got byte 0xe9. Save it"):
        problems.load_jsonl(str(tmp_path / "u.jsonl"), task="amc")


ROW = '{"id": "1", "problem": "q", "answer": "1"}'


def test_line_separators_byte_order_mark_and_integers_accepted(tmp_path):
    question = "one\u2028two\u2029three\x85four\x0bfive"
    rows = [{"id": 7, "problem": question, "answer": 25}, {"id": "b", "problem": "q", "answer": "-3", "level": None}]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "a.jsonl").write_text("\ufeff" + text, encoding="utf-8", newline="")
    first, second = problems.load_jsonl(str(tmp_path / "a.jsonl"), task="aime24")
    assert first == Problem("7", question, "25", "aime24")
    assert second == Problem("b", "q", "-3", "aime24")


def damaged(rng: random.Random) -> bytes:
    """Return a problem file with up to four rows and some damage."""
    values = ["1", "x", "", " ", 5, -3, 4.5, True, None, [], {}, "é", "\u2028", "\ud800", "½", "q" * 300, 10**30]
    rows = []
    for number in range(rng.randint(0, 4)):
        row = {"id": f"i{number}", "problem": "q", "answer": "1"}
        if rng.random() < 0.3:
            row[rng.choice(["id", "problem", "answer", "level"])] = rng.choice(values)
        if rng.random() < 0.1:
            del row[rng.choice(["id", "problem", "answer"])]
        rows.append(json.dumps(row, ensure_ascii=rng.random() < 0.5))
    if rows and rng.random() < 0.2:
        rows.append(rng.choice([*rows, "null", "[]", "7", "{}", "NaN", "{'id': 1}"]))
    content = rng.choice(["\n", "\r\n", "\n\n"]).join(rows).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        content = b"\xef\xbb\xbf" + content
    if rng.random() < 0.3:
        content = content[: rng.randint(0, len(content))]
    if content and rng.random() < 0.2:
        position = rng.randrange(len(content))
        content = content[:position] + bytes([rng.randrange(256)]) + content[position + 1 :]
    return content


def test_damaged_file_loads_or_is_refused_with_file_line_and_remedy(tmp_path):
    rng, loaded, refused = random.Random(0), 0, 0
    path = tmp_path / "damaged.jsonl"
    for _ in range(600):
        content = damaged(rng)
        path.write_bytes(content)
        try:
            read = problems.load_jsonl(str(path), task="amc")
        except ValueError as error:
            refused += 1
            message = str(error)
            assert re.match(rf"{re.escape(str(path))}, line \d+: .*must.*\. [A-Z]", message), (content, message)
            assert "\n" not in message
            assert len(message) < len(str(path)) + 400
            continue
        loaded += 1
        rows = [json.loads(line) for line in content.decode("utf-8-sig").split("\n") if line.strip()]
        assert [(p.id, p.question, p.answer) for p in read] == [
            (str(row["id"]), row["problem"], str(row["answer"])) for row in rows
        ]
    assert min(loaded, refused) > 100


def test_answer_of_a_solution_in_a_file_is_what_follows_its_marks(tmp_path):
    """GSM8K's own files have whole solutions in the field of the answer."""
    file = tmp_path / "raw.jsonl"
    rows = [("She has 3*6=18 eggs.\n#### 18", "18"), ("a\n#### 2,052", "2052"), ("#### 5", "5"), ("(1, 2)", "(1, 2)")]
    lines = [json.dumps({"id": str(i), "problem": "q", "answer": raw}) for i, (raw, _) in enumerate(rows)]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert [p.answer for p in problems.load_jsonl(str(file), task="gsm8k")] == [answer for _, answer in rows]
    file.write_text(json.dumps({"id": "0", "problem": "q", "answer": "so ####"}), encoding="utf-8")
    with pytest.raises(ValueError, match='line 1: an answer must follow "####"'):
        problems.load_jsonl(str(file), task="gsm8k")


@pytest.fixture
def from_hub(monkeypatch):
    """Return a function that reads rows as `load_hub` reads them from the hub."""
    datasets = pytest.importorskip("datasets")

    def load(*rows: dict, problem: str = "question", answer: str = "answer") -> list[Problem]:
        monkeypatch.setattr(datasets, "load_dataset", lambda *names, **settings: list(rows))
        fields = {"problem_field": problem, "answer_field": answer}
        return problems.load_hub("owner/data", task="amc", split="test", **fields)

    return load


def test_hub_rows_are_read_as_text_and_numbers(from_hub):
    rows = [{"question": f"q{i}", "answer": value} for i, value in enumerate(["so\n#### 1,018", " 18 ", 18, 142.0])]
    assert [p.answer for p in from_hub(*rows)] == ["1018", "18", "18", "142.0"]
    assert from_hub(*rows)[3] == Problem("amc/3", "q3", "142.0", "amc")


@pytest.mark.parametrize("field", ["question", "answer"])
@pytest.mark.parametrize("value", [None, "", " ", [], {}, True, float("nan"), float("inf"), "\ud83d"])
def test_hub_row_without_question_or_answer_is_refused(from_hub, field, value):
    good = {"question": "q", "answer": "18"}
    with pytest.raises(ValueError, match=rf"owner/data, row 1: field '{field}' must be .*\. [A-Z].*\.$"):
        from_hub(good, {**good, field: value})


def test_hub_marks_without_answer_and_unknown_columns_are_refused(from_hub):
    row = {"question": "q", "answer": "so ####"}
    with pytest.raises(ValueError, match='owner/data, row 0: an answer must follow "####" in field .answer.'):
        from_hub(row)
    for name in ("problem", "answer"):
        with pytest.raises(
            ValueError, match=f"{name}_field must be one of question, answer; got 'x'. Name one of them"
        ):
            from_hub(row, **{name: "x"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 2.5}, "whole number"),
        ({"size": "2"}, "whole number"),
        ({"size": 2, "start": 0.5}, "whole number"),
        ({"size": 2, "start": -1}, "start must be a whole number from 0"),
        ({"size": 2, "start": 200_000_000}, "start must be a whole number from 0 to 99,999,999"),
    ],
)
def test_counts_of_generated_problems_are_whole(settings, message):
    """Index 200,000,000 of one split would be an item of another one."""
    make = getattr(problems.generate, "__wrapped__", problems.generate)  # as called without checks of types
    with pytest.raises(ValueError, match=message):
        make("chain_sum", split="test", settings={}, **settings)


@pytest.mark.parametrize("size", [1.0, "1", 0])
def test_number_of_rows_is_whole(size, tmp_path):
    read = getattr(problems.load_jsonl, "__wrapped__", problems.load_jsonl)
    with pytest.raises(ValueError, match="size must be a whole number >= 1"):
        read(str(tmp_path / "none.jsonl"), task="math500", size=size)
    fetch = getattr(problems.load_hub, "__wrapped__", problems.load_hub)
    with pytest.raises(ValueError, match="size must be a whole number >= 1"):
        fetch("owner/data", task="math500", split="test", problem_field="q", answer_field="a", size=size)
