r"""Parts of an answer: entries of lists, sets, tuples, vectors and unions; number and unit; digits and base; words.

All functions take text in the notation of `notation.standard`.
"""

import itertools
import re
from typing import NamedTuple

from .exact_numbers import NUMBER_WORDS, rational

PERCENT = "%"
PROSE = "words"
# Names of a unit, first the one that stands for all.
SYNONYMS = """
cm centimeter centimetre|mm millimeter millimetre|m meter metre|km kilometer kilometre|in inch inche|ft foot feet
yd yard|mi mile|kg kilogram|g gram gm|mg milligram|lb pound|oz ounce|l liter litre|ml milliliter millilitre|s sec second
min minute|h hr hour|day|week|month|yr year|degree deg|rad radian|mph miles/hour mi/h miles/hr|dollar usd buck
cent|euro eur|am a.m.|pm p.m.|unit
"""
UNITS = {name: names.split()[0] for line in SYNONYMS.split("\n") for names in line.split("|") for name in names.split()}
UNIT_SIGNS = frozenset("mgshlLNJVWKACF")  # of one letter, in \text{…}
CURRENCIES = {r"\$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee"}
# Words that make a phrase of what follows a number: "3 or more" and "2 less than x" are not numbers with a unit.
PHRASES = frozenset(
    "and or an not no more less than least most is are was to if when where because between from mod base over plus "
    "minus cannot can't never fewer greater above below under undetermined undefined unknown impossible root squared "
    "cubed negative none without except factorial insufficient incorrect wrong "
    "times half hundred thousand million billion trillion as by of for in the".split()
)
# Nouns too short for `_is_word`.
NOUNS = frozenset("bag box boy car cat cow cup dog egg hen men pen pie pig toy".split())
CLOSING = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
BRACKET = re.compile(
    r"\\begin\{[^{}]*\}(?:\{[^{}]*\})?|\\end\{[^{}]*\}|\\[lr]angle(?![A-Za-z])|\\[{}]|[()\[\]{}]|\\[^{}]|\\\\"
)
VECTOR = re.compile(r"[\[(]?\s*\\begin\{([bp]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}\s*[\])]?", re.DOTALL)
SEPARATOR = re.compile(
    r"[,;]|\\text\{\s*(?:,\s*)?(?:and|or)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|\\cup(?![A-Za-z])"
)
BASE = re.compile(
    r"(?P<open>\()?(?P<digits>(?:[0-9A-Za-z. ]|\\text\{[0-9A-Za-z]*\})+)(?(open)\))\s*(?:"
    r"_\s*(?:\{\s*\(?(?P<braced>[^{}()]*(?:\{[^{}]*\})?)\)?\s*\}|(?P<mark>\d))|"
    r"\\text\{\s*\(?base (?P<text>\w+)\)?\s*\}|\(?base (?P<plain>\w+)\)?)"
)
TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
POWER = r"\s*(?:\^\s*(?:(\d)|\{(\d)\}))?"
UNIT_IN_TEXT = re.compile(r"(.+?)\s*\\text\{([^{}]*)\}" + POWER)
UNIT_IN_PLAIN_WORDS = re.compile(
    r"(.*?(?:[\d})]|\\pi|[A-Za-z](?= )))\s?((?:[A-Za-z]{2,}|[ap]\.m|(?<= )[mgl](?=/))(?:[\s/.-]+[A-Za-z]+)*\.?)" + POWER
)
LETTERS = "mgshl"  # units of one letter; the text may also be algebra, above all without a space
UNIT_OF_ONE_LETTER = re.compile(rf"(.+?)(?:\s?([{LETTERS}L])|\s(m)\s*\^\s*(?:([23])|\{{([23])\}}))")


class Quantity(NamedTuple):
    r"""A value and its unit.

    Attributes:
        value: LaTeX or a number in words.
        unit: its name, "%" for percent, "" for none; a power follows it: "cm^2". `PROSE`: the words are no unit, but
            say something about the number, as in "5 below zero"; then the value is the whole text.
    """

    value: str
    unit: str


class Entries(NamedTuple):
    r"""Entries of an answer.

    Attributes:
        kind: "single"; "list" without brackets; "set" in \{\}; "vector" for a matrix of one row or column and for
            \langle\rangle; "union"; else the two brackets, such as "()" or "(]".
        parts: their texts, at least one unless the set is empty.
    """

    kind: str
    parts: list[str]


def entries(text: str) -> Entries:
    """Split an answer at the commas, "and", "or" and unions that lie outside every bracket."""
    if text == r"\emptyset":
        return Entries("set", [])
    in_text = re.fullmatch(r"\\text\{([^{}]*)\}", text)
    if in_text and SEPARATOR.search(in_text[1]):
        return Entries("list", [rf"\text{{{part}}}" for part in _split(in_text[1])[0]])
    vector = _vector(text)
    if vector is not None:
        return vector
    inner = _bracketed(text)
    if inner is not None:
        opening, content, closing = inner
        parts, _ = _split(content)
        if opening == r"\{" and closing == r"\}":
            return Entries("set", _expanded(parts) if content.strip() else [])
        if len(parts) > 1:
            return Entries("vector" if opening == r"\langle" else opening + closing, parts)
        return Entries("single", [text])
    parts, separators = _split(text)
    if separators and all(mark == r"\cup" for mark in separators):
        return Entries("union", parts)
    parts = _expanded(parts)
    return Entries("list" if len(parts) > 1 else "single", parts)


def _vector(text: str) -> Entries | None:
    """Return the entries of a matrix of one row or one column, which count as a tuple, or None."""
    match = VECTOR.fullmatch(text.strip())
    if match is None or r"\begin" in match[2]:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\", match[2].strip().removesuffix(r"\\"))]
    if len(rows) > 1 and any(len(row) > 1 for row in rows):
        return None
    return Entries("vector" if len(rows) > 1 else "row vector", [entry.strip() for row in rows for entry in row])


def _bracketed(text: str) -> tuple[str, str, str] | None:
    """Return the outer brackets and what is between them if the first bracket closes at the end, else None."""
    opening = next((mark for mark in CLOSING if text.startswith(mark)), None)
    if opening is None:
        return None
    depth = 0
    for match in BRACKET.finditer(text):
        depth += _step(match[0])
        if depth == 0:
            closing = match[0]
            inside = text[len(opening) : match.start()]
            matched = closing == CLOSING[opening] or {opening, closing} <= set("()[]")
            return (opening, inside, closing) if matched and match.end() == len(text) else None
    return None


def _step(mark: str) -> int:
    if mark in {"(", "[", "{", r"\{", r"\langle"} or mark.startswith(r"\begin"):
        return 1
    return -1 if mark in {")", "]", "}", r"\}", r"\rangle"} or mark.startswith(r"\end") else 0


def _split(text: str) -> tuple[list[str], list[str]]:
    """Split at separators outside every bracket; returns the non-empty parts and the separators between them."""
    depth, start, parts, separators, position = 0, 0, [], [], 0
    while position < len(text):
        separator = SEPARATOR.match(text, position) if depth == 0 else None
        if separator:
            parts.append(text[start:position].strip())
            separators.append(separator[0])
            start = position = separator.end()
            continue
        bracket = BRACKET.match(text, position)
        depth += _step(bracket[0]) if bracket else 0
        position = bracket.end() if bracket else position + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part] or [text], separators


def _expanded(parts: list[str]) -> list[str]:
    r"""Replace each part with one \pm by the two that it stands for."""
    both = [
        [part.replace(r"\pm", "+"), part.replace(r"\pm", "-")] if part.count(r"\pm") == 1 else [part] for part in parts
    ]
    return [part for pair in both for part in pair]


def quantity(text: str) -> Quantity:
    """Split an answer into value and unit; the unit is "" unless what follows the value can be one."""
    text = text.strip()
    match = re.fullmatch(r"(.+?)\s*(?:\\?%|\\text\{\s*per\s?cent(?:age)?\s*\}|(?<![A-Za-z])(?:per\s?cent|pct))", text)
    if match:
        return Quantity(match[1], PERCENT)
    match = re.fullmatch(r"(-?)\s*(\\\$|[€£¥₹])\s*(.+)", text)
    if match:
        return Quantity(match[1] + quantity(match[3]).value, CURRENCIES[match[2]])
    match = re.fullmatch(r"(.+?)\s*(\\\$|[€£¥₹])", text)
    if match:
        return Quantity(match[1], CURRENCIES[match[2]])
    match = re.fullmatch(r"(.+?)\s*\^\\circ\s*(?:\\text\{\s*)?([CF]?)(?:\s*\})?", text)
    if match and not TRIGONOMETRY.search(text):  # of \sin 30^\circ the angle has the unit, not the value
        return Quantity(match[1], f"degree {match[2]}".strip())
    match = UNIT_OF_ONE_LETTER.fullmatch(text)
    if match and rational(match[1]) is not None:
        return Quantity(match[1], _name(match[2] or match[3], match[4] or match[5] or ""))
    match = UNIT_IN_TEXT.fullmatch(text) or UNIT_IN_PLAIN_WORDS.fullmatch(text)
    if match is None:
        return Quantity(text, "")
    return _with_unit(text, match, text[match.end(1) : match.start(2)], match[3] or match[4] or "")


def _with_unit(text: str, match: re.Match[str], gap: str, power: str) -> Quantity:
    r"""Split a value and the words behind it.

    Args:
        text: the answer.
        match: its groups are the value and the words.
        gap: what stands between the two: "", " " or "\text{".
        power: of the unit.
    """
    words = re.sub(r"(?:^|\s+)(?:times|in (?:total|all))$", "", match[2].strip()).split()
    if not words and match[2].strip() and rational(match[1]) is not None:
        return Quantity(match[1], "")
    numbers = list(itertools.takewhile(lambda word: word.casefold() in NUMBER_WORDS, words))  # "5 million people"
    value, words = " ".join([match[1].strip(), *numbers]), words[len(numbers) :]
    unit = _name(" ".join(words), power)
    known = all(part in UNITS.values() for part in re.sub(r"\^\d$", "", unit).split("/"))
    if known and rational(value) is None and "\\text" not in value:
        return Quantity(value, unit)
    if not words or (rational(value) is None and not re.fullmatch(r"\d+:\d+", value)):
        return Quantity(text, "")
    if known:
        return Quantity(value, unit)
    phrase, in_text = " ".join(words), gap.endswith("{")
    if in_text and len(phrase) == 1 and phrase not in UNIT_SIGNS:  # 2\text{x} is 2x
        return Quantity(value + phrase + (f"^{power}" if power else ""), "")
    if not in_text and not (gap and any(_is_word(word) or word.removesuffix("s") in NOUNS for word in words)):
        return Quantity(text, "")  # 2ab and 2 ab are products
    parts = set(re.split(r"[\s/]", phrase))
    is_prose = parts & set("bcdefijknopqrtuvwxyz") or {part.casefold() for part in parts} & (PHRASES | NUMBER_WORDS)
    return Quantity(text, PROSE) if is_prose else Quantity(value, unit)


def _is_word(word: str) -> bool:
    """Return whether bare letters are a word rather than a product: four or more, one a vowel, not all of "abcdxyz"."""
    letters = set(word.casefold())
    return len(word) > 3 and bool(letters & set("aeiou") and letters - set("abcdxyz"))


def _name(phrase: str, power: str) -> str:
    """Return the common name of a unit, such as "cm^2" for "square centimetres"."""
    name = re.sub(r"\bper\b", "/", phrase.casefold()).strip(" .,-")
    name = re.sub(r"\s*/\s*", "/", re.sub(r"\s+", " ", name)) if name not in {"a.m", "p.m"} else name[0] + "m"
    square = re.fullmatch(r"(square|sq|cubic|cu)\.? (.+)|(.+) (squared|cubed)", name)
    if square:
        name, power = square[2] or square[3], "3" if "cu" in (square[1] or square[4]) else "2"
    forms = [name] if name in UNITS or name.removesuffix("s") in UNITS else name.split("/")
    stem = "/".join(UNITS.get(form, UNITS.get(form.removesuffix("s"), form.removesuffix("s"))) for form in forms)
    return f"{stem}^{power}" if power else stem


def base(text: str) -> tuple[str, int] | None:
    """Return digits and base of a number that states a base other than ten, or None."""
    stated = _stated_base(text)
    return None if stated is None or stated[1] == 10 else stated


def without_base_ten(text: str) -> str:
    """Return the digits of a number that states base ten, and every other text as it is."""
    stated = _stated_base(text)
    return stated[0] if stated is not None and stated[1] == 10 else text


def _stated_base(text: str) -> tuple[str, int] | None:
    match = BASE.fullmatch(text.strip())
    if match is None:
        return None
    name = match["braced"] or match["mark"] or match["text"] or match["plain"] or ""
    value = rational(re.sub(r"\\text\{([^{}]*)\}", r"\1", name).removeprefix("base").strip())
    digits = re.sub(r"\\text\{|[} ]", "", match["digits"]).upper()
    if value is None or not 2 <= value <= 36 or value.denominator != 1 or not digits.strip("."):
        return None
    valid = all(digit == "." or int(digit, 36) < value for digit in digits)
    is_variable = len(digits) == 1 and digits.isalpha()
    return (digits, int(value)) if valid and not is_variable else None


def text_answer(text: str) -> str | None:
    r"""Return the plain words of a text answer, without case, articles, brackets and punctuation, or None.

    Words are what stands in `\text{…}` and bare words of four or more letters (math-verify reads these as products, so
    that "seat" would equal "east"). Single letters are words only beside another answer of letters: see `letters`.
    """
    plain = letters(text)
    if plain is None:
        return None
    marked = r"\text{" in text and len(plain) > 1
    bare = any(map(_is_word, plain.split()))
    short = plain in {"yes", "no", "odd", "none", "both"}
    return plain if marked or bare or short or len(re.findall(r"[a-z]{2,}", plain)) > 1 else None


def letters(text: str) -> str | None:
    """Return an answer of letters only, folded as in `text_answer`, or None if it has anything else."""
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    if not re.fullmatch(r"[A-Za-zÀ-ɏ\s.,'’()&\"-]*[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ\s.,'’()&\"-]*", plain):
        return None
    plain = re.sub(r"[^\w\s]", " ", plain).casefold()
    return " ".join(word for word in plain.split() if word not in {"the", "an"}) or None
