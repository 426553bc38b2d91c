"""Recipe of scale=small: two rewards as LoRA adapters on the policy's own backbone, and policies improved by training.

    likelihood  the policy tuned on right answers; the reward is the log-likelihood of a response under it
    verifier    a score head, with the grader's verdict as the label of every token (Cobbe et al., arXiv 2110.14168)

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
from .. import loop, verifier
from ..data import Example, Mixture
from ..stages import Stages
from . import manifest, policy_improvement, small_answers, small_prompts
from .policy_improvement import Splits
from .small_answers import Answer

KINDS = {"likelihood": "likelihood", "verifier": "classifier"}  # kind of each reward, by its name in the recipe
DATA = ("seed", "policy", "tasks", "held_out", "samples", "sampling", "max_new_tokens")  # what every stage depends on


def train_likelihood(config: DictConfig, data: Splits) -> None:
    """Tune the policy's adapter on right answers: as sampled, corrected, and moved to other training questions."""
    answers = small_answers.by_origin(config, data, small_answers.training_answers(config, data))
    model = _base(config, "likelihood", "CAUSAL_LM")
    reward = RewardModel(model, load_tokenizer(config.policy.path), "likelihood", "likelihood")
    pools = _pools(config, "likelihood", reward, answers)
    training = functools.partial(loop.LanguageModelTraining, vocab_size=reward.strong.vocab_size)
    _fit(config, "likelihood", model, pools, training)


def train_verifier(config: DictConfig, data: Splits) -> None:
    """Train the verifier's adapter and score head on wrong answers and on right ones: as sampled, and corrected.

    A corrected answer differs from a wrong one in its result only, so that neither wording nor form tells them apart.
    """
    sampled = small_answers.training_answers(config, data)
    answers = {**small_answers.by_origin(config, data, sampled), "wrong": [a for a in sampled if not a.correct]}
    model = _base(config, "verifier", "SEQ_CLS")
    tokenizer = load_tokenizer(config.policy.path)
    reward = RewardModel(model, tokenizer, "verifier", "classifier")
    pools = _pools(config, "verifier", reward, answers)
    weight = config.rewards.verifier.language_weight
    training = functools.partial(verifier.VerifierTraining, language_weight=weight, checkpoints={}, tokenizer=tokenizer)
    _fit(config, "verifier", model, pools, training)


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


def _base(config: DictConfig, name: str, task_type: str) -> torch.nn.Module:
    """Return the policy's backbone, with a score head of zeros for a classifier; seeds the training."""
    lightning.seed_everything(config.rewards[name].seed, verbose=False)
    if task_type == "SEQ_CLS":
        return verifier.from_language_model(config.policy.path)
    return conversion.load_base(config.policy.path, task_type)


def _fit(
    config: DictConfig,
    name: str,
    base: torch.nn.Module,
    pools: dict[str, list[Example]],
    training: Callable[..., loop.Training],
) -> None:
    """Train an adapter on a model, and write it in half precision into the reward's folder.

    Args:
        pools: examples by group of the recipe's `batch`.
        training: makes the training from model and schedule.
    """
    recipe = config.rewards[name]
    counts = {_group(task, origin): count for task, part in recipe.batch.items() for origin, count in part.items()}
    sizes = {group: len(pool) for group, pool in pools.items()}
    print(f"{name}: training answers {sizes}", flush=True)
    task_type = "SEQ_CLS" if KINDS[name] == "classifier" else "CAUSAL_LM"
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
    )
    folder = adapter_folder(config, name)
    wrapped.eval().to(torch.float16).save_pretrained(folder)
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
    return RewardModel.from_pretrained(str(folder), kind=KINDS[name], device=config.device)


def quality(reward: RewardModel, answers: Sequence[Answer], count: int) -> dict[str, float]:
    """Return how well a reward ranks `count` answers to each of some problems: percentages, and AUC in [0, 1].

    `auc_within` compares right with wrong answers to the same problem only, as a search does. `token_auc` is that of
    the rewards of all beginnings against the verdict on the response.
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
    return {name: round(float(value), 3) for name, value in result.items()}


def measure(config: DictConfig, data: Splits) -> None:
    """Measure the rewards on the policy's answers to validation questions; write manifest.json beside each adapter."""
    count = config.validation.per_question
    answers = small_answers.validation_answers(config, data)
    for name in config.rewards:
        if not (adapter_folder(config, name) / "adapter_model.safetensors").is_file():
            print(f"{name}: no adapter in {adapter_folder(config, name)}", flush=True)
            continue
        reward = load_reward(config, name)
        results = {task: quality(reward, part, count) for task, part in answers.items()}
        content = {
            "made_by": "./reproduce.sh models scale=small",
            "shipped": KINDS[name],
            "measured_on": f"{config.validation.questions} validation problems per task, {count} samples each",
            "validation": results,
            **_greedy(config, reward, data),
            "recipe": OmegaConf.to_container(config.rewards[name], resolve=True),
            **{key: OmegaConf.to_container(config[key], resolve=True) for key in ("tasks", "samples", "sampling")},
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


def stages_of(config: DictConfig, data: Splits) -> dict[str, Callable[[], object]]:
    """Return what each stage runs, in order.

    Raises:
        ValueError: `only` names a stage that does not exist.
    """
    stages: dict[str, Callable[[], object]] = {
        "prompts": functools.partial(small_prompts.compare, config),
        "samples": functools.partial(small_answers.training_answers, config, data),
        "likelihood": functools.partial(train_likelihood, config, data),
        "verifier": functools.partial(train_verifier, config, data),
        "measure": functools.partial(measure, config, data),
    }
    for name in config.improved:
        stages[name] = functools.partial(policy_improvement.improve, config, name, data)
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
    own = {"prompts": settings["prompts"], **settings["rewards"], **improved}  # settings of single stages
    for name, stage in stages_of(config, small_answers.make_splits(config)).items():
        if name in config.only and stages.should_run(name, own.get(name)):
            stage()
            stages.note_finished(name, own.get(name))
    stages.end()
