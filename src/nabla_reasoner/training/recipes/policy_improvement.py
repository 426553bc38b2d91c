"""Policies improved by SFT, GRPO, or GRPO after SFT, for the rows of Table 1.

All recipes use the same questions, seen equally often. SFT learns from their worked solutions, GRPO only from whether
its own responses are correct.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import lightning
import pandas as pd
import torch
import transformers
from omegaconf import DictConfig, OmegaConf

from ...models.tokenizers import load_tokenizer, vocabulary_size
from ...models.whole_models import load_whole
from ...types import Problem
from ..checkpoints import read_log
from ..data import Mixture, solution_examples
from ..grpo import GroupRelativeTraining, GroupSampling, check_adapter
from ..loop import FitResult, Schedule, discard_checkpoint, fit
from ..sft import PolicyTraining, SupervisedTraining

UNSHOWN = ["train/gradient_norm", "train/kl"]  # columns of the log that committed curves leave out
Splits = dict[str, dict[str, list[Problem]]]


class TrainedPolicy(NamedTuple):
    """A policy with the best weights of its training.

    Attributes:
        model: the causal LM to save, or the peft model with the adapter around it.
        result: step and validation accuracy of these weights.
        flops: floating-point operations of the training.
    """

    model: torch.nn.Module
    result: FitResult
    flops: float


def check_tokenizer(model: transformers.PreTrainedModel, folder: str, expected_folder: str) -> None:
    """Raise ValueError unless the policy in `folder` uses the tokenizer in `expected_folder`."""
    vocabulary = load_tokenizer(folder).get_vocab()
    expected = load_tokenizer(expected_folder)
    rows = len(model.get_input_embeddings().weight)
    if vocabulary != expected.get_vocab() or rows < vocabulary_size(expected):
        raise ValueError(
            f"a policy must have the tokenizer it is trained with; {folder} has another ({len(vocabulary)} tokens "
            f"against {len(expected)}). Train it again with ./reproduce.sh models."
        )


def train_policy(
    config: DictConfig,
    recipe: DictConfig,
    start: str,
    name: str,
    data: Splits,
    folder: Path,
    until: int | None = None,
) -> TrainedPolicy:
    """Train the policy in folder `start` by one recipe.

    Args:
        config: `improvement` of the training configuration: questions, batch, validation, shared by all recipes.
        recipe: `method` (sft or grpo), `every` (steps between validations), `schedule` with one learning rate, `lora`
            (settings of peft's adapter; null trains all weights), `frozen_dtype` (precision of the weights under an
            adapter, which itself stays in float32; null: float32), and for grpo `sampling`.
        start: folder of the policy at the start of training.
        name: names the training's checkpoints.
        data: problems by task and split; those of the tasks in `config.batch` are used.
        folder: of logs and unfinished trainings.
        until: step at which this call stops at the latest; another call goes on from there.

    Raises:
        ValueError: an unknown method or precision, `frozen_dtype` without an adapter, checkpoints within a batch's
            updates, a policy with another tokenizer, or one that `load_whole` or `PolicyTraining` refuses.
    """
    _check_recipe(recipe)
    data = {task: data[task] for task in config.batch}
    lightning.seed_everything(config.seed, verbose=False)
    model = load_whole(start, dtype=recipe.frozen_dtype or "float32")
    check_tokenizer(model, start, config.tokenizer)
    recipe_values = OmegaConf.to_container(recipe, resolve=True)
    saved = model
    if recipe.lora is not None:
        import peft  # of the extras `small` and `reference`

        saved = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **recipe_values["lora"]))
        model = saved.get_base_model()  # the same layers without peft's wrapper
    module, mixture = build_training(config, recipe, start, model, data)
    result = fit(
        module,
        mixture,
        device=config.device,
        folder=str(folder / name),
        name=name,
        identity={"start": start, "recipe": recipe_values, "shared": OmegaConf.to_container(config)},
        interval=recipe.every,
        patience=config.patience,
        until=until,
        validation=[parts["validation"][-config.validation :] for parts in data.values()],
    )
    return TrainedPolicy(saved.eval(), result, module.flops.item())


def _check_recipe(recipe: DictConfig) -> None:
    """Raise ValueError as `train_policy` for what a recipe alone shows."""
    if recipe.method not in ("sft", "grpo"):
        raise ValueError(f"method must be sft or grpo; got {recipe.method!r}.")
    if recipe.frozen_dtype is not None and recipe.lora is None:
        raise ValueError(
            f"frozen_dtype must be null where all weights are trained; got {recipe.frozen_dtype!r} with lora: null."
        )
    if recipe.method == "grpo":
        check_adapter(recipe.lora)
    updates = (recipe.get("sampling") or {}).get("updates_per_batch", 1)
    if recipe.every % updates:
        raise ValueError(
            "every must be a multiple of updates_per_batch, so that a checkpoint holds whole batches; "
            f"got {recipe.every} and {updates}."
        )


def build_training(
    config: DictConfig, recipe: DictConfig, start: str, model: torch.nn.Module, data: Splits
) -> tuple[PolicyTraining, Mixture]:
    """Return the training of a model by one recipe, and its batches; arguments as in `train_policy`."""
    tokenizer = load_tokenizer(start)
    schedule = Schedule(**recipe.schedule)
    counts = dict(config.batch)
    questions = {task: parts["train"][: config.questions] for task, parts in data.items()}
    if recipe.method == "sft":
        module = SupervisedTraining(model, tokenizer, schedule, config.max_new_tokens)
        end = module.policy.eos_ids[0]  # of the chat template, which may not be the tokenizer's (Gemma 3, Phi-3)
        pools = {task: solution_examples(tokenizer, problems, end) for task, problems in questions.items()}
        return module, Mixture(pools, counts, config.seed)
    sampling = GroupSampling(**recipe.sampling)
    module = GroupRelativeTraining(
        model,
        tokenizer,
        schedule,
        config.max_new_tokens,
        sampling=sampling,
        seed=config.seed,
        reference=load_whole(start, dtype=recipe.frozen_dtype or "float32") if sampling.kl_weight > 0 else None,
    )
    return module, Mixture(questions, counts, config.seed, collate=list, repeats=sampling.updates_per_batch)


def improve(config: DictConfig, name: str, data: Splits) -> None:
    """Train one of the shipped improved policies, and write the weights that are best on validation.

    Each learning rate of the recipe is tried for `trial_steps`; the best of them then goes on to the end. Without
    `trial_steps` each is trained to its end. Written are the policy's folder (weights in half precision), the curves
    of all rates, and a row per rate in sweeps/improvement.csv.
    """
    entry = config.improved[name]
    recipe = config.improvement.recipes[entry.recipe]
    folder = work_folder(config)
    if not Path(entry.start, "config.json").is_file():
        raise ValueError(f"{name} starts from {entry.start}, which must hold a model; it does not. Train that first.")

    def attempt(run: str, until: int | None) -> TrainedPolicy:
        schedule = {**recipe.schedule, "learning_rate": runs[run]}
        kept = {key: recipe.get(key) for key in ("method", "lora", "frozen_dtype", "every", "sampling")}
        one_rate = OmegaConf.create({**kept, "schedule": schedule})
        trained = train_policy(shared_settings(config), one_rate, entry.start, run, data, folder, until)
        best_step, accuracy, last_step = trained.result
        print(f"{run}: best at step {best_step} of {last_step}, {accuracy:.1f} % right", flush=True)
        return trained

    runs = {f"{name}-{rate:g}": rate for rate in recipe.learning_rates}
    trial = recipe.trial_steps if len(runs) > 1 else None
    attempts = {run: attempt(run, trial) for run in runs}
    best = best_attempt(attempts)
    if trial is not None:
        attempts[best] = attempt(best, None)
    attempts[best].model.to(torch.float16).save_pretrained(entry.folder)
    if recipe.lora is None:
        load_tokenizer(entry.start).save_pretrained(entry.folder)
    Path(entry.folder, "README.md").unlink(missing_ok=True)  # peft's empty model card
    assets = Path(config.improvement.assets)
    write_curves(assets / "curves" / f"{name}.csv", {run: folder / run / "log" for run in attempts})
    write_attempts(assets / "sweeps" / "improvement.csv", name, best, attempts)
    for run in attempts:
        discard_checkpoint(str(folder / run), run)


def work_folder(config: DictConfig) -> Path:
    """Return the recipe's folder of logs and unfinished trainings, which the command has locked."""
    return Path(config.checkpoints if "checkpoints" in config else config.work_folder)


def best_attempt(attempts: Mapping[str, TrainedPolicy]) -> str:
    """Return the training with the highest validation accuracy, the first of equals."""
    return max(attempts, key=lambda run: attempts[run].result.accuracy)


def write_attempts(path: Path, name: str, best: str, attempts: Mapping[str, TrainedPolicy]) -> None:
    """Replace the rows of one policy in the table of all trainings."""
    rows = [
        {
            "policy": name,
            "learning_rate": run.removeprefix(f"{name}-"),
            "shipped": run == best,
            "best_step": trained.result.step,
            "last_step": trained.result.last_step,
            "validation_accuracy": f"{trained.result.accuracy:.2f}",
            "flops": f"{trained.flops:.4g}",
        }
        for run, trained in attempts.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    others = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame()
    same = list(others.columns) == list(rows[0])
    others = others[others.policy != name] if same else pd.DataFrame(columns=list(rows[0]))
    pd.concat([others, pd.DataFrame(rows).astype(str)]).sort_values("policy", kind="stable").to_csv(path, index=False)


def shared_settings(config: DictConfig) -> DictConfig:
    """Return the settings of `improvement` that all recipes share."""
    shared = {key: value for key, value in config.improvement.items() if key not in ("recipes", "assets")}
    return OmegaConf.create({**shared, "device": config.device})


def write_curves(path: Path, logs: Mapping[str, Path]) -> None:
    """Write learning curves as CSV: training reward or loss of every tenth step, and every validation.

    Args:
        logs: folder of each training's log, by run; a resumed training has several versions of it.
    """
    curves = pd.concat({run: _curve(log) for run, log in logs.items()}, names=["run", "step"])
    path.parent.mkdir(parents=True, exist_ok=True)
    curves.dropna(axis=1, how="all").sort_index(axis=1).map(_short, na_action="ignore").to_csv(path)


def _curve(log: Path) -> pd.DataFrame:
    steps = read_log(log)
    return steps[steps["validation/accuracy"].notna() | (steps.index % 10 == 0)].drop(
        columns=["epoch", *UNSHOWN], errors="ignore"
    )


def _short(text: str) -> str:
    return f"{float(text):.5g}" if "." in text or "e" in text else text
