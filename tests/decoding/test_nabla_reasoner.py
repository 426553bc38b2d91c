import pytest
import toys

from nabla_reasoner.baselines.repeated_sampling import BestOfN
from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
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
    """What must agree between engines: tokens, and every proposal with its fate."""
    return [
        (s.token_ids, [(r["pass"], r["position"], r["old"], r["new"], r["accepted"]) for r in s.search["revisions"]])
        for s in solutions
    ]


def solve(method_settings, kind="likelihood", problems=PROBLEMS, seed=0, architecture="qwen2"):
    return NablaReasoner(**{**SETTINGS, **method_settings}).solve(
        problems, toys.policy(architecture), toys.reward(kind), seed=seed
    )


USUAL = [
    {},
    {"num_passes": 3},
    {"parameter": "latents", "step_size": 0.05},
    {"use_gradient": False},
    {"grad_threshold": 1.0},
    {"variant": "release"},
    {"variant": "paper", "grad_threshold": 0.02},
]
FURTHER = [
    {"use_gradient": False, "grad_threshold": 1.0},
    {"max_rollouts": 2},
    {"flip": "gumbel", "num_passes": 2},
    {"flip": "gumbel", "update": "all"},
    {"terms": ["prefix", "reward_postfix"], "grad_threshold": 0.5},
    {"move": "sharpen"},
    {"move": "random", "num_passes": 2},
    {"acceptance": "always"},
]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        *((settings, "likelihood") for settings in USUAL),
        *(pytest.param(settings, "likelihood", marks=pytest.mark.slow) for settings in FURTHER),
        *(pytest.param(settings, "classifier", marks=pytest.mark.slow) for settings in [*USUAL, *FURTHER]),
    ],
    ids=str,
)
def test_lock_step_takes_the_same_decisions_as_the_plain_loop(settings, kind):
    fast = solve(settings, kind)
    plain = solve({**settings, "engine": "reference"}, kind)
    assert outcome(fast) == outcome(plain)
    for one, other in zip(fast, plain, strict=True):
        assert one.search["rollouts"] == other.search["rollouts"]
        assert one.cost.decode_tokens == other.cost.decode_tokens
        if (
            settings.get("variant") != "release"
        ):  # its hard sequence changes with every committed token: nothing to share
            assert one.cost.flops < other.cost.flops


def test_these_settings_do_make_accepted_and_rejected_proposals():
    """Guards the comparisons above and below: they would say nothing of a loop that never proposes."""
    solutions = solve({"num_passes": 2})
    assert sum(s.search["accepted"] for s in solutions) > 0
    assert sum(s.search["rejected"] for s in solutions) > 0


def test_results_do_not_depend_on_batch_or_order():
    together = outcome(solve({"num_passes": 2}))
    assert outcome(solve({"num_passes": 2}, problems=PROBLEMS[::-1]))[::-1] == together
    assert [outcome(solve({"num_passes": 2}, problems=[p]))[0] for p in PROBLEMS] == together


def test_other_seeds_draw_otherwise():
    assert outcome(solve({}, seed=1)) != outcome(solve({}, seed=0))


def test_accepted_revisions_raise_the_reward_and_rejected_ones_leave_the_response():
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


def test_budget_of_rollouts_is_kept_and_counts_the_first():
    for limit in (1, 2, 3):
        for solution in solve({"max_rollouts": limit, "num_passes": 5}):
            assert solution.search["rollouts"] <= limit
            assert len(solution.search["trajectory"]) == solution.search["rollouts"]


def test_one_rollout_is_the_first_sample_of_best_of_n():
    """Common random numbers: every method's first rollout is the same draw."""
    policy, reward = toys.policy(), toys.reward()
    single = BestOfN(num_samples=1, temperature=1.0, max_new_tokens=8).solve(PROBLEMS, policy, reward)
    assert [s.token_ids for s in solve({"max_rollouts": 1})] == [s.token_ids for s in single]


def test_one_gradient_evaluation_serves_all_positions_until_a_revision_is_accepted():
    for solution in solve({"step_size": 1e-6}):
        assert solution.cost.gradient_evaluations <= 1 + solution.search["accepted"]


@pytest.mark.parametrize("use_gradient", [True, False])
def test_a_rollout_reads_its_new_token_only_and_a_score_what_follows(use_gradient):
    """Keys and values survive rejected proposals and follow accepted ones."""
    policy, reward = toys.policy(), toys.reward()
    solutions = solve({"num_passes": 2, "use_gradient": use_gradient})
    assert sum(s.search["rejected"] for s in solutions) > 0
    assert sum(s.search["accepted"] for s in solutions) > 0
    for problem, solution in zip(PROBLEMS, solutions, strict=True):
        going = [r for r in solution.search["revisions"] if r["new"] not in policy.eos_ids and r["position"] < 7]
        assert solution.cost.policy_prefill_tokens == len(policy.prompt_ids(problem.messages)) + len(going)
        if not use_gradient and solution.search["revisions"]:
            longest = 8 + 2  # a response, its end, and the token ahead of what is new
            tails = sum(longest - r["position"] for r in solution.search["revisions"])
            prompt = len(reward.prompt_ids(problem.messages))
            assert solution.cost.reward_forward_tokens <= prompt + longest + tails


def test_variants_release_and_fixed_differ_in_the_incumbents_score():
    """The release scores the incumbent with the prompt twice; the value a proposal must beat is then another one."""
    first = {s.problem_id: s.search["revisions"] for s in solve({"variant": "release", "max_rollouts": 2})}
    fixed = {s.problem_id: s.search["revisions"] for s in solve({"variant": "fixed", "max_rollouts": 2})}
    both = [(first[i][0]["incumbent"], fixed[i][0]["incumbent"]) for i in first if first[i] and fixed[i]]
    assert both
    assert all(abs(one - other) > 1e-6 for one, other in both)


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
        ({"flip": "gumbel", "rollout_temperature": 0.0}, "temperature > 0; got 0.0"),
        ({"resample_top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 1000}, "context of 256"),
    ],
)
def test_settings_out_of_range_are_refused_with_value_and_remedy(setting, message):
    with pytest.raises(ValueError, match=message):
        solve(setting)
