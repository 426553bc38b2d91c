"""Policy and reward model on different devices: every method gives what it gives on one."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import pretended_device
import pytest
import torch
import toys

from nabla_reasoner import RAP, TPO, BestOfN, MHResampling, NablaReasoner, Problem, TreeOfThoughts
from nabla_reasoner.baselines.discrete_langevin import DiscreteLangevin
from nabla_reasoner.baselines.guided_decoding import GuidedDecoding
from nabla_reasoner.baselines.judge_decoding import JudgeGreedy, LogitMixture
from nabla_reasoner.baselines.particle_filter import ParticleFilter
from nabla_reasoner.models.language_models import Policy, RewardModel

Model = TypeVar("Model", Policy, RewardModel)

FAST = ("nabla, likelihood", "mixture")
PROBLEMS = [Problem(str(number), f"What is {number} + 7?", "1", "free") for number in range(2)]
NABLA = {"step_size": 3.0, "grad_threshold": 0.0, "max_new_tokens": 4, "max_rollouts": 2, "num_iterations": 5}
CASES = {
    "nabla, likelihood": (lambda: NablaReasoner(**NABLA), {"reference": True}),
    "nabla, classifier": (lambda: NablaReasoner(**NABLA), {"kind": "classifier"}),
    "nabla, token classifier, prefix form": (
        lambda: NablaReasoner(**NABLA, reward_form="prefix"),
        {"kind": "token_classifier"},
    ),
    "nabla, process form": (lambda: NablaReasoner(**NABLA, reward_form="process"), {"kind": "classifier"}),
    "nabla, plain engine": (lambda: NablaReasoner(**NABLA, engine="reference"), {}),
    "best of n": (lambda: BestOfN(num_samples=2, max_new_tokens=4), {"kind": "classifier"}),
    "tree": (lambda: TreeOfThoughts(max_new_tokens=6), {"kind": "classifier"}),
    "guided": (lambda: GuidedDecoding(max_new_tokens=4), {"reference": True}),
    "guided by gradient": (lambda: GuidedDecoding(max_new_tokens=4, scorer="gradient"), {"kind": "classifier"}),
    "mixture": (lambda: LogitMixture(max_new_tokens=4), {"reference": True}),
    "judge": (lambda: JudgeGreedy(max_new_tokens=4), {}),
    "langevin": (lambda: DiscreteLangevin(max_new_tokens=4), {"kind": "classifier"}),
    "rap": (lambda: RAP(num_simulations=2, max_new_tokens=6), {"kind": "classifier"}),
    "metropolis": (lambda: MHResampling(num_steps=3, max_new_tokens=4), {"reference": True}),
    "tpo": (lambda: TPO(num_iterations=1, max_new_tokens=4, max_critique_tokens=4), {"kind": "classifier"}),
    "particles": (lambda: ParticleFilter(max_new_tokens=6), {"kind": "classifier"}),
}


PREFIX_FORM = {
    "reward_form": "prefix",
    "acceptance": "prefix_higher",
    "rollout_end": "uncertain",
    "terms": ["prefix", "reward_prefix"],
}


def elsewhere(model: Model) -> Model:
    """Return a copy of a policy or a reward model, its reference included, on the pretended device."""
    moved = copy.deepcopy(model)
    for model in (moved, getattr(moved, "reference", None)):
        if model is not None:
            pretended_device.move(model.model)
    return moved


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_method_gives_the_same_with_its_reward_elsewhere(name: str):
    make, kind = CASES[name]
    policy, reward = toys.policy(), toys.reward(**kind)
    policy.context = 1000  # TPO's questions are long
    expected = make().solve(PROBLEMS, policy, reward, seed=1)
    assert not name.startswith("nabla") or any(solution.search["revisions"] for solution in expected)
    with pretended_device.pretended():
        actual = make().solve(PROBLEMS, policy, elsewhere(reward), seed=1)
    for here, there in zip(expected, actual, strict=True):
        assert there.token_ids == here.token_ids
        assert there.reward == pytest.approx(here.reward, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, PREFIX_FORM, {"flip": "gumbel"}], ids=["outcome", "prefix", "gumbel"])
def test_everything_elsewhere_gives_the_same(settings: dict[str, Any]):
    method = NablaReasoner(**NABLA | {"max_new_tokens": 6} | settings)
    policy, reward = toys.policy(), toys.reward()
    expected = method.solve(PROBLEMS, policy, reward, seed=1)
    assert any(solution.search["revisions"] for solution in expected)
    with pretended_device.pretended():
        actual = method.solve(PROBLEMS, elsewhere(policy), elsewhere(reward), seed=1)
    assert [solution.token_ids for solution in actual] == [solution.token_ids for solution in expected]


@pytest.mark.slow
def test_waits_for_the_device_do_not_grow_with_the_problems():
    """A round waits as often for many problems as for one; with more of them some descents end in other rounds."""
    method = NablaReasoner(**NABLA | {"max_new_tokens": 8, "max_rollouts": 4} | PREFIX_FORM)
    counts = []
    for number in (2, 16):
        problems = [Problem(str(index), f"What is {index} + 7?", "1", "free") for index in range(number)]
        with pretended_device.pretended() as waits:
            method.solve(problems, elsewhere(toys.policy()), elsewhere(toys.reward()), seed=1)
        counts.append(waits.count)
    assert 0 < counts[1] < 3 * counts[0]


def test_pretended_device_refuses_what_a_gpu_refuses():
    here, there = torch.ones(2, 3), pretended_device.Elsewhere(torch.ones(2, 3))
    refused: list[Callable[[], object]] = [
        lambda: here + there,
        lambda: there @ here.T,
        lambda: torch.cat([there, here]),
        lambda: here[pretended_device.Elsewhere(torch.tensor([0]))],
    ]
    with pretended_device.pretended():
        for operation in refused:
            with pytest.raises(RuntimeError, match="two devices|another device"):
                operation()
        assert (there[torch.tensor([1])] + 1).to("cpu").tolist() == [[2.0, 2.0, 2.0]]
