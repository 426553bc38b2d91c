r"""Number and unit of an answer in the notation of `notation.standard`."""

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
cent|euro eur|am a.m.|pm p.m.|unit|gal gallon|kwh|ohm
"""
UNITS = {name: names.split()[0] for line in SYNONYMS.split("\n") for names in line.split("|") for name in names.split()}
UNIT_SIGNS = frozenset("mgshlLNJVWKACF")  # of one letter, in \text{…}
CURRENCIES = {r"\$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee", "¢": "cent"}
# Words that make a phrase of what follows a number: "3 or more" and "2 less than x" are not numbers with a unit.
PHRASES = frozenset(
    "and or an not no more less than least most is are was to if when where because between from mod base over plus "
    "minus cannot can't never fewer greater above below under undetermined undefined unknown impossible root squared "
    "cubed negative none without except factorial insufficient incorrect wrong "
    "january february march april may june july august september october november december "
    "jan feb mar apr jun jul aug sep sept oct nov dec "
    "mil mill grand tens scores times half hundred thousand million billion trillion as by of for in the".split()
)
# Words before "of" that are no count of something: three quarters of a pie are not 3.
PART = re.compile(
    r"(?:hal[fv]e?|quarter|third|fourth|(?:fif|six|seven|eigh|nin|ten|eleven|twelf|\w*(?:teen|ie|hundred|sand|lion))th|"
    r"percent|percentage|time|les|plu|minu)s?"
)
PLURALS = frozenset("feet men women children people teeth mice geese".split())
# Nouns too short for `is_word`.
NOUNS = frozenset("bag box boy car cat cow cup dog egg hen men pen pie pig toy".split())
RATE = re.compile(
    r"(.+?)\s*(?:(?:/|(?<![A-Za-z])per(?![A-Za-z]))\s*(?:\\text\{\s*([A-Za-z][A-Za-z .-]*)\}|([A-Za-z][A-Za-z .-]+))|"
    r"\\text\{\s*(?:/|per(?![A-Za-z]))\s*([A-Za-z][A-Za-z .-]*)\})"
)
LONGEST_RATE = 100  # characters; one rate may stand in another
PERIOD = r"(?=(?:second|minute|hour|day|night|week|month|year|person)\b)"
# Words after a percentage that say which way something changes.
UP, DOWN = "increase|gain|profit|growth|rise|more|greater", "decrease|loss|discount|reduction|drop|less|fewer|off"
SHARE = re.compile(
    rf"(.+?)\s*\\?%\s*(?:\\text\{{\s*(?:of|per|chance|probability|{UP}|{DOWN})\b[^{{}}]*\}}|"
    rf"(?:chance|probability|{UP}|{DOWN})(?![A-Za-z]))"
)
TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
POWER = r"\s*(?:\^\s*(?:(\d)|\{(\d)\}))?"
UNIT_IN_TEXT = re.compile(r"(.+?)\s*\\text\{([^{}]*)\}" + POWER)
UNIT_IN_PLAIN_WORDS = re.compile(
    r"(.*?(?:[\d})]|\\pi|[A-Za-z](?= )))\s?((?:[A-Za-z]{2,}|[ap]\.m|(?<= )[mgl](?=/))(?:[\s/.-]+[A-Za-z]+)*\.?)" + POWER
)
LETTERS = "mgshl"  # units of one letter; the text may also be algebra, above all without a space
UNIT_OF_ONE_LETTER = re.compile(rf"(.+?)(?:\s?([{LETTERS}L])|\s(m)\s*\^\s*(?:([23])|\{{([23])\}}))")

# A value without unknowns that ends in a bracket, and a unit of one letter: (2+\sqrt3) m.
BRACKETED = re.compile(rf"(?:[^A-Za-z\\]|\\(?:sqrt|frac|pi|cdot|times)(?![A-Za-z]))+[)!|] [{LETTERS}]")
NUMBER_BEFORE_LETTER = re.compile(rf"\s*\$?\s*-?[\d.]*\d([{LETTERS}])\s*\$?\s*")  # without a space: algebra
NUMBER_ALONE = re.compile(r"[\s$]*-?[\d.]*\d[\s$.]*")


class Quantity(NamedTuple):
    r"""A value and its unit.

    Attributes:
        value: LaTeX or a number in words.
        unit: its name, "%" for percent, "" for none; a power follows it: "cm^2". `PROSE`: the words are no unit, but
            say something about the number, as in "5 below zero"; then the value is the whole text.
    """

    value: str
    unit: str


def quantity(text: str) -> Quantity:
    """Split an answer into value and unit; the unit is "" unless what follows the value can be one."""
    text = text.strip()
    match = re.fullmatch(r"(.+?)\s*(?:\\?%|\\text\{\s*per\s?cent(?:age)?\s*\}|(?<![A-Za-z])(?:per\s?cent|pct))", text)
    match = match or SHARE.fullmatch(text)
    if match:
        return Quantity(match[1], PERCENT)
    rate = _rate(text)
    if rate:
        return rate
    match = re.fullmatch(r"(-?)\s*(\\\$|[€£¥₹¢])\s*(.+)", text)
    if match:
        inner = quantity(match[3])
        if inner.unit == PROSE:
            return Quantity(text, PROSE)
        divisor = inner.unit if inner.unit.startswith("/") else ""
        return Quantity(match[1] + inner.value, CURRENCIES[match[2]] + divisor)
    match = re.fullmatch(r"(.+?)\s*(\\\$|[€£¥₹¢])", text)
    if match:
        return Quantity(match[1], CURRENCIES[match[2]])
    match = re.fullmatch(r"(.+?)\s*\^\\circ\s*(?:\\text\{\s*)?([CF]?)(?:\s*\})?", text)
    if match and not TRIGONOMETRY.search(text):  # of \sin 30^\circ the angle has the unit, not the value
        return Quantity(match[1], f"degree {match[2]}".strip())
    match = UNIT_OF_ONE_LETTER.fullmatch(text)
    if match and (rational(match[1]) is not None or BRACKETED.fullmatch(text)):
        return Quantity(match[1], _name(match[2] or match[3], match[4] or match[5] or ""))
    match = UNIT_IN_TEXT.fullmatch(text) or UNIT_IN_PLAIN_WORDS.fullmatch(text)
    if match is None:
        return Quantity(text, "")
    return _with_unit(text, match, text[match.end(1) : match.start(2)], match[3] or match[4] or "")


def change(text: str) -> int:
    """Return 1 if words say that something increases, -1 if it decreases, else 0."""
    return bool(re.search(rf"(?<![A-Za-z])(?:{UP})\b", text)) - bool(re.search(rf"(?<![A-Za-z])(?:{DOWN})\b", text))


def _rate(text: str) -> Quantity | None:
    r"""Split a quantity per another, such as \$18/\text{hour} or "3 cups per day"; None if the text is no such."""
    match = RATE.fullmatch(text) if len(text) <= LONGEST_RATE else None
    if match is None:
        return None
    words = (match[2] or match[3] or match[4]).casefold().split()
    if any(word in PHRASES or word in NUMBER_WORDS or PART.fullmatch(word) for word in words):
        return None
    if match[3] and not any(word.removesuffix("s") in UNITS or is_word(word) for word in words):
        return None  # a quotient, such as 2/ab
    counted = quantity(match[1])
    if rational(counted.value) is None or counted.unit == PROSE:
        return None
    if counted.unit == PERCENT:
        return counted
    return Quantity(counted.value, _name(f"{counted.unit}/{' '.join(words)}", ""))


def lacks_letter(given: str, reference: str) -> bool:
    """Return whether the reference is algebra, such as the perimeter 4s, and the given answer its number alone."""
    return bool(NUMBER_BEFORE_LETTER.fullmatch(reference) and NUMBER_ALONE.fullmatch(given))


def units_agree(first: str, second: str) -> bool:
    """Return whether two units may be of one quantity: equal, or one says less, as "cup" and "cup of water" do."""
    short, long = sorted((first, second), key=len)
    if not short or short == long or long.startswith(f"{short} of "):
        return True
    is_money = short in CURRENCIES.values() and long.startswith(f"{short}/")
    return is_money or (short.startswith("/") and long.endswith(short))


def _with_unit(text: str, match: re.Match[str], gap: str, power: str) -> Quantity:
    r"""Split a value and the words after it.

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
    phrase, in_text = " ".join(words), gap.endswith("{")
    is_formula = in_text and len(phrase) > 1 and "\\text" not in value
    if not words or (rational(value) is None and not is_formula and not re.fullmatch(r"\d+:\d+", value)):
        return Quantity(text, "")
    if known:
        return Quantity(value, unit)
    if in_text and len(phrase) == 1 and phrase not in UNIT_SIGNS:  # 2\text{x} is 2x
        return Quantity(value + phrase + (f"^{power}" if power else ""), "")
    if not in_text and not (gap and any(map(_is_noun, words))):
        return Quantity(text, "")  # 2ab and 2 ab are products
    return Quantity(text, PROSE) if _is_prose(value, phrase) else Quantity(value, unit)


def _is_prose(value: str, phrase: str) -> bool:
    """Return whether words after a value are no unit, but go on with it: "of the numbers", "or more", "x"."""
    counted, of, whole = phrase.partition(" of ")
    if of and _is_counted(counted.split()[-1].casefold(), rational(value) == 1):
        phrase = f"{counted} {re.sub(r'^(?:the|an?|his|her|their) ', '', whole)}"
    parts = set(re.split(r"[\s/]", phrase))
    return bool(parts & set("bcdefijknopqrtuvwxyz") or {part.casefold() for part in parts} & (PHRASES | NUMBER_WORDS))


def _is_counted(word: str, is_one: bool) -> bool:
    """Return whether the word before "of" is what is counted, as in "18 cups of water", and not a part of something."""
    if PART.fullmatch(word) or word.removesuffix("s") in NUMBER_WORDS:
        return False
    singular = word.removesuffix("s")
    return singular in UNITS or singular in NOUNS or word in PLURALS or is_one or (len(word) > 3 and singular != word)


def _is_noun(word: str) -> bool:
    """Return whether bare letters after a space are a word or an abbreviation in the plural, as in "18 TVs"."""
    return is_word(word) or word.removesuffix("s") in NOUNS or bool(re.fullmatch("[A-Z]{2,}s", word))


def is_word(word: str) -> bool:
    """Return whether bare letters are a word rather than a product: four or more, one a vowel, not all of "abcdxyz"."""
    letters = set(word.casefold())
    return len(word) > 3 and bool(letters & set("aeiou") and letters - set("abcdxyz"))


def is_short_word(word: str) -> bool:
    """Return whether three bare letters are a word such as "cat": one a vowel, and not all common for variables."""
    letters = set(word)
    return len(word) == 3 and bool(letters & set("aeiou") and letters - set("abcdeixyz"))


def _name(phrase: str, power: str) -> str:
    """Return the common name of a unit, such as "cm^2" for "square centimetres"."""
    name = re.sub(rf"\bper\b|\b(?:an?|each|every) {PERIOD}", "/", phrase.casefold()).strip(" .,-")
    counted, of, whole = name.partition(" of ")
    if of:
        return f"{_name(counted, power)} of {re.sub('^(?:the|an?|his|her|their) ', '', whole).removesuffix('s')}"
    name = re.sub(r"\s*/\s*", "/", re.sub(r"\s+", " ", name)) if name not in {"a.m", "p.m"} else name[0] + "m"
    square = re.fullmatch(r"(square|sq|cubic|cu)\.? (.+)|(.+) (squared|cubed)", name)
    if square:
        name, power = square[2] or square[3], "3" if "cu" in (square[1] or square[4]) else "2"
    forms = [name] if name in UNITS or name.removesuffix("s") in UNITS else name.split("/")
    stem = "/".join(UNITS.get(form, UNITS.get(form.removesuffix("s"), form.removesuffix("s"))) for form in forms)
    stem = UNITS.get(stem, stem)  # mi/h
    return f"{stem}^{power}" if power else stem
