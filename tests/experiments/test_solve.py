"""./reproduce.sh solve: its example, the verdict on each answer, and failures in one line."""

import copy
import functools
import re
import shlex

import jinja2
import pytest

from nabla_reasoner.__main__ import WRONG, main
from nabla_reasoner.baselines.repeated_sampling import Greedy
from nabla_reasoner.config import compose
from nabla_reasoner.config.cell import Cell
from nabla_reasoner.config.data_folder import data_folder
from nabla_reasoner.config.targets import find
from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
from nabla_reasoner.experiments import solve
from nabla_reasoner.models import Policy
from nabla_reasoner.tasks.trained_questions import EXAMPLES

SETTINGS = ["threads=1"]
composed = functools.cache(lambda overrides, plain=compose.compose_cells: plain(list(overrides)))


@pytest.fixture(autouse=True)
def composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose each list of settings once for all tests here: it takes longer than an answer."""

    def cells(overrides: list[str]) -> list[Cell]:
        return copy.deepcopy(composed(tuple(overrides)))

    monkeypatch.setattr(compose, "compose_cells", cells)


def answers(printed: str) -> dict[str, list[str]]:
    """Return the printed lines of each method by its name."""
    blocks = [block.splitlines() for block in printed.strip().split("\n\n")[1:]]
    return {lines[0]: [line.strip() for line in lines[1:]] for lines in blocks}


@pytest.mark.slow
def test_example_of_help_is_mended_by_true_steps(capsys):
    _, target, question = shlex.split(find("solve").example)
    assert question == EXAMPLES["products"]
    assert main([target, question, *SETTINGS]) == 0
    printed = capsys.readouterr().out
    assert "note:" not in printed
    printed_answers = answers(printed)
    assert printed_answers["greedy"][1].startswith("wrong: ")
    assert printed_answers["greedy"][1].endswith(", the answer is 8245")
    response, verdict, _ = printed_answers["nabla_reasoner"]
    assert verdict == "right: the answer is 8245"
    steps, result = response.split("=")
    assert eval(steps) == int(result) == 97 * 85  # the test's own arithmetic
    first, second = steps.split("+")
    assert (int(first), int(second)) == (97 * 80, 97 * 5)


def test_question_of_no_task_is_not_checked_and_says_what_was_trained(capsys):
    assert main(["solve", "12+34-5=?", *SETTINGS]) == 0
    printed = capsys.readouterr().out
    assert "note: the shipped models were trained on questions of three kinds" in printed
    for example in EXAMPLES.values():
        assert " ".join(example.split()) in printed
    assert printed.count("not checked: the right answer is not known") == 2
    assert "right:" not in printed


@pytest.mark.parametrize(
    "path", [str(data_folder() / "assets/policies/tiny-base"), "assets/rewards/../policies/tiny-base"]
)
def test_shipped_policy_is_known_however_its_path_is_written(path: str, capsys):
    assert main(["solve", "hi", f"policy.path={path}", "policy.name=x", "method=greedy", *SETTINGS]) == 0
    assert "note: the shipped models were trained on questions of three kinds" in capsys.readouterr().out


def test_unstated_answer_is_wrong(capsys, monkeypatch):
    plain = Greedy.solve

    def silent(self: Greedy, *arguments: object, **settings: object):
        return [solution._replace(response="7760+485") for solution in plain(self, *arguments, **settings)]

    monkeypatch.setattr(Greedy, "solve", silent)
    assert main(["solve", EXAMPLES["products"], "method=greedy", *SETTINGS]) == 0
    assert "wrong: no answer is stated, the answer is 8245" in capsys.readouterr().out


@pytest.mark.parametrize("error", [RuntimeError("no memory\nleft"), KeyError("x")])
def test_failure_while_solving_is_one_line(error, capsys, monkeypatch):
    def failing(self: NablaReasoner, *arguments: object, **settings: object):
        raise error

    monkeypatch.setattr(NablaReasoner, "solve", failing)
    assert main(["solve", EXAMPLES["products"], *SETTINGS]) == 1
    printed = capsys.readouterr()
    assert "wrong: " in printed.out  # greedy's answer stands
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: the question could not be answered; {type(error).__name__}: ")


def test_template_that_refuses_the_question_is_one_line(capsys, monkeypatch):
    def refusing(self: Policy, messages: object):
        raise jinja2.TemplateError("a system turn must come first")

    monkeypatch.setattr(Policy, "prompt_ids", refusing)
    assert main(["solve", "1+1=?", *SETTINGS]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: the question could not be answered; TemplateError: a system turn must come first"


@pytest.mark.slow
def test_context_too_short_is_refused_in_one_line(capsys, monkeypatch):
    assert main(["solve", "12+34=?" * 200, *SETTINGS]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "512 tokens" in line
    assert main(["solve", EXAMPLES["products"], *SETTINGS, "method.max_new_tokens=5000"]) == 2
    captured = capsys.readouterr()
    assert "max_new_tokens=5000" in captured.err
    assert not captured.out, "greedy decoding has not begun"
    assert main(["solve", "a\udcff", *SETTINGS]) == 2
    assert capsys.readouterr().err.startswith(
        "error: the question must be valid Unicode; got '\\udcff' at character 1."
    )

    def long_prompt(self: NablaReasoner, *arguments: object, **settings: object):
        raise ValueError("the prompt must fit the context;\ngot 900 tokens")

    monkeypatch.setattr(NablaReasoner, "solve", long_prompt)
    assert main(["solve", EXAMPLES["products"], *SETTINGS]) == 2
    assert capsys.readouterr().err == "error: the prompt must fit the context; got 900 tokens\n"


def test_name_of_another_method_is_refused(capsys):
    assert main(["solve", "1 + 1", "method=best_of_n", "method.name=greedy"]) == WRONG
    assert "greedy is that of configs/method/greedy.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_is_printed_and_never_decoded(word, capsys, monkeypatch):
    monkeypatch.setattr(solve, "run", None)
    assert main(["solve", word]) == 0
    assert find("solve").example in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], [""], ["  "], ["seed=0", "threads=1"], ["--quiet"], ["-q"], ["--method=greedy"]])
def test_empty_question_is_refused_with_the_example(words, capsys):
    assert main(["solve", *words]) == 2
    assert find("solve").example in capsys.readouterr().err


@pytest.mark.slow
def test_revisions_are_printed_as_they_are_decided_and_a_trace_is_written(capsys, tmp_path):
    page = tmp_path / "out.html"
    assert main(["solve", EXAMPLES["products"], *SETTINGS, "--trace", str(page)]) == 0
    printed = capsys.readouterr().out
    revisions = answers(printed)["nabla_reasoner, revisions"]
    solution_lines = printed.split("\nnabla_reasoner\n")[1]
    text = page.read_text("utf-8")
    assert f"step by step: {page}" in solution_lines
    assert solve._is_page(page), "the same command may write it again"
    shape = re.compile(r"\d+\. position (\d+): '(.+)' → '(.+)', reward (\S+) → (\S+), (kept|rejected)")
    assert len(revisions) == text.count("✓ kept") + text.count("✗ rejected") > 0
    for line in revisions:
        position, old, new, before, after, fate = shape.fullmatch(line).groups()
        assert f"Position {position}: {old} → {new}</h3>" in text
        assert f"reward {before} → {after}</p>" in text
        rose = float(after.replace("−", "-")) > float(before.replace("−", "-"))
        assert rose == (fate == "kept")
    assert "<p>right: the answer is 8245</p>" in text


@pytest.mark.slow
def test_quiet_prints_answers_only(capsys):
    assert main(["solve", EXAMPLES["products"], *SETTINGS, "--quiet"]) == 0
    assert "revisions" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=greedy", "trace=out.html"], "got method=greedy. Use method=nabla_reasoner"),
        (["method.engine=reference", "trace=out.html"], "fast engine"),
        (["trace=no/such/folder/out.html"], "Make the folder first"),
        (["--trace"], "trace must be"),
        (["trace=/proc/out.html"], "trace must be a file that can be written; got /proc/out.html"),
        (["--trail", "out.html"], "unknown setting 'trail'"),
    ],
)
def test_trace_that_cannot_be_had_is_refused(settings, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["solve", EXAMPLES["products"], *SETTINGS, *settings]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert message in line
    assert not printed.out
    assert not list(tmp_path.iterdir())


def test_trace_replaces_no_other_file(capsys, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("precious", encoding="utf-8")
    assert main(["solve", EXAMPLES["products"], *SETTINGS, f"trace={notes}"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert notes.read_text("utf-8") == "precious"


@pytest.mark.slow
def test_answers_stand_if_the_trace_cannot_be_written(capsys):
    assert main(["solve", EXAMPLES["products"], *SETTINGS, "trace=/dev/full"]) == 1
    printed = capsys.readouterr()
    assert "nabla_reasoner" in printed.out
    (line,) = printed.err.splitlines()
    assert line == (
        "error: the answers stand above; /dev/full cannot be written: No space left on device. Free space, or choose "
        "another trace=FILE."
    )
