"""Recipe of scale=small: rewards as LoRA adapters on the policy's own backbone, and policies improved by training.

A reward is of one of two kinds:

    likelihood  the policy tuned on right answers; the reward is the log-likelihood of a response under it
    classifier  a verifier: a score head, with the grader's verdict as the label of every token (Cobbe et al., arXiv
                2110.14168)

`./reproduce.sh models scale=small` runs it; stages as in configs/train/small.yaml. A likelihood reward trained on our
terse worked solutions would rank by format, so both are trained on the policy's own graded answers.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import peft
import torch
from omegaconf import DictConfig, OmegaConf

from ...engine import scoring
from ...evaluation.accuracy import greedy_accuracy
from ...models import conversion
from ...models.language_models import RewardModel
from ...models.quiet import quiet_libraries
from ...models.tokenizers import load_tokenizer
from ...models.whole_models import load_whole
from .. import adapters, loop, verifier
from ..data import Example, Mixture
from ..stages import Stages
from . import manifest, policy_improvement, small_answers, small_prompts
from .policy_improvement import Splits
from .small_answers import Answer

DATA = ("seed", "policy", "tasks", "held_out", "samples", "sampling", "max_new_tokens")  # what every stage depends on


def train_reward(config: DictConfig, name: str, data: Splits) -> None:
    """Train the adapter of a reward on the policy's answers to the questions of its tasks.

    A likelihood reward learns right answers: as sampled, corrected, and moved to other training questions. A classifier
    also learns wrong ones, and has a score head. A corrected answer differs from a wrong one in its result only, so
    that neither wording nor form tells them apart.
    """
    recipe = config.rewards[name]
    data = {task: data[task] for task in recipe.batch}
    sampled = small_answers.training_answers(config, data)
    answers = {**small_answers.by_origin(config, data, sampled), "wrong": [a for a in sampled if not a.correct]}
    model = _base(config, name)
    tokenizer = load_tokenizer(config.policy.path)
    reward = RewardModel(model, tokenizer, name, recipe.kind)
    reward.check_forward()
    if recipe.kind == "likelihood":
        training = functools.partial(loop.LanguageModelTraining, vocab_size=reward.strong.vocab_size)
    else:
        training = functools.partial(
            verifier.VerifierTraining,
            language_weight=recipe.language_weight,
            checkpoints={},
            tokenizer=tokenizer,
        )
    _fit(config, name, model, _pools(config, name, reward, answers), training)


def _pools(
    config: DictConfig, name: str, reward: RewardModel, answers: Mapping[str, Sequence[Answer]]
) -> dict[str, list[Example]]:
    """Return the training sequences of each group of a reward's batches: a task's answers of one origin."""
    return {
        _group(task, origin): [
            small_answers.reward_example(reward, answer, "all")
            for answer in answers[origin]
            if answer.problem.task == task
        ]
        for task, counts in config.rewards[name].batch.items()
        for origin in counts
    }


def _group(task: str, origin: str) -> str:
    return f"{task}, {origin}"


def _base(config: DictConfig, name: str) -> torch.nn.Module:
    """Return the policy's backbone, with a score head of zeros for a classifier; seeds the training."""
    lightning.seed_everything(config.rewards[name].seed, verbose=False)
    if config.rewards[name].kind == "classifier":
        return verifier.from_language_model(config.policy.path)
    return load_whole(config.policy.path)


def _fit(
    config: DictConfig,
    name: str,
    base: torch.nn.Module,
    pools: dict[str, list[Example]],
    training: Callable[..., loop.Training],
) -> None:
    """Train an adapter on a model, and write it in half precision and cut to `kept_rank` into the reward's folder.

    Args:
        pools: examples by group of the recipe's `batch`.
        training: makes the training from model and schedule.
    """
    recipe = config.rewards[name]
    counts = {_group(task, origin): count for task, part in recipe.batch.items() for origin, count in part.items()}
    sizes = {group: len(pool) for group, pool in pools.items()}
    print(f"{name}: training answers {sizes}", flush=True)
    task_type = "SEQ_CLS" if recipe.kind == "classifier" else "CAUSAL_LM"
    settings = OmegaConf.to_container(recipe.lora, resolve=True)
    wrapped = peft.get_peft_model(base, peft.LoraConfig(task_type=task_type, **settings))
    model = wrapped.get_base_model()  # the same layers without peft's wrapper: `base_model` is the backbone again
    identity = {"recipe": OmegaConf.to_container(recipe, resolve=True), "answers": sizes, "start": config.policy.path}
    loop.fit(
        training(model, loop.Schedule(**recipe.schedule)),
        Mixture(pools, counts, recipe.seed),
        device=config.device,
        folder=str(Path(config.work_folder, name)),
        name=name,
        identity=identity,
        interval=recipe.every,
        precision=recipe.precision,
    )
    folder = adapter_folder(config, name)
    wrapped.eval().to(torch.float16).save_pretrained(folder)
    adapters.truncate_folder(folder, recipe.kept_rank)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    (folder / "manifest.json").unlink(missing_ok=True)  # of the adapter that was here before
    loop.discard_checkpoint(str(Path(config.work_folder, name)), name)


def adapter_folder(config: DictConfig, name: str) -> Path:
    """Return the folder of a reward's adapter."""
    return Path(config.folder, config.rewards[name].folder)


def load_reward(config: DictConfig, name: str) -> RewardModel:
    """Load a reward as runs do: merged into a plain folder."""
    folder = Path(config.work_folder, f"{name}-merged")
    conversion.merge(str(folder), base=config.policy.path, adapter=str(adapter_folder(config, name)))
    return RewardModel.from_pretrained(str(folder), kind=config.rewards[name].kind, device=config.device)


def quality(reward: RewardModel, answers: Sequence[Answer], count: int) -> dict[str, float | None]:
    """Return how well a reward ranks `count` answers to each of some problems: percentages, and AUC in [0, 1].

    `auc_within` compares right with wrong answers to the same problem only, as a search does. `token_auc` is that of
    the rewards of all prefixes against the verdict on the response. None is what is undefined.
    """
    problems = [answer.problem for answer in answers]
    prompts = [reward.prompt_ids(problem.messages) for problem in problems]
    responses = [answer.token_ids for answer in answers]
    scores = np.array(scoring.rewards(reward, prompts, responses)[0]).reshape(-1, count)
    correct = np.array([answer.correct for answer in answers])
    result = {
        "num_problems": len(scores),
        **manifest.selection_quality(scores, correct.reshape(-1, count)),
        "auc_within": manifest.auc_within(scores, correct.reshape(-1, count)),
        "token_auc": manifest.token_auc(reward, problems, responses, correct),
    }
    return {name: manifest.rounded(value) for name, value in result.items()}


def measure(config: DictConfig, data: Splits) -> None:
    """Measure the rewards on the policy's answers to validation questions of their tasks.

    Rewards that were not trained are left out, and said. Writes manifest.json beside each adapter.
    """
    count = config.validation.per_question
    for name, recipe in config.rewards.items():
        if not (adapter_folder(config, name) / "adapter_model.safetensors").is_file():
            print(f"{name}: no adapter in {adapter_folder(config, name)}", flush=True)
            continue
        reward = load_reward(config, name)
        part = {task: data[task] for task in recipe.batch}
        answers = small_answers.validation_answers(config, part)
        results = {task: quality(reward, answers[task], count) for task in part}
        settings = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("tasks", "samples", "sampling")}
        settings["tasks"] = {task: settings["tasks"][task] for task in part}
        content = {
            "made_by": "./reproduce.sh models scale=small",
            "shipped": recipe.kind,
            "measured_on": f"{config.validation.questions} validation problems per task, {count} samples each",
            "validation": results,
            **_greedy(config, reward, part),
            "recipe": OmegaConf.to_container(recipe, resolve=True),
            **settings,
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (adapter_folder(config, name) / "manifest.json").write_text(text, encoding="utf-8")
        print(name, json.dumps(results), flush=True)


def _greedy(config: DictConfig, reward: RewardModel, data: Splits) -> Mapping[str, Any]:
    """Return the greedy accuracy of a likelihood reward's own model on the validation problems, in percent."""
    if reward.strong is None:
        return {}
    problems_of = {task: parts["validation"][: config.validation.questions] for task, parts in data.items()}
    return {
        "judge_greedy_accuracy": {  # the key in the shipped file
            task: round(greedy_accuracy(reward.strong, problems, config.max_new_tokens), 1)
            for task, problems in problems_of.items()
        }
    }


def stages_of(config: DictConfig) -> dict[str, Callable[[Splits], object]]:
    """Return what each stage runs, in order.

    Raises:
        ValueError: `only` names a stage that does not exist, or an adapter cannot be cut to its `kept_rank`.
    """
    for name, recipe in config.rewards.items():
        if recipe.kept_rank > recipe.lora.r:
            raise ValueError(
                f"rewards.{name}.kept_rank must be at most {recipe.lora.r}, the rank that is trained (lora.r); got "
                f"{recipe.kept_rank}."
            )
        for key in ("use_rslora", "rank_pattern", "alpha_pattern"):
            if recipe.lora.get(key):
                raise ValueError(
                    f"rewards.{name}.lora.{key} must be left out, because an adapter that is cut to kept_rank has one "
                    f"rank and the scale lora_alpha / r; got {recipe.lora[key]}."
                )
    stages: dict[str, Callable[[Splits], object]] = {
        "prompts": lambda _: small_prompts.compare(config),
        "samples": functools.partial(small_answers.training_answers, config),
        **{name: functools.partial(train_reward, config, name) for name in config.rewards},
        "measure": functools.partial(measure, config),
    }
    for name in config.improved:
        stages[name] = functools.partial(policy_improvement.improve, config, name)
    for name in config.only:
        if name not in stages:
            raise ValueError(f"only must name stages among {', '.join(stages)}; got {name!r}.")
    return stages


@quiet_libraries()
def train(config: DictConfig) -> None:
    """Run the stages named in `only`, in their order; a stopped command goes on with the stage that was running."""
    torch.set_num_threads(config.threads)
    package = {key: value for key, value in config.policy.prepare.items() if key != "_target_"}
    conversion.unpack(**package)
    settings = OmegaConf.to_container(config, resolve=True)
    stages = Stages(Path(config.work_folder, "stages.json"), {key: settings[key] for key in DATA})
    improved = {name: [entry, settings["improvement"]] for name, entry in settings["improved"].items()}
    measured = [settings["validation"], settings["rewards"]]
    stage_settings = {  # of single stages
        "prompts": settings["prompts"],
        **settings["rewards"],
        "measure": measured,
        **improved,
    }
    order = stages_of(config)
    data = small_answers.make_splits(config)
    for name, stage in order.items():
        if name in config.only and stages.should_run(name, stage_settings.get(name)):
            stage(data)
            stages.note_finished(name, stage_settings.get(name))
    stages.end(list(order), config.only)
