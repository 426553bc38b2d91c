"""Trainings that a scale's recipe in `configs/train/` asks for."""

import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config.compose import compose_cells
from ..config.estimate import Estimate, TaskEstimate
from .model_sizes import Model, load
from .training import Training, adapter_parameters


def trainings(scale: str, recipe: DictConfig) -> list[Training]:
    """Return the trainings of a scale's recipe; those of models that are not on this machine yet are left out."""
    values = {key: _plain(recipe[key]) for key in recipe if key != "shared"}
    return {"tiny": _tiny, "unseen": _tiny, "small": _small, "paper": _paper}[scale](values, scale_estimate(scale))


def scale_estimate(scale: str) -> Estimate:
    """Return the typical numbers of a scale, and the machine that it is meant for."""
    (cell,) = compose_cells([f"scale={scale}"])
    return cell.estimate


def _paper(recipe: dict[str, Any], estimate: Estimate) -> list[Training]:
    """Return GRPO by TRL: weights in float32, computed in bfloat16, layers recomputed (TRL's defaults)."""
    lengths = estimate.tasks["gsm8k"]  # the recipe's questions
    model = load(recipe["policy"]["path"], classifier=False)
    group, engine = recipe["recipe"]["sampling"]["group_size"], recipe["vllm"]
    return [
        Training(
            name=f"GRPO of {recipe['policy']['name']}",
            model=model,
            adapter=adapter_parameters(model.size, recipe["lora"]) if recipe["lora"] else None,
            sequences=recipe["prompts_per_step"] * group,
            per_device=recipe["responses_per_device"],
            tokens=lengths.prompt_tokens + min(lengths.response_tokens, recipe["max_new_tokens"]),
            longest=math.ceil(lengths.prompt_tokens) + recipe["max_new_tokens"],
            sampled=min(lengths.response_tokens, recipe["max_new_tokens"]),
            steps=recipe["num_steps"],
            devices=recipe["num_devices"],
            recomputed=True,
            width=2,
            sampler=engine["gpu_memory_utilization"] if engine and engine["mode"] == "colocate" else 0.0,
        )
    ]


def _tiny(recipe: dict[str, Any], estimate: Estimate) -> list[Training]:
    """Return the trainings from scratch, and SFT and GRPO of the policies."""
    jobs = []
    for name, entry in recipe["models"].items():
        model = _known(str(Path(recipe["folder"], entry["folder"])))
        if model is not None and name in recipe["only"]:
            jobs.append(_supervised(name, model, entry["batch"], entry["schedule"]["num_steps"], estimate))
    return jobs + _improved(recipe, estimate)


def _small(recipe: dict[str, Any], estimate: Estimate) -> list[Training]:
    """Return the rewards' adapters, and the trainings of the policy that are asked for."""
    model = load(recipe["policy"]["path"], classifier=False)
    jobs = []
    for name, entry in recipe["rewards"].items():
        if name in recipe["only"]:
            lengths = _mean([estimate.tasks[task] for task in entry["batch"]])
            count = sum(sum(part.values()) for part in entry["batch"].values())
            job = Training(
                name=f"adapter of the {name} reward",
                model=model,
                adapter=adapter_parameters(model.size, entry["lora"]),
                sequences=count,
                per_device=count,
                tokens=lengths.prompt_tokens + lengths.response_tokens,
                longest=math.ceil(lengths.prompt_tokens + recipe["max_new_tokens"]),
                sampled=0.0,
                steps=entry["schedule"]["num_steps"],
            )
            jobs.append(job)
    return jobs + _improved(recipe, estimate)


def _improved(recipe: dict[str, Any], estimate: Estimate) -> list[Training]:
    jobs = []
    settings = recipe["improvement"]
    for name, entry in recipe["improved"].items():
        kind = settings["recipes"][entry["recipe"]]
        model = _known(entry["start"]) if name in recipe["only"] else None
        if model is None:
            continue
        group = kind["sampling"]["group_size"] if "sampling" in kind else 1
        label = f"{name} ({entry['recipe']})"
        job = _supervised(label, model, settings["batch"], _steps(kind), estimate)
        count = job.sequences * group
        sampled = job.tokens - _mean([estimate.tasks[task] for task in settings["batch"]]).prompt_tokens
        jobs.append(
            job._replace(
                adapter=adapter_parameters(model.size, kind["lora"]) if kind["lora"] else None,
                sequences=count,
                per_device=count,
                sampled=sampled if group > 1 else 0.0,
                width=2 if kind["frozen_dtype"] == "bfloat16" else job.width,
            )
        )
    return jobs


def _steps(recipe: dict[str, Any]) -> int:
    """Return the steps of all learning rates: each is tried, and the best goes on to the end, at the latest."""
    rates, whole, trial = len(recipe["learning_rates"]), recipe["schedule"]["num_steps"], recipe["trial_steps"]
    return rates * whole if trial is None or rates == 1 else (rates - 1) * trial + whole


def _supervised(name: str, model: Model, batch: dict[str, int], steps: int, estimate: Estimate) -> Training:
    count = sum(batch.values())
    tokens = sum(
        number * (estimate.tasks[task].prompt_tokens + estimate.tasks[task].response_tokens)
        for task, number in batch.items()
    )
    longest = max(estimate.tasks[task].prompt_tokens + estimate.tasks[task].response_tokens for task in batch)
    return Training(
        name=name,
        model=model,
        adapter=None,
        sequences=count,
        per_device=count,
        tokens=tokens / count,
        longest=math.ceil(1.5 * longest),
        sampled=0.0,
        steps=steps,
    )


def _mean(lengths: list[TaskEstimate]) -> TaskEstimate:
    """Return the mean prompt and response length."""
    count = len(lengths)
    return lengths[0].model_copy(
        update={
            "prompt_tokens": sum(length.prompt_tokens for length in lengths) / count,
            "response_tokens": sum(length.response_tokens for length in lengths) / count,
        }
    )


def _known(path: str) -> Model | None:
    """Return a model, or None if it is to be trained first, so that its size is not known."""
    try:
        return load(path, classifier="classifier" in Path(path).name)
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    """Return a setting of a recipe with its references resolved."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
