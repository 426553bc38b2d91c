r"""Equality of two answers to a benchmark problem.

math-verify compares what is left after these rules, which settle the cases where it is wrong or depends on which answer
is the reference. The relation is symmetric.

- Numbers are compared by exact value: 0.5 = 1/2 and 0.\overline{3} = 1/3, but 0.333333 ≠ 1/3 and 3.14159265 ≠ π.
  Mixed numbers (1\frac12), numbers in words and "0.333..." have their usual value.
- Digits with a base other than ten are a notation: equal only to the same digits in the same base. 2516_8 is neither
  2516 nor 1358, because the base is what such problems ask for. An expression with such digits equals the same text.
- Two numbers with only space between them are no number, except 2 1/3: "1 2" equals the same text only. 2(3) is a
  product, and so is 2\frac53. A number divides what stands before it, not the factor after: 3/4x is \frac34 x.
- f' is not f, A^T is not A, \frac{dy}{dx} is not \frac{dx}{dy}, and f^{-1}(3) is not 1/f(3). After a number a prime
  means feet or minutes: 5'6" equals the same text only. So do dates, telephone numbers, sums with an ellipsis and
  3 \times 4 \text{ matrix}.
- R is not r, except as the letter of a choice, where C is c.
- x% equals x as well as x/100. Percentages equal each other by value.
- A unit, currency or degree sign may be left out. Two that are stated must be the same; none is converted. Letters next
  to a number are a product (2ab = 2ba) unless they are a known unit; words after a space are a unit, unless they say
  something about the number: "5 below zero" is not 5. Where words are left when units are taken off, as in
  5 \text{ feet } 6 \text{ inches} or 3 \text{ for } n \text{ even}, only the same text is equal.
- A list without brackets may stand in any order and equals the set of its entries; repeated entries of lists count.
  y = 1, x = 2 is the point (2,1): letters that follow each other are in the order of the alphabet.
  Tuples, points, intervals and matrices are ordered. A list equals the point with the same entries in the same order.
- Brackets matter: (1,2), [1,2] and \{1,2\} differ. A matrix of one row or one column and \langle 1,2\rangle are points.
- "x = 5" equals "5", but not "y = 5". An equation such as x + y = 1 equals no number, and other
  equations only if a constant factor makes them the same or they have the same solutions, of which there is at least
  one. Intervals equal inequalities. Between inequalities and between words, "and" is not "or".
- Of several sides the exact one counts: x = 7/3 \approx 2.33 equals 7/3, not 2.33.
- 6:00 PM equals 6 PM. No time is converted: 18:00 does not equal it. 2:30 and 1:15 are times; other ratios equal
  their multiples: 2:3 = 4:6 and 1:2:3 = 2:4:6.
- Two ascending numbers with a unit are a range: 9-11 hours is not -2 hours. Without a unit 9-11 is a difference, since
  answers such as 3-5 or 3-x are expressions far more often than ranges.
- The letter of a choice may stand before its value: \textbf{(B)}\ 5 equals 5 as well as B.
- Marks of a proof's end or of a step, \blacksquare, \checkmark, \therefore, \tag{1}, belong to no answer.
- Words are compared as text, without case, articles, brackets and punctuation. But "all real numbers" is \mathbb{R},
  and "no solution" is \emptyset.
"""

import itertools
import re
from fractions import Fraction

from . import answer_parts, bases
from .answer_parts import Entries
from .equations import RELATION, exact, named
from .exact_numbers import rational, with_fractions
from .inequalities import as_inequality
from .literal import conditions_differ, is_literal, is_size
from .math_verify_process import worker
from .named_values import in_order_of_names
from .notation import standard
from .products import has_numbers_side_by_side, plain_products
from .quantities import LETTERS, PERCENT, PROSE, TRIGONOMETRY, Quantity, change, quantity, units_agree
from .ratios import same_ratio, same_time

MAX_CHARACTERS = 1000  # longer answers equal the same text only
MAX_ENTRIES = 40
MAX_DEPTH = 4  # of tuples within tuples
MAX_NESTING = 20  # open brackets, as MAX_CHARACTERS; math-verify's time doubles with each level

LETTER = re.compile(r"\\text\{\s*(\(?[A-Za-z]\)?)\s*\}")
ONE_LETTER = re.compile(r"\(?[A-Za-z]\)?")
BRACKETED = re.compile(r"^\(([^(),;]*)\)$")
RANGE = re.compile(r"(\d+(?:\.\d+)?)\s*-\s*(?:\\\$)?(\d+(?:\.\d+)?)")
WORDS = re.compile(r"\\text\{[^{}]*[A-Za-z]")

Verdict = tuple[bool, str | None]


def equal(first: str, second: str) -> Verdict:
    """Return whether two answers are equal, and why the comparison failed (out of time or memory), if it did.

    An answer that cannot be read is not a failure: it equals the same text only.
    """
    if " ".join(first.split()) == " ".join(second.split()):
        return True, None
    if max(len(first), len(second)) > MAX_CHARACTERS or max(_nesting(first), _nesting(second)) > MAX_NESTING:
        return False, None
    notes: list[str] = []
    correct = _same_choice(standard(first), standard(second), notes)
    return correct, None if correct or not notes else notes[0]


def _nesting(text: str) -> int:
    """Return the largest number of brackets open at once."""
    steps = [1 if mark in "([{" else -1 for mark in text if mark in "()[]{}"]
    return max(itertools.accumulate(steps), default=0)


def _same_choice(a: str, b: str, notes: list[str]) -> bool:
    """Compare two answers of which one or both may have the letter of a choice before the value, as (B) 5 has."""
    if _same(a, b, notes, MAX_DEPTH):
        return True
    (left, a_value), (right, b_value) = answer_parts.choice(a), answer_parts.choice(b)
    if left is None and right is None:
        return False
    letters = [(letter or answer_parts.letters(text) or "").casefold() for letter, text in ((left, a), (right, b))]
    if None in (left, right) and letters[0] == letters[1]:  # (B) 5 and B
        return True
    return (left == right or None in (left, right)) and _same(a_value, b_value, notes, MAX_DEPTH)


def _same(a: str, b: str, notes: list[str], depth: int) -> bool:
    """Compare two answers in the standard notation; notes of failed comparisons are appended to `notes`."""
    if _squeezed(a) == _squeezed(b):
        return True
    if not a or not b:
        return False
    numbers = rational(a), rational(b)
    if None not in numbers:
        return numbers[0] == numbers[1]
    settled = _same_words(a, b)
    if settled is not None:
        return settled
    a, b, comparable = _without_names(*(as_inequality(exact(in_order_of_names(text))) for text in (a, b)))
    if not comparable or conditions_differ(a, b):
        return False
    left, right = answer_parts.entries(a), answer_parts.entries(b)
    single = left.kind == right.kind == "single"
    if depth and not single and max(len(left.parts), len(right.parts)) <= MAX_ENTRIES:
        settled = _same_entries(left, right, notes, depth - 1)
        if settled is not None:
            return settled
    return _same_scalar(a, b, notes)


def _squeezed(text: str) -> str:
    """Remove spaces, except between digits, and marks of words."""
    return re.sub(r"(?<![\d.,])\s+|\s+(?![\d.,])", "", re.sub(r"\\text\{([^{}]*)\}", r"\1", text))


def _same_words(a: str, b: str) -> bool | None:
    """Compare as text if either answer is words; None if neither is, or if one is a number or a list."""
    if answer_parts.text_answer(a) is None and answer_parts.text_answer(b) is None:
        return None
    for text in (a, b):
        if rational(quantity(text).value) is not None or len(answer_parts.entries(text).parts) > 1:
            return None
    left, right = answer_parts.letters(a), answer_parts.letters(b)
    return None if left is None and right is None else left == right


def _without_names(a: str, b: str) -> tuple[str, str, bool]:
    """Return the answers without "x =" where it makes no difference, and whether they can be equal at all."""
    (left, a_value), (right, b_value) = named(a), named(b)
    if left is None and right is None:
        return a_value, b_value, True
    if left and right and re.sub(r"[{}\s]", "", left) == re.sub(r"[{}\s]", "", right):
        return a_value, b_value, True
    if left is not None and right is not None:  # other names: equal at most as equations, such as y = x and x = y
        return a, b, not (left and right) or bool(re.search("[A-Za-z]", a_value + b_value))
    if left == "" or right == "":  # an equation beside a value
        return a, b, bool(RELATION.search(a + b))
    return a_value, b_value, True


def _same_entries(left: Entries, right: Entries, notes: list[str], depth: int) -> bool | None:
    """Compare entry by entry; None if brackets do not settle it, as for an interval and an inequality."""
    unordered, kinds = {"list", "set", "single"}, {left.kind, right.kind}
    if kinds <= unordered:
        if "set" in kinds:
            return _contained(left, right, notes, depth) and _contained(right, left, notes, depth)
        return len(left.parts) == len(right.parts) and _paired(left.parts, right.parts, notes, depth)
    if kinds == {"union", "list"}:
        listed = left.parts if left.kind == "list" else right.parts
        if not all(RELATION.search(part) for part in listed):  # x < 1 or x > 2 is a union; a list of points is not
            return False
    if kinds <= {"union", "list"}:
        return (len(left.parts) == len(right.parts) and _paired(left.parts, right.parts, notes, depth)) or None
    if kinds & {"single", "union"}:
        return None
    if "set" in kinds or not _brackets_agree(kinds, len(left.parts)):
        return False
    if len(left.parts) != len(right.parts):
        return False
    return all(_same(a, b, notes, depth) for a, b in zip(left.parts, right.parts, strict=True))


def _brackets_agree(kinds: set[str], size: int) -> bool:
    """Return whether two ordered kinds can be equal. Three entries are no interval, so there (…) is as good as […]."""
    if len(kinds) == 1:
        return True
    if kinds == {"vector", "row vector"} or not kinds <= {"()", "[]", "vector", "row vector", "list"}:
        return False
    return size > 2 or "[]" not in kinds or not kinds & {"()", "list"}


def _contained(left: Entries, right: Entries, notes: list[str], depth: int) -> bool:
    return all(any(_same(a, b, notes, depth) for b in right.parts) for a in left.parts)


def _paired(left: list[str], right: list[str], notes: list[str], depth: int) -> bool:
    """Return whether each entry of one list has a partner of its own in the other."""
    rest = list(right)
    for a in left:
        partner = next((i for i, b in enumerate(rest) if _same(a, b, notes, depth)), None)
        if partner is None:
            return False
        del rest[partner]
    return True


def _same_scalar(a: str, b: str, notes: list[str]) -> bool:
    """Compare two answers without entries: base, unit, number, else by math-verify."""
    a, b = bases.without_base_ten(a), bases.without_base_ten(b)
    left, right = quantity(a), quantity(b)
    digits, others = _digits(a, left), _digits(b, right)
    if digits or others:
        return bool(digits and others) and digits[0] == others[0] and units_agree(digits[1], others[1])
    if _is_range(left) or _is_range(right):
        return units_agree(left.unit, right.unit) and _squeezed(left.value) == _squeezed(right.value)
    if PERCENT in (left.unit, right.unit) and change(a) * change(b) < 0:
        return False
    if not units_agree(left.unit, right.unit) or PROSE in (left.unit, right.unit):
        return _squeezed(a) == _squeezed(b)
    if {left.unit, right.unit} & {"am", "pm"}:
        return same_time(left.value, right.value)
    if is_size(*left) or is_size(*right):
        return _squeezed(left.value) == _squeezed(right.value)
    values = [(left.value, right.value)]
    if left.unit != right.unit and (left.unit + right.unit) in set(LETTERS):  # 5m may be algebra
        values += [(a, b)]
    if PERCENT in (left.unit, right.unit) and left.unit != right.unit:
        values += [(_hundredth(left.value), right.value) if left.unit else (left.value, _hundredth(right.value))]
    return any(_same_value(x, y, notes) for x, y in values)


def _digits(text: str, answer: Quantity) -> tuple[tuple[str, int], str] | None:
    """Return the digits with their base, and the unit, of an answer that states a base; else None."""
    whole = bases.base(text)
    digits = whole or bases.base(answer.value)
    return (digits, "" if whole else answer.unit) if digits else None


def _is_range(answer: Quantity) -> bool:
    """Return whether a value with a unit is a range: 9-11 hours, but not 11-9 hours, and not 9-11, a difference."""
    ends = RANGE.fullmatch(answer.value) if answer.unit not in ("", PROSE) else None
    return ends is not None and Fraction(ends[1]) < Fraction(ends[2])


def _hundredth(value: str) -> str:
    number = rational(value)
    return rf"\frac{{{value}}}{{100}}" if number is None else str(number / 100)


def _same_value(a: str, b: str, notes: list[str]) -> bool:
    left, right = rational(a), rational(b)
    if left is not None and right is not None:
        return left == right
    a, b = (BRACKETED.sub(r"\1", text) for text in (a, b))
    if _squeezed(a.replace(r"^\circ", "")) == _squeezed(b.replace(r"^\circ", "")):  # \cos 58 for \cos 58^\circ
        return True
    a, b = (LETTER.sub(r" \1 ", text).strip() for text in (a, b))
    if ONE_LETTER.fullmatch(a) and ONE_LETTER.fullmatch(b):  # the name of a choice; in formulas R is not r
        return a.strip("()").casefold() == b.strip("()").casefold()
    settled = same_ratio(a, b, lambda first, second: _same_value(first, second, notes))
    if settled is not None:
        return settled
    if WORDS.search(a) or WORDS.search(b):  # math-verify would read "5 feet 6 inches" as 5
        return False
    for text, number in ((a, left), (b, right)):
        if number is None and (has_numbers_side_by_side(text) or bases.has_base(text)):
            return False
    a, b = (_latex(text, number) for text, number in ((a, left), (b, right)))
    if is_literal(a) or is_literal(b):
        return False
    correct, note = worker().verify(a, b)
    if note:
        notes.append(note)
    return correct


def _latex(text: str, number: Fraction | None) -> str:
    if number is None:
        if TRIGONOMETRY.search(text):
            text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\\circ", r"{\\frac{\1\\pi}{180}}", text)
        return with_fractions(plain_products(text))
    sign, size = "-" if number < 0 else "", abs(number)
    return sign + (str(size) if size.denominator == 1 else rf"\frac{{{size.numerator}}}{{{size.denominator}}}")
