"""Recipe of everything in assets/: tokenizer, tiny policies, reward models, improved policies, and the manifest.

`./reproduce.sh models` runs it; `only=[NAME]` runs single stages, named as in configs/train/tiny.yaml.
"""

import functools
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase

from ...engine.sampling import Sampling, keyed_uniforms
from ...evaluation.accuracy import sample_responses
from ...models.language_models import Policy
from ...models.quiet import quiet_libraries
from ...models.random_init import build_model
from ...models.tokenizers import build_tokenizer, load_tokenizer, vocabulary_size
from ...models.whole_models import load_whole
from ...tasks import grading, problems
from ...types import Problem
from .. import classifier_init, loop, reward_model
from ..data import Example, Mixture, chat_example, pad, solution_examples, solution_ids
from ..stages import Stages
from . import manifest, policy_improvement, verifiers
from .policy_improvement import Splits

TOKENIZER_QUESTIONS = 2000  # questions of each task on which the tokenizer is trained
ALPHABET_SOLUTIONS = 200  # worked solutions of each task; they contain every token that solutions use
DATA = ("seed", "vocab_size", "held_out", "tasks", "folder")  # settings that decide every stage
MEASURED_SEQUENCES = 16  # sequences on which the language model's activations are measured


def splits(config: DictConfig) -> Splits:
    """Generate problems by task and split; no question of a held-out split is in the training split."""
    result = {}
    for task, details in config.tasks.items():
        sizes = {"test": config.held_out.test, "validation": config.held_out.validation, "train": details.train}
        settings = OmegaConf.to_container(details.settings)
        held_out: set[str] = set()
        result[task] = {}
        for split, size in sizes.items():
            result[task][split] = problems.generate(
                task, split=split, size=size, settings=settings, avoid=frozenset(held_out)
            )
            if split != "train":
                held_out |= {problems.question_key(problem.question) for problem in result[task][split]}
    return result


def tokenizer_folder(config: DictConfig) -> str:
    """Return the folder of the tokenizer that all models share."""
    return str(Path(config.folder, "tokenizer"))


def model_shape(architecture: DictConfig) -> dict[str, str | int | float | bool]:
    """Return the configuration of a tiny model, given its architecture, width, depth and number of heads."""
    return {
        **architecture,
        "num_key_value_heads": architecture.num_attention_heads,
        "intermediate_size": architecture.hidden_size * 8 // 3 // 32 * 32,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.04,
    }


def train_language_model(config: DictConfig, name: str, data: Splits) -> None:
    """Train a causal LM from random weights on worked solutions and write its folder."""
    recipe = config.models[name]
    tokenizer = load_tokenizer(tokenizer_folder(config))
    lightning.seed_everything(recipe.seed, verbose=False)
    pools = {task: solution_examples(tokenizer, parts["train"], tokenizer.eos_token_id) for task, parts in data.items()}
    model = build_model(model_shape(recipe.architecture), tokenizer)
    module = loop.LanguageModelTraining(model, loop.Schedule(**recipe.schedule), vocabulary_size(tokenizer))
    fit_and_save(config, name, module, Mixture(pools, dict(recipe.batch), recipe.seed))


def fit_and_save(config: DictConfig, name: str, module: loop.Training, mixture: Mixture) -> None:
    """Train to the last step, then write model and tokenizer as one Hugging Face folder."""
    recipe = config.models[name]
    loop.fit(
        module,
        mixture,
        device=config.device,
        folder=str(Path(config.checkpoints, name)),
        name=name,
        identity={
            "recipe": _without_precision(OmegaConf.to_container(recipe, resolve=True)),
            "questions": OmegaConf.to_container(OmegaConf.create([config.tasks, config.held_out]), resolve=True),
        },
    )
    if recipe.get("half"):
        module.model.to(torch.float16)
    module.model.eval().save_pretrained(Path(config.folder, recipe.folder))
    load_tokenizer(tokenizer_folder(config)).save_pretrained(Path(config.folder, recipe.folder))
    loop.discard_checkpoint(str(Path(config.checkpoints, name)), name)


def _without_precision(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe without the precision in which its weights are shipped: training does not depend on it."""
    return {key: value for key, value in recipe.items() if key != "half"}


def response_labels(response: list[int], solution: list[int], correct: bool) -> list[float]:
    """Return process labels: 1.0 while the response is a prefix of the worked solution; last, the grader's verdict."""
    labels, is_prefix = [], True
    for position, token in enumerate(response):
        is_prefix = is_prefix and position < len(solution) and solution[position] == token
        labels.append(float(is_prefix))
    return [*labels[:-1], float(correct)]


def sampled_responses(config: DictConfig, data: Splits, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Example]]:
    """Sample the policies' own responses to training questions and label each token; unfinished ones are dropped."""
    recipe = config.models.classifier
    count = recipe.samples_per_task // len(recipe.policies)
    examples: dict[str, list[Example]] = {task: [] for task in data}
    for name in recipe.policies:
        policy = Policy.from_pretrained(str(Path(config.folder, config.models[name].folder)), device=config.device)
        for task, parts in data.items():
            questions = [parts["train"][i % len(parts["train"])] for i in range(count)]
            limit = recipe.max_new_tokens
            noise = [keyed_uniforms(recipe.seed, f"{i}/{p.id}", 0, name, limit) for i, p in enumerate(questions)]
            rollouts = sample_responses(policy, questions, noise, Sampling(1.0), limit)
            for problem, rollout in zip(questions, rollouts, strict=True):
                if rollout.finished:
                    response = rollout.token_ids
                    correct = grading.grade(problem, policy.response_text(response)).correct
                    solution = solution_ids(tokenizer, problem, tokenizer.eos_token_id)
                    labels = response_labels(response, solution, correct)
                    examples[task].append(chat_example(tokenizer, problem, response, labels))
    return examples


def alphabet(tokenizer: PreTrainedTokenizerBase, questions: Iterable[Problem]) -> list[int]:
    """Return the token ids of the problems' worked solutions in ascending order, the end of turn included."""
    return sorted({token for p in questions for token in solution_ids(tokenizer, p, tokenizer.eos_token_id)})


def corrupted_solutions(
    config: DictConfig, data: Splits, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[Example]]:
    """Return worked solutions; in a share of them one token is replaced by another that occurs in solutions."""
    recipe = config.models.classifier
    generator = random.Random(recipe.seed)
    examples = {}
    for task, parts in data.items():
        examples[task] = []
        tokens = alphabet(tokenizer, parts["train"][:ALPHABET_SOLUTIONS])
        replacements = [token for token in tokens if token != tokenizer.eos_token_id]
        for problem in parts["train"][: recipe.solutions_per_task]:
            solution = solution_ids(tokenizer, problem, tokenizer.eos_token_id)
            response = list(solution)
            if generator.random() < recipe.changed:
                response[generator.randrange(len(response) - 1)] = generator.choice(replacements)
            labels = response_labels(response, solution, response == solution)
            examples[task].append(chat_example(tokenizer, problem, response, labels))
    return examples


def build_classifier(
    config: DictConfig,
    data: Splits,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
) -> torch.nn.Module:
    """Return a classifier built from the likelihood reward; its activations are measured on the examples."""
    model = build_model(model_shape(config.models.classifier.architecture), tokenizer, classifier=True)
    likelihood = load_whole(str(Path(config.folder, config.models.likelihood.folder))).half()  # as it is stored
    sequences = [[*example.prompt_ids, *example.response_ids] for example in examples]
    length = min(len(sequence) for sequence in sequences)
    questions = [problem for parts in data.values() for problem in parts["train"][:ALPHABET_SOLUTIONS]]
    classifier_init.build(
        model,
        likelihood,
        torch.tensor([sequence[:length] for sequence in sequences]),
        alphabet(tokenizer, questions),
        marker=examples[0].prompt_ids[-1],
    )
    return model


def train_classifier(config: DictConfig, data: Splits) -> None:
    """Grow the likelihood reward into a classifier, fit its head, then train the layers that are not frozen."""
    recipe = config.models.classifier
    tokenizer = load_tokenizer(tokenizer_folder(config))
    lightning.seed_everything(recipe.seed, verbose=False)
    sampled = sampled_responses(config, data, tokenizer)
    corrupted = corrupted_solutions(config, data, tokenizer)
    pools, counts = {}, {}
    for task, count in recipe.batch.items():
        for group, examples in ((f"{task}/sampled", sampled[task]), (f"{task}/corrupted", corrupted[task])):
            pools[group] = [example._replace(group=group) for example in examples]
        counts[f"{task}/corrupted"] = round(count * recipe.corrupted)
        counts[f"{task}/sampled"] = count - counts[f"{task}/corrupted"]
    model = build_classifier(config, data, tokenizer, next(iter(sampled.values()))[:MEASURED_SEQUENCES])
    head_blocks = pad([example for pool in pools.values() for example in pool[-recipe.probe :]])
    head_loss = reward_model.fit_head(model, head_blocks, recipe.process_weight)
    print(f"loss of the head alone: {head_loss:.3f}")
    module = reward_model.RewardTraining(model, loop.Schedule(**recipe.schedule), recipe.process_weight)
    fit_and_save(config, "classifier", module, Mixture(pools, counts, recipe.seed))


@quiet_libraries()
def train(config: DictConfig) -> None:
    """Run the stages named in `only`, in their order."""
    torch.set_num_threads(config.threads)
    data = splits(config)
    settings = OmegaConf.to_container(config, resolve=True)
    stages = Stages(Path(config.checkpoints, "stages.json"), {key: settings[key] for key in DATA})
    order = stages_of(config)
    for name, stage in order.items():
        recipe = [_without_precision(settings["models"].get(name, {})), settings["improved"].get(name)]
        recipe.append(settings["improvement"] if name in settings["improved"] else None)
        if name in config.only and stages.should_run(name, recipe):
            stage(data)
            stages.note_finished(name, recipe)
    stages.end(list(order), config.only)


def stages_of(config: DictConfig) -> dict[str, Callable[[Splits], None]]:
    """Return what each stage runs, in order.

    Raises:
        ValueError: `only` names a stage that does not exist.
    """
    stages: dict[str, Callable[[Splits], None]] = {"tokenizer": functools.partial(train_tokenizer, config)}
    for name in config.models:
        train = train_verifier if "labels" in config.models[name] else train_language_model
        stages[name] = functools.partial(train, config, name)
    stages["classifier"] = functools.partial(train_classifier, config)
    for name in config.improved:
        stages[name] = functools.partial(policy_improvement.improve, config, name)
    if manifest.WEAK_LIKELIHOOD in config.models:  # it measures the shipped models
        stages["manifest"] = functools.partial(manifest.write, config)
    for name in config.only:
        if name not in stages:
            raise ValueError(f"only must name stages among {', '.join(stages)}; got {name!r}.")
    return stages


def train_verifier(config: DictConfig, name: str, data: Splits) -> None:
    """Train a token-level verifier on verdicts of the grader, and write its folder."""
    fit_and_save(config, name, *verifiers.training(config, name, data))


def train_tokenizer(config: DictConfig, data: Splits) -> None:
    """Train the tokenizer that all models share on training questions."""
    texts = [problem.question for parts in data.values() for problem in parts["train"][:TOKENIZER_QUESTIONS]]
    build_tokenizer(texts, config.vocab_size).save_pretrained(tokenizer_folder(config))
