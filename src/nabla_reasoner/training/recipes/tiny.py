"""`./reproduce.sh models`: trains everything shipped in assets/ and measures it into assets/manifest.json.

Stages: tokenizer, tiny-base, tiny-instruct (policies), likelihood (a longer-trained judge; -medium stopped earlier),
classifier (grown from the judge, trained on the policies' own samples), the policies improved by training
(tiny-base-sft and so on, see `tuning`), manifest. Each can be run alone with `only=[NAME]`.
"""

import random
from pathlib import Path

import hydra
import lightning
import torch
import transformers
from omegaconf import DictConfig, OmegaConf

from ...config import schema
from ...engine import generation
from ...engine.sampling import Sampling, keyed_uniforms
from ...models.language_models import Policy
from ...models.random_init import build_model
from ...models.tokenizers import build_tokenizer, load_tokenizer
from ...tasks import grading, problems, worked_solutions
from ...types import Problem
from .. import classifier_init, loop, reward_model
from ..data import Example, Mixture, pad
from . import manifest, policy_improvement

CONFIGS = str(schema.CONFIGS)


def splits(config: DictConfig) -> dict[str, dict[str, list[Problem]]]:
    """Problems by task and split; no question of a held-out split is in the training split."""
    result = {}
    for task, details in config.tasks.items():
        settings, avoid, parts = dict(details.settings), set(), {}
        for split, size in (("test", config.held_out.test), ("validation", config.held_out.validation)):
            parts[split] = problems.generate(task, split=split, size=size, settings=settings, avoid=frozenset(avoid))
            avoid |= {problems.question_key(problem.question) for problem in parts[split]}
        parts["train"] = problems.generate(
            task, split="train", size=details.train, settings=settings, avoid=frozenset(avoid)
        )
        result[task] = parts
    return result


def example(tokenizer, problem: Problem, response_ids: list[int], labels: list[float] | None = None):
    """A training example in the tokenizer's chat format."""
    prompt = tokenizer.apply_chat_template(problem.messages, add_generation_prompt=True, return_dict=False)
    return Example(problem.task, list(prompt), response_ids, labels)


def solution_ids(tokenizer, problem: Problem) -> list[int]:
    """Token ids of the worked solution, end of turn included."""
    return [
        *tokenizer.encode(worked_solutions.worked_solution(problem), add_special_tokens=False),
        tokenizer.eos_token_id,
    ]


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


def train_language_model(config: DictConfig, name: str, data: dict) -> None:
    """Fine-tune a causal LM of the recipe on worked solutions and write its folder."""
    recipe, tokenizer = config.models[name], load_tokenizer(str(Path(config.folder, "tokenizer")))
    lightning.seed_everything(recipe.seed, verbose=False)
    pools = {
        task: [example(tokenizer, p, solution_ids(tokenizer, p)) for p in parts["train"]]
        for task, parts in data.items()
    }
    module = loop.LanguageModelTraining(
        build_model(model_shape(recipe.architecture), tokenizer), loop.Schedule(**recipe.schedule)
    )
    fit_and_save(config, name, module, Mixture(pools, dict(recipe.batch), recipe.seed), tokenizer)


def fit_and_save(config: DictConfig, name: str, module, mixture, tokenizer) -> None:
    """Train to the end, then write model and tokenizer as one Hugging Face folder."""
    folder, identity = str(Path("checkpoints", name)), OmegaConf.to_container(config.models[name], resolve=True)
    loop.fit(module, mixture, device=config.device, folder=folder, name=name, identity=identity)
    folder = Path(config.folder, config.models[name].folder)
    if config.models[name].get("half"):
        module.model.to(torch.float16)
    module.model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def response_labels(response: list[int], solution: list[int], correct: bool) -> list[float]:
    """Process labels: 1.0 while the response is a prefix of the worked solution; at the last token, the verifier."""
    labels, right = [], True
    for position, token in enumerate(response):
        right = right and position < len(solution) and solution[position] == token
        labels.append(float(right))
    return [*labels[:-1], float(correct)]


def sampled_responses(config: DictConfig, recipe: DictConfig, data: dict, tokenizer) -> dict[str, list[Example]]:
    """The policies' own answers to training questions, labelled token by token."""
    pools: dict[str, list[Example]] = {task: [] for task in data}
    for name in ("tiny-base", "tiny-instruct"):
        policy = Policy.from_pretrained(str(Path(config.folder, config.models[name].folder)), device=config.device)
        for task, parts in data.items():
            count = recipe.samples_per_task // 2
            chosen = [parts["train"][i % len(parts["train"])] for i in range(count)]
            noise = [keyed_uniforms(recipe.seed, f"{i}/{p.id}", 0, name, 96) for i, p in enumerate(chosen)]
            prompts = [policy.prompt_ids(p.messages) for p in chosen]
            drawn = generation.sample(policy, prompts, noise, Sampling(1.0), [96] * count)
            for problem, rollout in zip(chosen, drawn, strict=True):
                if rollout.finished:
                    correct = grading.grade(problem, policy.decode(rollout.token_ids)).correct
                    labels = response_labels(rollout.token_ids, solution_ids(tokenizer, problem), correct)
                    pools[task].append(example(tokenizer, problem, rollout.token_ids, labels))
    return pools


def alphabet(tokenizer, parts: dict[str, list[Problem]]) -> list[int]:
    """Token ids that worked solutions of a task are made of, the end of turn included."""
    return sorted({token for problem in parts["train"][:200] for token in solution_ids(tokenizer, problem)})


def corrupted_responses(config: DictConfig, data: dict, tokenizer, seed: int) -> dict[str, list[Example]]:
    """Worked solutions, half of them with one token replaced by another that occurs in worked solutions."""
    generator, pools = random.Random(seed), {}
    for task, parts in data.items():
        pools[task] = []
        others = [token for token in alphabet(tokenizer, parts) if token != tokenizer.eos_token_id]
        for problem in parts["train"][:20000]:
            solution = solution_ids(tokenizer, problem)
            response = list(solution)
            if generator.random() < 0.5:
                response[generator.randrange(len(response) - 1)] = generator.choice(others)
            labels = response_labels(response, solution, response == solution)
            pools[task].append(example(tokenizer, problem, response, labels))
    return pools


def train_classifier(config: DictConfig, data: dict) -> None:
    """Grow the judge into a scalar verifier, fit its head, then train what is not the judge's."""
    recipe, tokenizer = config.models.classifier, load_tokenizer(str(Path(config.folder, "tokenizer")))
    lightning.seed_everything(recipe.seed, verbose=False)
    sampled = sampled_responses(config, recipe, data, tokenizer)
    corrupted = corrupted_responses(config, data, tokenizer, recipe.seed)
    pools, counts = {}, {}
    for task, count in recipe.batch.items():
        pools[f"{task}/sampled"], pools[f"{task}/corrupted"] = sampled[task], corrupted[task]
        counts[f"{task}/corrupted"] = round(count * recipe.corrupted)
        counts[f"{task}/sampled"] = count - counts[f"{task}/corrupted"]
    pools = {group: [item._replace(group=group) for item in pool] for group, pool in pools.items()}
    model = build_model(model_shape(recipe.architecture), tokenizer, classifier=True)
    judge = transformers.AutoModelForCausalLM.from_pretrained(str(Path(config.folder, config.models.likelihood.folder)))
    first = next(iter(sampled.values()))[:16]
    length = min(len(item.prompt_ids) + len(item.response_ids) for item in first)
    classifier_init.grow(
        model,
        judge,
        torch.tensor([[*item.prompt_ids, *item.response_ids][:length] for item in first]),
        sorted({token for parts in data.values() for token in alphabet(tokenizer, parts)}),
        marker=first[0].prompt_ids[-1],
    )
    probed = pad([item for pool in pools.values() for item in pool[-recipe.probe :]])
    print(f"loss of the head alone: {reward_model.probe(model, probed, recipe.process_weight):.3f}")
    module = reward_model.RewardTraining(model, loop.Schedule(**recipe.schedule), recipe.process_weight)
    fit_and_save(config, "classifier", module, Mixture(pools, counts, recipe.seed), tokenizer)


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train/tiny")
def main(config: DictConfig) -> None:
    """Run the stages named in `only`, in their order."""
    torch.set_num_threads(config.threads)
    data = splits(config)
    stages = OmegaConf.to_container(config.only)
    if "tokenizer" in stages:
        texts = [problem.question for parts in data.values() for problem in parts["train"][:2000]]
        build_tokenizer(texts, config.vocab_size).save_pretrained(Path(config.folder, "tokenizer"))
    for name in config.models:
        if name in stages and name != "classifier":
            train_language_model(config, name, data)
    if "classifier" in stages:
        train_classifier(config, data)
    for name in config.improved:
        if name in stages:
            policy_improvement.improve(config, name, data)
    if "sweep" in stages:
        policy_improvement.sweep(config, data)
    if "manifest" in stages:
        manifest.write(config, data)


if __name__ == "__main__":
    main()
