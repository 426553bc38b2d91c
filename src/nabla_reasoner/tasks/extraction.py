r"""Extraction of the answer that a response states. If it states none, none is extracted: there is no last-number rule.

The module `statements` finds where an answer is stated, and `leading_answer` reads it. Think blocks are no part of a
response: what is considered there is not stated.

Every pattern is read in time linear in the response: a run of spaces or marks is entered once, and has one end.
"""

import re

from .boxes import boxed_answer, stated_box
from .generated_tasks import INTEGER_TASKS, NUMBER_ALONE, is_generated
from .leading_answer import MARKS, NUMBER, leading_answer, plain_integer
from .response_parts import outside_thinking, tagged, without_end_tokens
from .statements import first_statement, marked_answer, stated_at
from .worded_numbers import ONE_NUMBER

# Marks of Chinese and Japanese typing; one that joins a word to what stands before it is followed by a space.
FULLWIDTH = str.maketrans("：。．，；！？（）", ":..,;!?()")
TOUCHING_WORD = re.compile(r"([：。，；！？])(?=[^\W\d_])")

BARE_BOX = re.compile(rf"\\f?box(?:ed)?\s*({NUMBER})(?!\.?[\dA-Za-z^/_{{]|\\[A-Za-z])")
ONLY_NUMBER = re.compile(rf"\s*[$*]*({NUMBER}(?:[eE][-+−]?\d+)?){MARKS}\.?\s*")  # the whole response

# An equation the wrong way round, 5 = x: the name after the last "=", and the number before it if it is the whole
# other side.
LINE_ENDS = rf"[ \t]*+[.,;!]?{MARKS}[ \t]*+(?:\n|$)"
NAME_AFTER = re.compile(rf"\s*+{MARKS}\s*+[A-Za-z](?![A-Za-z]){MARKS}(?:[ \t]+\(|[,.;]\s+[A-Za-z]{{2}}|{LINE_ENDS})")
NUMBER_BEFORE = re.compile(rf"(?:^|[\n:;,]|[A-Za-z]{{2}})[\s*$]*(?:\\[(\[])?\s*(?![-+−]\s)({NUMBER}){MARKS}\s*=$")
LONGEST_SIDE = 60  # characters


def extract_answer(response: str, task: str, finished: bool = True) -> str | None:
    r"""Return the answer that a response states, or None.

    Fullwidth punctuation is read as ASCII. Think blocks are left out (see `outside_thinking`); a response whose
    thinking never ends counts as cut off.

    Generated tasks: the last `<answer>…</answer>`, else the last `\boxed{…}`, else the last `\boxed 5`, else what
    follows the last "=" or "answer is" on its line; but a number stated once, at the beginning, counts before any
    "=", and a stated number with "because" or the like after it before any "=" on its line.

    Benchmarks: the last box in the same way, with boxes that only a comma or "and" joins to it unless all answers of
    the task are one number, else what follows the last "####" on its line if it is an answer, not a heading, and none
    is stated after it; else what follows the last "answer is" or "answer:". A leading number or formula counts alone if
    chat follows it (see `leading_answer`). A later "this answer is helpful" states none.

    Args:
        response: text of the response.
        task: selects the rules.
        finished: False if the response was cut off; then only the rules with a closing mark apply.
    """
    generated = is_generated(task)
    response = TOUCHING_WORD.sub(r"\1 ", response).translate(FULLWIDTH)
    response, thought = outside_thinking(without_end_tokens(response))
    finished = finished and thought
    content = tagged(response) if generated else None
    if content is not None:
        return _enclosed(content.strip(), task)
    boxed = boxed_answer(response, joined=not generated and task not in ONE_NUMBER)
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
    start = stated_at(response)
    marked = None if generated else marked_answer(response, start)
    if marked is not None:
        return leading_answer(marked, task)
    if generated:
        number = first_statement(response, start, task)
        if number is not None:
            return number
        start = max(start, response.rfind("=") + 1 or -1)
    if start < 0:
        return None
    if task in INTEGER_TASKS:
        number = _number_before_name(response) if response.startswith("=", start - 1) else None
        if number is not None or not response.startswith("=+", start - 1):  # the tiny policies write "=+"
            return number or leading_answer(response[start:].lstrip().removeprefix("+"), task)
    return leading_answer(response[start:], task)


def _enclosed(text: str, task: str) -> str | None:
    """Return the answer in a box or a tag; where an integer is asked for, as a statement of it outside is read."""
    boxed = stated_box(text)
    if boxed is not None and (task in INTEGER_TASKS or text.endswith("}")):  # a box in a tag
        text = boxed
    if task not in INTEGER_TASKS:
        return text or None
    return _number_before_name(text) or leading_answer(text.rpartition("=")[2].strip(" $").removeprefix("+"), task)


def _number_before_name(text: str) -> str | None:
    """Return the number of "5 = x" if this is the last equation of a text, or None."""
    equals = text.rfind("=")
    if equals < 0 or not NAME_AFTER.match(text, equals + 1):
        return None
    before = NUMBER_BEFORE.search(text[max(equals - LONGEST_SIDE, 0) : equals + 1])
    return plain_integer(before[1]).removeprefix("+") if before else None
