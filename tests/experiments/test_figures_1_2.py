"""Figures 1 and 2 and the walk-through notebook: exact values on toy models, and traces that change no decision."""

import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import toys
from matplotlib.text import Text

from nabla_reasoner.__main__ import main
from nabla_reasoner.config import build, compose
from nabla_reasoner.config.data_folder import data_folder
from nabla_reasoner.config.targets import find
from nabla_reasoner.decoding import nabla_reasoner, trace
from nabla_reasoner.dto import batched, gradient_passes, gradients, objective, straight_through
from nabla_reasoner.experiments import figure1, figure1_drawing, figure2, token_pairs, walkthrough
from nabla_reasoner.experiments.case_figure import printable, read_rows, write_case_figure
from nabla_reasoner.experiments.command import Command
from nabla_reasoner.experiments.token_pairs import Pair
from nabla_reasoner.models.language_models import Policy
from nabla_reasoner.reporting import figures, tables
from nabla_reasoner.types import Problem

matplotlib.use("Agg")
WEIGHTS = {"reward_weight": 1.0, "nll_weight": 0.3}
PROBLEMS = [Problem(f"p{number}", f"1+{number}", "1", "toy") for number in range(6)]


@pytest.fixture(scope="module")
def models():
    return toys.policy("qwen2"), toys.reward("likelihood")


@pytest.fixture(scope="module")
def method():
    return nabla_reasoner.NablaReasoner(
        max_new_tokens=7,
        step_size=0.5,
        grad_threshold=0.0,
        max_rollouts=6,
        rollout_temperature=1.0,
        rollout_top_p=1.0,
        **WEIGHTS,
    )


@pytest.fixture(scope="module")
def pair(models, method) -> Pair:
    policy, reward = models
    (tokens, _), *_ = token_pairs.first_rollouts(PROBLEMS, policy, method.settings, 0)
    sequence = objective.make_sequence(policy, reward, PROBLEMS[0].messages, [], tokens[:5])
    return Pair(PROBLEMS[0], sequence, (1, 3))


@pytest.mark.parametrize("end", [0, 1])
def test_losses_equal_objective_at_every_pair(models, pair, end):
    """With the second end token of a policy that has two, too: log π is of the token that it drew."""
    reward = models[1]
    model = toys.policy("qwen2").model
    model.generation_config.eos_token_id = [1, 0]
    policy = Policy(model, models[0].tokenizer, "two ends")
    assert policy.eos_ids == [1, 0]
    pair = pair._replace(sequence=pair.sequence._replace(rollout=[*pair.sequence.rollout[:4], policy.eos_ids[end]]))
    reward = reward.for_policy(policy)
    losses = token_pairs.losses(pair, policy, reward, [4, 7, 9], **WEIGHTS)
    for (i, first), (j, second) in itertools.product(enumerate([4, 7, 9]), repeat=2):
        changed = pair.sequence._replace(rollout=pair.with_tokens(first, second))
        (view,) = gradient_passes.evaluate(policy, reward, [changed], **WEIGHTS)
        assert losses[i, j] == pytest.approx(view.loss, abs=1e-4)


def test_chances_sum_to_one_and_match_conditional_probabilities(models, pair, method):
    policy, _ = models
    vocabulary = list(range(policy.vocab_size))
    chances = token_pairs.chances(pair, policy, vocabulary, method.settings.rollout)
    assert chances.sum() == pytest.approx(1, abs=1e-5)
    ids = torch.tensor([pair.sequence.policy_prompt + pair.with_tokens(6, 0)])
    logits = policy.model(input_ids=ids).logits[0, len(pair.sequence.policy_prompt) - 1 :, : policy.vocab_size]
    expected = logits[1].softmax(-1)[6] * logits[3].softmax(-1)
    np.testing.assert_allclose(chances[6], expected.detach().numpy(), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("updated", [(0, 1), (0,), (1,)])
def test_descent_path_ends_at_engine_result(models, pair, method, updated):
    policy, reward = models
    settings = method.settings.dto
    path = token_pairs.descend(pair, policy, reward, settings, updated)
    positions = [pair.positions[row] for row in updated]

    def evaluate(batch, _):
        return gradient_passes.evaluate(policy, reward, batch, **WEIGHTS)

    (view,) = evaluate([pair.sequence], [0])
    start = batched.DescentStart(pair.sequence, view, positions, view.hidden[positions])
    (engine,) = batched.descend(policy, [start], evaluate, settings)
    torch.testing.assert_close(path[-1].logits[list(updated)], engine.logits, rtol=1e-3, atol=1e-3)
    assert list(path[-1].tokens) == [engine.token_ids[position] for position in pair.positions]
    assert len(path) == settings.num_iterations + 1
    assert torch.equal(path[0].logits[1], path[-1].logits[1]) == (1 not in updated)


def test_relaxed_square_corners_equal_hard_pairs(models, pair):
    policy, reward = models
    own, others = pair.tokens, (4, 7)
    square = token_pairs.relaxed(pair, policy, reward, others, [0.0, 0.5, 1.0], **WEIGHTS)
    for i, first in ((0, own[0]), (2, others[0])):
        for j, second in ((0, own[1]), (2, others[1])):
            hard = token_pairs.losses(pair, policy, reward, [first, second], **WEIGHTS)[0, 1]
            assert square[i, j] == pytest.approx(hard, abs=1e-3)


def test_one_by_one_descent_never_raises_loss(models, pair, method):
    policy, reward = models
    start = token_pairs.losses(pair, policy, reward, pair.tokens, **WEIGHTS)[0, 1]
    assert token_pairs.one_by_one(pair, policy, reward, method.settings.dto).loss <= start + 1e-4


def test_best_of_equals_mean_over_all_tuples():
    losses, chances = np.array([[3.0, 1.0], [2.0, 5.0]]), np.array([[0.1, 0.2], [0.3, 0.2]])
    share = (chances / chances.sum()).ravel()
    for count in (1, 2, 3):
        tuples = itertools.product(range(4), repeat=count)
        expected = sum(np.prod(share[list(t)]) * losses.ravel()[list(t)].min() for t in tuples)
        assert figure1.best_of(losses, chances, count) == pytest.approx(expected)


def test_case_is_first_that_corrects_both_tokens():
    rows = [
        {"own_ids": "1 2", "best_ids": "1 3", "dto_ids": "1 3"},
        {"own_ids": "1 2", "best_ids": "3 4", "dto_ids": "1 4"},
        {"own_ids": "1 2", "best_ids": "13 4", "dto_ids": "13 4"},
    ]
    assert figure1.select_case(rows) == 2
    with pytest.raises(ValueError, match="num_problems"):
        figure1.select_case(rows[:2])


WORDS = ["3", "2", "0 crickets", "\\r", "2"]  # of the tokens 10 to 14; two have the same text


def word_rows() -> dict[str, list[dict]]:
    """Rows of Figure 1 with tokens of several characters."""
    ids = range(10, 10 + len(WORDS))
    pairs = [
        {"first": WORDS[i], "second": WORDS[j], "loss": 10.0 * i + j, "chance": 0.1, "draws": int((i, j) == (2, 3))}
        | {"first_id": ids[i], "second_id": ids[j]}
        for i, j in itertools.product(range(len(WORDS)), repeat=2)
    ]
    texts = {"own": "32", "best": "0 crickets2", "dto": "0 crickets2", "one_by_one": "02"}
    tokens = {"own_ids": "10 11", "best_ids": "12 14", "dto_ids": "12 11", "one_by_one_ids": "12 14"}
    case = {"problem_id": "p", "response": "32", "first": 4, "second": 7, "evaluations": 3, "chance": 0.5, **texts}
    case |= {f"{name}_loss": 1.0 for name in texts} | {f"best_of_{n}_loss": 1.0 for n in figure1.BUDGETS} | tokens
    square = [{"u_first": u, "u_second": v, "loss": u + v} for u, v in itertools.product((0.0, 1.0), repeat=2)]
    path = [{"step": n, "tokens": "32", "loss": 1.0, "u_first": n, "inside_first": 1.0} for n in (0.0, 1.0)]
    path = [{**row, "u_second": row["u_first"], "inside_second": 1.0} for row in path]
    return {"search": [{**case, "drawn": True}], "pairs": pairs, "square": square, "path": path}


def test_figure_of_tokens_of_several_characters_and_of_one_text(tmp_path):
    rows = word_rows()
    for name, table in rows.items():
        (tmp_path / f"figure1_{name}.csv").write_text(tables.csv_text(list(table[0]), table), encoding="utf-8")
    searched, pairs, square, path = read_rows(tmp_path, "figure1", figure1.NAMES)
    assert figure1_drawing.alphabet_texts(pairs) == WORDS
    assert figure1_drawing.indices(searched.iloc[0], "best", pairs) == [2, 4]
    figure = figure1.draw(searched, pairs, square, path)
    left, right = figure.axes[:2]
    assert [label.get_text() for label in left.get_xticklabels()] == WORDS
    assert left.images[0].get_array()[3, 1] == 13  # first token across, second token up
    (dart,) = [line for line in left.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert (dart.get_xdata()[0], dart.get_ydata()[0]) == (2, 3)
    assert "0 crickets … 2" in [text.get_text() for text in right.texts]
    plt.close(figure)


def test_caption_of_tokens_of_several_characters():
    (cell,) = compose.compose_cells(["experiment=figure1"])
    text = figure1.caption(word_rows(), "./reproduce.sh figure1", cell)
    assert "positions 4 and 7, `3` and `2`" in text
    both, alone = (line for line in text.splitlines() if line.startswith("| DTO"))
    assert "| 0 % |" in both  # another token of the same text
    assert "| 100 % |" in alone


def test_tokens_that_cannot_be_printed_are_escaped():
    assert printable("a b\r\nß\x00") == "a b\\r\\nß\\x00"


def test_failed_drawing_leaves_rows_figure_and_caption_of_the_earlier_run(tmp_path):
    (cell,) = compose.compose_cells(["experiment=figure2", f"results_dir='{tmp_path}'"])

    def made(value: float, draw) -> int:
        rows = {name: [{"a": value}] for name in figure2.NAMES}
        return write_case_figure(
            Command(find("figure2")), cell, lambda _: rows, lambda *_: f"caption of {value}\n", draw
        )

    def fails(*tables):
        raise RuntimeError("no drawing")

    folder = tmp_path / "tiny" / "figure2"
    assert made(1.0, lambda *tables: plt.figure()) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}
    with pytest.raises(RuntimeError, match="no drawing"):
        made(2.0, fails)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert {"figure2.png", "figure2_visits.csv", "summary.json"} <= set(before)


@pytest.mark.slow
def test_trace_keeps_and_records_every_decision(models, method):
    policy, reward = models
    plain = method.solve(PROBLEMS, policy, reward)
    traces = trace.record(method.settings, PROBLEMS, policy, reward)
    assert sum(len(traced.visits) for traced in traces) > 5
    for expected, traced in zip(plain, traces, strict=True):
        assert traced.solution.token_ids == expected.token_ids
        assert len(traced.visits) == expected.search["visited"]
        assert len(traced.responses) == expected.search["rollouts"]
        assert sum(visit.evaluations for visit in traced.visits) == expected.cost.gradient_evaluations
        proposed = [visit for visit in traced.visits if visit.proposal is not None]
        for visit, revision in zip(proposed, expected.search["revisions"], strict=True):
            response = traced.responses[visit.proposal]
            prefix = traced.responses[visit.response].tokens[: visit.position]
            assert (visit.position, visit.old, visit.new) == (revision["position"], revision["old"], revision["new"])
            assert (response.reward, response.accepted) == (revision["reward"], revision["accepted"])
            assert response.tokens[: response.prefix_length] == [*prefix, visit.new]
            assert len(response.confidence) == len(response.tokens)


def test_gradient_terms_sum_to_total_at_every_token(models):
    policy, reward = models
    tokens = [4, 7, 9, 5, 6]
    rows = walkthrough.gradient_rows(policy, reward, PROBLEMS[0], tokens, **WEIGHTS)
    sequence = objective.make_sequence(policy, reward, PROBLEMS[0].messages, [], tokens)
    (view,) = gradient_passes.evaluate(policy, reward, [sequence], **WEIGHTS)
    gradient = gradients.onehot_gradient([view], [range(5)])
    logits = walkthrough.own_logits(policy, reward, PROBLEMS[0], tokens)
    expected = straight_through.logits_gradient(logits, gradient).norm(dim=-1)
    np.testing.assert_allclose([row["total"] for row in rows], expected, rtol=1e-3, atol=1e-6)
    assert rows[-1]["postfix"] == pytest.approx(0, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("module", [figure1, figure2])
def test_shipped_rows_draw_a_figure(module):
    target = module.__name__.rpartition(".")[2]
    tables = read_rows(data_folder() / "figures" / "data", target, module.NAMES)
    figure = module.draw(*tables)
    assert len(figure.axes) >= 1
    if target == "figure1":
        search, pairs, _, path = tables
        case = search[search.drawn].iloc[0]
        assert case["own"] != case.best == case.dto == path.tokens.iloc[-1]
        assert case.best_loss == pytest.approx(pairs.loss.min(), rel=1e-4)
        assert search.best_loss.le(search.dto_loss + 1e-3).all()
    matplotlib.pyplot.close(figure)


@pytest.mark.slow
def test_tokens_and_questions_are_no_formulas(tmp_path):
    mark, question = "$\\x$", r"Compute $\begin{pmatrix}1\\2\end{pmatrix}$."

    def renamed(token: str) -> str:
        return f"{token}{mark}"

    searched, pairs, square, path = read_rows(data_folder() / "figures" / "data", "figure1", figure1.NAMES)
    own, best = searched[searched.drawn].iloc[0][["own", "best"]]
    shown = {token: renamed(token) for token in pairs["first"].unique()}
    searched = searched[searched.drawn].assign(
        own=[tuple(shown[token] for token in own)], best=[tuple(shown[token] for token in best)]
    )
    pairs = pairs.assign(first=pairs["first"].map(shown), second=pairs.second.map(shown))
    rollouts, tokens, visits = read_rows(data_folder() / "figures" / "data", "figure2", figure2.NAMES)
    rollouts = rollouts.assign(question=question, answer=mark)
    tokens = tokens.assign(token=[token if token == "end" else renamed(token) for token in tokens.token])
    visits = visits.assign(old=visits.old.map(renamed), new=visits.new.map(renamed))
    for name, figure in (
        ("figure1", figure1.draw(searched, pairs, square, path)),
        ("figure2", figure2.draw(rollouts, tokens, visits)),
    ):
        assert any(mark in text.get_text() for text in figure.findobj(Text)), name
        figures.save(figure, tmp_path, name)
        plt.close(figure)


@pytest.mark.parametrize(
    ("arguments", "message"), [(["figure1", "task=products,chain_sum"], "one value"), (["figure9"], "figure1")]
)
def test_wrong_command_lines_exit_2_and_write_nothing(arguments, message, tmp_path, capsys):
    assert main([*arguments, f"results_dir={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["figure1", "figure2"])
def test_results_folder_is_looked_at_before_anything_is_computed(target, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "load_models", lambda cell: pytest.fail("it was computed first"))
    (tmp_path / "tiny").write_text("a file")
    assert main([target, f"results_dir={tmp_path}"]) == 2
    assert "results cannot be written to" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("target", ["figure1", "figure2"])
def test_command_reproduces_shipped_rows(target, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figure1, "SHARES", figure1.SHARES[::6])
    setting = {"figure1": "num_problems=5", "figure2": "num_problems=24"}[target]  # the case is the last problem
    assert main([target, setting, f"results_dir={tmp_path}"]) == 0
    names = {"figure1": ["path", "search"], "figure2": ["visits"]}[target]
    computed, shipped = (
        read_rows(folder, target, names) for folder in (tmp_path / "tiny" / target, data_folder() / "figures" / "data")
    )
    for own, kept in zip(computed, shipped, strict=True):
        pd.testing.assert_frame_equal(own[kept.columns], kept.head(len(own)), rtol=1e-3)
    assert len(computed[0]) == len(shipped[0]) > 1
    assert setting in capsys.readouterr().out
