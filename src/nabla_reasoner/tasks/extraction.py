r"""Extraction of the answer that a response states. If it states none, none is extracted: there is no last-number rule.

Models that chat go on after the answer: "= 486 (by long multiplication)", "the answer is 486, because …". Where a
number stands first and an aside, a new clause or a new sentence follows, the number is the answer. Only tasks with
integer answers also drop words that follow directly, as in "= 202 legs": elsewhere these may belong to the answer.
A comma between groups of three digits is removed for these tasks: their scorer compares text.
"""

import functools
import re

# generated tasks that are answered by an integer
INTEGER_TASKS = frozenset({"chain_sum", "leg_counting", "products", "gcd", "simple_equations", "basic_arithmetic"})

BOX_OR_BRACE = re.compile(r"\\+f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
STATEMENT = re.compile(
    r"\banswer(?:\s+is\b|\s*:(?:\s*the\s+(?:final\s+)?answer\s+is\b)?)[\s*:]*(?=[^\s*:])", re.IGNORECASE
)
# What follows a second "answer is" on a line if it is talk about the answer: "this answer is correct".
TALK = re.compile(r"(?:(?:in)?correct|right|wrong|the|that|this|in|not|because|indeed|only|unique)\b", re.IGNORECASE)
NUMBER = r"[-+−]?\s?\$?(?:\d{1,3}(?:,\d{3})+(?![,\d])|\d+)(?:\.\d+)?"
MARKS = r"(?:\*\*|[*`$]|\\\)|\\\])*"  # Markdown and mathematics delimiters behind the number
# Words that go on with the number rather than with talk about it: "4 or 5", "4 and a half", "4 hundred".
NOT_LIST = (
    r"(?!or\b|(?:and|to|by|plus|minus|times|over|divided\s+by)\s+(?:[-+$\d]|(?:a|one|two|half|not)\b)|"
    r"(?:hundred|thousand|million|billion|half|halves|thirds?|quarters?|percent)\b|[a-z]\b(?!\s+[A-Za-z]{2}))"
)
ASIDE = rf"\s+\((?=[A-Za-z])|\s*[.,;:!]{MARKS}\s+{NOT_LIST}(?=[A-Za-z])|\s+(?:because|since|which|as|so|but)\b"
FORMULA = re.compile(rf"(?:\*\*)?(?:\$([^$]+)\$|\\\((.+?)\\\)){MARKS}(?:{ASIDE})")  # with chat behind it
UNIT = re.compile(r"\\(?:text|mathrm|textbf)\s*\{([^{}]*)\}")
BARE_BOX = re.compile(rf"\\f?box(?:ed)?\s*({NUMBER})(?!\.?[\dA-Za-z^/_{{]|\\[A-Za-z])")
CHAT = re.compile(rf"({NUMBER}){MARKS}(?:{ASIDE})")
CHAT_AFTER_INTEGER = re.compile(rf"({NUMBER}){MARKS}(?:{ASIDE}|\s+{NOT_LIST}(?=[A-Za-z])|\s*[)\]]?[.,;:!]?{MARKS}$)")


def extract_answer(response: str, task: str, finished: bool = True) -> str | None:
    r"""Return the answer that a response states, or None.

    Generated tasks: the last `<answer>…</answer>`, else the last `\boxed{…}`, else the last `\boxed 5`, else what
    follows the last "=" or "answer is" on its line. Benchmarks: the last box in the same way, else what follows the
    last "####" on its line, else what follows the last "answer is" or "answer:". A leading number or formula counts
    alone if chat follows it (see above).

    Args:
        response: text of the response.
        task: selects the rules.
        finished: False if the response was cut off; then only the rules with a closing mark apply.
    """
    generated = is_generated(task)
    tagged = re.findall(r"<answer>(.*?)</answer>", response, re.DOTALL) if generated else []
    if tagged:
        return _enclosed(tagged[-1].strip(), task)
    boxed = last_boxed(response)
    if boxed is not None:
        return _enclosed(boxed, task)
    if not finished:
        return None
    bare = BARE_BOX.findall(response)
    if bare:
        return _enclosed(bare[-1].strip(), task)
    start = _stated(response)
    marked = re.findall(r"####\s*([^\n]+)", response)
    if not generated and marked:
        return _leading(marked[-1], task)
    if generated:
        start = max(start, response.rfind("=") + 1 or -1)
    if start < 0:
        return None
    if task in INTEGER_TASKS and not response.startswith("=+", start - 1):  # that of the tiny policies, as ever
        return _leading(response[start:].lstrip().removeprefix("+"), task)
    return _leading(response[start:], task)


@functools.lru_cache
def is_generated(task: str) -> bool:
    """Return whether `reasoning-gym` generates and scores this task."""
    from reasoning_gym.factory import DATASETS

    return task in DATASETS


def _enclosed(text: str, task: str) -> str | None:
    """Return the answer in a box or a tag; where an integer is asked for, as a statement of it outside is read."""
    if task not in INTEGER_TASKS:
        return text or None
    plain = UNIT.sub(r" \1", re.sub(r"\{,\}|\\,", ",", text.rpartition("=")[2]))
    return _leading(plain.strip(" $").removeprefix("+"), task)


def _stated(response: str) -> int:
    """Return where the last stated answer begins, or -1."""
    start = -1
    for match in STATEMENT.finditer(response):
        same_line = start >= 0 and "\n" not in response[start : match.start()]
        if not (same_line and TALK.match(response, match.end())):
            start = match.end()
    return start


def _leading(text: str, task: str) -> str | None:
    """Return the first line of `text`, or the number at its beginning if chat follows, without delimiters around it."""
    line = re.split(r"[.!]\s+I hope\b", text.strip().partition("\n")[0])[0]
    formula = FORMULA.match(line)
    line = (formula[1] or formula[2]) if formula else line
    line = re.sub(r"^(?:\\\(|\\\[|[\s*`$])+", "", line)
    chat = (CHAT_AFTER_INTEGER if task in INTEGER_TASKS else CHAT).match(line)
    if chat:
        line = re.sub(r"[,$\s]", "", chat[1]).replace("−", "-") if task in INTEGER_TASKS else chat[1]
    return re.sub(r"(?:\\\)|\\\]|[\s*`$.,;:])+$", "", line) or None


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{…}` or `\fbox{…}` with balanced braces, or None."""
    opened: list[int | None] = []  # of each open brace: where its box's content begins, None for other braces
    start = end = -1
    for mark in BOX_OR_BRACE.finditer(text):
        if mark[0] == "}":
            begin = opened.pop() if opened else None
            if begin is not None and begin > start:
                start, end = begin, mark.start()
        elif mark[0][-1] == "{" and mark[0] != r"\{":
            opened.append(None if mark[0] == "{" else mark.end())
    if start < 0:
        return None
    return re.sub(r"(?<!\\)\s+$", "", text[start:end].lstrip())  # keeps the escaped space of `5\ `
