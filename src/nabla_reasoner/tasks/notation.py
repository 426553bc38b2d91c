r"""One notation for answers: variants of the same signs in Unicode, Markdown, LaTeX and plain text become one.

For example, "½", "1/2" with Markdown stars, `\dfrac12` and `$\frac{1}{2}$.` all become text that `numbers.rational` or
math-verify reads as one half. Nothing here compares answers.
"""

import re
import unicodedata

from .arguments import closing, plain_roots, with_braces
from .names import with_commands

SIGNS = {
    **dict.fromkeys("−–—‐‑", "-"),
    **dict.fromkeys("·⋅∙", r"\cdot "),
    **dict.fromkeys("⁄∕", "/"),
    **{"×": r"\times ", "÷": r"\div ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\neq ", "≈": r"\approx ", "±": r"\pm "},
    **{"∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ "},
    **dict.fromkeys("’′", "'"),
}
BEFORE_COMPATIBILITY = {"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "º": r"^\circ "}
SUPERSCRIPTS, SUBSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "₀₁₂₃₄₅₆₇₈₉₊₋₍₎"

OPEN = r"[\s*$]*(?:\\text\s*\{)?"
# Words before an answer that are no part of it: \text{The answer is } 5, approximately 5.
INTRODUCTION = (
    r"\s*(?:(?:[Tt]he\s+)?(?:[Ff]inal\s+)?[Aa]nswer(?:\s+is\b(?!\s+not\b)|\s*:)\s*)?"
    r"(?:(?:[Aa]pproximately|[Aa]bout|[Rr]oughly)\s*(?=[-−+$\d.}]))?"
)
SIZES = "tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bf|it|rm|sf|tt|bfseries|itshape"
CURRENCY_CODES = {"USD": r"\$", "EUR": "€", "GBP": "£", "textdollar": r"\$", "textsterling": "£", "pounds": "£"} | {
    "texteuro": "€",
    "euro": "€",
    "yen": "¥",
    "textyen": "¥",
}
GAP = r"(?:\s|\$|\\[,;:. ]|\\q?quad(?![A-Za-z])|~)"
# Marks of a proof's end or of a step belong to no answer. A mark alone stays; a square that touches may be a symbol.
END_MARKS = (
    rf"(?:{GAP}*+(?:\\(?:blacksquare|qed(?:symbol)?|checkmark)(?![A-Za-z])|\\(?:tag\*?|label)\s*\{{[^{{}}]*\}}|"
    rf"[■∎✓✔✅])|{GAP}++(?:\\(?:square|Box)(?![A-Za-z])|□))[\s$.]*+"
)
UNIT = r"\s*\\text\{([A-Za-z .]+)\}\s*"
STEP_MARKS = r"\\(?:therefore|because|implies|(?:Long)?[Rr]ightarrow)(?![A-Za-z])|[∴⇒⟹]"
INTERVAL_OR_SET = r"(?:[\[(][^\[\](),]*,[^\[\]()]*[\])]|\\\{[^{}\\]*\\\})"


def _higher_root(match: re.Match[str]) -> str:
    """Return a cube or fourth root as a command."""
    degree = 3 if match[0].startswith("∛") else 4
    return rf"\sqrt[{degree}]{{{match[1] or match[2]}}}"


def _currency(match: re.Match[str]) -> str:
    return CURRENCY_CODES[next(filter(None, match.groups()))]


# Applied in this order; each is linear in the length of the text.
REWRITES = [
    (rf"^({OPEN}){INTRODUCTION}", r"\1"),
    (rf"^({OPEN})(?:[Oo]ption|[Cc]hoice)\s*(?=\(?[A-E]\)?[\s.}}$*]*$)", r"\1"),
    (rf"^([\s$*]*)(?:{STEP_MARKS})(?=\s*[^\s$*])", r"\1"),
    (rf"(?<=[^\s$])(?:{END_MARKS})++$", ""),
    (r"[∛∜]\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))", _higher_root),
    (r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
    (r"√", r"\\sqrt "),
    (r"(?<![\\A-Za-z])(?:infinity|inf)(?![A-Za-z])", r"\\infty "),
    (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times "),
    (r"\\(?:text)?color\s*\{[^{}]*\}|\\(?:displaystyle|textstyle|limits|notag)(?![A-Za-z])", ""),
    (rf"\\(?:{SIZES})(?![A-Za-z])|\\(?:[hv]?phantom\s*\{{[^{{}}]*\}}|underline(?=\s*\{{))", ""),
    (r"\\[hv]space\*?\s*\{[^{}]*\}|\\(?:thinspace|enspace|space)(?![A-Za-z])", " "),
    (r"\\(textdollar|textsterling|pounds|texteuro|euro|textyen|yen)(?![A-Za-z])", _currency),
    (r"(?<![\\A-Za-z])(USD|EUR|GBP)\s*(?=\\?\$?\d)|\\text\{\s*(USD|EUR|GBP)\s*\}\s*(?=\d)", _currency),
    (r"\\[lc]?dots[cbmio]?(?![A-Za-z])|(?<=[,+])\s*\.\.\.", r"\\ldots "),
    (r"\\(?:left|right)\s*\.|\\(?:left|right|middle|[bB]igg?[lr]?)(?![A-Za-z])", ""),
    (r"\^\s*-\s*(\d+(?:\.\d+)?|[A-Za-z])", r"^{-\1}"),
    (r"\\(?:text(?:bf|it|rm|normal|tt|sf|sc)|mathrm|mbox|hbox)\s*\{", r"\\text{"),
    (r"\\text\s+\{", r"\\text{"),
    (rf"(?<=[\d)}}]){GAP}*+\\frac\{{{UNIT}\}}\{{{UNIT}(\s*\^[^{{}}]{{1,3}})?\s*\}}", r" \\text{\1/\2}\3"),
    (rf"(?<=\d){GAP}*+\\Omega(?=[\s$.*]*$)", r" \\text{ ohm}"),
    (r"\\text\{([^{}]*[A-Za-z,])\s+(and|or)\s*\}", r"\\text{\1} \\text{\2}"),  # 2 \text{ hours and } 5 \text{ minutes}
    (r"\\text\{(?=[^{}]*\d)((?:[-\d\s.,;:/]|and|or)+)\}", r"\1"),  # a list: 2 and 3
    (r"\\text\{\s*(\\?\$?-?\d[\d:.,/]*)\s*([^{}]*)\}", r"\1 \\text{\2}"),  # only the words are text
    (r"(?<=\d)\s*\^\s*\{\s*(?:\\text\{)?(?:st|nd|rd|th)\}?\s*\}", ""),  # ordinal numbers
    (r"(?<=\d)\s*(?:\\text\{(?:st|nd|rd|th)\}|(?:st|nd|rd|th)(?![A-Za-z]))", ""),
    (r"\{\s*([^{}]*)\\choose(?![A-Za-z])\s*([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"\\(?:mathbf|mathit|mathsf|mathtt|boldsymbol|bm)\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1"),
    (r"\\(?:lbrace|rbrace)(?![A-Za-z])", lambda match: r"\{" if "l" in match[0] else r"\}"),
    (r"(?:\\|(?<![\\A-Za-z]))log\s*_\s*(?:e(?![A-Za-z])|\{\s*e\s*\})", r"\\ln "),
    (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
    (r"\\leq(?:slant)?(?![A-Za-z])", r"\\le"),
    (r"\\geq(?:slant)?(?![A-Za-z])", r"\\ge"),
    (r"\\ne(?![A-Za-z])|\\not\s*=", r"\\neq"),
    (r"\{\s*\}\s*[_^]\s*\{?(\d+)\}?\s*C\s*_\s*(?:\{(\d+)\}|(\d))", lambda m: rf"\binom{{{m[1]}}}{{{m[2] or m[3]}}}"),
    (r"(?<![\d.])(\d*)\.\((\d+)\)", r"\1.\\overline{\2}"),  # 0.(3)
    (r"\\text\{\s*\^\s*\\circ\s*\}", r"^\\circ "),
    (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])", r"^\\circ"),
    (r"(?<=[\w)}])\*\*(?=[\w({-])", "^"),
    (r"(?<!\\)\$", ""),
    (rf"({INTERVAL_OR_SET})\s*U\s*(?={INTERVAL_OR_SET})", r"\1 \\cup "),
    (r"\+\s?/\s?-|(?<![^=])\s*\+-", r"\\pm "),
    (r"\{\s*,\s*\}|(?:\\!\s*)?,\s*\\!\s*(?=\d)|\\!\s*,\s*\\!|,\s*\\!", "{,}"),  # between groups of three digits
    (r"\\(?:text)?cent(?![A-Za-z])", "¢"),
    (r"\\!", ""),
    (r"(\\\\)|\\[,;: ]|\\q?quad(?![A-Za-z])|~", lambda match: match[1] or " "),
    (r"(?<=\d)\s*''", '"'),  # seconds, or inches
    (r"\s+", " "),
]
# Whole answers in words that are sets.
SETS = [
    (re.compile(r"(?:\\text\{\s*)?all (?:the )?real(?:s| numbers)[\s.]*\}?", re.IGNORECASE), r"\mathbb{R}"),
    (re.compile(r"(?:\\text\{\s*)?no solutions?[\s.]*\}?", re.IGNORECASE), r"\emptyset"),
]
# Plain commas beside marked ones, as in 1,000{,}000.
MIXED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?=\{,\}\d{3})|(?<=\{,\})\d{3}(?:,\d{3})+(?!\d)")
GROUPING = re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))")  # between groups of three digits
PATTERNS = [(re.compile(pattern), replacement) for pattern, replacement in REWRITES]
NESTED_TEXT = re.compile(r"\\text\{\s*\\text\{([^{}]*)\}\s*\}")
SYMBOLS_IN_TEXT = re.compile(r"\\text\{([^{}A-Za-z]*)\}")  # digits and signs need no text mode
ENDS = re.compile(
    r"^(?:\\\(|\\\[|\\(?:approx|simeq|sim)(?![A-Za-z])|[\s*`=])+|(?:\\\)|\\\]|[\s*`,;:]|(?<![.\\])\.|(?<!\\)\\|\\\\)+$"
)


def standard(text: str) -> str:
    r"""Return an answer in the common notation: ASCII digits and signs, LaTeX commands, no style, no outer delimiters.

    `\text{…}` marks words, whatever the command was. Numbers keep their digits; commas between groups of three digits
    are gone.
    """
    text = with_braces(plain_roots(_with_dollars(_without_unicode(text))))
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    for pattern in (NESTED_TEXT, SYMBOLS_IN_TEXT):
        text = pattern.sub(r"\1", text)
    text = _trimmed(with_commands(text))
    while (inner := _unwrapped(text)) is not None:
        text = _trimmed(inner)
    for pattern, replacement in SETS:
        if pattern.fullmatch(text):
            return replacement
    return _without_separators(text)


def _with_dollars(text: str) -> str:
    """Escape dollar signs that all stand before a number, "$5" or "$3 and $4": no formula ends before a digit."""
    numbers = re.findall(r"(?<!\\)\$(\s?-?\.?\d)?", text)
    return re.sub(r"(?<!\\)\$", r"\\$", text) if all(numbers) else text


def _without_unicode(text: str) -> str:
    text = re.sub(f"[{SUPERSCRIPTS}]+", lambda match: f"^{{{unicodedata.normalize('NFKC', match[0])}}}", text)
    text = re.sub(f"[{SUBSCRIPTS}]+", lambda match: f"_{{{unicodedata.normalize('NFKC', match[0])}}}", text)
    text = "".join(BEFORE_COMPATIBILITY.get(mark, _fraction(mark)) for mark in text)
    return "".join(_ascii(mark) for mark in unicodedata.normalize("NFKC", text))


def _fraction(mark: str) -> str:
    r"""Return `\frac{1}{2}` for "½", and every other character as it is."""
    if not unicodedata.decomposition(mark).startswith("<fraction>"):
        return mark
    numerator, _, denominator = unicodedata.normalize("NFKC", mark).partition("\N{FRACTION SLASH}")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _ascii(mark: str) -> str:
    if mark.isascii():
        return mark
    if mark in SIGNS:
        return SIGNS[mark]
    kind, name = unicodedata.category(mark), unicodedata.name(mark, "")
    if kind == "Nd":
        return str(unicodedata.decimal(mark))
    if kind == "Cf":  # invisible, such as a zero-width space
        return ""
    if kind.startswith("Z"):
        return " "
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)", name)
    if greek:
        return rf"\{greek[2].lower() if greek[1] == 'SMALL' else greek[2].capitalize()} ".replace("lamda", "lambda")
    return mark


def _trimmed(text: str) -> str:
    previous = None
    while text != previous:
        previous, text = text, ENDS.sub("", text)
    return text


def _unwrapped(text: str) -> str | None:
    r"""Return the content of `{…}`, `\boxed{…}` or `\fbox{…}` where it is the whole text, else None."""
    opening = re.match(r"(?:\\boxed|\\fbox)?\s*\{", text)
    if opening is None:
        return None
    end = closing(text, opening.end())
    return text[opening.end() : end] if end == len(text) - 1 else None


def _without_separators(text: str) -> str:
    r"""Remove marks between groups of three digits: `1{,}234`, "1,234", "1 234"; but (1,234) is a pair."""
    plain = MIXED.sub(lambda m: m[0] if _in_brackets(text, m.start()) else m[0].replace(",", ""), text)
    text = re.sub(r"(?<=\d)\{,\}(?=\d{3})", "", plain).replace("{,}", ",")
    group = re.compile(r"(?<![\d.,_^])(\d{1,3})((?:,\d{3})+|(?: \d{3})+)(?![\d/]|,\d| \d)")
    return group.sub(
        lambda match: match[0] if _in_brackets(text, match.start()) else re.sub("[, ]", "", match[0]), text
    )


def _in_brackets(text: str, position: int) -> bool:
    r"""Return whether a position lies inside (…), […] or \{…\}."""
    before = text[:position]
    opened = len(re.findall(r"[(\[]|\\\{", before))
    return opened > len(re.findall(r"[)\]]|\\\}", before))
