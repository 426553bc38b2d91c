"""Policies improved by training, for the rows SFT and GRPO of Table 1: what `./reproduce.sh models` does for them.

Both see the same questions, the same number of times. SFT is shown their worked solutions, GRPO only whether its own
answers are right; "sft-grpo" is GRPO from where SFT ended.
"""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
import transformers
from omegaconf import DictConfig, OmegaConf

from ...models.tokenizers import load_tokenizer
from ...tasks import worked_solutions
from ...types import Problem
from .. import grpo, loop, sft
from ..data import Example, Mixture
from ..grpo import GroupSampling
from ..loop import Fitted, Schedule

Splits = dict[str, dict[str, list[Problem]]]


def examples(tokenizer: Any, problems: list[Problem]) -> list[Example]:
    """Worked solutions of the problems in the tokenizer's chat format."""
    made = []
    for problem in problems:
        prompt = tokenizer.apply_chat_template(problem.messages, add_generation_prompt=True, return_dict=False)
        solution = tokenizer.encode(worked_solutions.worked_solution(problem), add_special_tokens=False)
        made.append(Example(problem.task, list(prompt), [*solution, tokenizer.eos_token_id]))
    return made


def check_tokenizer(model: torch.nn.Module, folder: str, tokenizer: Any) -> None:
    """Raise ValueError unless a checkpoint was made for this tokenizer."""
    own = load_tokenizer(folder).get_vocab()
    if own != tokenizer.get_vocab() or model.get_input_embeddings().num_embeddings < len(tokenizer):
        raise ValueError(
            f"a policy must have the tokenizer it is trained with; {folder} has another ({len(own)} tokens against "
            f"{len(tokenizer)}). Train it anew with ./reproduce.sh models."
        )


class Tuned(NamedTuple):
    """A policy with the best weights of its training.

    Attributes:
        model: what is saved: the causal LM, or the adapter around it.
        ended: step and validation accuracy of these weights.
    """

    model: Any
    ended: Fitted


def fit(config: DictConfig, recipe: DictConfig, start: str, name: str, data: Splits) -> Tuned:
    """Train the policy in folder `start` by one recipe.

    Args:
        config: `improvement` of the training configuration: questions, batch, validation, shared by all recipes.
        recipe: `method` (sft or grpo), `schedule`, `lora` (settings of peft's adapter; null trains all weights), and
            for grpo `sampling`.
        start: folder of the policy to begin with.
        name: of the training, for its checkpoints.
        data: problems by task and split.
    """
    if recipe.method not in ("sft", "grpo"):
        raise ValueError(f"method must be sft or grpo; got {recipe.method!r}.")
    lightning.seed_everything(config.seed, verbose=False)
    tokenizer = load_tokenizer(start)
    model = transformers.AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    check_tokenizer(model, start, load_tokenizer(config.tokenizer))
    saved = model
    if recipe.lora is not None:
        import peft  # of the extras `small` and `reference`

        lora = OmegaConf.to_container(recipe.lora)
        saved = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **lora))
        model = saved.get_base_model()  # the same layers without peft's shell
    asked = {task: parts["train"][: config.questions] for task, parts in data.items()}
    examined = [parts["validation"][-config.validation :] for parts in data.values()]
    schedule = Schedule(**recipe.schedule)
    counts = dict(config.batch)
    if recipe.method == "sft":
        module: Any = sft.SupervisedTraining(model, tokenizer, schedule, config.max_new_tokens)
        pools: dict[str, list] = {task: examples(tokenizer, own) for task, own in asked.items()}
        mixture = Mixture(pools, counts, config.seed)
    else:
        sampling = GroupSampling(**recipe.sampling)
        reference = transformers.AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        module = grpo.GroupRelativeTraining(
            model, tokenizer, schedule, config.max_new_tokens, sampling=sampling, seed=config.seed, reference=reference
        )
        mixture = Mixture(asked, counts, config.seed, collate=list, repeats=sampling.updates_per_batch)
    ended = loop.fit(
        module,
        mixture,
        device=config.device,
        folder=str(Path("checkpoints", name)),
        name=name,
        identity={"start": start, "recipe": OmegaConf.to_container(recipe), "shared": OmegaConf.to_container(config)},
        every=config.every,
        validation=examined,
    )
    return Tuned(saved.eval(), ended)


def improve(config: DictConfig, name: str, data: Splits) -> None:
    """Train one of the shipped improved policies and write its folder (weights in half precision) and its curve."""
    entry = config.improved[name]
    recipe = config.improvement.recipes[entry.recipe]
    if not Path(entry.start, "config.json").is_file():
        raise ValueError(f"{name} starts from {entry.start}, which must hold a model; it does not. Train that first.")
    model, ended = fit(shared(config), recipe, entry.start, name, data)
    model.to(torch.float16).save_pretrained(entry.folder)
    if recipe.lora is None:
        load_tokenizer(entry.start).save_pretrained(entry.folder)
    Path(entry.folder, "README.md").unlink(missing_ok=True)  # peft's empty model card
    write_curve(Path(config.improvement.assets, "curves", f"{name}.csv"), Path("checkpoints", name, "log"))
    print(f"{name}: best at step {ended.step}, validation accuracy {ended.accuracy:.1f} %", flush=True)


def shared(config: DictConfig) -> DictConfig:
    """What all recipes of `improvement` share, without the recipes."""
    kept = {key: value for key, value in config.improvement.items() if key not in ("recipes", "sweep", "assets")}
    return OmegaConf.create({**kept, "device": config.device})


def curve(log: Path) -> Iterator[dict[str, str]]:
    """Rows of a training's log, all its versions (a resumed training has several), by step."""
    rows: dict[int, dict[str, str]] = {}
    for file in sorted(log.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                rows.setdefault(int(row["step"]), {}).update({k: v for k, v in row.items() if v})
    return (rows[step] for step in sorted(rows))


def write_curve(path: Path, log: Path) -> None:
    """The learning curve as a small CSV file: training reward or loss every tenth step, every validation."""
    kept = [row for row in curve(log) if "validation/accuracy" in row or int(row["step"]) % 10 == 0]
    names = list(dict.fromkeys(itertools.chain.from_iterable(kept)))
    names = ["step", *sorted(name for name in names if name not in ("step", "epoch"))]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[_short(row.get(name, "")) for name in names] for row in kept])


def _short(text: str) -> str:
    return f"{float(text):.5g}" if "." in text or "e" in text else text


def sweep(config: DictConfig, data: Splits) -> None:
    """Every candidate learning rate of each recipe, on one policy and with fewer steps, into sweeps/improvement.csv.

    The rate with the best validation accuracy is the one the recipe should have; the file says what each reached.
    """
    settings, rows = config.improvement.sweep, []
    for name, rates in settings.learning_rates.items():
        for rate in rates:
            recipe = OmegaConf.merge(
                config.improvement.recipes[name], {"schedule": {"learning_rate": rate, "num_steps": settings.num_steps}}
            )
            _, ended = fit(shared(config), recipe, settings.start, f"sweep-{name}-{rate:g}", data)
            reached = [settings.num_steps, ended.step, f"{ended.accuracy:.2f}"]
            rows.append([Path(settings.start).name, name, f"{rate:g}", *reached])
            print(*rows[-1], flush=True)
    path = Path(config.improvement.assets, "sweeps", "improvement.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["policy", "recipe", "learning_rate", "num_steps", "best_step", "validation_accuracy"])
        writer.writerows(rows)
