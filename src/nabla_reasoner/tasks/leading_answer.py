r"""The answer at the beginning of a text, without the talk after it and the delimiters around it.

Models that chat go on after the answer: "486 (by long multiplication)", "4, because …". Where a number stands first
and an aside, a new clause or a new sentence follows, the number is the answer. Only tasks with integer answers also
drop words that follow directly, as in "202 legs": elsewhere these may belong to the answer. For these tasks the number
is written plainly, 1234 for "1,234" and \mathbf{1234.0}: their scorer compares text.
"""

import re

from .generated_tasks import INTEGER_TASKS, is_generated
from .notation import standard

NUMBER = r"[-+−]?\s?\$?(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?![ ,]?\d)|\d+)(?:\.\d+)?"
SIGNED = rf"(?:(?:(?i:minus|negative)\s(?=\d))?{NUMBER})"  # where an integer is asked for
MARKS = r"(?:[*`$]|\\\)|\\\]){0,40}+"  # Markdown and mathematics delimiters after the number
# Words that go on with the number rather than with talk about it: "4 or 5", "4 and a half", "4 hundred".
NOT_LIST = (
    r"(?!or\b|(?:and|to|by|plus|minus|times|over|divided\s+by)\s+(?:[-+$\d]|(?:a|one|two|half|not)\b)|"
    r"(?:hundred|thousand|million|billion|half|halves|thirds?|quarters?|percent)\b|[a-z]\b(?!\s+[A-Za-z]{2}))"
)
REASON_WORDS = "because|since|which|as|so|but"
REASON = rf"\s+(?:(?:{REASON_WORDS})|and\s+the\s+(?:reason|explanation|proof)s?)\b"
ASIDE = (
    rf"\s+\((?=[A-Za-z]{{2}}|[aAI]\s)|\s+(?:[—–]|--)\s+{NOT_LIST}(?=[A-Za-z])|\s*[.,;:!]{MARKS}\s+{NOT_LIST}(?=[A-Za-z])|"
    rf"{REASON}"
)
# Up to three words after a number, such as a unit, before talk about it begins.
WORDS = rf"(?P<words>(?:[ \t]+{NOT_LIST}(?!(?:{REASON_WORDS}|is|are|equals)\b)[A-Za-z]+){{0,3}}){MARKS}"
FORMULA = re.compile(rf"(?:\*\*)?(?:\$([^$]+)\$|\\\((.+?)\\\)){MARKS}(?:{ASIDE})")  # with chat after it
TEXT = re.compile(r"\\text\{([^{}]*)\}")
LONGEST_INTEGER = 300  # characters of a line in LaTeX that is read as an integer
# What ends the line of an integer: a row of LaTeX, a check mark, an arrow or a picture, unless a number follows it.
LINE_END = re.compile(
    r"\\\\|\\end\s*\{|(?:\\checkmark|\\(?:black)?square|[←-⇿∎─-➿⬀-⯿\U0001F000-\U0001FAFF])(?!\s*[-+−$\d])"
)
# After any answer to a benchmark's problem: a reason, or a sentence that explains.
EXPLAINED = re.compile(
    r",?(?<!\s)\s++(?:because|since|and\s+the\s+(?:reason|explanation|proof)s?)\b|,\s+(?:which|as|so)\s+(?=[a-z]{2})|"
    r"(?<=[a-z])\s+\((?=(?:each|about|because|since|which|as|we|with|for|from|not)\b)|"
    r"(?<!\b[A-Z])(?<!\b(?:Mr|Dr|St|Mt|vs))(?<!\bMrs)\.\s+(?=(?:This|The|It|That|We|She|He|They|So|Because|Since|Therefore|"
    r"Thus|Hence|I|In|All|Here|Done|Note|You|To)\b)"
)
# "**5** km" and "$5$ apples": the marks around the number, with or without the first ones.
MARKED_NUMBER = re.compile(rf"^(?:\*\*)?({NUMBER})\*\*(?=\s+[A-Za-z])|^\$({NUMBER})\$(?=\s+{NOT_LIST}[A-Za-z])")
CHAT = re.compile(rf"({NUMBER}(?:[eE][-+−]?\d+)?){MARKS}(?:{ASIDE}|\s+is\b)")
# A choice such as A or (C), with talk about it after; "A, B" is a list and "J. Smith" a name.
CHOICE = re.compile(
    rf"(\([A-Z]\)|[A-Z]){MARKS}(?:[.,;:]?{MARKS}{REASON}|(?:(?<=\))|(?<=\*))\.{MARKS}\s+(?=[A-Z][a-z])|"
    r"\.\s+(?=(?:This|The|It|That|We|So|Because|Since|Therefore|Thus|Hence|I|In|All|Option)\b))"
)
SURE = r"exactly|simply|just|actually|indeed|therefore|thus|hence|then|clearly|equal\s+to|given\s+by"
ROUGHLY = re.compile(
    rf"(?:,?\s*(?:approximately|about|roughly|around|nearly|{SURE}),?\s+){{1,3}}(?=[-+−$\d\\(*])", re.IGNORECASE
)
EXACTLY = re.compile(rf"(?:,?\s*(?:{SURE}),?\s+){{1,3}}(?=[-+−$\d*])", re.IGNORECASE)  # in generated tasks
# Steps in brackets after an answer: "72 (48 + 24 = 72)". A lone fraction may belong to a mixed number: "5 (6/7)".
OPERATOR = r"(?:[-+*=×÷−]|\\(?:times|cdot|div)(?![A-Za-z]))"
STEPS = rf"\s*\$?\d[\d\s.,$%/]{{0,40}}{OPERATOR}(?:[\d\s.,$%/]|{OPERATOR}){{1,80}}"
WORKED = re.compile(rf"(?<=[\w*$%)}}])\s+\({STEPS}\)(?=[\s.!*]*$)")
BOLD = re.compile(r"(?<![\w)}])\*\*([^*]+)\*\*")
BOLD_ENDS = re.compile(r"(?<=[\w)}%])\*\*(?=[\s.,;:!)]|$)")  # of a text whose first marks stood before the answer
# The first line of a formula or a block on lines of its own, up to its line break.
OPENED = re.compile(
    r"[*_ \t]*(?:(?P<dollars>\$\$?)|(?P<bracket>\\\[)|(?P<parenthesis>\\\()|(?P<fence>```)[a-z]*)[ \t]*\n"
)
CLOSES = {"bracket": "\\]", "parenthesis": "\\)", "fence": "```"}  # dollars close themselves
TRAILING = re.compile(r"(?:[)\]]\\|[\s*`$.,;:])*+")  # delimiters after an answer, which is read backwards
CLOSING = r"[)\]\"'”]?"
CHAT_AFTER_INTEGER = re.compile(
    rf"({SIGNED}){MARKS}(?:{ASIDE}|\s+{NOT_LIST}(?=[A-Za-z])|\s*{CLOSING}[.,;:!]?{CLOSING}{MARKS}$)"
)


def leading_answer(text: str, task: str) -> str | None:
    """Return the first line of `text`, or the number at its beginning if chat follows, without delimiters around it."""
    line = re.split(r"[.!]\s++I hope\b", _first_line(text.strip()), maxsplit=1)[0]
    integer = task in INTEGER_TASKS
    if integer:
        line = _plain(line).lstrip("\"'“(")
    roughly = (EXACTLY if is_generated(task) else ROUGHLY).match(line)
    line = line[roughly.end() :] if roughly else line
    if not is_generated(task):
        line = BOLD.sub(r"\1", WORKED.sub("", MARKED_NUMBER.sub(r"\1\2", EXPLAINED.split(line, maxsplit=1)[0])))
        if line.count("**") % 2:
            line = BOLD_ENDS.sub("", line, count=1)
    formula = FORMULA.match(line)
    line = (formula[1] or formula[2]) if formula else line
    line = re.sub(r"^(?:\\\(|\\\[|[\s*`$])+", "", line)
    choice = None if is_generated(task) else CHOICE.match(line)
    line = choice[1] if choice else line
    chat = (CHAT_AFTER_INTEGER if integer else CHAT).match(line)
    if chat:
        line = plain_integer(chat[1]) if integer else chat[1]
    line = line[: len(line) - TRAILING.match(line[::-1]).end()]
    if line.count('"') % 2:  # the response as a whole is quoted
        line = line.removesuffix('"')
    return line or None


def _first_line(text: str) -> str:
    """Return the first line of a text, or a formula on lines of its own with what follows on its last line."""
    opened = OPENED.match(text)
    if opened:
        close = CLOSES.get(opened.lastgroup, opened["dollars"])
        formula, closed, after = text[opened.end() :].partition(close)
        if closed:
            return " ".join([*formula.split(), *after.partition("\n")[0].split()])
    return text.partition("\n")[0]


def _plain(line: str) -> str:
    """Return a line that begins with an integer up to a mark that ends it, without LaTeX around the number."""
    line = LINE_END.split(line.replace("&", " ").lstrip("✓✔✅ "), maxsplit=1)[0]
    if len(line) > LONGEST_INTEGER or not re.search(r"[\\~{]", line):
        return line
    return " ".join(TEXT.sub(r" \1 ", standard(line)).split())


def plain_integer(number: str) -> str:
    """Return a number without separators, currency and zeros after the point, and with a sign for "minus"."""
    number = re.sub(r"^(?:minus|negative)\b", "-", number, flags=re.IGNORECASE)
    return re.sub(r"[,$\s]|\.0+$", "", number).replace("−", "-")
