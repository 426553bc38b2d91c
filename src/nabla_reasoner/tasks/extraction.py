r"""Extraction of the answer that a response states. If it states none, none is extracted: there is no last-number rule.

Models that chat go on after the answer: "= 486 (by long multiplication)", "the answer is 486, because …". Where a
number stands first and an aside, a new clause or a new sentence follows, the number is the answer. Only tasks with
integer answers also drop words that follow directly, as in "= 202 legs": elsewhere these may belong to the answer.
For these tasks the number is written plainly, 1234 for "1,234" and \mathbf{1234.0}: their scorer compares text.
"""

import functools
import re

from .notation import standard

# generated tasks that are answered by an integer
INTEGER_TASKS = frozenset({"chain_sum", "leg_counting", "products", "gcd", "simple_equations", "basic_arithmetic"})

NUMBER_ALONE = frozenset({"number_format"})  # tasks whose question asks for nothing but the number

BOX_OR_BRACE = re.compile(r"\\+f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
# "answer is", "answer:", "**Answer**:", or a heading "### Answer" or "**Final Answer**" on a line of its own.
STATEMENT = re.compile(
    r"(?:(?<![A-Za-z0-9])answer(?:(?:\s+(?:to|of|for)\s+(?:this|the|that|your|our)(?:\s+[A-Za-z]+){1,2}?)?\s+(?:is\b|(?:would|will)\s+be(?=[\s*:$]+[-+−\d\\(]))|[*_`]{0,3}\s*:(?:\s*the\s+(?:final\s+)?answer\s+is\b)?)|"
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
NUMBER = r"[-+−]?\s?\$?(?:\d{1,3}(?:,\d{3})+(?![,\d])|\d+)(?:\.\d+)?"
MARKS = r"(?:[*`$]|\\\)|\\\])*+"  # Markdown and mathematics delimiters behind the number
# Words that go on with the number rather than with talk about it: "4 or 5", "4 and a half", "4 hundred".
NOT_LIST = (
    r"(?!or\b|(?:and|to|by|plus|minus|times|over|divided\s+by)\s+(?:[-+$\d]|(?:a|one|two|half|not)\b)|"
    r"(?:hundred|thousand|million|billion|half|halves|thirds?|quarters?|percent)\b|[a-z]\b(?!\s+[A-Za-z]{2}))"
)
REASON_WORDS = "because|since|which|as|so|but"
REASON = rf"\s+(?:{REASON_WORDS})\b"
ASIDE = (
    rf"\s+\((?=[A-Za-z])|\s+(?:[—–]|--)\s+{NOT_LIST}(?=[A-Za-z])|\s*[.,;:!]{MARKS}\s+{NOT_LIST}(?=[A-Za-z])|"
    rf"{REASON}"
)
FORMULA = re.compile(rf"(?:\*\*)?(?:\$([^$]+)\$|\\\((.+?)\\\)){MARKS}(?:{ASIDE})")  # with chat behind it
TEXT = re.compile(r"\\text\{([^{}]*)\}")
LONGEST_INTEGER = 300  # characters of a line in LaTeX that is read as an integer
# What ends the line of an integer: a row of LaTeX, a check mark, an arrow or a picture, unless a number follows it.
LINE_END = re.compile(
    r"\\\\|\\end\s*\{|(?:\\checkmark|\\(?:black)?square|[←-⇿∎─-➿⬀-⯿\U0001F000-\U0001FAFF])(?!\s*[-+−$\d])"
)
BARE_BOX = re.compile(rf"\\f?box(?:ed)?\s*({NUMBER})(?!\.?[\dA-Za-z^/_{{]|\\[A-Za-z])")
# Up to three words behind a number, such as a unit, before talk about it begins.
WORDS = rf"(?P<words>(?:[ \t]+{NOT_LIST}(?!(?:{REASON_WORDS}|is|are|equals)\b)[A-Za-z]+){{0,3}}){MARKS}"
# Behind any answer to a benchmark's problem: a reason, or a sentence that explains.
EXPLAINED = re.compile(
    r",?\s+(?:because|since)\b|,\s+(?:which|as|so)\s+(?=[a-z]{2})|"
    r"(?<=[a-z])\s+\((?=(?:each|about|because|since|which|as|we|with|for|from|not)\b)|"
    r"(?<!\b[A-Z])(?<!\b(?:Mr|Dr|St|Mt|vs))(?<!\bMrs)\.\s+(?=(?:This|The|It|That|We|She|He|They|So|Because|Since|Therefore|"
    r"Thus|Hence|I|In|All|Here|Done|Note|You|To)\b)"
)
# "**5** km" and "$5$ apples": the marks around the number, with or without the first ones.
MARKED_NUMBER = re.compile(rf"^(?:\*\*)?({NUMBER})\*\*(?=\s+[A-Za-z])|^\$({NUMBER})\$(?=\s+{NOT_LIST}[A-Za-z])")
CHAT = re.compile(rf"({NUMBER}(?:[eE][-+−]?\d+)?){MARKS}(?:{ASIDE}|\s+is\b)")
# A choice such as A or (C), with talk about it behind; "A, B" is a list and "J. Smith" a name.
CHOICE = re.compile(
    rf"(\([A-Z]\)|[A-Z]){MARKS}(?:[.,;:]?{MARKS}{REASON}|(?:(?<=\))|(?<=\*))\.{MARKS}\s+(?=[A-Z][a-z])|"
    r"\.\s+(?=(?:This|The|It|That|We|So|Because|Since|Therefore|Thus|Hence|I|In|All|Option)\b))"
)
ROUGHLY = re.compile(
    r"(?:approximately|about|roughly|around|nearly|exactly|simply|just|actually|indeed)\s+(?=[-+−$\d\\(])",
    re.IGNORECASE,
)
EXACTLY = re.compile(r"(?:exactly|simply|just|actually|indeed)\s+(?=[-+−$\d])", re.IGNORECASE)  # in generated tasks
ONLY_NUMBER = re.compile(rf"\s*[$*]*({NUMBER}(?:[eE][-+−]?\d+)?){MARKS}\.?\s*")  # the whole response
SPECIAL_TOKENS = re.compile(r"(?:(?:</s>|<eos>|<end_of_turn>|<\|[\w▁]{1,40}\|>)\s*){1,200}$")  # that end a response
# A response to a generated task that begins with the statement of a number, behind which talk follows or the line ends.
BEGINS_WITH_STATEMENT = re.compile(
    rf"[\s*#]*(?:(?:so|therefore|thus|hence),?\s+)?(?:the\s+)?(?:(?:final|correct)\s+)?{STATEMENT.pattern}"
    rf"(?:\\\(|\\\[)?(?P<number>{NUMBER}(?:[eE][-+−]?\d+)?){MARKS}"
    rf"(?:\s+is\b|{WORDS}(?:[.,;:!]?{MARKS}[ \t]*(?:\n|$)|{ASIDE}|[ \t]+\(|[.!]{MARKS}\s))",
    re.IGNORECASE,
)
REASONED = re.compile(rf"(?P<number>{NUMBER}){MARKS}{WORDS},?{REASON}")
MARKED = re.compile(r"#{4,}\s*([^\n]+)")  # in GSM8K the answer; in Markdown a heading
ANSWER_BEGINS = re.compile(r"[-+−±~≈<>$£€¥¢√π∞\d.({\[\\|]|[A-Za-z](?![A-Za-z])")
HEADING_BEGINS = re.compile(
    r"\(?(?:\d{1,2}|[A-Za-z])(?:[.):]+|\.\d+)\s*[A-Za-z]{2}|\d+(?:st|nd|rd|th)\b|"
    r"(?:final|answer|solution|explanation|conclusion|summary|step|part|case|check|verification|note)\b",
    re.IGNORECASE,
)
CLOSING = r"[)\]\"'”]?"
CHAT_AFTER_INTEGER = re.compile(
    rf"({NUMBER}){MARKS}(?:{ASIDE}|\s+{NOT_LIST}(?=[A-Za-z])|\s*{CLOSING}[.,;:!]?{CLOSING}{MARKS}$)"
)


def extract_answer(response: str, task: str, finished: bool = True) -> str | None:
    r"""Return the answer that a response states, or None.

    Generated tasks: the last `<answer>…</answer>`, else the last `\boxed{…}`, else the last `\boxed 5`, else what
    follows the last "=" or "answer is" on its line; but a number stated once, at the beginning, counts before any
    "=", and a stated number with "because" or the like behind it before any "=" on its line.

    Benchmarks: the last box in the same way, else what follows the last "####" on its line if it is an answer, not a
    heading, and none is stated after it; else what follows the last "answer is" or "answer:". A leading number or
    formula counts alone if chat follows it (see above). A later "this answer is helpful" states none.

    Args:
        response: text of the response.
        task: selects the rules.
        finished: False if the response was cut off; then only the rules with a closing mark apply.
    """
    generated = is_generated(task)
    response = SPECIAL_TOKENS.sub("", response)
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
    alone = ONLY_NUMBER.fullmatch(response) if task in NUMBER_ALONE else None
    if alone:
        return alone[1].strip()
    start = _stated(response)
    marked = None if generated else _marked(response, start)
    if marked is not None:
        return _leading(marked, task)
    if generated:
        number = _first_statement(response, start, task)
        if number is not None:
            return number
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
    boxed = last_boxed(text)
    if boxed is not None and (task in INTEGER_TASKS or text.endswith("}")):  # a box in a tag
        text = boxed
    if task not in INTEGER_TASKS:
        return text or None
    return _leading(text.rpartition("=")[2].strip(" $").removeprefix("+"), task)


def _stated(response: str) -> int:
    """Return where the last stated answer begins, or -1."""
    start, mark = -1, MARKED.search(response)
    for match in STATEMENT.finditer(response):
        is_later = start >= 0 or (mark is not None and mark.start() < match.start())
        if not (is_later and _talks(response, match, start)):
            start = match.end()
    return start


def _talks(response: str, match: re.Match[str], stated: int) -> bool:
    """Return whether a later "answer is" talks about an answer that was stated before, or marked by "####".

    Args:
        match: the later statement.
        stated: where the last stated answer begins, or -1.
    """
    if POINTS_BACK.search(response, max(match.start() - WORDS_BEFORE, 0), match.start()) and not ANSWER_BEGINS.match(
        response, match.end()
    ):
        return True
    same_line = stated >= 0 and "\n" not in response[stated : match.start()]
    return bool((TALK if same_line else TALK_BELOW).match(response, match.end()))


def _first_statement(response: str, stated: int, task: str) -> str | None:
    """Return the number that a response states at its beginning, if it states no other later; else None.

    An "=" behind it belongs to the reasons: "The answer is 6, since 12 = 2 * 6". In "The answer is 12 + 30 = 42" no
    talk follows the number.

    Args:
        response: text of the response.
        stated: where the last stated answer begins, or -1.
        task: where an integer is asked for, words behind the number are dropped.
    """
    begins = BEGINS_WITH_STATEMENT.match(response) if stated >= 0 else None
    if begins is not None and stated > begins.start("number"):
        begins = None
    if begins is None and stated >= 0 and "\n" not in response[stated : max(response.rfind("="), stated)]:
        begins = REASONED.match(response, stated)  # later in the response, but reasons follow on the same line
    if begins is None:
        return None
    if task in INTEGER_TASKS:
        return _integer(begins["number"]).removeprefix("+")
    return begins["number"].replace("$", "").strip() + (begins["words"] or "")


def _integer(number: str) -> str:
    """Return a number without separators, currency and zeros behind the point."""
    return re.sub(r"[,$\s]|\.0+$", "", number).replace("−", "-")


def _marked(response: str, stated: int) -> str | None:
    """Return the last line marked "####" that is an answer rather than a heading, or None.

    Args:
        response: its lines are searched.
        stated: where the last stated answer begins, or -1. It counts if it comes later, unless it only talks about
            the marked one: "this answer is correct".
    """
    for match in reversed(list(MARKED.finditer(response))):
        if stated > match.start() and not TALK.match(response, stated):
            return None
        line, last = match[1].strip(" *`"), not response[match.end() :].strip()
        heading = HEADING_BEGINS.match(line) and not (last and stated < 0 and line[:1].isdigit())
        if not heading and (ANSWER_BEGINS.match(line) or (last and stated < 0)):  # words: only as the last line
            return match[1]
    return None


def _leading(text: str, task: str) -> str | None:
    """Return the first line of `text`, or the number at its beginning if chat follows, without delimiters around it."""
    line = re.split(r"[.!]\s+I hope\b", text.strip().partition("\n")[0])[0]
    integer = task in INTEGER_TASKS
    if integer:
        line = _plain(line).lstrip("\"'“(")
    roughly = (EXACTLY if is_generated(task) else ROUGHLY).match(line)
    line = line[roughly.end() :] if roughly else line
    if not is_generated(task):
        line = MARKED_NUMBER.sub(r"\1\2", EXPLAINED.split(line, maxsplit=1)[0])
    formula = FORMULA.match(line)
    line = (formula[1] or formula[2]) if formula else line
    line = re.sub(r"^(?:\\\(|\\\[|[\s*`$])+", "", line)
    choice = None if is_generated(task) else CHOICE.match(line)
    line = choice[1] if choice else line
    chat = (CHAT_AFTER_INTEGER if integer else CHAT).match(line)
    if chat:
        line = _integer(chat[1]) if integer else chat[1]
    line = re.sub(r"(?:\\\)|\\\]|[\s*`$.,;:])+$", "", line)
    if line.count('"') % 2:  # the response as a whole is quoted
        line = line.removesuffix('"')
    return line or None


def _plain(line: str) -> str:
    """Return a line that begins with an integer up to a mark that ends it, without LaTeX around the number."""
    line = LINE_END.split(line.replace("&", " ").lstrip("✓✔✅ "), maxsplit=1)[0]
    if len(line) > LONGEST_INTEGER or not re.search(r"[\\~{]", line):
        return line
    return " ".join(TEXT.sub(r" \1 ", standard(line)).split())


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
