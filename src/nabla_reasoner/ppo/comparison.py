"""Both sides of `./reproduce.sh ppo`: models, test-time methods, trainings, and the rows that measure each."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ..config.ppo_settings import PPOSettings
from ..decoding.nabla_reasoner import NablaReasoner
from ..models.language_models import Policy, RewardModel
from ..types import Messages, Problem
from . import amortized, letter_task
from . import exact_distributions as exact
from .amortized import AmortisedTraining, ScoredPrompts
from .exact_distributions import LogProbs, ScoredPrompt
from .expected_flops import flop_prices
from .measurements import Measurements, Row, mean_row
from .test_time import MethodResult, TestTimeMethods

Tick = Callable[[float], None]


def chat(prompt: str) -> Messages:
    """Return a prompt as the user's turn."""
    return [{"role": "user", "content": prompt}]


class PPOComparison:
    """The comparison: its models, prompts and rows.

    Args:
        folder: results folder; the models are written below it.

    Attributes:
        rows, curves: rows of ppo.csv and curves.csv.
        engine: distance of the engine's own answers from ∇-Reasoner's exact distribution.
    """

    def __init__(self, settings: PPOSettings, folder: Path):
        self.settings = settings
        self.folder = folder
        self.rows: list[Row] = []
        self.curves: list[Row] = []
        self.engine: dict[str, float] = {}
        self.texts = letter_task.prompts(self.settings.length, self.settings.seed)

    def make_models(self) -> None:
        """Train policy and reward model, and load them as any other model."""
        folder = self.folder / "models"
        letter_task.train(folder, self.texts, self.settings.models, self.settings.seed)
        self.policy = Policy.from_pretrained(str(folder / "policy"))
        self.reward = RewardModel.from_pretrained(str(folder / "judge"), "likelihood").for_policy(self.policy)

    def measure_test_time(self, tick: Tick) -> None:
        """Run every test-time method on the compared prompts and add its rows."""
        methods = TestTimeMethods(
            self.policy,
            self.reward,
            self.settings.length,
            self.settings.deamortised,
            reward_weights=self.settings.reward_weights,
            seed=self.settings.seed,
        )
        trainer = letter_task.quiet_trainer(inference_mode=False)
        prompts = [chat(text) for text in self.texts[: self.settings.compared]]
        self.compared: list[ScoredPrompt] = []
        self.results: list[dict[float, list[MethodResult]]] = []
        for prompt in prompts:  # one loader per prompt, so that progress is visible
            ((scored, results),) = trainer.predict(methods, torch.utils.data.DataLoader([prompt], batch_size=None))
            self.compared.append(scored)
            self.results.append(results)
            tick(1 / len(prompts))
        for weight in self.settings.reward_weights:
            for by_prompt in zip(*(results[weight] for results in self.results), strict=True):
                self.rows.append(self.test_time_row(by_prompt, weight))
        low, high = self.settings.reward_weights[0], self.settings.reward_weights[-1]
        for weight in np.geomspace(low / 8, high * 4, 33):  # the figure's upper bound of reward at a divergence from π
            labels = {"method": "optimum", "reward_weight": weight, "measured_on": "compared"}
            optima = [scored.optimum(weight) for scored in self.compared]
            self.curves.append(labels | self._mean_row(optima, weight))

    def _mean_row(self, distributions: Iterable[LogProbs], weight: float) -> Row:
        return mean_row(distributions, ((scored.prior, scored.rewards) for scored in self.compared), weight)

    def test_time_row(self, results: Sequence[MethodResult], weight: float) -> Row:
        """Return the row of one method at one amount, from its results on the compared prompts."""
        first = results[0]
        row = {
            "side": "reference" if first.method in ("policy", "enumeration") else "deamortised",
            "method": first.method,
            "amount": first.amount,
            "reward_weight": weight,
            "trained_on": None,
            "measured_on": "compared",
            **self._mean_row((result.distribution for result in results), weight),
            "flops": np.mean([result.flops for result in results]),
            "training_flops": 0.0,
            "gradient_evaluations": np.mean([result.gradient_evaluations for result in results]),
            "samples": first.samples,
        }
        if first.method == "best_of_n":
            row["bound"] = exact.best_of_n_bound(first.amount)
        if first.samples:
            generator = torch.Generator().manual_seed(self.settings.seed)
            optima = [scored.optimum(weight) for scored in self.compared]
            floors = [exact.sampling_floor(star, first.samples, repeats=4, generator=generator) for star in optima]
            row["kl_floor"], row["tv_floor"] = np.mean(floors, axis=0)
        return row

    def check_engine(self) -> None:
        """Sample answers with `NablaReasoner` itself at the main λ, and compare them with its exact distribution."""
        section = self.settings.deamortised
        seed = self.settings.seed
        method = NablaReasoner(
            num_iterations=section.iterations,
            step_size=section.step_size,
            reward_weight=self.settings.main,
            nll_weight=1.0,
            confidence_threshold=section.confidence_threshold,
            grad_threshold=0.0,
            rollout_temperature=1.0,
            rollout_top_p=1.0,
            resample_temperature=section.resample_temperature,
            resample_top_p=section.resample_top_p,
            max_new_tokens=self.settings.length,
        )
        generator = torch.Generator().manual_seed(seed)
        variations, floors, flops = [], [], []
        for text, results in zip(self.texts, self.results, strict=False):
            problems = [Problem(f"{text}/{i}", text, None, "letters") for i in range(section.solved)]
            solutions = method.solve(problems, self.policy, self.reward, seed=seed)
            answers = torch.tensor([solution.token_ids for solution in solutions])
            indices = exact.answer_indices(answers, self.policy.vocab_size)
            (expected,) = [
                result.distribution for result in results[self.settings.main] if result.method == "nabla_reasoner"
            ]
            variations.append(exact.total_variation(exact.empirical(indices, len(expected)), expected))
            samples = [exact.sampling_floor(expected, len(indices), repeats=1, generator=generator) for _ in range(40)]
            floors.append([variation for _, variation in samples])
            flops.append(np.mean([solution.cost.flops for solution in solutions]))
        self.engine = {
            "tv": float(np.mean(variations)),
            "tv_floor": float(np.mean(floors)),
            "tv_floor_high": float(np.mean(floors, axis=0).max()),
            "flops": float(np.mean(flops)),
            "draws": section.solved,
        }

    def score_prompts(self) -> ScoredPrompts:
        """Score every answer to all prompts that amortised policies are trained or measured on."""
        texts = self.texts[: self.settings.trained[-1] + self.settings.held_out]
        ids = [self.policy.prompt_ids(chat(text)) for text in texts]
        with torch.no_grad():
            tokens, reward_tokens = (
                exact.token_log_probabilities(model, ids, self.policy.vocab_size, self.settings.length)
                for model in (self.policy.model, self.reward.model)
            )
        return ScoredPrompts(torch.tensor(ids), tokens, reward_tokens.sum(-1))

    def trainings(self) -> list[tuple[str, float, int]]:
        """Return method, λ and number of prompts of every amortised policy."""
        *fewer, most = self.settings.trained
        main = self.settings.main
        return [
            *((method, weight, most) for method in ("ppo", "grpo") for weight in self.settings.reward_weights),
            ("grpo_unscaled", main, most),
            *(("ppo", main, count) for count in fewer),
        ]

    def train_amortised(self, method: str, weight: float, count: int, scored: ScoredPrompts) -> None:
        """Train one policy network and add rows of its measurements, during training and at the end."""
        settings = self.settings.amortised
        seed = self.settings.seed
        compared = self.settings.compared
        sampler = amortized.PromptSampler(
            count, prompts=settings.prompts, group=settings.group, epochs=settings.epochs, seed=seed
        )
        module = AmortisedTraining(
            copy.deepcopy(self.policy.model).train().requires_grad_(True),
            method,
            scored.take(slice(count)),
            settings,
            reward_weight=weight,
            group=sampler.group,
            seed=seed,
        )
        batch_flops = amortized.batch_flops(
            policy_size=self.policy.size,
            reward_size=self.reward.size,
            prompt_size=scored.prompts.shape[1],
            length=self.settings.length,
            rewarded=1 if self.reward.has_score_head else self.settings.length,
            prompts=sampler.prompts,
            answers=sampler.prompts * sampler.group,
            epochs=settings.epochs,
        )
        sets = {"compared": scored.take(slice(compared))} if count >= compared else {}
        sets |= {"trained": module.scored, "held_out": scored.take(slice(self.settings.trained[-1], None))}
        measurements = Measurements(sets, settings, batch_flops)
        loader = torch.utils.data.DataLoader(sampler, batch_size=None)
        letter_task.fit(module, loader, settings.num_steps, [measurements])
        self.curves += measurements.rows
        prices = flop_prices(self.policy, self.reward, chat(self.texts[0]), self.settings.length)
        answer = {"flops": prices.policy_prompt + prices.rollout, "samples": 0}
        self.rows += [{"side": "amortised", **row, **answer} for row in measurements.rows[-len(sets) :]]

    def stages(self) -> Iterator[tuple[str, float, Callable[[Tick], None]]]:
        """Yield the parts of the run: name, share of the time, and function."""
        yield "models", 15.0, lambda tick: self.make_models()
        yield "deamortised", 80.0, self.measure_test_time
        scored = self.score_prompts()
        for method, weight, count in self.trainings():
            training = (method, weight, count, scored)
            yield f"{method} λ={weight:g} on {count}", 8.0, lambda tick, job=training: self.train_amortised(*job)
        yield "check", 5.0, lambda tick: self.check_engine()
