"""Checks of arguments whose types no signature allows."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
import toys

from nabla_reasoner import (
    RAP,
    BestOfN,
    GuidedDecoding,
    LogitMixture,
    NablaReasoner,
    Problem,
    SoftBestOfN,
    TreeOfThoughts,
)
from nabla_reasoner.models import arguments


@pytest.mark.parametrize("ids", ["56", [5, 1.5], 5, None, [[5, 6]]])
def test_ids_that_are_no_whole_numbers_are_refused(ids):
    with pytest.raises(ValueError, match="rollout_ids must hold a list of token ids per sequence; got"):
        arguments.checked_ids("rollout_ids", ids, toys.policy())


@pytest.mark.parametrize(
    "prompts", ["1+1?", ["1+1?"], toys.chat("1+1?"), [[{"role": "user", "content": 5}]], None, iter([])]
)
def test_prompts_that_are_no_chats_are_refused_with_a_remedy(prompts):
    with pytest.raises(ValueError, match=r"must .* got .* Write \[\[{"):
        arguments.check_chats(prompts)


@pytest.mark.parametrize(
    ("method", "keywords", "said"),
    [
        (NablaReasoner, {"use_gradient": "false"}, "use_gradient must be True or False; got 'false'"),
        (NablaReasoner, {"gradient_caching": "no"}, "gradient_caching must be True or False"),
        (NablaReasoner, {"step_size": True}, "step_size must be a number; got True"),
        (NablaReasoner, {"step_size": None}, "step_size must be a number; got None"),
        (NablaReasoner, {"confidence_threshold": "0.9"}, "confidence_threshold must be a number"),
        (NablaReasoner, {"rollout_temperature": "1"}, "rollout_temperature must be a number; got '1'"),
        (BestOfN, {"temperature": "1"}, "temperature must be a number; got '1'"),
        (BestOfN, {"temperature": Fraction(1, 2)}, "temperature must be an int or a float; got Fraction(1, 2)"),
        (GuidedDecoding, {"reward_weight": Decimal(1)}, "reward_weight must be an int or a float; got Decimal('1')"),
        (NablaReasoner, {"variant": ["fixed"]}, "variant must be one of fixed, release, paper; got ['fixed']"),
        (BestOfN, {"num_samples": True}, "num_samples must be a number; got True"),
        (SoftBestOfN, {"reward_temperature": "1"}, "reward_temperature must be a number"),
        (GuidedDecoding, {"reward_weight": "2"}, "reward_weight must be a number"),
        (GuidedDecoding, {"scorer": 1}, "scorer must be text"),
        (RAP, {"exploration": True}, "exploration must be a number; got True"),
        (GuidedDecoding, {"reward_weight": math.inf}, "reward_weight must be a finite number; got inf"),
        (LogitMixture, {"judge_weight": math.inf}, "judge_weight must be a finite number; got inf"),
        (
            BestOfN,
            {"num_samples": 10**400},
            "num_samples must be a number that a float can hold, below 1.8e308; got one of",
        ),
        (BestOfN, {"temperature": -(10**5000)}, "temperature must be a number that a float can hold"),
        (NablaReasoner, {"step_size": math.nan}, "step_size must be a finite number; got nan"),
        (NablaReasoner, {"terms": None}, "terms must be a list of texts; got None"),
        (NablaReasoner, {"terms": "prefix"}, "terms must be a list of texts; got 'prefix'"),
        (NablaReasoner, {"terms": [1]}, "terms must be a list of texts; got [1]"),
        (TreeOfThoughts, {"step_marks": "Step"}, "step_marks must be a list of texts; got 'Step'"),
    ],
)
def test_settings_of_another_kind_are_refused(method, keywords, said):
    """A text counts as true and a switch as 1, so that another method would run than was asked for."""
    with pytest.raises(ValueError, match=re.escape(said)):
        method(**keywords)


@pytest.mark.parametrize(("method", "name"), [(BestOfN, "num_samples"), (GuidedDecoding, "reward_weight")])
def test_unknown_setting_of_a_method_lists_its_own(method, name):
    with pytest.raises(TypeError, match=rf"unknown setting n of {method.__name__}; valid settings are .*\b{name}\b"):
        method(n=8)


@pytest.mark.parametrize("part", ["policy", "reward", "reference"])
def test_model_in_training_mode_is_refused(part):
    """Its dropout would give other answers each time."""
    policy, reward = toys.policy(), toys.reward("likelihood")
    reward.reference = toys.policy("llama")
    models = {"policy": policy, "reward": reward, "reference": reward.reference}
    arguments.check_models(policy, reward)
    models[part].model.train()
    try:
        with pytest.raises(ValueError, match=r"must be in eval mode.*Call model.eval\(\)"):
            BestOfN(num_samples=2).solve([], policy, reward)
    finally:
        models[part].model.eval()
        reward.reference = None


def test_automatic_precision_is_refused():
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="torch.autocast must be off"):
        BestOfN(num_samples=2).solve([], toys.policy(), toys.reward("likelihood"))


def test_numbers_of_numpy_are_taken():
    assert NablaReasoner(step_size=np.float64(0.3)).settings.dto.step_size == 0.3


@pytest.mark.parametrize("entries", [None, 5, iter([]), torch.tensor(5)])
def test_what_has_no_length_is_no_list_of_entries(entries):
    with pytest.raises(ValueError, match="prefix_ids must be a list, one entry per sequence; got .* Pass a list"):
        arguments.check_lengths(prompts=[], prefix_ids=entries)


@pytest.mark.parametrize(("uniforms", "kind"), [([[0.5, 0.5]], "list"), (None, "NoneType")])
def test_uniforms_that_are_no_array_are_refused(uniforms, kind):
    with pytest.raises(ValueError, match=f"uniforms must hold an array per sequence; got {kind}. Draw them by"):
        arguments.check_uniforms(uniforms, 1, toys.policy())


def test_text_that_is_no_unicode_is_refused():
    with pytest.raises(ValueError, match="a problem's question must be valid Unicode; got '.ud83d' at character 2"):
        arguments.checked_problems([Problem("1", "ab\ud83d", None, "free")])
    with pytest.raises(ValueError, match="a message of prompts must be valid Unicode"):
        arguments.check_chats([[{"role": "user", "content": "\ud83d"}]])
