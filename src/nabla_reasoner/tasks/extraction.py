r"""Extraction of the answer that a response states. If it states none, none is extracted: there is no last-number rule.

Models that chat go on after the answer: "= 486 (by long multiplication)", "the answer is 486, because …". Where a
number stands first and an aside, a new clause or a new sentence follows, the number is the answer. Only tasks with
integer answers also drop words that follow directly, as in "= 202 legs": elsewhere these may belong to the answer.
For these tasks the number is written plainly, 1234 for "1,234" and \mathbf{1234.0}: their scorer compares text.
Think blocks are no part of a response: what is considered there is not stated.

Every pattern is read in time linear in the response: a run of spaces or marks is entered once, and has one end.
"""

import functools
import re

from .notation import standard

# generated tasks that are answered by an integer
INTEGER_TASKS = frozenset({"chain_sum", "leg_counting", "products", "gcd", "simple_equations", "basic_arithmetic"})

# Tasks where a number as the whole response is an answer: the library's question of number_format says "Your output
# should be only the number of interest". The integer tasks do not say so: gcd and products ask for only a number "as
# your final answer", which leaves room for steps before it. There a number alone may be a step's; it must be stated.
NUMBER_ALONE = frozenset({"number_format"})

BOX_OR_BRACE = re.compile(r"\\{1,2}f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
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
NUMBER = r"[-+−]?\s?\$?(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)(?:\.\d+)?"
MARKS = r"(?:[*`$]|\\\)|\\\]){0,40}+"  # Markdown and mathematics delimiters behind the number
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
    r",?(?<!\s)\s++(?:because|since)\b|,\s+(?:which|as|so)\s+(?=[a-z]{2})|"
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
SPECIAL_TOKEN = re.compile(r"</s>|<eos>|<end_of_turn>|<[|｜][\w▁]{1,40}[|｜]>")  # one that may end a response
LONGEST_TOKEN = 44  # characters of a special token
THINK, END_OF_THINK = "<think>", "</think>"
TAG, END_OF_TAG = "<answer>", "</answer>"
# What may stand between a statement and its number: the opening of a formula, a name as in "x = 5" or "gcd(4, 6) = 2".
NAMED = (
    r"(?:(?:\$\$?|\\\(|\\\[)\s*+)?"
    rf"(?:\\?[A-Za-z]\w{{0,19}}(?:\([\w ,]{{1,60}}\))?{MARKS}\s*+=\s*+{MARKS}(?:\\\()?)?"
)
# A response to a generated task that begins with the statement of a number, behind which talk follows or the line ends.
BEGINS_WITH_STATEMENT = re.compile(
    rf"[\s*#]*(?:(?:so|therefore|thus|hence),?\s+)?(?:the\s+)?(?:(?:final|correct)\s+)?{STATEMENT.pattern}"
    rf"{NAMED}(?P<number>{NUMBER}(?:[eE][-+−]?\d+)?){MARKS}"
    rf"(?:\s+is\b|{WORDS}(?:[.,;:!]?{MARKS}[ \t]*(?:\n|$)|{ASIDE}|[ \t]+\(|[.!]{MARKS}\s))",
    re.IGNORECASE,
)
REASONED = re.compile(rf"{NAMED}(?P<number>{NUMBER}){MARKS}{WORDS},?{REASON}")
# The first line of a formula or a block on lines of its own, up to its line break.
OPENED = re.compile(
    r"[*_ \t]*(?:(?P<dollars>\$\$?)|(?P<bracket>\\\[)|(?P<parenthesis>\\\()|(?P<fence>```)[a-z]*)[ \t]*\n"
)
CLOSES = {"bracket": "\\]", "parenthesis": "\\)", "fence": "```"}  # dollars close themselves
BEHIND = re.compile(r"(?:[)\]]\\|[\s*`$.,;:])*+")  # delimiters behind an answer, which is read backwards
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

    Think blocks are left out (see `outside_thinking`); a response whose thinking never ends counts as cut off.

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
    response, thought = outside_thinking(_without_end(response))
    finished = finished and thought
    tagged = _tagged(response) if generated else None
    if tagged is not None:
        return _enclosed(tagged.strip(), task)
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


def outside_thinking(response: str) -> tuple[str, bool]:
    """Return what a response says outside its think blocks, and whether its thinking ended.

    What follows the last `</think>` is said; the prompt may have opened that block. Of a response without one, or
    whose thinking begins again, what stands before `<think>` is said, and the thinking never ended.
    """
    said, opened, _ = response.rpartition(END_OF_THINK)[2].partition(THINK)
    return said, not opened


def _without_end(response: str) -> str:
    """Return a response without the special tokens that end it."""
    end = len(response)
    while True:
        last = _end_of_text(response, end)
        begin = response.rfind("<", max(last - LONGEST_TOKEN, 0), last)
        if begin < 0 or not SPECIAL_TOKEN.fullmatch(response, begin, last):
            return response[:end]
        end = begin


def _end_of_text(text: str, end: int) -> int:
    """Return where the white space before `end` begins."""
    while end and text[end - 1].isspace():
        end -= 1
    return end


def _tagged(response: str) -> str | None:
    """Return what the last `<answer>…</answer>` encloses, or None."""
    content, position = None, 0
    while (begin := response.find(TAG, position)) >= 0:
        end = response.find(END_OF_TAG, begin + len(TAG))
        if end < 0:
            break
        content, position = response[begin + len(TAG) : end], end + len(END_OF_TAG)
    return content


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
    """Return the text from the last line on that is marked "####" and is an answer rather than a heading, or None.

    Args:
        response: its lines are searched.
        stated: where the last stated answer begins, or -1. It counts if it comes later, unless it only talks about
            the marked one: "this answer is correct".
    """
    end = _end_of_text(response, len(response))
    for match in reversed(list(MARKED.finditer(response))):
        if stated > match.start() and not TALK.match(response, stated):
            return None
        line, last = match[1].strip(" *`"), match.end() >= end
        heading = HEADING_BEGINS.match(line) and not (last and stated < 0 and line[:1].isdigit())
        if not heading and (ANSWER_BEGINS.match(line) or (last and stated < 0)):  # words: only as the last line
            return response[match.start(1) :]
    return None


def _leading(text: str, task: str) -> str | None:
    """Return the first line of `text`, or the number at its beginning if chat follows, without delimiters around it."""
    line = re.split(r"[.!]\s++I hope\b", _first_line(text.strip()), maxsplit=1)[0]
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
    line = line[: len(line) - BEHIND.match(line[::-1]).end()]
    if line.count('"') % 2:  # the response as a whole is quoted
        line = line.removesuffix('"')
    return line or None


def _first_line(text: str) -> str:
    """Return the first line of a text, or a formula on lines of its own with what follows on its last line."""
    opened = OPENED.match(text)
    if opened:
        close = CLOSES.get(opened.lastgroup, opened["dollars"])
        formula, closed, behind = text[opened.end() :].partition(close)
        if closed:
            return " ".join([*formula.split(), *behind.partition("\n")[0].split()])
    return text.partition("\n")[0]


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
    content = text[start:end].lstrip()
    last = _end_of_text(content, len(content))
    return content[: last + content.endswith("\\", 0, last)]  # keeps the escaped space of `5\ `
