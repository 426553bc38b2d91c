r"""Arguments of LaTeX commands in braces: \frac\pi2 becomes \frac{\pi}{2}, x^\frac12 becomes x^{\frac{1}{2}}."""

import re

COMMAND = re.compile(
    r"\\[dtc]?(frac)(?![A-Za-z])|\\(sqrt)(\s*\[[^\[\]]*\])?(?![A-Za-z])|\\[dt]?(binom)(?![A-Za-z])|"
    r"([\^_])(?=\s*-?\s*\\(?:[dtc]?frac|sqrt)(?![A-Za-z]))"
)
COUNTS = {"frac": 2, "binom": 2}  # arguments; all others take one
# A command that takes the braces after it; those after \pi in \frac\pi{2} are the next argument.
WITH_BRACES = re.compile(r"\\(?:text\w*|math\w+|overline|bar|hat|vec|boldsymbol)\s*\{")
SYMBOL = re.compile(r"-?(?:\\[A-Za-z]+|[^\W_])")
PLAIN_ROOT = re.compile(
    r"(?<![\\A-Za-z])sqrt\s*(?:(\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z]))|(?=\{))|(?:\\sqrt|(?<![\\A-Za-z])sqrt|√)\s*\("
)


def with_braces(text: str) -> str:
    r"""Return a text with braces around the arguments of fractions, binomials and roots; a command without them stays.

    A digit is an argument of its own, as LaTeX has it: \frac125 is one half times 5.
    """
    for match in reversed(list(COMMAND.finditer(text))):  # the last one first: its braces are part of an earlier one's
        name = match[1] or match[2] or match[4] or match[5]
        arguments = [*_arguments(text, match.end(), COUNTS.get(name, 1))]
        if len(arguments) < COUNTS.get(name, 1) or (name == "sqrt" and re.match(r"\s*\d\d", text[match.end() :])):
            continue
        written = name if match[5] else f"\\{name}{(match[3] or '').strip()}"
        end = arguments[-1][1]
        times = r" \cdot " if name == "frac" and text[end - 1].isdigit() and text[end : end + 1].isdigit() else ""
        written += "".join(f"{{{argument}}}" for argument, _ in arguments) + times
        text = text[: match.start()] + written + text[end:]
    return text


def plain_roots(text: str) -> str:
    r"""Return a text with \sqrt{…} for sqrt(…), sqrt3 and sqrt x."""
    for match in reversed(list(PLAIN_ROOT.finditer(text))):
        end = closing(text, match.end(), "()") if match[0].endswith("(") else match.end()
        if end is None:
            continue
        content = text[match.end() : end] if match[0].endswith("(") else match[1]
        written = r"\sqrt" if content is None else rf"\sqrt{{{content}}}"
        text = text[: match.start()] + written + text[end + match[0].endswith("(") :]
    return text


def closing(text: str, start: int, brackets: str = "{}") -> int | None:
    """Return the position of the bracket that closes the one opened before `start`, or None."""
    depth = 1
    for mark in re.compile(rf"\\.|[{re.escape(brackets)}]", re.DOTALL).finditer(text, start):
        depth += {brackets[0]: 1, brackets[1]: -1}.get(mark.group(), 0)
        if depth == 0:
            return mark.start()
    return None


def _arguments(text: str, position: int, count: int) -> list[tuple[str, int]]:
    """Return up to `count` arguments that begin at a position, without their braces, each with its end."""
    arguments: list[tuple[str, int]] = []
    while len(arguments) < count:
        position += len(text[position:]) - len(text[position:].lstrip())
        if text.startswith("{", position):
            end = closing(text, position + 1)
            argument = None if end is None else (text[position + 1 : end], end + 1)
        else:
            argument = _without_braces(text, position)
        if argument is None:
            break
        arguments.append(argument)
        position = argument[1]
    return arguments


def _without_braces(text: str, position: int) -> tuple[str, int] | None:
    """Return a command with what belongs to it, or a single sign, and its end; None if neither is there."""
    command = COMMAND.match(text, position + text.startswith("-", position))
    if command and not command[5]:
        count = COUNTS.get(command[1] or command[4] or "", 1)
        inner = _arguments(text, command.end(), count)
        return (text[position : inner[-1][1]], inner[-1][1]) if len(inner) == count else None
    marked = WITH_BRACES.match(text, position)
    if marked:
        end = closing(text, marked.end())
        return None if end is None else (text[position : end + 1], end + 1)
    symbol = SYMBOL.match(text, position)
    return None if symbol is None else (symbol[0], symbol.end())
