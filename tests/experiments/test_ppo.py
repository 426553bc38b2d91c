"""Target `ppo`: fixed points and gradients of PPO and GRPO by enumeration; files and arithmetic of the command."""

import itertools
import json
import logging
import math
from types import SimpleNamespace

import matplotlib
import pandas as pd
import pytest
import torch

from nabla_reasoner.__main__ import main
from nabla_reasoner.config.ppo_settings import AmortisedSettings
from nabla_reasoner.cost import ModelSize
from nabla_reasoner.experiments import ppo
from nabla_reasoner.ppo import amortized, figure, letter_task, tables
from nabla_reasoner.ppo import exact_distributions as exact
from nabla_reasoner.ppo.amortized import AmortisedTraining, PromptSampler, ScoredPrompts
from nabla_reasoner.training import losses

matplotlib.use("Agg")
VOCAB, LENGTH, WEIGHT = 3, 2, 1.3


class Tabular(torch.nn.Module):
    """A policy with free logits for each prefix of an answer, with a Hugging Face model's interface."""

    def __init__(self, prompts: int, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Parameter(torch.randn(prompts, 1 + VOCAB, VOCAB, generator=generator))

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        rows = [self.table[input_ids[:, 0], 0]]
        if input_ids.shape[1] > 1:
            rows.append(self.table[input_ids[:, 0], 1 + input_ids[:, 1]])
        return SimpleNamespace(logits=torch.stack(rows, 1))


def scored_prompts(prompts: int = 1) -> ScoredPrompts:
    """Build prompts of one token with a random reference policy and rewards, whose scale differs by prompt."""
    ids = torch.arange(prompts)[:, None]
    with torch.no_grad():
        tokens = exact.token_log_probabilities(Tabular(prompts, seed=1), ids.tolist(), VOCAB, LENGTH)
    rewards = torch.randn(prompts, VOCAB**LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return ScoredPrompts(ids, tokens, rewards * torch.linspace(1, 0.4, prompts, dtype=torch.float64)[:, None])


def training(
    method: str, scored: ScoredPrompts, model: torch.nn.Module, *, steps: int = 400, group: int = 48
) -> AmortisedTraining:
    settings = AmortisedSettings(
        num_steps=steps,
        learning_rate=0.03,
        prompts=len(scored.prompts),
        group=group,
        epochs=2,
        clip=0.2,
        critic_rate=0.3,
    )
    options = {"reward_weight": WEIGHT, "group": group, "seed": 0, "warmup_steps": 1}
    return AmortisedTraining(model, method, scored, settings, **options)


def every_answer(model: torch.nn.Module, prompts: int = 1) -> torch.Tensor:
    """Compute log ρ(y_l|y_<l) of all answers to prompt 0, with gradient."""
    answers = exact.every_answer(VOCAB, LENGTH)
    return amortized.token_log_probabilities(model, torch.zeros(len(answers), 1, dtype=torch.long), answers, VOCAB)


def expected_gradient(model: Tabular, advantages: torch.Tensor) -> torch.Tensor:
    """Compute -E_ρ[A ∇log ρ] with the loss itself: answers weighted by their probability, all ratios at 1."""
    tokens = every_answer(model)
    weights = tokens.detach().sum(1).exp() * len(tokens)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    loss = losses.policy_loss(tokens, tokens.detach(), advantages * weights, mask, normalisation="length", max_length=1)
    return torch.autograd.grad(loss, model.table)[0]


def optimal_model(scored: ScoredPrompts, weight: float) -> Tabular:
    """Build the tabular policy that is ρ* of prompt 0."""
    star = exact.optimum(scored.prior[0], scored.rewards[0], weight).view(VOCAB, VOCAB)
    model = Tabular(1).double()
    with torch.no_grad():
        model.table[0, 0], model.table[0, 1:] = star.logsumexp(1), star
    return model


def test_ppo_expected_gradient_matches_objective():
    scored, model = scored_prompts(), Tabular(1).double()
    tokens = every_answer(model)
    distribution = tokens.sum(1)
    returns = amortized.penalised_return(scored.rewards[0], distribution.detach() - scored.prior[0], WEIGHT)
    # Eq. 3, term by term
    loss = (distribution.exp() * (distribution - scored.prior[0] - WEIGHT * scored.rewards[0])).sum()
    fixed = distribution.detach()
    value = exact.divergence(fixed, scored.prior[0]) - WEIGHT * exact.expected(fixed, scored.rewards[0])
    assert loss.item() == pytest.approx(value)
    (expected,) = torch.autograd.grad(loss, model.table)
    for baseline in (0.0, 0.7):  # a baseline does not change the mean
        torch.testing.assert_close(expected_gradient(model, returns - baseline), expected)
    assert expected.abs().max() > 0.05


def test_optimum_has_constant_returns_and_zero_ppo_gradient():
    scored = scored_prompts()
    for weight, fixed in ((WEIGHT, True), (WEIGHT + 0.5, False)):
        model = optimal_model(scored, weight)
        distribution = every_answer(model).detach().sum(1)
        returns = amortized.penalised_return(scored.rewards[0], distribution - scored.prior[0], WEIGHT)
        constant = (scored.prior[0] + WEIGHT * scored.rewards[0]).logsumexp(0)
        assert torch.allclose(returns, constant.expand_as(returns)) == fixed
        assert (expected_gradient(model, returns - constant).abs().max() < 1e-9) == fixed


@pytest.mark.slow
def test_group_advantages_scale_policy_gradient_by_others_share():
    scored, model = scored_prompts(), Tabular(1).double()
    distribution = every_answer(model).sum(1)
    (expected,) = torch.autograd.grad(-(distribution.exp() * scored.rewards[0]).sum(), model.table)
    tokens = every_answer(model)
    for size in (2, 3):
        total = torch.zeros_like(expected)
        for indices in itertools.product(range(VOCAB**LENGTH), repeat=size):
            answers = tokens[list(indices)]
            advantages = losses.group_advantages(scored.rewards[:, list(indices)], scale=False)[0]
            loss = losses.policy_loss(
                answers,
                answers.detach(),
                advantages,
                torch.ones_like(answers, dtype=torch.bool),
                normalisation="length",
                max_length=1,
            )
            (slope,) = torch.autograd.grad(loss, model.table, retain_graph=True)
            total += distribution.detach()[list(indices)].sum().exp() * slope
        # the mean of a group includes the answer itself, which subtracts 1/G of its reward
        torch.testing.assert_close(total, expected * (size - 1) / size)


def test_grpo_kl_estimate_has_forward_kl_gradient():
    logits = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    reference = torch.log_softmax(torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), -1)
    distribution = torch.log_softmax(logits, -1)
    estimate = losses.reference_divergence(distribution[:, None], reference[:, None])[:, 0]
    (gradient,) = torch.autograd.grad((distribution.detach().exp() * estimate).sum(), logits, retain_graph=True)
    forward, reverse = (
        (reference.exp() * (reference - distribution)).sum(),
        (distribution.exp() * (distribution - reference)).sum(),
    )
    torch.testing.assert_close(gradient, torch.autograd.grad(forward, logits, retain_graph=True)[0])
    assert (gradient - torch.autograd.grad(reverse, logits)[0]).abs().max() > 0.01


def fitted(method: str, scored: ScoredPrompts) -> tuple[list[float], list[float]]:
    """Train, and return KL to ρ* and expected reward by prompt."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model = Tabular(len(scored.prompts))
    module = training(method, scored, model)
    groups = PromptSampler(len(scored.prompts), prompts=len(scored.prompts), group=48, epochs=2, seed=0)
    letter_task.fit(module, torch.utils.data.DataLoader(groups, batch_size=None), module.schedule.num_steps)
    distributions = module.distributions(scored)
    optima = [exact.optimum(p, r, WEIGHT) for p, r in zip(scored.prior, scored.rewards, strict=True)]
    return (
        [exact.divergence(*pair) for pair in zip(distributions, optima, strict=True)],
        [exact.expected(*pair) for pair in zip(distributions, scored.rewards, strict=True)],
    )


@pytest.mark.slow
def test_ppo_training_ends_at_optimum_grpo_elsewhere():
    scored = scored_prompts(prompts=2)
    divergences, _ = fitted("ppo", scored)
    assert max(divergences) < 0.01
    others, rewards = fitted("grpo", scored)
    assert max(others) > 0.03
    before = [exact.expected(p, r) for p, r in zip(scored.prior, scored.rewards, strict=True)]
    assert all(after > start + 0.1 for after, start in zip(rewards, before, strict=True))


def test_unknown_method_names_valid_ones():
    with pytest.raises(ValueError, match="ppo, grpo, grpo_unscaled; got 'dpo'"):
        training("dpo", scored_prompts(), Tabular(1))


def test_sampled_answers_follow_model():
    model = Tabular(1)
    generator = torch.Generator().manual_seed(0)
    answers, seen = amortized.sample(model, torch.zeros(20_000, 1, dtype=torch.long), LENGTH, VOCAB, generator)
    distribution = every_answer(model).detach().double().sum(1)
    sampled = exact.empirical(answers[:, 0] * VOCAB + answers[:, 1], VOCAB**LENGTH)
    _, floor = exact.sampling_floor(distribution, 20_000, repeats=20, generator=generator)
    assert exact.total_variation(sampled, distribution) < 3 * floor
    recomputed = amortized.token_log_probabilities(model, torch.zeros(20_000, 1, dtype=torch.long), answers, VOCAB)
    torch.testing.assert_close(seen, recomputed.detach())


def test_critic_approaches_mean_return():
    scored = scored_prompts()
    module = training("ppo", scored, Tabular(1, seed=1), group=4)
    batch = module.sample_batch(torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(batch.old.sum(1).double(), scored.prior[0, batch.indices], rtol=1e-5, atol=1e-5)
    returns = WEIGHT * scored.rewards[0, batch.indices].float()  # the model is still π
    torch.testing.assert_close(module.compute_advantages(batch), returns - returns.mean(), rtol=1e-4, atol=1e-5)
    module.values.fill_(5.0)
    torch.testing.assert_close(module.compute_advantages(batch), returns - 5.0, rtol=1e-4, atol=1e-5)
    assert module.values[0].item() == pytest.approx(5 + 0.3 * (returns.mean().item() - 5), rel=1e-4)


def test_batches_repeat_per_epoch_groups_fill_batch():
    groups = PromptSampler(8, prompts=4, group=2, epochs=2, seed=0)
    first, second, third = itertools.islice(iter(groups), 3)
    assert torch.equal(first, second)
    assert not torch.equal(second, third)
    assert len(first) == 8
    assert first.view(4, 2).unique().numel() == 4
    alone = next(iter(PromptSampler(1, prompts=4, group=2, epochs=1, seed=0)))
    assert alone.tolist() == [0] * 8


def test_batch_flops_match_hand_computed_value():
    # prompts of 3 tokens, answers of 2; 2 prompts, 6 answers. The last of 2 sampled tokens is not read: 6 of 12 are.
    settings = {"prompt_size": 3, "length": 2, "rewarded": 2, "prompts": 2, "answers": 6, "epochs": 4}
    small, large, nothing = ModelSize(10, 0, 0), ModelSize(100, 0, 0), ModelSize(0, 0, 0)
    flops = amortized.batch_flops(policy_size=small, reward_size=large, **settings)
    assert flops == 2 * 10 * (6 + 6) + 2 * 10 * 18 + 2 * 100 * 18 + 4 * 6 * 10 * 30
    # attention: prompts 3 x 3, sampling 1 x 4, scoring 2 x 5 pairs, updates 5 x 5 of 12 FLOPs; heads: 2 + 2, 5 a text
    flops = amortized.batch_flops(policy_size=ModelSize(0, 0, 1), reward_size=nothing, **settings)
    assert flops == 4 * (2 * 9 + 6 * 4) + 4 * (2 * 9 + 6 * 10) + 12 * 4 * 6 * 25
    flops = amortized.batch_flops(policy_size=ModelSize(0, 1, 0), reward_size=nothing, **settings)
    assert flops == 2 * 6 * (2 + 2) + 6 * 4 * 6 * 5


def test_break_even_matches_hand_computed_value():
    table = pd.DataFrame(
        [
            ("deamortised", "best_of_n", 2, 0.9, 30.0),
            ("deamortised", "best_of_n", 4, 0.3, 60.0),
            ("deamortised", "independent_metropolis", 1, 0.4, 20.0),
            ("amortised", "ppo", 9, 0.1, 10.0),
        ],
        columns=["side", "method", "amount", "kl", "flops"],
    ).assign(reward_weight=1.0, measured_on="compared", trained_on=[math.nan] * 3 + [8])
    curves = pd.DataFrame(
        [
            (1, "trained", 0.8, 500.0),
            (1, "held_out", 1.2, 500.0),
            (3, "trained", 0.4, 1500.0),
            (3, "held_out", 1.1, 1500.0),
        ],
        columns=["amount", "measured_on", "kl", "training_flops"],
    ).assign(method="ppo", reward_weight=1.0, trained_on=8)
    crossings = tables.break_even(table, curves, 1.0, [0.5, 0.05]).set_index("method")
    assert crossings.target_kl.tolist() == [0.5, 0.5]  # 0.05 was not reached
    assert crossings.answers.to_dict() == {"best_of_n": 1500 / 50, "independent_metropolis": 1500 / 10}
    assert crossings.answers_per_prompt["best_of_n"] == 30 / 8
    assert set(crossings.held_out_kl) == {1.1}


def test_demonstrations_follow_habits():
    examples = letter_task.demonstrations(["abcd"], 400, 0, {"reverse": 1.0})
    answers = ["".join(letter_task.TOKENS[i] for i in example.response_ids) for example in examples]
    correct = sum(a == b for answer in answers for a, b in zip(answer, "dcba", strict=True)) / 1600
    assert abs(correct - (0.75 + 0.25 / 5)) < 0.04  # three standard errors
    assert letter_task.follow("next", "abcd") == "bcda"
    assert examples[0].prompt_ids == letter_task.ids(":abcd:")
    assert sorted(letter_task.prompts(2, 0)) == sorted(a + b for a in "abcd" for b in "abcd")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lamda=1", "settings of ppo: scale, results_dir"),
        ("scale=small", "scale must be one of tiny"),
        ("main=3.0", "main must be one of"),
        (
            "reward_weights=[0.5,1.0,1.2345678]",
            "reward_weights must have at most six significant digits",
        ),
        ("trained=[8,1]", "trained must ascend"),
        ("held_out=0", "held_out must be a whole number >= 1"),
        ("compared=65", "compared must be <= trained"),
        ("deamortised.solved=0", "deamortised.solved must be a whole number >= 1"),
        ("deamortised.steps=[]", "deamortised.steps must be a list of at least 1"),
    ],
)
def test_wrong_settings_exit_2_before_writing(override, message, tmp_path, capsys):
    assert main(["ppo", override, f"results_dir={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_small_run_writes_files_and_verdict_from_rows(tmp_path, capsys):
    small = [
        "length=2",
        "compared=2",
        "trained=[1,4]",
        "held_out=2",
        "reward_weights=[0.5,1.0]",
        "models.num_steps=20",
        "amortised.num_steps=8",
        "deamortised.draws=[1,4,16]",
        "deamortised.steps=[1,4,16]",
        "deamortised.solved=64",
        "deamortised.particles=200",
        "targets=[5.0,0.5]",
    ]
    assert main(["ppo", *small, f"results_dir={tmp_path}"]) == 0
    folder = tmp_path / "tiny" / "ppo"
    for name in ppo.FILES:
        assert (folder / name).stat().st_size > 0
    table = pd.read_csv(folder / "ppo.csv")
    assert list(table) == tables.COLUMNS
    assert (table.kl >= -1e-9).all()
    assert set(tables.NAMES) == set(table.method)
    assert tables.main_weight(table) == 1
    bound = table.dropna(subset=["bound"])
    assert len(bound) == 3 * 2
    assert (bound.kl_to_policy <= bound.bound + 1e-6).all()
    assert (table[table.method == "enumeration"].kl < 1e-9).all()
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"
    text = (folder / "ppo.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    (loop,) = table[(table.method == "nabla_reasoner") & (table.reward_weight == 1)].kl
    (null,) = table[(table.method == "nabla_without_gradient") & (table.reward_weight == 1)].kl
    assert f"(λ = 1: {loop:.2f} against {null:.2f} without it" in text


def test_methods_of_the_figure_differ_without_colour():
    assert len({(style.marker, style.line) for style in figure.STYLES.values()}) == len(figure.STYLES)


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_main_weight_is_read_from_the_rows(weight: float):
    rows = [("ppo", 1.0), ("ppo", 2.0), ("grpo", 1.0), ("grpo_unscaled", weight)]
    assert tables.main_weight(pd.DataFrame(rows, columns=["method", "reward_weight"])) == weight
