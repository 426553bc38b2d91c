"""Equality of answers: a table checked by hand, symmetry, numbers against exact arithmetic, hostile input, MATH."""

import json
import random
import time
from fractions import Fraction
from pathlib import Path

import pytest

from nabla_reasoner.tasks import equality, exact_numbers, math_verify_process, notation
from nabla_reasoner.tasks.grading import answers_match, grade
from nabla_reasoner.types import Problem

PAIRS = json.loads(Path(__file__).with_name("answer_pairs.json").read_text(encoding="utf-8"))
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NEEDS_DATA = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"needs the benchmark files in {DATA}, which are not part of the repository"
)


def test_table_has_equal_and_different_pairs_of_every_group():
    assert sum(map(len, PAIRS.values())) >= 1700
    for group, pairs in PAIRS.items():
        expected = {equal for _, _, equal in pairs}
        assert expected == {True, False} or group == "truncated and unclosed", group


@pytest.mark.slow
@pytest.mark.parametrize("group", PAIRS)
def test_pairs_checked_by_hand_in_both_orders(group):
    wrong = []
    for given, reference, expected in PAIRS[group]:
        orders = ((given, reference), (reference, given))
        verdicts = [equality.equal(*order)[0] for order in orders]  # not the cache of `grading`, which sorts
        if verdicts != [expected, expected]:
            wrong.append((given, reference, expected, verdicts))
    assert not wrong


GRADED = [
    "bases",
    "compound quantities and words",
    "percent",
    "units",
    "products and units",
    "currency",
    "lists",
    "text",
    "numbers side by side",
    "primes and transposes",
    "letters of choices",
    "last letters of formulas",
    "capitals in formulas",
    "sums that begin with a sign",
    "times and ratios",
    "named values",
    "answers that are no formulas",
    "and, or and infinite ends",
    "names and notations of other kinds",
    "equations with roots",
    "sums, products and limits with their value",
    "Greek letters and angles",
    "degrees and seconds in text",
    "marks of proofs and steps",
    "units as fractions, and ohms",
    "inverse functions",
    "unions by a plain U",
    "plus or minus in plain signs",
    "sets in words",
    "divisors in brackets",
    "derivatives",
]


@pytest.mark.slow
@pytest.mark.parametrize("group", GRADED)
def test_grades_and_votes_follow_the_table(group):
    for given, reference, expected in PAIRS[group]:
        problem = Problem("p", "q", reference, "math500")
        assert grade(problem, rf"so \boxed{{{given}}}").correct is expected, (given, reference)
        votes = [answers_match(*pair, "math500") for pair in ((given, reference), (reference, given))]
        assert votes == [expected, expected], (given, reference)


def written(value: Fraction, rng: random.Random) -> str:
    """Return one of the ways to write a number whose decimals may repeat."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    numerator, denominator = size.as_integer_ratio()
    forms = [f"{sign}{numerator}/{denominator}", rf"{sign}\frac{{{numerator}}}{{{denominator}}}"]
    whole, rest = divmod(numerator, denominator)
    if whole and rest:
        forms += [rf"{sign}{whole}\frac{{{rest}}}{{{denominator}}}", f"{sign}{whole} {rest}/{denominator}"]
    digits, seen = "", {}
    while rest and rest not in seen:  # long division
        seen[rest] = len(digits)
        digit, rest = divmod(10 * rest, denominator)
        digits += str(digit)
    cut = seen.get(rest, len(digits))
    repeated = rf"\overline{{{digits[cut:]}}}" if digits[cut:] else ""
    forms.append(f"{sign}{whole}.{digits[:cut]}{repeated}" if digits else f"{sign}{whole}")
    return rng.choice(forms)


@pytest.mark.slow
def test_numbers_equal_exactly_if_their_fractions_are():
    rng = random.Random(0)
    values = [Fraction(rng.randint(-60, 60), rng.choice([1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 40])) for _ in range(60)]
    for _ in range(1500):
        a, b = rng.choice(values), rng.choice(values)
        left, right = written(a, rng), written(b, rng)
        assert exact_numbers.rational(notation.standard(left)) == a, left
        assert equality.equal(left, right)[0] == (a == b), (left, right)


def test_number_words_have_their_value():
    for value in [*range(1200), 12_345, 700_019, 3_000_000, 41_000_200]:
        assert exact_numbers.number_words(in_words(value)) == value


def in_words(value: int) -> str:
    small = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    small = [*small.split(), "seventeen", "eighteen", "nineteen"]
    tens = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    for size, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if value >= size:
            rest = f" {'and ' if value % size < 100 else ''}{in_words(value % size)}" if value % size else ""
            return f"{in_words(value // size)} {name}{rest}"
    if value >= 20:
        return tens[value // 10] + (f"-{small[value % 10]}" if value % 10 else "")
    return small[value]


def test_what_is_no_number_in_words_has_no_value():
    for text in ["twenty twelve", "hundred", "and", "", "one and", "five six", "thousand two", "two zero", "oneteen"]:
        assert exact_numbers.number_words(text) is None, text


FRAGMENTS = [*"0123456789", *"xyab", *"+-*/^_=<>,.;:!%()[]{} ", r"\frac", r"\sqrt", r"\pi", r"\text{", r"\{", r"\}"]
FRAGMENTS += [
    r"\cup",
    r"\pm",
    r"\circ",
    " cm",
    " and ",
    "½",
    "−",
    "²",
    r"\overline",
    "...",
    r"\$",
    "three",
    "12",
    "0.5",
]


@pytest.mark.slow
def test_equality_is_symmetric_and_never_fails():
    rng = random.Random(1)
    known = [text for pairs in PAIRS.values() for pair in pairs for text in pair[:2]]
    for round_ in range(140):
        a = "".join(rng.choices(FRAGMENTS, k=rng.randint(0, 9)))
        b = rng.choice([a[::-1], a + rng.choice(FRAGMENTS), a.replace("1", "one"), rng.choice(known)])
        if round_ % 2:
            a = rng.choice(known)
        there, back = equality.equal(a, b)[0], equality.equal(b, a)[0]
        assert there == back == answers_match(a, b, "math500") == answers_match(b, a, "math500"), (a, b)
        assert equality.equal(a, a) == (True, None)


HOSTILE = [
    "{" * 900 + "1" + "}" * 900,
    "{" * 50_000,
    "(" * 60 + "1" + ")" * 60,
    r"\frac{1}{" * 19 + "2" + "}" * 19,
    r"\text{and}" * 90,
    "and " * 200,
    "x=" * 400,
    "1," * 450,
    "0." + "12" * 400 + "x",
    "hundred " * 110,
    "1e999999",
    " " * 100_000 + "5",
    "9" * 5000,
    "\\" * 900,
    r"\pm " * 200,
    r"\begin{pmatrix}" * 50,
    "\x00",
    "\ud800",
    "5" + "\u0301" * 900,
    "ab " * 300 + "1",
    "1" + "/day" * 240,
    "1" + r"\text{ of }" * 90,
]


@pytest.mark.slow
@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: repr(answer[:20]))
def test_hostile_answer_is_wrong_within_seconds(answer):
    begin = time.process_time()  # of this process; the worker has a limit of its own
    problem = Problem("p", "q", "7", "math500")
    assert not grade(problem, rf"\boxed{{{answer}}}").correct
    assert not answers_match(answer, "7", "math500")
    assert time.process_time() - begin < 3


@pytest.mark.slow
def test_huge_factorial_runs_into_time_limit(monkeypatch):
    worker = math_verify_process.Worker(timeout_seconds=0.5)
    monkeypatch.setattr(equality, "worker", lambda: worker)
    try:
        correct, note = equality.equal("9" * 30 + "!", "7")
        assert (correct, note) == (False, "grading took more than 0.5 seconds")
        assert equality.equal("2^{10}", "1024")[0]
    finally:
        worker.stop()


@pytest.mark.parametrize("answer", ["1" * 1001, "(" * 21 + ")" * 21, r"\frac{1}{", r"\begin{pmatrix}1", "\x00"])
def test_unreadable_answer_is_wrong_and_no_failure_of_grading(answer):
    """Training ignores answers whose grading failed; a policy must not escape a reward of 0 by such text."""
    assert equality.equal(answer, "2") == (False, None)
    assert equality.equal(answer, answer) == (True, None)


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").split("\n") if line]


@NEEDS_DATA
@pytest.mark.slow
def test_math_solutions_right_and_those_of_other_problems_wrong():
    """The file of MATH-500 has no solutions, so its answers are boxed; those of 1,500 other MATH rows are whole."""
    math500 = rows("math500.jsonl")
    responses = [(row, rf"We find that the answer is $\boxed{{{row['answer']}}}$.") for row in math500]
    others = random.Random(0).sample(rows("math_test_rest4500.jsonl") + rows("math_train.jsonl"), 1500)
    responses += [(row, row["solution"]) for row in others]
    problems = [Problem(row["id"], row["problem"], row["answer"], "math500") for row, _ in responses]
    right = [grade(p, text).correct for p, (_, text) in zip(problems, responses, strict=True)]
    print(f"\nright: {sum(right[:500])} of 500 MATH-500, {sum(right[500:])} of {len(others)} other MATH solutions")
    assert sum(right[:500]) >= 0.99 * 500
    assert sum(right[500:]) >= 0.99 * len(others)
    order = random.Random(1).sample(range(500), 500)
    pairs = [(p, responses[i][1]) for p, i in zip(problems, order, strict=False) if p.answer != math500[i]["answer"]]
    wrong = [(p.answer, text) for p, text in pairs if grade(p, text).correct]
    print(f"shuffled MATH-500 answers taken for right: {len(wrong)} of {len(pairs)}")
    assert len(wrong) < 0.01 * len(pairs), wrong


@NEEDS_DATA
@pytest.mark.slow
@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace(r"\frac", r"\dfrac").replace(r"\ddfrac", r"\dfrac"),
        lambda text: text.replace(r"\left", "").replace(r"\right", ""),
        lambda text: text.replace("-", "−").replace(r"\pi", "π"),
        lambda text: f" ${text}$. ",
        lambda text: text.replace(r"\text{", r"\mbox{"),
    ],
    ids=["dfrac", "brackets", "unicode", "delimiters", "mbox"],
)
def test_math_answers_equal_themselves_in_other_notation(rewrite):
    answers = sorted({row["answer"] for row in rows("math500.jsonl")})
    different = [answer for answer in answers if not equality.equal(rewrite(answer), answer)[0]]
    assert len(different) <= 0.01 * len(answers), different


@NEEDS_DATA
@pytest.mark.slow
def test_neighbours_in_sorted_math_answers_differ():
    """Sorted answers that are not integers differ from their neighbours in little; those listed are equal in fact."""
    answers = sorted({row["answer"] for row in rows("math500.jsonl") if not row["answer"].lstrip("-").isdecimal()})
    pairs = list(zip(answers[:-1], answers[1:], strict=True))
    equal = [pair for pair in pairs if equality.equal(*pair)[0]]
    assert len(equal) < 0.01 * len(pairs), equal
