r"""Exact rational values of numbers, however written: 1/2, 0.5, 1\frac{1}{2}, 0.\overline{3}, "twenty-one", 1.2e3."""

import re
from fractions import Fraction

LARGEST_EXPONENT = 1000  # of ten; a larger one is left to the process that can be killed

_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
UNITS = {word: value for value, word in enumerate([*_SMALL.split(), "seventeen", "eighteen", "nineteen"])}
TENS = {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MULTIPLIERS = SCALES | {"hundred": 100, "dozen": 12}
NUMBER_WORDS = frozenset([*UNITS, *TENS, *MULTIPLIERS])
PARTS = {"half": 2, "halves": 2, "third": 3, "fourth": 4, "quarter": 4, "fifth": 5, "sixth": 6, "seventh": 7} | {
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
}

ARGUMENT = r"\s*(?:\{\s*(-?\d+)\s*\}|(\d))"
FRACTION = re.compile(rf"\\frac{ARGUMENT}{ARGUMENT}")
SUM = re.compile(r"(\d+)\s*\+\s*(\\frac[^+]*)")  # its sign is that of the first number
PLAIN_FRACTION = re.compile(r"(\d+)\s*/\s*(\d+)")
DECIMAL = re.compile(r"(\d*)\.(\d+)|(\d+)\.?")
SCIENTIFIC = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*[eE]\s*([+-]?\d{1,6})")
OVERLINED = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))")
# Digits that repeat before an ellipsis: a single digit three times, a longer block twice.
ELLIPSIS = re.compile(r"(\d*)\.(\d*?)(?:(\d)\3\3+|(\d{2,12}?)\4+)\s*(?:\.\.\.|\\[lc]?dots)")


def rational(text: str) -> Fraction | None:
    """Return the exact value of a number in the notation of `notation.standard`, or None if it is not one number."""
    text = text.strip()
    sign = -1 if text.startswith("-") or re.match(r"(?:minus|negative)\b", text, re.IGNORECASE) else 1
    digits = re.sub(r"^(?:[-+]|minus\b|negative\b)\s*", "", text, flags=re.IGNORECASE)
    if match := SUM.fullmatch(digits):
        part = _unsigned(match[2])
        return None if part is None else sign * int(match[1]) + part
    value = _unsigned(digits)
    if value is None:
        value = number_words(digits)
    return None if value is None else sign * value


def _unsigned(text: str) -> Fraction | None:
    whole, _, part = text.partition("\\frac")
    if part and (whole := whole.strip()).isdecimal():  # a mixed number, else a product
        value = _unsigned("\\frac" + part)
        if value is None or value < 0:
            return None
        return int(whole) + value if value < 1 else int(whole) * value
    mixed = re.fullmatch(r"(\d+) (\d+/\d+)", text)
    if mixed:
        value = _unsigned(mixed[2])
        return None if value is None or value >= 1 else int(mixed[1]) + value
    if match := FRACTION.fullmatch(text) or PLAIN_FRACTION.fullmatch(text):
        numerator, denominator = (int(number) for number in match.groups() if number is not None)
        return Fraction(numerator, denominator) if denominator else None
    if match := SCIENTIFIC.fullmatch(text):
        exponent = int(match[2])
        return Fraction(match[1]) * Fraction(10) ** exponent if abs(exponent) <= LARGEST_EXPONENT else None
    if match := OVERLINED.fullmatch(text) or ELLIPSIS.fullmatch(text):
        return _repeating(*match.groups())
    return Fraction(text.removesuffix(".")) if DECIMAL.fullmatch(text) else None


def _repeating(whole: str, fixed: str, first: str | None, second: str | None) -> Fraction:
    """Return the value of whole.fixed followed by an endlessly repeated block of digits, given as one of two groups."""
    block = first or second or ""
    tail = Fraction(int(block), 10 ** len(block) - 1)
    return int(whole or 0) + (int(fixed or 0) + tail) / 10 ** len(fixed)


def number_words(text: str) -> Fraction | None:
    """Return the value of an English number, such as "two hundred and five", "one half" or "3 million", or None."""
    terms = re.sub(r"[\s-]+", " ", text.replace("\\text{", " ").replace("}", " ")).strip().casefold().split()
    if terms[-1:] == ["half"] and len(terms) > 3 and terms[-3:-1] == ["and", "a"]:  # "two and a half"
        whole = int(terms[0]) if len(terms) == 4 and terms[0].isdecimal() else _cardinal(terms[:-3])
        return None if whole is None else whole + Fraction(1, 2)
    if terms == ["half"]:
        return Fraction(1, 2)
    if len(terms) > 1 and terms[0] in {"a", "an"} and terms[1] in {*PARTS, *MULTIPLIERS}:
        terms[0] = "one"
    if len(terms) == 2 and (terms[0] in UNITS or (terms[0].isdecimal() and not terms[1].startswith("quarter"))):
        part = terms[1] if terms[1] in PARTS else terms[1].rstrip("s")  # 5 quarters may be coins
        if part in PARTS:
            return Fraction(UNITS[terms[0]] if terms[0] in UNITS else int(terms[0]), PARTS[part])
    if len(terms) == 2 and terms[1] in MULTIPLIERS and DECIMAL.fullmatch(terms[0]):
        return Fraction(terms[0].removesuffix(".")) * MULTIPLIERS[terms[1]]
    value = _cardinal(terms)
    return None if value is None else Fraction(value)


def _cardinal(terms: list[str]) -> int | None:
    """Return the value of the words of a whole number; None if they are not one, such as "twenty twelve"."""
    total, group, room = 0, 0, 1000  # `room`: what follows in the group must be smaller
    largest, previous = 10**15, ""
    for word in terms:
        if word in UNITS or word in TENS:
            value = UNITS.get(word, TENS.get(word, 0))
            if value >= room or (value == 0 and len(terms) > 1):
                return None
            group, room = group + value, 10 if word in TENS else 0
        elif word == "hundred" and 0 < group < 10:
            group, room = 100 * group, 100
        elif word == "dozen" and group:
            group, room = 12 * group, 0
        elif word in SCALES and group and SCALES[word] < largest:
            total, group, room, largest = total + group * SCALES[word], 0, 1000, SCALES[word]
        elif word != "and" or previous not in {"hundred", *SCALES}:
            return None
        previous = word
    return total + group if previous and previous != "and" else None


def with_fractions(text: str) -> str:
    r"""Return an expression with decimals written as fractions, so that no comparison rounds them: \frac{1}{2}x."""

    def fraction(match: re.Match[str]) -> str:
        value = _unsigned(match[0])
        if value is None:
            return match[0]
        written = str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
        return f"{{{written}}}" if match.start() and match.string[match.start() - 1] in "^_" else written

    for pattern in (OVERLINED, ELLIPSIS, re.compile(r"(?<![\d.])\d*\.\d+(?![\d.])")):
        text = pattern.sub(fraction, text)
    return text
