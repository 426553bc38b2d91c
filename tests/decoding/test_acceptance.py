"""Reward forms and acceptance tests in the decoding loop: both engines, costs, and what is reused."""

import pytest
import torch
import toys

from nabla_reasoner.decoding import trace
from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
from nabla_reasoner.dto import gradient_passes
from nabla_reasoner.dto.settings import ENGINES
from nabla_reasoner.models.language_models import Policy
from nabla_reasoner.types import Problem

PROBLEMS = [
    Problem(f"toy/{i}", question, "1", "toy")
    for i, question in enumerate(["What is 12 + 34?", "Add 5 and 6, then take 7.", "99 + 1?"])
]
SETTINGS = {
    "max_new_tokens": 8,
    "num_iterations": 4,
    "step_size": 0.3,
    "grad_threshold": 0.0,
    "rollout_temperature": 1.0,
    "rollout_top_p": 1.0,
    "resample_temperature": 1.0,
    "nll_weight": 0.1,
    "reward_form": "prefix",
}


def solve(kind="classifier", reference=False, problems=PROBLEMS, **settings):
    reward = toys.shared_reward(kind, reference=reference)
    return NablaReasoner(**{**SETTINGS, **settings}).solve(problems, toys.shared_policy(), reward)


def decisions(solution):
    keys = ("pass", "position", "old", "new", "accepted")
    return solution.token_ids, [tuple(r[key] for key in keys) for r in solution.search["revisions"]]


USUAL = [
    ("classifier", {"acceptance": "always"}),
    ("classifier", {"acceptance": "prefix_higher", "num_passes": 2}),
    ("classifier", {"reward_form": "process", "max_rollouts": 3}),
    ("likelihood", {"acceptance": "prefix_higher"}),
]
FURTHER = [
    {},
    {"num_passes": 2},
    {"reward_form": "process", "acceptance": "prefix_higher", "num_passes": 2},
    {"reward_form": "outcome", "acceptance": "prefix_higher"},
    {"reward_form": "outcome", "acceptance": "always"},
    {"acceptance": "prefix_higher", "use_gradient": False},
    {"acceptance": "always", "parameter": "latents", "step_size": 0.05},
    {"acceptance": "prefix_higher", "flip": "gumbel", "num_passes": 3},
    {"variant": "release", "step_size": 1.0, "acceptance": "prefix_higher"},
    {"variant": "release", "step_size": 1.0},
    {"variant": "paper", "grad_threshold": 0.02},
    {"variant": "paper", "reward_form": "process"},
    {"move": "random", "num_passes": 2},
    {"reward_form": "process", "terms": ["prefix", "reward_prefix"]},
    {"grad_threshold": 1.0, "use_gradient": False, "acceptance": "prefix_higher"},
]
SLOW = pytest.mark.slow
KINDS = [("classifier", False), ("likelihood", True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reference", "settings"),
    [
        *((kind, False, settings) for kind, settings in USUAL),
        *(pytest.param(*kind, settings, marks=SLOW) for kind in KINDS for settings in FURTHER),
        pytest.param("token_classifier", False, {"acceptance": "prefix_higher", "grad_threshold": 1.0}, marks=SLOW),
    ],
    ids=str,
)
def test_batched_loop_takes_decisions_of_reference(kind, reference, settings):
    if (kind, settings) in USUAL:
        problems, length = PROBLEMS, 8
    else:
        problems, length = PROBLEMS[:2], 4
    fast = solve(kind, reference, problems, **settings, max_new_tokens=length)
    plain = solve(kind, reference, problems, **settings, max_new_tokens=length, engine="reference")
    assert any(s.search["revisions"] for s in fast)
    for actual, expected in zip(fast, plain, strict=True):
        assert decisions(actual) == decisions(expected)
        assert actual.reward == pytest.approx(expected.reward, abs=1e-9)
        assert actual.cost.decode_tokens == expected.cost.decode_tokens
        assert actual.cost.flops < expected.cost.flops
        for new, plain_new in zip(actual.search["revisions"], expected.search["revisions"], strict=True):
            assert new["reward"] == pytest.approx(plain_new["reward"], abs=1e-9)
            assert new["incumbent"] == pytest.approx(plain_new["incumbent"], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", pytest.param("likelihood", marks=SLOW)])
def test_engines_agree_on_a_policy_that_ends_its_answers_otherwise(kind):
    base = toys.policy()
    ends = sorted(set(range(5, 280)) - {base.eos_ids[0]})[::3]  # many, so that some are drawn
    policy = Policy(base.model, base.tokenizer, "other ends", eos_ids=ends)
    settings = {**SETTINGS, "acceptance": "prefix_higher", "num_passes": 2}
    solutions = [
        NablaReasoner(**settings, engine=engine).solve(PROBLEMS, policy, toys.reward(kind)) for engine in ENGINES
    ]
    assert any(r["new"] in ends for s in solutions[0] for r in s.search["revisions"])
    for actual, expected in zip(*solutions, strict=True):
        assert decisions(actual) == decisions(expected)
        for new, plain_new in zip(actual.search["revisions"], expected.search["revisions"], strict=True):
            assert new["reward"] == pytest.approx(plain_new["reward"], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
def test_prefix_test_compares_tokens_and_saves_rollouts(kind):
    reward = toys.reward(kind)
    solutions = solve(kind, acceptance="prefix_higher", num_passes=2)
    assert sum(s.search["rejected"] for s in solutions) > 0
    for problem, solution in zip(PROBLEMS, solutions, strict=True):
        assert solution.search["rollouts"] == 1 + solution.search["accepted"] == len(solution.search["trajectory"])
        accepted = [r for r in solution.search["revisions"] if r["accepted"]]
        for revision in solution.search["revisions"]:
            assert revision["accepted"] == (revision["reward"] > revision["incumbent"])
        if accepted and accepted[-1] is solution.search["revisions"][-1]:
            last = accepted[-1]
            prompt, prefix = reward.prompt_ids(problem.messages), solution.token_ids[: last["position"]]
            for token, value in ((last["new"], last["reward"]), (last["old"], last["incumbent"])):
                ids = torch.tensor([prompt + prefix + [token]])
                if kind == "classifier":
                    expected = reward.model(input_ids=ids).logits.item()
                else:
                    log_probs = reward.strong.model(input_ids=ids).logits[0].log_softmax(-1)
                    expected = sum(log_probs[i - 1, ids[0, i]].item() for i in range(len(prompt), ids.shape[1]))
                assert value == pytest.approx(expected, abs=1e-9)


def test_nothing_is_scored_without_a_test():
    """The reward of the final response is recorded all the same, free of cost."""
    for solution in solve(acceptance="always", use_gradient=False):
        assert solution.cost.reward_forward_tokens == 0
        assert solution.search["rejected"] == 0
        assert all(r["accepted"] and r["reward"] is r["incumbent"] is None for r in solution.search["revisions"])
        assert solution.reward is not None


@pytest.mark.slow
@pytest.mark.parametrize("acceptance", ["prefix_higher", "always"])
@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
def test_prefix_form_reads_the_reward_model_up_to_the_cursor_only(kind, acceptance):
    reward = toys.reward(kind)
    for problem, solution in zip(PROBLEMS, solve(kind, acceptance=acceptance), strict=True):
        spent, visited = solution.cost, solution.search["visited"]
        assert spent.policy_forward_tokens == spent.policy_backward_tokens == 0
        assert spent.reward_backward_tokens == (spent.gradient_evaluations if kind == "classifier" else 0)
        committed = len(reward.prompt_ids(problem.messages)) + len(solution.token_ids)
        # a token is read when its gradient is evaluated, as a candidate, and once more as part of a later prefix
        again = spent.gradient_evaluations + 2 * len(solution.search["revisions"])
        assert visited
        assert 0 < spent.reward_forward_tokens <= committed + again


@pytest.mark.slow
def test_gradient_of_a_prefix_is_evaluated_once(monkeypatch):
    """In later passes the same prefixes are visited again; tiny steps flip no token."""
    evaluated = []
    evaluate = gradient_passes.evaluate

    def recorded(policy, reward, sequences, **options):
        evaluated.extend((tuple(s.reward_prompt), *s.prefix, *s.rollout) for s in sequences)
        return evaluate(policy, reward, sequences, **options)

    monkeypatch.setattr(gradient_passes, "evaluate", recorded)
    solutions = solve(step_size=1e-9, acceptance="prefix_higher", num_passes=3, max_rollouts=30)
    assert len(evaluated) == len(set(evaluated)) == sum(s.cost.gradient_evaluations for s in solutions)
    assert sum(s.search["visited"] for s in solutions) > len(evaluated)


@pytest.mark.slow
def test_trace_shows_tokens_rejected_before_a_rollout():
    policy, reward = toys.policy(), toys.reward("classifier")
    settings = NablaReasoner(**SETTINGS, acceptance="prefix_higher").settings
    traces = trace.record(settings, PROBLEMS, policy, reward)
    rejected = 0
    for entry in traces:
        revisions = entry.solution.search["revisions"]
        changed = [visit for visit in entry.visits if visit.new != visit.old]
        assert [visit.proposal is not None for visit in changed] == [r["accepted"] for r in revisions]
        assert len(entry.responses) == entry.solution.search["rollouts"]
        assert all(response.accepted and response.reward is None for response in entry.responses)
        rejected += entry.solution.search["rejected"]
    assert rejected > 0


@pytest.mark.slow
@pytest.mark.parametrize("acceptance", ["higher", "prefix_higher", "always"])
def test_one_end_token_is_never_proposed_for_another(acceptance):
    """The reward model reads both as its own, so that in float32 rounding alone would tell the texts apart."""
    base = toys.policy(dtype="float32")
    ends = [base.eos_ids[0], *range(100, 200)]
    policy = Policy(base.model, base.tokenizer, "many ends", eos_ids=ends)
    changes = {"reward_form": "outcome", "max_new_tokens": 6, "num_iterations": 2, "step_size": 3.0, "num_passes": 2}
    settings = {**SETTINGS, **changes, "confidence_threshold": 1.0, "resample_temperature": 2.0, "resample_top_p": 1.0}
    problems = [Problem(str(number), f"{number} + 1?", None, "toy") for number in range(6)]
    solutions = [
        NablaReasoner(**settings, acceptance=acceptance, engine=engine).solve(
            problems, policy, toys.reward("classifier", dtype="float32")
        )
        for engine in ENGINES
    ]
    for engine in solutions:
        revisions = [revision for solution in engine for revision in solution.search["revisions"]]
        assert any(revision["new"] in ends for revision in revisions)
        assert not any(revision["old"] in ends and revision["new"] in ends for revision in revisions)
    assert [decisions(solution) for solution in solutions[0]] == [decisions(solution) for solution in solutions[1]]
