"""Figures 1 and 2 and the walk-through: exact values on toys, and that a trace changes nothing."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import toys

from nabla_reasoner.__main__ import main
from nabla_reasoner.config.schema import ROOT
from nabla_reasoner.decoding import nabla_reasoner, trace
from nabla_reasoner.dto import batched, gradient_passes, gradients, objective, straight_through
from nabla_reasoner.experiments import figure1, figure2, token_pairs, walkthrough
from nabla_reasoner.experiments.case_figure import read_rows
from nabla_reasoner.experiments.token_pairs import Pair
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
    (tokens, _), *_ = token_pairs.first_rollouts(PROBLEMS, policy, method, 0)
    sequence = objective.make_sequence(policy, reward, PROBLEMS[0].messages, [], tokens[:5])
    return Pair(PROBLEMS[0], sequence, (1, 3))


def test_losses_are_the_objective_at_every_pair(models, pair):
    policy, reward = models
    found = token_pairs.losses(pair, policy, reward, [4, 7, 9], **WEIGHTS)
    for (i, first), (j, second) in itertools.product(enumerate([4, 7, 9]), repeat=2):
        changed = pair.sequence._replace(rollout=pair.with_tokens(first, second))
        (view,) = gradient_passes.evaluate(policy, reward, [changed], **WEIGHTS)
        assert found[i, j] == pytest.approx(view.loss, abs=1e-4)


def test_chances_of_all_pairs_add_up_and_follow_the_text(models, pair, method):
    policy, _ = models
    everything = list(range(policy.vocab_size))
    found = token_pairs.chances(pair, policy, everything, method.rollout_sampling)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    text = torch.tensor([pair.sequence.policy_prompt + pair.with_tokens(6, 0)])
    logits = policy.model(input_ids=text).logits[0, len(pair.sequence.policy_prompt) - 1 :, : policy.vocab_size]
    expected = logits[1].softmax(-1)[6] * logits[3].softmax(-1)
    np.testing.assert_allclose(found[6], expected.detach().numpy(), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("moving", [(0, 1), (0,), (1,)])
def test_descent_ends_where_the_engine_does(models, pair, method, moving):
    policy, reward = models
    path = token_pairs.descend(pair, policy, reward, method.descent, moving, **WEIGHTS)
    places = [pair.positions[row] for row in moving]

    def evaluate(batch, _):
        return gradient_passes.evaluate(policy, reward, batch, **WEIGHTS)

    (view,) = evaluate([pair.sequence], [0])
    sequences, latents = [pair.sequence], view.hidden[places]
    (engine,) = batched.descend(policy, sequences, [view], [places], latents, evaluate, method.descent)
    torch.testing.assert_close(path[-1].logits[list(moving)], engine.logits, rtol=1e-3, atol=1e-3)
    assert list(path[-1].tokens) == [engine.token_ids[place] for place in pair.positions]
    assert len(path) == method.descent.num_iterations + 1
    assert torch.equal(path[0].logits[1], path[-1].logits[1]) == (1 not in moving)


def test_corners_of_the_relaxed_square_are_the_hard_pairs(models, pair):
    policy, reward = models
    own, others = pair.tokens, (4, 7)
    square = token_pairs.relaxed(pair, policy, reward, others, [0.0, 0.5, 1.0], **WEIGHTS)
    for i, first in ((0, own[0]), (2, others[0])):
        for j, second in ((0, own[1]), (2, others[1])):
            hard = token_pairs.losses(pair, policy, reward, [first, second], **WEIGHTS)[0, 1]
            assert square[i, j] == pytest.approx(hard, abs=1e-3)


def test_one_row_after_the_other_never_ends_higher(models, pair, method):
    policy, reward = models
    start = token_pairs.losses(pair, policy, reward, pair.tokens, **WEIGHTS)[0, 1]
    assert token_pairs.one_by_one(pair, policy, reward, method.descent, **WEIGHTS).loss <= start + 1e-4


def test_expected_best_of_draws_is_the_mean_over_all_tuples():
    losses, chances = np.array([[3.0, 1.0], [2.0, 5.0]]), np.array([[0.1, 0.2], [0.3, 0.2]])
    share = (chances / chances.sum()).ravel()
    for count in (1, 2, 3):
        tuples = itertools.product(range(4), repeat=count)
        expected = sum(np.prod(share[list(t)]) * losses.ravel()[list(t)].min() for t in tuples)
        assert figure1.best_of(losses, chances, count) == pytest.approx(expected)


def test_case_is_the_first_that_mends_both_tokens():
    rows = [
        {"own": "12", "best": "13", "dto": "13"},
        {"own": "12", "best": "34", "dto": "14"},
        {"own": "12", "best": "34", "dto": "34"},
    ]
    assert figure1.chosen_case(rows) == 2
    with pytest.raises(ValueError, match="num_problems"):
        figure1.chosen_case(rows[:2])


def test_trace_changes_no_decision_and_holds_every_one(models, method):
    policy, reward = models
    plain = method.solve(PROBLEMS, policy, reward)
    traced = trace.record(method, PROBLEMS, policy, reward)
    assert sum(len(each.visits) for each in traced) > 5
    for expected, each in zip(plain, traced, strict=True):
        assert each.solution.token_ids == expected.token_ids
        assert len(each.visits) == expected.search["visited"]
        assert len(each.responses) == expected.search["rollouts"]
        assert sum(visit.evaluations for visit in each.visits) == expected.cost.gradient_evaluations
        proposed = [visit for visit in each.visits if visit.proposal is not None]
        for visit, fate in zip(proposed, expected.search["revisions"], strict=True):
            response = each.responses[visit.proposal]
            assert (visit.position, visit.old, visit.new) == (fate["position"], fate["old"], fate["new"])
            assert (response.reward, response.accepted) == (fate["reward"], fate["accepted"])
            assert response.tokens[: response.kept] == [
                *each.responses[visit.response].tokens[: visit.position],
                visit.new,
            ]
            assert len(response.confidence) == len(response.tokens)


def test_terms_of_every_token_add_up_to_what_moves_it(models):
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


@pytest.mark.parametrize("target", ["figure1", "figure2"])
def test_shipped_rows_draw_and_say_what_they_are(target):
    names, draw = {"figure1": (figure1.NAMES, figure1.landscape), "figure2": (figure2.NAMES, figure2.framework)}[target]
    tables = read_rows(ROOT / "figures" / "data", target, names)
    figure = draw(*tables)
    assert len(figure.axes) >= 1
    if target == "figure1":
        search, table, _, path = tables
        case = search[search.drawn].iloc[0]
        assert case["own"] != case.best == case.dto == path.tokens.iloc[-1]
        assert case.best_loss == pytest.approx(table.loss.min(), rel=1e-4)
        assert search.best_loss.le(search.dto_loss + 1e-3).all()
    matplotlib.pyplot.close(figure)


@pytest.mark.parametrize(
    ("words", "message"), [(["figure1", "task=products,chain_sum"], "one value"), (["figure9"], "figure1")]
)
def test_wrong_command_lines_exit_2_and_write_nothing(words, message, tmp_path, capsys):
    assert main([*words, f"results_dir={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["figure1", "figure2"])
def test_command_makes_the_shipped_rows(target, tmp_path, capsys):
    few = {"figure1": "num_problems=42", "figure2": "num_problems=62"}[target]  # up to the case that is shown
    assert main([target, few, f"results_dir={tmp_path}"]) == 0
    name = {"figure1": "path", "figure2": "visits"}[target]
    made, shipped = (
        pd.read_csv(folder / f"{target}_{name}.csv")
        for folder in (tmp_path / "tiny" / target, ROOT / "figures" / "data")
    )
    pd.testing.assert_frame_equal(made, shipped, rtol=1e-3)
    assert few in capsys.readouterr().out
