"""Checks of the straight-through estimator's bias and spread."""

import math
import tempfile
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ..config import build
from ..config.data_folder import locate
from ..config.theorem_settings import EstimatorSettings
from ..models import random_init
from ..models.language_models import Policy, RewardModel
from ..models.tokenizers import load_tokenizer
from ..types import Messages
from . import estimators as samples
from .check import Check, Point, difference_detected
from .estimators import Estimator, Pairs
from .gradient_checks import ROUNDING, cells


def random_models(folder: str, seed: int) -> tuple[Policy, RewardModel]:
    """Build a tiny random Llama policy and a tiny random Qwen2 classifier, with the shipped vocabulary, in float64."""
    tokenizer = load_tokenizer(locate("assets/tokenizer"))
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
    }
    paths = [str(Path(folder, f"{name}-{seed}")) for name in ("llama", "qwen2")]
    random_init.write_model(paths[0], {"model_type": "llama", **shape}, tokenizer, seed=2 * seed)
    random_init.write_model(paths[1], {"model_type": "qwen2", **shape}, tokenizer, classifier=True, seed=2 * seed + 1)
    policy = Policy.from_pretrained(paths[0], dtype="float64")
    return policy, RewardModel.from_pretrained(paths[1], kind="classifier", dtype="float64")


def estimators(question: str, prefix: str, settings: EstimatorSettings, seed: int) -> tuple[list[Check], list[Point]]:
    """Measure bias and spread of gradient estimators against the true gradient of E_{y~softmax(z)}[L(y)].

    Everything about a two-token text with few candidates is enumerated, except Gumbel noise. Bias and spread are
    relative to the true gradient's norm. The estimator's bias is a finding; the checks are of the instruments, and that
    the bias is more than their rounding.

    Args:
        question, prefix: the prompt, and the text before the two tokens.
    """
    checks, points = [], []
    messages = [{"role": "user", "content": question}]
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.models:
            if isinstance(name, int):
                label, (policy, reward) = f"random{name}", random_models(folder, name)
            else:
                label = name.replace("/", "_with_")
                _, cell = next(cells(*name.split("/"), ["products"]))
                policy, reward = build.load_models(cell.changed(dtype="float64", threads=None))
            rows, measured = model_checks(label, policy, reward, messages, prefix, settings, seed)
            checks, points = checks + rows, points + measured
    return checks, points


def model_checks(
    label: str,
    policy: Policy,
    reward: RewardModel,
    messages: Messages,
    prefix: str,
    settings: EstimatorSettings,
    seed: int,
) -> tuple[list[Check], list[Point]]:
    """Check the estimators on one policy and reward model."""
    prefix_ids = policy.tokenizer.encode(prefix, add_special_tokens=False)
    weights = {"reward_weight": settings.reward_weight, "nll_weight": 1.0}
    pairs = samples.enumerate_pairs(policy, reward, messages, prefix_ids, candidates=settings.candidates, **weights)
    probabilities, truth = samples.pair_probabilities(pairs.logits), samples.true_gradient(pairs)
    estimates = samples.straight_through_estimates(pairs)
    by_autograd, losses = samples.autograd_estimates(policy, reward, pairs, **weights)
    measured = {
        "STE, sampled": samples.enumerated(estimates, probabilities),
        "STE, argmax": Estimator(estimates[0, 0], 0.0),
        "REINFORCE": samples.enumerated(samples.score_estimates(pairs), probabilities),
    }
    variations = []
    for temperature in settings.temperatures:
        estimator, variation = samples.gumbel_estimator(
            pairs, temperature=temperature, samples=settings.samples, seed=seed
        )
        measured[f"Gumbel STE, τ = {temperature:g}"] = estimator
        variations.append(variation)
    size = truth.norm().item()
    bias = {name: (estimator.mean - truth).norm().item() / size for name, estimator in measured.items()}
    points = []
    for name, estimator in measured.items():
        points.append(Point("bias", f"{label}: {name}", math.nan, bias[name], estimator.error / size))
        points.append(Point("spread", f"{label}: {name}", math.nan, math.sqrt(estimator.variance) / size))
    rounding = _relative_error(estimates, by_autograd)
    expected = samples.sampling_variation(probabilities, settings.samples, seed=seed)
    return [
        Check(f"ste_losses_are_the_objective__{label}", _relative_error(pairs.losses, losses), ROUNDING),
        Check(f"ste_by_eq25_is_autograd__{label}", rounding, ROUNDING),
        Check(f"ste_reinforce_is_unbiased__{label}", bias["REINFORCE"], ROUNDING),
        Check(f"ste_is_unbiased_where_L_is_linear__{label}", _bias_on_linear_loss(pairs, probabilities), ROUNDING),
        Check(f"ste_gumbel_draws_follow_softmax__{label}", max(variations), expected.high, expected.mean),
        difference_detected(f"ste_bias__{label}", bias["STE, sampled"], max(rounding, bias["REINFORCE"], 1e-15)),
    ], points


def _relative_error(value: Float[Tensor, "..."], expected: Float[Tensor, "..."]) -> float:
    """Return the largest error relative to the largest expected entry."""
    return ((value - expected).abs().max() / expected.abs().max()).item()


def _bias_on_linear_loss(pairs: Pairs, probabilities: Float[Tensor, "K K"]) -> float:
    """Return the straight-through estimator's relative bias if L is its linear expansion at the first pair."""
    slopes = pairs.slopes[0, 0]
    linear = pairs._replace(losses=slopes[0, :, None] + slopes[1, None, :], slopes=slopes.expand_as(pairs.slopes))
    estimator = samples.enumerated(samples.straight_through_estimates(linear), probabilities)
    truth = samples.true_gradient(linear)
    return ((estimator.mean - truth).norm() / truth.norm()).item()
