"""Where a response states its answer: "the answer is", headings, "####"; and later talk about it, which states none."""

import re

from .generated_tasks import INTEGER_TASKS
from .leading_answer import ASIDE, MARKS, REASON, SIGNED, WORDS, plain_integer
from .response_parts import end_of_text

# "answer is", "the answers are", "answer:", "**Answer**:", or "### Answer" or "**Final Answer**" on a line of its own.
STATEMENT = re.compile(
    r"(?:(?<![A-Za-z0-9])answer(?:(?:\s+(?:to|of|for)\s+(?:this|the|that|your|our)(?:\s+[A-Za-z]+){1,2}?)?"
    r"\s+(?:is\b|(?:would|will)\s+be(?=[\s*:$]+[-+−\d\\(]))|"
    r"[*_`]{0,3}\s*:(?:\s*the\s+(?:final\s+)?answer\s+is\b)?)|"
    r"(?:(?<=\bthe )|(?<=\bfinal ))answers\s+are\b(?=:?[ \t]*\*{0,2}(?:[-+−\d$\\({]|[A-Za-z](?![A-Za-z])))|"
    r"(?:^|(?<=\n))[ \t]*(?:#{1,6}[ \t]*[*_]{0,3}|[*_]{1,3})(?:(?:final|correct)\s+)?answer[*_ \t]*\n)"
    r"[\s*:]*(?=[^\s*:])",
    re.IGNORECASE,
)
# What follows a second "answer is" on a line if it is talk about the answer: "this answer is correct".
TALK = re.compile(r"(?:(?:in)?correct|right|wrong|the|that|this|in|not|because|indeed|only|unique)\b", re.IGNORECASE)
# The same on a later line, where "The answer is right" or "the cat" may be another answer.
TALK_BELOW = re.compile(
    r"(?:(?:in)?correct|wrong|helpful|clear|useful|derived|obtained|found|reached|verified|reasonable|consistent)\b",
    re.IGNORECASE,
)
WORDS_BEFORE = 30  # characters before a statement that say what it is about
POINTS_BACK = re.compile(r"\b(?:this|that|how\s+(?:the|an)|why\s+the|hope\s+(?:the|my))\s+$", re.IGNORECASE)
# What may stand between a statement and its number: the opening of a formula, a name as in "x = 5" or "gcd(4, 6) = 2".
NAMED = (
    r"(?:(?:\$\$?|\\\(|\\\[)\s*+)?"
    rf"(?:\\?[A-Za-z]\w{{0,19}}(?:\([\w ,]{{1,60}}\))?{MARKS}\s*+=\s*+{MARKS}(?:\\\()?)?"
)
# Steps after a stated number: "6: 12 = 6 * 2", "6 where 12 = 6 * 2"; in a ratio or a product no "=" follows there.
STEPS = (
    rf",?\s+where\b|[:;]{MARKS}\s+(?=[$\\(]{{0,2}}\d[\d\s.,*×·/x+−-]{{0,80}}=)|"
    r"[ \t]+\((?=[A-Za-z]{2}|[^()\n]{1,80}=)"
)
# A response to a generated task that begins with the statement of a number, after which talk follows or the line ends.
BEGINS_WITH_STATEMENT = re.compile(
    rf"[\s*#]*(?:(?:so|therefore|thus|hence),?\s+)?(?:the\s+)?(?:(?:final|correct)\s+)?{STATEMENT.pattern}"
    rf"{NAMED}(?P<number>{SIGNED}(?:[eE][-+−]?\d+)?){MARKS}"
    rf"(?:\s+is\b|{STEPS}|{WORDS}(?:[.,;:!]?{MARKS}[ \t]*(?:\n|$)|{ASIDE}|[ \t]+\(|[.!]{MARKS}\s))",
    re.IGNORECASE,
)
REASONED = re.compile(rf"{NAMED}(?P<number>{SIGNED}){MARKS}{WORDS}(?:,?{REASON}|{STEPS})")
MARKED = re.compile(r"#{4,}\s*([^\n]+)")  # in GSM8K the answer; in Markdown a heading
ANSWER_BEGINS = re.compile(r"[-+−±~≈<>$£€¥¢√π∞\d.({\[\\|]|[A-Za-z](?![A-Za-z])")
HEADING_BEGINS = re.compile(
    r"\(?(?:\d{1,2}|[A-Za-z])(?:[.):]+|\.\d+)\s*[A-Za-z]{2}|\d+(?:st|nd|rd|th)\b|"
    r"(?:final|answer|solution|explanation|conclusion|summary|step|part|case|check|verification|note)\b",
    re.IGNORECASE,
)


def stated_at(response: str) -> int:
    """Return where the last stated answer begins, or -1."""
    start, mark = -1, MARKED.search(response)
    line_end = -1  # of the line on which the last stated answer begins
    for match in STATEMENT.finditer(response):
        is_later = start >= 0 or (mark is not None and mark.start() < match.start())
        if not (is_later and _talks(response, match, start >= 0 and match.start() <= line_end)):
            start = match.end()
            if line_end < start:
                line_end = response.find("\n", start)
                line_end = len(response) if line_end < 0 else line_end
    return start


def _talks(response: str, match: re.Match[str], same_line: bool) -> bool:
    """Return whether a later "answer is" talks about an answer that was stated before, or marked by "####".

    Args:
        match: the later statement.
        same_line: whether an answer was stated before on the same line.
    """
    if POINTS_BACK.search(response, max(match.start() - WORDS_BEFORE, 0), match.start()) and not ANSWER_BEGINS.match(
        response, match.end()
    ):
        return True
    return bool((TALK if same_line else TALK_BELOW).match(response, match.end()))


def first_statement(response: str, stated: int, task: str) -> str | None:
    """Return the number that a response states at its beginning, if it states no other later; else None.

    An "=" after it belongs to the reasons: "The answer is 6, since 12 = 2 * 6". In "The answer is 12 + 30 = 42" no
    talk follows the number.

    Args:
        response: text of the response.
        stated: where the last stated answer begins, or -1.
        task: where an integer is asked for, words after the number are dropped.
    """
    begins = BEGINS_WITH_STATEMENT.match(response) if stated >= 0 else None
    if begins is not None and stated > begins.start("number"):
        begins = None
    if begins is None and stated >= 0 and "\n" not in response[stated : max(response.rfind("="), stated)]:
        begins = REASONED.match(response, stated)  # later in the response, but reasons follow on the same line
    if begins is None:
        return None
    if task in INTEGER_TASKS:
        return plain_integer(begins["number"]).removeprefix("+")
    return begins["number"].replace("$", "").strip() + (begins["words"] or "")


def marked_answer(response: str, stated: int) -> str | None:
    """Return the text from the last line on that is marked "####" and is an answer rather than a heading, or None.

    Args:
        response: its lines are searched.
        stated: where the last stated answer begins, or -1. It counts if it comes later, unless it only talks about
            the marked one: "this answer is correct".
    """
    end = end_of_text(response, len(response))
    for match in reversed(list(MARKED.finditer(response))):
        if stated > match.start() and not TALK.match(response, stated):
            return None
        line, last = match[1].strip(" *`"), match.end() >= end
        heading = HEADING_BEGINS.match(line) and not (last and stated < 0 and line[:1].isdigit())
        if not heading and (ANSWER_BEGINS.match(line) or (last and stated < 0)):  # words: only as the last line
            return response[match.start(1) :]
    return None
