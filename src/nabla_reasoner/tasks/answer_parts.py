r"""Parts of an answer: entries of lists, sets, tuples, vectors and unions; words; the letter of a choice.

All functions take text in the notation of `notation.standard`.
"""

import re
from typing import NamedTuple

from .quantities import is_short_word, is_word

CLOSING = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
BRACKET = re.compile(
    r"\\begin\{[^{}]*\}(?:\{[^{}]*\})?|\\end\{[^{}]*\}|\\[lr]angle(?![A-Za-z])|\\[{}]|[()\[\]{}]|\\[^{}]|\\\\"
)
VECTOR = re.compile(r"[\[(]?\s*\\begin\{([bp]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}\s*[\])]?", re.DOTALL)
# Values of unknowns, one per row of `cases`; a row with a condition is part of a function and does not match.
SYSTEM = re.compile(r"\\begin\{(cases|aligned)\}(.*)\\end\{\1\}", re.DOTALL)
UNKNOWN = re.compile(r"[A-Za-z]\w*\s*&?\s*=[^&=,;]+[,;.]?")
SEPARATOR = re.compile(
    r"[,;]|\\text\{\s*(?:,\s*)?(?:and|or)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|\\cup(?![A-Za-z])"
)
# The letter of a choice before its value: \textbf{(B)}\ 5, B. 5; but not what joins letters, as in (A) and (B).
JOINED = (
    r"(?:and|or)\b|\\text\{\s*(?:and|or)\b|\\(?:cup|cap|cdot|times|setminus|in|le|ge|neq|subset\w*|pm|to)(?![A-Za-z])"
)
CHOICE = re.compile(
    r"(?:\\text\{\s*\(?([A-E])[).:]\s*\}\s*|\(([A-E])\)\s+|([A-E])[).:]\s+(?=[-\d\\(.€£]))"
    rf"(?!{JOINED})(?=-?[\w\\({{\[.|€£])(.+)"
)
CHOICE_IN_TEXT = re.compile(r"\\text\{\s*(\(?[A-E][).:])\s+([^{}]+)\}")

# A sign of subtraction: before capitals or a letter, or between two of them, as in -AB and AB-CD, not in X-ray.
MINUS = re.compile(
    r"^[\s(]*-\s*(?:[A-Z]+|[A-Za-z])(?![A-Za-z])|\b(?:[A-Z]+|[A-Za-z])\s*-\s*(?:[A-Z]+|[A-Za-z])(?![A-Za-z])"
)


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
    vector = _vector(text) or _system(text)
    if vector is not None:
        return vector
    inner = _bracketed(text)
    if inner is not None:
        opening, content, closing = inner
        parts, _ = _split(content)
        if opening == r"\{" and closing == r"\}":
            return Entries("set", _expanded(parts) if content.strip() else [])
        if len(parts) > 1 and content.count(r"\pm") == 1:  # two points
            return Entries("list", _expanded([text]))
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


def _system(text: str) -> Entries | None:
    """Return the equations of a system that gives the value of each unknown as a list, or None."""
    match = SYSTEM.fullmatch(text.strip())
    if match is None or r"\begin" in match[2]:
        return None
    rows = [row.strip() for row in match[2].strip().removesuffix(r"\\").split(r"\\")]
    if not all(UNKNOWN.fullmatch(row) for row in rows):
        return None
    return Entries("list" if len(rows) > 1 else "single", [row.replace("&", "").rstrip(",;. ") for row in rows])


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


def choice(text: str) -> tuple[str | None, str]:
    r"""Return letter and value of a choice, ("B", "5") for \text{(B)} 5, or None and the text."""
    match = CHOICE.fullmatch(CHOICE_IN_TEXT.sub(_split_choice, text))
    return (match[1] or match[2] or match[3], match[4]) if match else (None, text)


def _split_choice(match: re.Match[str]) -> str:
    value = match[2] if re.fullmatch(r"[^A-Za-z]*", match[2]) else rf"\text{{{match[2]}}}"
    return rf"\text{{{match[1]}}} {value}"


def text_answer(text: str) -> str | None:
    r"""Return the plain words of a text answer, without case, articles, brackets and punctuation, or None.

    Words are what stands in `\text{…}`, bare words of three or more letters, names such as "Tom" and capitals such as
    "ACB" or "IV" (math-verify reads these as products, so that "seat" would equal "east"). Single letters are words
    only beside another answer of letters: see `letters`.
    """
    plain = letters(text)
    if plain is None:
        return None
    marked = r"\text{" in text and len(plain) > 1
    bare = any(map(_is_written_out, re.findall(r"[^\W\d_]+", text.replace(r"\text", ""))))
    short = plain in {"yes", "no", "odd", "none", "both"}
    return plain if marked or bare or short or len(re.findall(r"[a-z]{2,}", plain)) > 1 else None


def _is_written_out(word: str) -> bool:
    """Return whether bare letters are a word, a name or an abbreviation rather than a product of variables."""
    return is_word(word) or is_short_word(word) or bool(re.fullmatch("[A-Z]{2,}|[A-Z][a-z]{2,}", word))


def letters(text: str) -> str | None:
    """Return an answer of letters only, folded as in `text_answer`, or None if it has anything else."""
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    if not re.fullmatch(r"[A-Za-zÀ-ɏ\s.,'’()&\"-]*[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ\s.,'’()&\"-]*", plain):
        return None
    if MINUS.search(plain):
        return None
    plain = re.sub(r"^\s*a (?=[a-z]{3})", "", re.sub(r"[^\w\s]", " ", plain).casefold())
    return " ".join(word for word in plain.split() if word not in {"the", "an"}) or None
