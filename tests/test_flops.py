"""FLOPs of every method, against torch's own formulas applied to every operation that it runs."""

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nabla_reasoner import Policy, RewardModel
from nabla_reasoner.baselines import lockstep
from nabla_reasoner.config.build import build_cell, load_models
from nabla_reasoner.config.cell import Cell
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.config.schema import choices
from nabla_reasoner.decoding import nabla_reasoner

LIKELIHOOD_ONLY = ("judge_greedy", "logit_mixture")
METHODS = [name for name in choices("method") if name != "tpo"]  # its critiques exceed a tiny model's context
CASES = [
    *((name, "classifier", ()) for name in METHODS if name not in LIKELIHOOD_ONLY),
    *((name, "likelihood", ()) for name in METHODS),
    ("nabla_reasoner", "classifier", ("method.reward_form=process",)),
    ("nabla_reasoner", "likelihood", ("method.reward_form=process",)),
    ("nabla_reasoner", "classifier", ("dto.parameter=latents",)),
    ("guided_decoding", "classifier", ("method.scorer=gradient",)),
    ("guided_decoding", "classifier", ("method.scorer=gradient", "method.num_candidates=640")),  # moves of all tokens
    ("nabla_reasoner", "classifier", ("variant=release",)),
    ("nabla_reasoner", "likelihood", ("variant=release",)),
    ("nabla_reasoner_multipass", "likelihood", ("variant=release",)),
]

FEWER = {  # responses, steps or passes than by default: every operation still runs, several times
    **dict.fromkeys(("best_of_n", "self_consistency", "soft_best_of_n", "weighted_self_consistency"), "num_samples=3"),
    **{"rap": "num_simulations=3", "tree_of_thoughts": "num_proposals=3", "particle_filter": "num_particles=3"},
    **{"mh_resampling": "num_steps=5", "discrete_langevin": "num_steps=3", "nabla_reasoner_multipass": "num_passes=2"},
}


class FlopCounter(TorchDispatchMode):
    """Sum of torch's FLOPs of matrix products, forward and backward.

    `FlopCounterMode` itself hooks into modules, which the gradients by inputs alone do not allow.
    """

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def models(cell: Cell) -> tuple[Policy, RewardModel]:
    """Load a cell's models such that torch counts all they compute: attention as products, no padding."""
    policy, reward = load_models(cell)
    for model in (policy, reward, reward.strong):
        if model is not None:
            model.model.set_attn_implementation("eager")  # torch has no formula for the CPU's fused kernel
            model.batch_limits.rows = model.batch_limits.tokens = 1
    return policy, reward


def counted(cell: Cell, count: int) -> tuple[float, float]:
    """Return our FLOPs of a cell's first problems, and torch's."""
    built = build_cell(cell)
    policy, reward = models(cell)
    ours = theirs = 0.0
    solutions = []
    for problem in built.problems[:count]:
        with FlopCounter() as counter:
            (solution,) = built.method.solve([problem], policy, reward, seed=0)
        ours += solution.cost.flops
        theirs += counter.flops
        solutions.append(solution)
    if "nabla" in cell.method.name:
        assert any(solution.search["revisions"] for solution in solutions)
    return ours, theirs


@pytest.fixture
def without_recorded_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out rewards that no decision needs: they are computed for the record and cost nothing."""

    class NoScoring:
        @staticmethod
        def rewards(reward: RewardModel, prompts: list, responses: list) -> tuple[list[float], list]:
            return [0.0] * len(responses), []

    for module in (lockstep, nabla_reasoner):
        monkeypatch.setattr(module, "scoring", NoScoring)


def check(method: str, reward: str, overrides: tuple[str, ...], count: int) -> None:
    words = [f"method={method}", f"reward={reward}", "policy=tiny-base", "task=products", "scale=tiny", *overrides]
    if method in FEWER:
        words.append(f"method.{FEWER[method]}")
    (cell,) = compose_cells(words)
    ours, theirs = counted(cell, count)
    assert ours == pytest.approx(theirs, rel=0.002)


@pytest.mark.slow
@pytest.mark.usefixtures("without_recorded_rewards")
@pytest.mark.parametrize(("method", "reward", "overrides"), CASES)
def test_flops_of_methods_agree_with_torch(method: str, reward: str, overrides: tuple[str, ...]):
    rejecting = (method, reward, overrides) == ("nabla_reasoner", "classifier", ("method.reward_form=process",))
    if rejecting or "without_gradient" in method or "judge" in method or (method, reward) == ("greedy", "classifier"):
        count = 2  # the first problem alone has no rejected proposal, or, for the null arms, none at all
    else:
        count = 1
    check(method, reward, overrides, count)
