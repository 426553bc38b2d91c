r"""Names and marks of formulas as LaTeX commands: sin x, theta, f'(x), f^{-1}(x) and A^T, for `notation.standard`.

math-verify reads "sin" as a product of three variables, overlooks primes and transposes, and takes an inverse function
for a quotient. Words of prose keep their letters and apostrophes.
"""

import re
from collections.abc import Callable

from .quantities import is_short_word, is_word

FUNCTIONS = "arcsin|arccos|arctan|arccot|sinh|cosh|tanh|sin|cos|tan|cot|csc|log|ln|exp"
GREEK = "alpha|beta|gamma|delta|epsilon|zeta|theta|kappa|lambda|rho|sigma|tau|phi|chi|psi|omega"
ARGUMENT = (
    rf"\s*(?:[(\\_^{{|]|\d|(?:{FUNCTIONS}|{GREEK})(?![A-Za-z])|(?<=\s)[A-Za-z](?![A-Za-z]))"  # "tan k", not "tank"
)
IN_TEXT = re.compile(r"(\\text\{[^{}]*\})")
# Bare names of functions before an argument, of both kinds after a number, and of Greek letters but beside a word:
# "theta/2" and "tan theta", not "the beta version".
BARE = [
    (re.compile(r"(?<![\\A-Za-z])log\s?(2|10)(?=\s?\()"), r"\\log_{\1}"),
    (re.compile(r"(?<![\\A-Za-z])((?:arc)?(?:sin|cos|tan)|ln|log)(?=x(?![A-Za-z]))"), r"\\\1 "),
    (re.compile(rf"(?<![\\A-Za-z])({FUNCTIONS})(?={ARGUMENT})"), r"\\\1 "),
    (re.compile(r"(?<![\\A-Za-z\d})])(?<![\d})] )(sec)(?=\s?[(\\^])"), r"\\\1 "),  # else seconds
    (re.compile(rf"(?<=[\d)}}])\s?({FUNCTIONS}|{GREEK})(?![A-Za-z])"), r"\\\1 "),
    (
        re.compile(
            rf"(?<![\\A-Za-z])(?:(?<=\band )|(?<=\bor )|(?<![A-Za-z]{{2}} ))({GREEK})"
            rf"(?![A-Za-z]|[\s-](?!(?:and|or|{GREEK}|{FUNCTIONS})\b)[A-Za-z]{{2}})"
        ),
        r"\\\1 ",
    ),
    (re.compile(rf"(?<=\\)({FUNCTIONS}|{GREEK}|sec|cdot|times)(\s+)({GREEK})(?![A-Za-z])"), r"\1\2\\\3 "),
]
SECANT, AFTER_SECANT = r"\{\s*sec\s*\}", r"\s*(?:[(^]|\\(?!text)|[A-Za-z](?![A-Za-z]))"  # else seconds
MARKED_TEXT = [
    (re.compile(rf"\\(?:text|operatorname\*?)\{{\s*({FUNCTIONS}|{GREEK})\s*\}}"), r"\\\1 "),
    (
        re.compile(
            rf"\\operatorname\*?{SECANT}|(?<![\d}})])(?<![\d}})] )\\text{SECANT}|\\text{SECANT}(?={AFTER_SECANT})"
        ),
        r"\\sec ",
    ),
    (re.compile(r"\\text\{\s*([A-Za-z]{1,3}'+)\s*\}|\\text\{\s*([A-Za-z]{1,3})\s*\}(?=')"), r"\1\2"),
]
PRIME_SIGNS = re.compile(r"\^\s*(?:\{((?:\s*(?:\\prime(?![A-Za-z])|'))+)\s*\}|(\\prime(?![A-Za-z])))")
INDEX = r"(?:_(?:(\w)|\{(\w+)\}))?"
# A prime follows a letter or a bracket; after a number it means feet or minutes.
PRIMED = re.compile(
    rf"(?<![A-Za-z\\])(?<![^A-Za-z'}})]')(?<!^')(\\?[A-Za-z]+){INDEX}('+)(?![A-Za-z]{{2}}){INDEX}|"
    r"(?:(?<=[A-Za-z]\})|(?<=\)))('+)"
)
CONTRACTED = re.compile(r"(?:[st]|re|ll|ve|[md])(?![A-Za-z'])")  # after an apostrophe: Tom's, isn't, I'm
INVERSE = re.compile(r"(?<![\\A-Za-z])([fghFGH])\s*\^\s*\{\s*-\s*1\s*\}(?=\s*\()")  # x^{-1}(x + 1) is a product
TRANSPOSED = re.compile(
    r"(\\end\{\w+\}\s*)?\^\s*(?:\{\s*(?:T|\\top|\\intercal|\\text\{\s*T\s*\})\s*\}|T|\\top(?![A-Za-z])|\\intercal)"
)
VARIABLE = rf"([A-Za-z]|\\(?:{GREEK})(?![A-Za-z]))\s*"
DIFFERENTIAL = rf"(?:d|\\partial(?![A-Za-z])|\\text\{{\s*d\s*\}})\s*{VARIABLE}"
DERIVATIVE = re.compile(
    rf"\\frac\{{\s*{DIFFERENTIAL}\}}\{{\s*{DIFFERENTIAL}\}}|"
    rf"(?<![A-Za-z\\])d{VARIABLE}/\s*d{VARIABLE}(?![A-Za-z])"
)


def with_commands(text: str) -> str:
    r"""Return a text whose names and marks are commands, outside of the words in `\text{…}`."""
    for pattern, replacement in MARKED_TEXT:
        text = pattern.sub(replacement, text)
    text = DERIVATIVE.sub(_derivative, text)
    text = PRIME_SIGNS.sub(lambda match: "'" * len(re.findall(r"\\prime|'", match[0])), text)
    text = INVERSE.sub(r"\1_{inverse}", TRANSPOSED.sub(_transposed, text))
    return _outside_text(text, lambda part: PRIMED.sub(_primed, _with_functions(part)))


def _derivative(match: re.Match[str]) -> str:
    r"""Return y_{derivativex} for \frac{dy}{dx}: as a quotient it would equal \frac{dx}{dy}."""
    above, below = filter(None, match.groups())
    index = ("partial" if r"\partial" in match[0] else "derivative") + below.removeprefix("\\")
    return f" {above}_{{{index}}} "


def _transposed(match: re.Match[str]) -> str:
    """Return a power of T: "^T" transposes a matrix of numbers, but has no effect on a letter."""
    return f"{match[1]}^T" if match[1] else "^{{T}}"


def _outside_text(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if index % 2 else change(part) for index, part in enumerate(IN_TEXT.split(text)))


def _with_functions(text: str) -> str:
    for pattern, replacement in BARE:
        text = pattern.sub(replacement, text)
    return text


def _primed(match: re.Match[str]) -> str:
    r"""Return f_{prime} for f', f_{1prime} for f_1' and a power \prime for the prime of a bracket."""
    name, *indices, primes = match.groups()[:4]
    if name is None:
        return r"^{" + r"\prime" * len(match[7]) + "}"
    letters = name.removeprefix("\\")
    is_name = is_word(letters) or is_short_word(letters) or re.fullmatch("[A-Z][a-z]{2,}", letters)
    is_contracted = CONTRACTED.match(match.string, match.end(4)) and (len(letters) > 1 or letters == "I")
    if name == letters and (is_name or is_contracted):
        return match[0]
    index = next(filter(None, [*indices, match[5], match[6]]), "")
    return f"{name}_{{{index}{'prime' * len(primes)}}}"
