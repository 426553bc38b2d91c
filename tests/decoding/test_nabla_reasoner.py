"""The decoding loop: both engines, budgets, costs, variants and checks of settings."""

import copy
import inspect

import pytest
import torch
import toys

from nabla_reasoner.baselines.repeated_sampling import BestOfN
from nabla_reasoner.decoding import rollouts, trace
from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
from nabla_reasoner.decoding.observer import DecodingObserver, check_observer
from nabla_reasoner.decoding.settings import NablaSettings
from nabla_reasoner.types import Problem

QUESTIONS = ["What is 12 + 34?", "Add 5 and 6, then take 7.", "6", "99 + 1?", "Take 3 from 8", "1 2 3"]
PROBLEMS = [Problem(f"toy/{i}", question, "1", "toy") for i, question in enumerate(QUESTIONS)]
SETTINGS = {
    "max_new_tokens": 8,
    "num_iterations": 4,
    "step_size": 0.3,
    "grad_threshold": 0.0,
    "rollout_temperature": 1.0,
    "rollout_top_p": 1.0,
    "resample_temperature": 1.0,
    "reward_weight": 1.0,
    "nll_weight": 0.1,
}


def outcome(solutions):
    """Tokens, and every proposal with its decision: what must agree between engines."""
    return [
        (s.token_ids, [(r["pass"], r["position"], r["old"], r["new"], r["accepted"]) for r in s.search["revisions"]])
        for s in solutions
    ]


def solve(method_settings, kind="likelihood", problems=PROBLEMS, seed=0):
    return NablaReasoner(**{**SETTINGS, **method_settings}).solve(
        problems, toys.shared_policy(), toys.shared_reward(kind), seed=seed
    )


USUAL = [
    {},
    {"num_passes": 3},
    {"variant": "release"},
    {"variant": "paper", "grad_threshold": 0.02},
]
FURTHER = [
    {"parameter": "latents", "step_size": 0.05},
    {"use_gradient": False},
    {"grad_threshold": 1.0},
    {"use_gradient": False, "grad_threshold": 1.0},
    {"max_rollouts": 2},
    {"flip": "gumbel", "num_passes": 2},
    {"flip": "gumbel", "update": "all"},
    {"terms": ["prefix", "reward_postfix"], "grad_threshold": 0.5},
    {"move": "sharpen"},
    {"move": "random", "num_passes": 2},
    {"acceptance": "always"},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        *((settings, "likelihood") for settings in USUAL),
        *(pytest.param(settings, "likelihood", marks=pytest.mark.slow) for settings in FURTHER),
        *(pytest.param(settings, "classifier", marks=pytest.mark.slow) for settings in [*USUAL, *FURTHER]),
    ],
    ids=str,
)
def test_batched_loop_takes_decisions_of_reference(settings, kind):
    problems, length = (PROBLEMS[:3], 8) if settings in USUAL else (PROBLEMS[:2], 5)
    fast, plain = (
        solve({**settings, "max_new_tokens": length, "engine": engine}, kind, problems)
        for engine in ("fast", "reference")
    )
    assert outcome(fast) == outcome(plain)
    assert any(s.search["revisions"] for s in fast)
    if settings in USUAL:
        assert sum(s.search["accepted"] for s in fast) > 0
        if settings != {"variant": "release"} or kind != "likelihood":  # that one accepts every proposal here
            assert sum(s.search["rejected"] for s in fast) > 0
    for actual, expected in zip(fast, plain, strict=True):
        assert actual.search["rollouts"] == expected.search["rollouts"]
        assert actual.cost.decode_tokens == expected.cost.decode_tokens
        spent = [entry["seconds"] for entry in expected.search["trajectory"]]
        assert 0 < spent[0] <= spent[-1] <= expected.cost.seconds
        if settings.get("variant") != "release":  # its hard sequence changes with every committed token: no reuse
            assert actual.cost.flops < expected.cost.flops


PAUSING = {"reward_form": "prefix", "acceptance": "prefix_higher", "max_new_tokens": 16, "step_size": 1.0}


NULL_ARM = {"use_gradient": False, "max_rollouts": 100, "grad_threshold": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("part", [1, 3])
def test_rollouts_in_parts_of_any_length_give_the_same_response(part: int, monkeypatch):
    settings = {**PAUSING, "confidence_threshold": 0.1, "max_rollouts": 100, "rollout_end": "uncertain"}
    expected = outcome(solve(settings))
    monkeypatch.setattr(rollouts, "PART", part)
    assert outcome(solve(settings)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
@pytest.mark.parametrize(
    "changes", [{}, {"max_rollouts": 100}, {"acceptance": "always", "max_rollouts": 3}, NULL_ARM], ids=str
)
def test_rollouts_that_pause_give_the_same_response_at_less_cost(changes: dict, kind: str):
    settings, problems = {**PAUSING, "confidence_threshold": 0.1, **changes}, PROBLEMS[:3]
    paused = solve({**settings, "rollout_end": "uncertain"}, kind, problems)
    whole = solve(settings, kind, problems)
    plain = solve({**settings, "rollout_end": "uncertain", "engine": "reference"}, kind, problems)
    assert outcome(paused) == outcome(whole) == outcome(plain)
    assert sum(s.search["accepted"] for s in paused) > 0
    assert [s.search["rollouts"] for s in paused] == [s.search["rollouts"] for s in whole]
    for kept in ("decode_tokens", "flops"):
        assert sum(getattr(s.cost, kept) for s in paused) < sum(getattr(s.cost, kept) for s in whole)
    assert [len(s.search["trajectory"]) for s in paused] == [1] * len(paused)
    assert [s.search["trajectory"][0]["response"] for s in paused] == [s.response for s in paused]


@pytest.mark.parametrize(
    "changes", [{"reward_form": "outcome"}, {"acceptance": "higher"}, {"num_passes": 2}, {"variant": "release"}]
)
def test_rollouts_may_pause_only_where_nothing_reads_what_follows(changes: dict):
    with pytest.raises(ValueError, match="rollout_end=uncertain must not change the response"):
        NablaSettings.from_keywords(**{**PAUSING, "rollout_end": "uncertain", **changes})


@pytest.mark.slow
def test_trace_of_rollouts_that_pause_shows_them_whole():
    policy, reward = toys.policy(), toys.reward()
    settings = {**PAUSING, "confidence_threshold": 0.1, "max_rollouts": 100}
    (whole, *_), (paused, *_) = (
        trace.record(NablaSettings.from_keywords(**settings, rollout_end=end), PROBLEMS[:3], policy, reward)
        for end in ("response", "uncertain")
    )
    assert (whole.responses, whole.visits) == (paused.responses, paused.visits)
    with pytest.raises(ValueError, match="a trace needs whole rollouts; got rollout_end=uncertain"):
        trace.TraceRecorder(NablaSettings.from_keywords(**settings, rollout_end="uncertain"), policy, 1)


@pytest.mark.slow
def test_settings_yield_accepted_and_rejected_proposals():
    """The other comparisons would be empty for a loop that never proposes."""
    solutions = solve({"num_passes": 2})
    assert sum(s.search["accepted"] for s in solutions) > 0
    assert sum(s.search["rejected"] for s in solutions) > 0


@pytest.mark.slow
def test_results_are_independent_of_batch_and_order():
    problems = PROBLEMS[:4]
    together = solve({"num_passes": 2}, problems=problems)
    assert sum(s.search["accepted"] for s in together) > 0
    assert sum(s.search["rejected"] for s in together) > 0
    assert outcome(solve({"num_passes": 2}, problems=problems[::-1]))[::-1] == outcome(together)
    assert [outcome(solve({"num_passes": 2}, problems=[p]))[0] for p in problems] == outcome(together)


@pytest.mark.slow
def test_other_seed_changes_outcome():
    assert outcome(solve({}, problems=PROBLEMS[:2], seed=1)) != outcome(solve({}, problems=PROBLEMS[:2], seed=0))


@pytest.mark.slow
def test_accepted_revisions_raise_reward_and_rejected_keep_response():
    for solution in solve({"num_passes": 3}):
        best, response = None, None
        for step, revision in enumerate(solution.search["revisions"]):
            assert revision["accepted"] == (revision["reward"] > revision["incumbent"])
            assert best is None or revision["incumbent"] == pytest.approx(best, abs=1e-9)
            best = max(revision["reward"], revision["incumbent"])
            before, after = solution.search["trajectory"][step : step + 2]
            assert revision["accepted"] or before["response"] == after["response"]
            response = after["response"]
        assert response is None or response == solution.response


@pytest.mark.slow
def test_rollout_budget_includes_first_rollout():
    for limit in (1, 2, 3):
        for solution in solve({"max_rollouts": limit, "num_passes": 5}):
            assert solution.search["rollouts"] <= limit
            assert len(solution.search["trajectory"]) == solution.search["rollouts"]


def test_first_rollout_equals_sample_of_best_of_n():
    """Common random numbers: every method's first rollout is the same draw."""
    policy, reward = toys.policy(), toys.reward()
    single = BestOfN(num_samples=1, temperature=1.0, max_new_tokens=8).solve(PROBLEMS, policy, reward)
    assert [s.token_ids for s in solve({"max_rollouts": 1})] == [s.token_ids for s in single]


@pytest.mark.slow
def test_gradient_is_evaluated_once_per_accepted_revision():
    for solution in solve({"step_size": 1e-6}):
        assert solution.cost.gradient_evaluations <= 1 + solution.search["accepted"]


@pytest.mark.slow
@pytest.mark.parametrize("use_gradient", [True, False])
def test_rollouts_and_scores_read_new_tokens_only(use_gradient):
    """Keys and values are kept after rejected proposals and replaced after accepted ones."""
    policy, reward = toys.policy(), toys.reward()
    solutions = solve({"num_passes": 2, "use_gradient": use_gradient})
    assert sum(s.search["rejected"] for s in solutions) > 0
    assert sum(s.search["accepted"] for s in solutions) > 0
    for problem, solution in zip(PROBLEMS, solutions, strict=True):
        sampled = [r for r in solution.search["revisions"] if r["new"] not in policy.eos_ids and r["position"] < 7]
        assert solution.cost.policy_prefill_tokens == len(policy.prompt_ids(problem.messages)) + len(sampled)
        if not use_gradient and solution.search["revisions"]:
            longest = 8 + 2  # a response, its end token, and the token before the new ones
            tails = sum(longest - r["position"] for r in solution.search["revisions"])
            prompt = len(reward.prompt_ids(problem.messages))
            assert solution.cost.reward_forward_tokens <= prompt + longest + tails


@pytest.mark.slow
def test_release_and_fixed_differ_in_incumbent_reward():
    """The release scores the incumbent with the prompt twice, so that a proposal must exceed another value."""
    release = {s.problem_id: s.search["revisions"] for s in solve({"variant": "release", "max_rollouts": 2})}
    fixed = {s.problem_id: s.search["revisions"] for s in solve({"variant": "fixed", "max_rollouts": 2})}
    pairs = [(release[i][0]["incumbent"], fixed[i][0]["incumbent"]) for i in release if release[i] and fixed[i]]
    assert pairs
    assert all(abs(in_release - in_fixed) > 1e-6 for in_release, in_fixed in pairs)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_rollouts": 0}, "N_max.*0"),
        ({"rollout_temperature": -1.0}, "temperature.*-1"),
        ({"reward_weight": -2.0}, "λ.*-2"),
        ({"confidence_threshold": 0.0}, "confidence_threshold"),
        ({"variant": "new"}, "fixed, release, paper"),
        ({"flip": "coin"}, "argmax, gumbel"),
        ({"terms": ["prefx"]}, "prefix, postfix, reward_prefix, reward_postfix"),
        ({"terms": []}, "got none"),
        ({"move": "stay"}, "gradient, sharpen, random"),
        ({"acceptance": "never"}, "higher, always"),
        ({"selection": "random"}, "confidence, entropy"),
        ({"update": "none"}, "first, all"),
        ({"grad_threshold": -1.0}, "ε_grad.*-1"),
        ({"flip": "gumbel", "rollout_temperature": 0.0}, "temperature > 0; got 0.0"),
        ({"resample_top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 1000}, "context of 256"),
    ],
)
def test_setting_out_of_range_raises(setting, message):
    with pytest.raises(ValueError, match=message):
        solve(setting)


def test_unknown_keyword_raises_and_lists_settings():
    with pytest.raises(TypeError, match=r"unknown setting max_rollout; valid settings are max_rollouts, .*step_size"):
        NablaReasoner(max_rollout=4)


def test_observer_of_another_class_is_refused():
    for observer in (print, DecodingObserver):
        with pytest.raises(TypeError, match="observer must be a DecodingObserver; got <.* Derive its class"):
            check_observer(observer)
    for observer in (None, DecodingObserver()):
        check_observer(observer)


def test_signature_lists_keywords_with_defaults():
    defaults = {name: p.default for name, p in inspect.signature(NablaReasoner).parameters.items()}
    assert defaults == NablaSettings.keywords()
    assert (defaults["max_rollouts"], defaults["step_size"], defaults["rollout_top_p"]) == (8, 0.01, 0.95)
    assert NablaReasoner(**defaults).settings == NablaSettings()


def test_dto_follows_variant_and_rollout_temperature():
    settings = NablaReasoner(variant="paper", rollout_temperature=0.8, num_iterations=3).settings
    assert (settings.dto.update, settings.dto.draw_temperature, settings.dto.num_iterations) == ("all", 0.8, 3)
    assert NablaReasoner(variant="paper", update="first").settings.dto.update == "first"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_weights_that_ask_for_gradients_change_nothing_and_get_none(engine: str):
    """`from_pretrained` of transformers gives such weights."""
    policy, reward = copy.deepcopy(toys.shared_policy()), copy.deepcopy(toys.shared_reward("likelihood"))
    method = NablaReasoner(**{**SETTINGS, "engine": engine})
    expected = outcome(method.solve(PROBLEMS[:2], policy, reward, seed=0))
    for model in (policy.model, reward.model):
        model.requires_grad_(True)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            assert outcome(method.solve(PROBLEMS[:2], policy, reward, seed=0)) == expected
        for model in (policy.model, reward.model):
            assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(ValueError, match="DTO needs gradients; torch's inference mode"):
        solve({})
