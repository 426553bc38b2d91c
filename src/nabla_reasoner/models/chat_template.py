"""Chats as a tokenizer's chat template writes them, on any day the same.

Some templates, such as Llama 3.2's, write today's date into the prompt by the function `strftime_now`. Records that are
resumed on another day would then answer another prompt. The date is therefore always 26 July 2024, which Llama's own
templates write where there is no clock.
"""

import datetime
from typing import Any

import transformers

from ..types import Messages

DATE = datetime.datetime(2024, 7, 26)
CLOCK = "strftime_now"
CODES = (*(f"%-{code}" for code in "dmHIMSjy"), *(f"%{code}" for code in "aAbBcdDeFhHIjmMpRSTuUVwWxXyYZz"))
PERCENT = "\0"  # stands for "%%" while codes are replaced


def applied(tokenizer: transformers.PreTrainedTokenizerBase, messages: Messages, **options: Any) -> str | list[int]:
    """Return what `apply_chat_template` gives for a chat, with a fixed date.

    Raises:
        ValueError: the template refuses the chat.
    """
    try:
        return tokenizer.apply_chat_template(list(messages), **options, **template_options(tokenizer))
    except Exception as error:  # Jinja's errors, Python's, and what templates raise themselves
        reason = " ".join(str(error).split())
        raise ValueError(f"the chat template refuses {list(messages)!r}: {reason}. Correct chat_template.") from error


def template_options(tokenizer: transformers.PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the options of `apply_chat_template` that fix the date; none for a template that writes no date.

    Transformers replaces functions that are passed to a template by their names, so that the fixed clock is a macro in
    front of the template. The line break after it, which Jinja drops, leaves the template's own beginning as it is.
    """
    template = tokenizer.get_chat_template()
    if CLOCK not in template:
        return {}
    pairs = [("%%", PERCENT), *((code, _written(code)) for code in CODES), (PERCENT, "%")]
    written = "".join(f"|replace({old!r}, {new!r})" for old, new in pairs)
    return {"chat_template": f"{{% macro {CLOCK}(format) %}}{{{{ format{written} }}}}{{% endmacro %}}\n{template}"}


def chat_text(
    tokenizer: transformers.PreTrainedTokenizerBase, messages: Messages, *, add_generation_prompt: bool = False
) -> str:
    """Return a chat as its template writes it, with a fixed date.

    Args:
        add_generation_prompt: open the assistant's turn at the end.

    Raises:
        ValueError: see `applied`.
    """
    return applied(tokenizer, messages, add_generation_prompt=add_generation_prompt, tokenize=False)


def _written(code: str) -> str:
    plain = DATE.strftime(code.replace("-", ""))
    return (plain.lstrip("0") or "0") if "-" in code else plain
