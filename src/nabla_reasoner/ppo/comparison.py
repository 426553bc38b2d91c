"""Both sides of `./reproduce.sh ppo` on one space: models, laws, trainings, and the rows that say how far each is."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import torch

from ..decoding.nabla_reasoner import NablaReasoner
from ..dto.settings import DTOSettings
from ..engine.sampling import Sampling
from ..models.language_models import Policy, RewardModel
from ..training import loop
from ..types import Problem
from . import amortized, exact_laws, expected_flops, letter_task, test_time
from .exact_laws import LogProbs
from .test_time import Spent, TestTimeMethods

Tick = Callable[[float], Any]


def chat(prompt: str) -> list[dict[str, str]]:
    """A prompt as the user's turn."""
    return [{"role": "user", "content": prompt}]


def measured(law: LogProbs, landscape: tuple[LogProbs, LogProbs], weight: float) -> dict[str, float]:
    """How far one law is from ρ* on one prompt; `landscape` is log π and r of its answers."""
    prior, rewards = landscape
    target = exact_laws.optimum(prior, rewards, weight)
    return {
        "kl": exact_laws.divergence(law, target),
        "tv": exact_laws.total_variation(law, target),
        "reward": exact_laws.expected(law, rewards),
        "kl_to_policy": exact_laws.divergence(law, prior),
    }


def mean_row(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over prompts, with the range of the KL to ρ*."""
    frame = pd.DataFrame(found)
    return {
        "kl": frame.kl.mean(),
        "kl_low": frame.kl.min(),
        "kl_high": frame.kl.max(),
        **{key: frame[key].mean() for key in ("tv", "reward", "kl_to_policy")},
        "num_measured": len(frame),
    }


class PPOComparison:
    """One run: its models, prompts, landscapes and rows.

    Attributes:
        rows, curves: of ppo.csv and curves.csv.
        engine: how far the engine's own draws are from ∇-Reasoner's law as computed here.
    """

    def __init__(self, settings: dict[str, Any], folder: Path):
        self.settings, self.folder = settings, folder
        self.rows: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.engine: dict[str, float] = {}
        self.texts = letter_task.prompts(settings["length"], settings["seed"])

    def make_models(self) -> None:
        """Pre-train policy and judge, and read them back as any other model."""
        own = self.settings["models"]
        schedule = loop.Schedule(own["num_steps"], own["learning_rate"], warmup_steps=50, weight_decay=0.0)
        folder = self.folder / "models"
        letter_task.train(
            folder, self.texts, shape=own["shape"], schedule=schedule, batch=own["batch"], seed=self.settings["seed"]
        )
        self.policy = Policy.from_pretrained(str(folder / "policy"))
        self.reward = RewardModel.from_pretrained(str(folder / "judge"), kind="likelihood")
        self.reward.check_vocabulary(self.policy)

    def side(self) -> TestTimeMethods:
        """The deamortised side with the run's settings."""
        own = self.settings["deamortised"]
        return TestTimeMethods(
            self.policy,
            self.reward,
            self.settings["length"],
            test_time.Settings(
                draws=own["draws"],
                steps=own["steps"],
                langevin_step=own["langevin_step"],
                noise_step=own["noise_step"],
                particles=own["particles"],
                descent=DTOSettings(num_iterations=own["iterations"], step_size=own["step_size"]),
                resample=Sampling(own["resample_temperature"], own["resample_top_p"]).check(),
                confidence_threshold=own["confidence_threshold"],
                reward_weights=self.settings["reward_weights"],
                seed=self.settings["seed"],
            ),
        )

    def deamortise(self, tick: Tick) -> None:
        """Measure everything that spends its compute on one prompt, on the compared prompts."""
        side, prompts = self.side(), [chat(text) for text in self.texts[: self.settings["compared"]]]
        trainer = quiet_trainer(inference_mode=False)
        found = []
        for prompt in prompts:  # one at a time, so that the bar moves
            loader = torch.utils.data.DataLoader([prompt], batch_size=None)
            found += trainer.predict(side, loader)
            tick(1 / len(prompts))
        self.landscapes = [landscape for landscape, _ in found]
        self.found = [spent for _, spent in found]
        for weight in self.settings["reward_weights"]:
            for parts in zip(*(spent[weight] for spent in self.found), strict=True):
                self.rows.append(self.row(parts, weight))
        low, *_, high = self.settings["reward_weights"] * 2
        for weight in np.geomspace(low / 8, high * 4, 33):  # for the figure: what no law can exceed
            found = [
                measured(exact_laws.optimum(land.prior, land.rewards, weight), (land.prior, land.rewards), weight)
                for land in self.landscapes
            ]
            row = {"method": "optimum", "reward_weight": weight, "measured_on": "compared", **mean_row(found)}
            self.curves.append(row)

    def row(self, parts: Sequence[Spent], weight: float) -> dict[str, Any]:
        """A row of ppo.csv: one method at one amount, over the compared prompts."""
        known = [(landscape.prior, landscape.rewards) for landscape in self.landscapes]
        found = [measured(part.law, pair, weight) for part, pair in zip(parts, known, strict=True)]
        first = parts[0]
        row = {
            "side": "reference" if first.method in ("policy", "enumeration") else "deamortised",
            "method": first.method,
            "amount": first.amount,
            "reward_weight": weight,
            "trained_on": None,
            "measured_on": "compared",
            **mean_row(found),
            "flops": np.mean([part.flops for part in parts]),
            "training_flops": 0.0,
            "gradient_evaluations": np.mean([part.gradient_evaluations for part in parts]),
            "samples": first.samples,
        }
        if first.method == "best_of_n":
            row["bound"] = exact_laws.best_of_n_bound(first.amount)
        if first.samples:
            generator = torch.Generator().manual_seed(self.settings["seed"])
            targets = [exact_laws.optimum(*pair, weight) for pair in known]
            floors = [
                exact_laws.sampling_floor(target, first.samples, repeats=4, generator=generator) for target in targets
            ]
            row["kl_floor"], row["tv_floor"] = np.mean(floors, axis=0)
        return row

    def check_engine(self) -> None:
        """Draw answers with `NablaReasoner` itself at the main λ, and compare them with its law as computed here."""
        own, weight = self.settings["deamortised"], self.settings["main"]
        method = NablaReasoner(
            num_iterations=own["iterations"],
            step_size=own["step_size"],
            reward_weight=weight,
            nll_weight=1.0,
            confidence_threshold=own["confidence_threshold"],
            grad_threshold=0.0,
            rollout_temperature=1.0,
            rollout_top_p=1.0,
            resample_temperature=own["resample_temperature"],
            resample_top_p=own["resample_top_p"],
            max_new_tokens=self.settings["length"],
        )
        generator = torch.Generator().manual_seed(self.settings["seed"])
        variations, floors, flops = [], [], []
        places = self.policy.vocab_size ** torch.arange(self.settings["length"]).flip(0)
        for text, spent in zip(self.texts, self.found, strict=False):
            problems = [Problem(f"{text}/{i}", text, None, "letters") for i in range(own["solved"])]
            solutions = method.solve(problems, self.policy, self.reward, seed=self.settings["seed"])
            drawn = (torch.tensor([solution.token_ids for solution in solutions]) * places).sum(1)
            (law,) = [part.law for part in spent[weight] if part.method == "nabla_reasoner"]
            variations.append(exact_laws.total_variation(exact_laws.empirical(drawn, len(law)), law))
            floors.append(
                [exact_laws.sampling_floor(law, len(drawn), repeats=1, generator=generator)[1] for _ in range(40)]
            )
            flops.append(np.mean([solution.cost.flops for solution in solutions]))
        self.engine = {
            "tv": float(np.mean(variations)),
            "tv_floor": float(np.mean(floors)),
            "tv_floor_high": float(np.mean(floors, axis=0).max()),
            "flops": float(np.mean(flops)),
            "draws": own["solved"],
        }

    def arena(self) -> amortized.ScoredPrompts:
        """All prompts that amortised policies are trained or measured on, with every answer scored."""
        chosen = self.texts[: self.settings["trained"][-1] + self.settings["held_out"]]
        ids = [self.policy.prompt_ids(chat(text)) for text in chosen]
        with torch.no_grad():
            own, judged = (
                exact_laws.token_log_probabilities(model, ids, self.policy.vocab_size, self.settings["length"])
                for model in (self.policy.model, self.reward.model)
            )
        return amortized.ScoredPrompts(torch.tensor(ids), own, judged.sum(-1))

    def trainings(self) -> list[tuple[str, float, int]]:
        """Method, λ and number of prompts of every amortised policy."""
        *fewer, most = self.settings["trained"]
        main = self.settings["main"]
        return [
            *((method, weight, most) for method in ("ppo", "grpo") for weight in self.settings["reward_weights"]),
            ("grpo_unscaled", main, most),
            *(("ppo", main, count) for count in fewer),
        ]

    def amortise(self, method: str, weight: float, count: int, arena: amortized.ScoredPrompts) -> None:
        """Train one policy network and measure it on the way and at the end."""
        own = self.settings["amortised"]
        model = copy.deepcopy(self.policy.model).train().requires_grad_(True)
        groups = amortized.PromptSampler(
            count, prompts=own["prompts"], group=own["group"], epochs=own["epochs"], seed=self.settings["seed"]
        )
        module = amortized.AmortizedTraining(
            model,
            method,
            arena.take(slice(count)),
            reward_weight=weight,
            group=groups.group,
            clip=own["clip"],
            critic_rate=own["critic_rate"],
            epochs=own["epochs"],
            seed=self.settings["seed"],
            schedule=loop.Schedule(own["num_steps"], own["learning_rate"], warmup_steps=10),
        )
        batch = amortized.batch_flops(
            self.policy.parameters,
            self.reward.parameters,
            arena.prompts.shape[1],
            self.settings["length"],
            prompts=groups.prompts,
            answers=groups.prompts * groups.group,
            epochs=own["epochs"],
        )
        sets = {"trained": slice(count), "held_out": slice(self.settings["trained"][-1], None)}
        if count >= self.settings["compared"]:
            sets = {"compared": slice(self.settings["compared"]), **sets}
        watch = _Watch(self, module, {name: arena.take(part) for name, part in sets.items()}, batch)
        letter_task.fit(module, torch.utils.data.DataLoader(groups, batch_size=None), own["num_steps"], [watch])
        price = expected_flops.price_list(self.policy, self.reward, chat(self.texts[0]), self.settings["length"])
        for row in self.curves[-len(sets) :]:
            self.rows.append({"side": "amortised", **row, "flops": price.prompt + price.rollout, "samples": 0})

    def stages(self) -> Iterator[tuple[str, float, Callable[[Tick], None]]]:
        """The run in parts: what is done, its share of the time, and the part itself."""
        yield "models", 15.0, lambda tick: self.make_models()
        yield "deamortised", 80.0, self.deamortise
        arena = self.arena()
        for job in self.trainings():
            method, weight, count = job
            yield f"{method} λ={weight:g} on {count}", 8.0, lambda tick, job=job: self.amortise(*job, arena)
        yield "check", 5.0, lambda tick: self.check_engine()


class _Watch(lightning.Callback):
    """Measures a policy network after some optimiser steps, in even steps of their logarithm."""

    def __init__(
        self,
        run: PPOComparison,
        module: amortized.AmortizedTraining,
        sets: dict[str, amortized.ScoredPrompts],
        batch_flops: float,
    ):
        self.run, self.module, self.sets, self.batch_flops = run, module, sets, batch_flops
        last = module.schedule.num_steps
        self.steps = sorted({*np.geomspace(1, last, 12).round().astype(int).tolist(), last})

    def on_train_batch_end(self, trainer, module, outputs, batch, index: int) -> None:
        if index + 1 not in self.steps:
            return
        weight, done = self.module.reward_weight, index + 1
        for name, arena in self.sets.items():
            laws = self.module.laws(arena)
            known = list(zip(arena.prior, arena.rewards, strict=True))
            found = [measured(law, pair, weight) for law, pair in zip(laws, known, strict=True)]
            self.run.curves.append(
                {
                    "method": self.module.method,
                    "amount": done,
                    "reward_weight": weight,
                    "trained_on": len(self.module.arena.prompts),
                    "measured_on": name,
                    **mean_row(found),
                    "training_flops": self.batch_flops * -(-done // self.module.epochs),
                }
            )


def quiet_trainer(**settings: Any) -> lightning.Trainer:
    """A Lightning trainer that only calls steps."""
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
