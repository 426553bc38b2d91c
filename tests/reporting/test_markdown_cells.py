"""Names in Markdown tables: shown as they stand, whatever marks they hold, and today's names without escapes."""

import html
import random
import re

import mistune
import pytest

from nabla_reasoner.reporting import html_report, tables

MARKED = ["[x](y)", "![x](y)", "[a][b]", "**x**", "*x*", "a*b*c", "_x_", "__init__", "x_ y_", "`x`", "a `b`\\`", "<i>"]
MARKED += ["</b>", "<!--x-->", "<http://x.y>", "&lt;", "a\\*b", "a\\\\b", "a\\", "\\[x\\](y)", "a\\|b", "a|b", "[^1]"]
PLAIN = [
    "best_of_n",
    "_best_of_n",
    "70.2 [1]",
    "+50.0 [+1.0, 99.0]",
    "<= 0.5",
    "p < 0.05",
    "ρ*",
    "2 * 3",
    "a\\b",
    "x & y",
]


def shown(table: str) -> list[str]:
    """Return the cells of a Markdown table as a browser shows them."""
    page = mistune.create_markdown(plugins=["table"])(table)
    return [html.unescape(cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", page, flags=re.DOTALL)]


def test_names_with_marks_are_shown_as_they_stand():
    assert shown(tables.markdown(MARKED, [MARKED])) == 2 * MARKED
    assert shown(tables.markdown(PLAIN, [PLAIN])) == 2 * PLAIN


def test_names_in_tables_of_the_report_are_shown_as_they_stand():
    assert shown(html_report.markdown(html_report.Table(MARKED, [MARKED]))) == 2 * MARKED


@pytest.mark.parametrize("name", PLAIN)
def test_names_that_markdown_leaves_alone_have_no_escapes(name: str):
    assert tables.markdown([name], []).splitlines()[0] == f"| {name} |"


def test_random_names_are_shown_as_they_stand():
    rng = random.Random(0)
    names = ["a" + "".join(rng.choices("ab \\[]()*_`<>&|;!x1^~", k=rng.randint(1, 9))).strip() for _ in range(200)]
    assert shown(tables.markdown(names, [names])) == 2 * names
