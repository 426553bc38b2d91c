"""NaN and infinity: never an answer, always an error or a failed record with the position."""

import math

import pytest
import torch
import toys

from nabla_reasoner import BestOfN, Greedy, NablaReasoner, Problem, SelfConsistency
from nabla_reasoner.baselines.rap import RAP
from nabla_reasoner.config.schema import check_finite_numbers
from nabla_reasoner.config.settings import check
from nabla_reasoner.dto import gradient_passes, objective
from nabla_reasoner.dto.settings import DTOSettings
from nabla_reasoner.engine import generation, numerics, scoring
from nabla_reasoner.engine.numerics import NonFiniteError
from nabla_reasoner.engine.sampling import Sampling, keyed_uniforms
from nabla_reasoner.evaluation.prediction import Inference, chunks
from nabla_reasoner.models.language_models import Policy

PROBLEMS = [Problem(str(i), text, None, "free") for i, text in enumerate(toys.TEXTS)]


def spoiled(model, value: float = math.nan):
    """Put a value into the last layer of a model, after it was loaded."""
    with torch.no_grad():
        model.model.base_model.layers[-1].mlp.down_proj.weight[3, 5] = value
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0), Sampling(0.7, 0.9, 20)])
def test_non_finite_logits_are_no_tokens(sampling, value):
    policy = spoiled(toys.policy("llama"), value)
    noise = [keyed_uniforms(0, "a", 0, "b", 8)]
    with pytest.raises(NonFiniteError, match=r"logits of .* for token 0 after 2 tokens must be finite"):
        generation.sample(policy, [[50, 60]], noise, sampling, [8])


def test_position_of_later_non_finite_logits_named(monkeypatch):
    policy, calls = toys.policy("llama"), []
    plain = Policy.logits

    def fourth(self, hidden):
        calls.append(1)
        return plain(self, hidden) * (math.nan if len(calls) == 4 else 1)

    monkeypatch.setattr(Policy, "logits", fourth)
    noise = [keyed_uniforms(0, "a", 0, "b", 8)]
    with pytest.raises(NonFiniteError, match="token 3 after 2 tokens"):
        generation.sample(policy, [[50, 60]], noise, Sampling(0.0), [8])


def test_masked_logits_still_yield_tokens():
    logits = torch.tensor([[-math.inf, 0.0], [math.inf, 0.0], [math.nan, 0.0], [-math.inf, -math.inf]])
    assert numerics.finite_rows(logits).tolist() == [True, False, False, False]


def test_non_finite_rows_of_ended_sequences_do_not_matter(monkeypatch):
    """A row that waits for others computes numbers that nobody reads."""
    policy = toys.policy("llama")
    noise = [keyed_uniforms(0, str(i), 0, "b", 12) for i in range(8)]
    limits = [1, 12, 12, 12, 12, 12, 12, 12]
    expected = generation.sample(policy, [[50, 60]] * 8, noise, Sampling(1.0), limits)
    plain, calls = Policy.logits, []

    def spoil_first_row(self, hidden):
        logits = plain(self, hidden)
        calls.append(len(logits))
        if len(calls) == 2 and len(logits) == 8:
            logits[0] = math.nan
        return logits

    monkeypatch.setattr(Policy, "logits", spoil_first_row)
    assert generation.sample(policy, [[50, 60]] * 8, noise, Sampling(1.0), limits) == expected
    assert calls[:2] == [8, 8]


@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
def test_non_finite_reward_or_gradient_raises(kind):
    policy, reward = toys.policy("llama"), spoiled(toys.reward(kind))
    with pytest.raises(NonFiniteError, match=r"token 0 of the response|at the last of \d+ tokens"):
        scoring.rewards(reward, [[40, 50]], [[60, 70, 1]])
    sequence = objective.make_sequence(policy, reward, toys.chat("6"), [], [60, 70])
    with pytest.raises(NonFiniteError, match="must be finite"):
        gradient_passes.evaluate(policy, reward, [sequence], reward_weight=1.0, nll_weight=0.1)
    policy, reward = spoiled(toys.policy("llama")), toys.reward(kind)
    with pytest.raises(NonFiniteError, match="log-probability by"):
        gradient_passes.evaluate(policy, reward, [sequence], reward_weight=1.0, nll_weight=0.1)


def test_non_finite_gradient_alone_raises_with_its_token(monkeypatch):
    policy, reward = toys.policy("llama"), toys.reward()
    sequence = objective.make_sequence(policy, reward, toys.chat("6"), [], [60, 70, 80])
    plain = torch.autograd.grad

    def spoil(*args, **kwargs):
        (gradient,) = plain(*args, **kwargs)
        gradient[0, -2] = math.inf
        return (gradient,)

    monkeypatch.setattr(torch.autograd, "grad", spoil)
    last = len(sequence.policy_prompt) + 3 - 2
    with pytest.raises(NonFiniteError, match=f"gradient by the embedding of .* at token {last} of its text"):
        gradient_passes.evaluate(policy, reward, [sequence], reward_weight=1.0, nll_weight=0.1)


@pytest.mark.parametrize(
    "method",
    [
        Greedy(max_new_tokens=6),
        BestOfN(num_samples=2, max_new_tokens=6),
        SelfConsistency(num_samples=2, max_new_tokens=6),
        NablaReasoner(max_rollouts=2, max_new_tokens=6),
    ],
)
def test_every_problem_fails_with_the_reason(method):
    inference = Inference(method, spoiled(toys.policy("llama")), toys.reward(), seed=0)
    (chunk,) = chunks(PROBLEMS, 1, 8)
    solutions = inference.predict_step(chunk)
    assert [solution.problem_id for solution in solutions] == ["0", "1", "2"]
    assert all("NonFiniteError: logits of" in solution.error for solution in solutions)
    assert all(solution.token_ids == [] for solution in solutions)


def test_only_the_problem_concerned_fails(monkeypatch):
    policy = toys.policy("llama")
    bad = policy.prompt_ids(PROBLEMS[1].messages)
    plain = generation.prefill

    def spoil(model, cache, texts):
        hidden, lengths = plain(model, cache, texts)
        return {slot: state * (math.nan if texts[slot] == bad else 1) for slot, state in hidden.items()}, lengths

    monkeypatch.setattr(generation, "prefill", spoil)
    (chunk,) = chunks(PROBLEMS, 1, 8)
    solutions = Inference(Greedy(max_new_tokens=6), policy, toys.reward(), seed=0).predict_step(chunk)
    assert [bool(solution.error) for solution in solutions] == [False, True, False]


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_logits_beyond_all_numbers_after_dto_fail(engine):
    method = NablaReasoner(max_rollouts=2, max_new_tokens=6, step_size=1e308, grad_threshold=0.0, engine=engine)
    inference = Inference(method, toys.policy("llama"), toys.reward(), seed=0)
    (chunk,) = chunks(PROBLEMS[:1], 1, 8)
    (solution,) = inference.predict_step(chunk)
    assert "NonFiniteError: the " + {"fast": "logits after DTO", "reference": "objective"}[engine] in solution.error


DTO_NUMBERS = ["reward_weight", "nll_weight", "step_size", "min_step_ratio", "ste_temperature", "draw_temperature"]
NABLA_NUMBERS = ["confidence_threshold", "entropy_threshold", "grad_threshold", "rollout_temperature", "resample_top_p"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_settings_refused(value):
    for name in DTO_NUMBERS:
        with pytest.raises(ValueError, match=f"{name}.*got {value}"):
            DTOSettings(**{name: value})
    for name in [*NABLA_NUMBERS, "step_size", "reward_weight"]:
        with pytest.raises(ValueError, match=f"{name.partition('_')[2]}.*got {value}"):
            NablaReasoner(**{name: value})
    for name in ("temperature", "top_p", "top_k"):
        with pytest.raises(ValueError, match=f"{name}.*got {value}"):
            Sampling(**{name: value}).check()
    for build in (
        lambda: BestOfN(temperature=value),
        lambda: RAP(exploration=value),
    ):
        with pytest.raises(ValueError, match=f"got {value}"):
            build()


def test_non_finite_number_anywhere_in_the_settings_refused():
    check_finite_numbers({"a": [1.0, {"b": 2}], "c": None, "d": "nan"})
    with pytest.raises(ValueError, match=r"method\.list\.1 must be a finite number; got nan"):
        check_finite_numbers({"method": {"list": [1.0, math.nan]}})
    with pytest.raises(ValueError, match=r"task\.extra must be a finite number; got inf"):
        check("cells", {"task": {"extra": math.inf}})
