"""`./reproduce.sh models scale=small`: trains the reward of scale=small, a LoRA adapter on the policy's own backbone.

A judge trained on our terse worked solutions would rank by format, since style dominates likelihood. So the policy
answers training questions itself, the tasks' verifier labels its answers, and the judge sees nothing but its style:
these answers, wrong ones with the right result put in their place, and right ones moved to other training questions.

Stages: samples (the policy's answers), classifier, likelihood (two candidates), choose (both are measured on validation
problems and the better one is shipped). Each can be run alone with `only=[NAME]`.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import lightning
import numpy as np
import peft
import torch
from omegaconf import DictConfig, OmegaConf

from ...engine import generation, scoring
from ...engine.sampling import Sampling, keyed_uniforms
from ...evaluation.accuracy import greedy_accuracy
from ...models import conversion
from ...models.language_models import Policy, RewardModel, load_tokenizer
from ...tasks import grading
from ...types import Problem
from .. import loop, reward_model
from ..data import Example, Mixture
from . import manifest, policy_improvement, tiny

CHUNK = 64  # answers sampled at once
CANDIDATES = {"classifier": ("classifier", False), "likelihood": ("likelihood", False), "ratio": ("likelihood", True)}


class Answer(NamedTuple):
    """A response to a problem.

    Attributes:
        problem: what was asked.
        response: its text.
        finished: whether it ended by itself.
        correct: the verifier's word.
    """

    problem: Problem
    response: str
    finished: bool
    correct: bool


def questions(config: DictConfig) -> dict[str, dict[str, list[Problem]]]:
    """Problems by task and split, worded as the runs word them; no held-out question is in the training split."""
    return {
        task: {
            split: [problem._replace(question=problem.question + config.tasks[task].suffix) for problem in problems]
            for split, problems in parts.items()
        }
        for task, parts in tiny.splits(config).items()
    }


def sample_answers(config: DictConfig, problems: Sequence[Problem], count: int, stage: str) -> list[Answer]:
    """`count` answers of the policy to each problem, graded; kept in a file, so that a killed run goes on."""
    path = Path(config.work_folder, f"{stage}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    owners = [problem for problem in problems for _ in range(count)]
    if any(row[0] != problem.id for row, problem in zip(known, owners, strict=False)):
        raise ValueError(f"{path} must hold answers to the questions asked for; it holds others. Delete it.")
    if len(known) < len(owners):
        policy = Policy.from_pretrained(config.policy.path, device=config.device)
        sampling = Sampling(**config.sampling)
    for start in range(len(known), len(owners), CHUNK):
        part = owners[start : start + CHUNK]
        noise = [
            keyed_uniforms(config.seed, problem.id, 0, f"{stage} {(start + i) % count}", config.max_new_tokens)
            for i, problem in enumerate(part)
        ]
        prompts = [policy.prompt_ids(problem.messages) for problem in part]
        drawn = generation.sample(policy, prompts, noise, sampling, [config.max_new_tokens] * len(part))
        rows = [[problem.id, policy.decode(r.token_ids), r.finished] for problem, r in zip(part, drawn, strict=True)]
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        known += rows
        print(f"{stage}: {len(known)} of {len(owners)} answers", flush=True)
    return [
        Answer(problem, text, finished, grading.grade(problem, text, finished).correct)
        for problem, (_, text, finished) in zip(owners, known, strict=False)
    ]


def corrected(answer: Answer) -> Answer | None:
    """A wrong answer with the right result wherever its own result stood; None when it states none."""
    given = grading.extract_answer(answer.response, answer.problem.task, answer.finished)
    if answer.correct or not answer.finished or given is None or not re.fullmatch(r"-?\d+", given):
        return None
    text = re.sub(rf"(?<![\d.]){re.escape(given)}(?![\d.]*\d)", answer.problem.answer, answer.response)
    changed = answer._replace(response=text, correct=grading.grade(answer.problem, text).correct)
    return changed if changed.correct else None


def moved(answer: Answer, other: Problem) -> Answer | None:
    """A right answer moved to another question of its task; None when it holds numbers of unclear meaning."""
    old, new = answer.problem.metadata["expression"], other.metadata["expression"]
    if not answer.correct or re.sub(r"\d+", "", old) != re.sub(r"\d+", "", new):
        return None
    before = [*re.findall(r"\d+", old), answer.problem.answer]
    names = dict(zip(before, [*re.findall(r"\d+", new), other.answer], strict=True))
    numbers = r"-?\d+" if answer.problem.answer.startswith("-") else r"\d+"
    if len(names) < len(before) or not set(re.findall(numbers, answer.response)) <= set(names):
        return None
    text = re.sub(numbers, lambda found: names[found[0]], answer.response)
    changed = Answer(other, text, True, grading.grade(other, text).correct)
    return changed if changed.correct else None


def example(reward: RewardModel, answer: Answer) -> Example:
    """A training sequence as the reward model of that tokenizer will read the answer."""
    prompt = reward.prompt_ids([{"role": "user", "content": answer.problem.question}])
    text = reward.tokenizer.encode(answer.response, add_special_tokens=False)
    response = [*text, reward.eos_ids[0], *reward.suffix_ids]
    labels = [0.0] * (len(response) - 1) + [float(answer.correct)]
    return Example("all", prompt, response, labels)


def pools(config: DictConfig, data: dict[str, dict[str, list[Problem]]]) -> dict[str, list[Answer]]:
    """Training answers by origin: right and wrong as sampled, corrected, and moved to other training questions."""
    result: dict[str, list[Answer]] = {"right": [], "wrong": [], "corrected": [], "moved": []}
    generator = np.random.default_rng(config.seed)
    for task, parts in data.items():
        asked = parts["train"][: config.samples.questions]
        sampled = sample_answers(config, asked, config.samples.per_question, f"train-{task}")
        right = [answer for answer in sampled if answer.correct]
        result["right"] += right
        result["wrong"] += [answer for answer in sampled if not answer.correct]
        result["corrected"] += [twin for answer in sampled if (twin := corrected(answer))]
        for other in parts["train"]:
            twins = (moved(right[i], other) for i in generator.permutation(len(right))[:20])
            result["moved"] += [twin for twin in twins if twin][:1]
    return result


def train(config: DictConfig, name: str, answers: dict[str, list[Answer]]) -> None:
    """Train one candidate's adapter and write it, in half precision, into the work folder."""
    recipe = config.candidates[name]
    lightning.seed_everything(recipe.seed, verbose=False)
    tokenizer = load_tokenizer(config.policy.path)
    task_type = "SEQ_CLS" if name == "classifier" else "CAUSAL_LM"
    base = conversion.load_base(config.policy.path, task_type)
    reader = RewardModel(base, tokenizer, name, name)
    examples = {origin: [example(reader, answer) for answer in answers[origin]] for origin in recipe.batch}
    sizes = {origin: len(pool) for origin, pool in examples.items()}
    print(f"{name}: training answers {sizes}", flush=True)
    if not all(examples.values()):
        raise ValueError("every origin in a batch must have answers; one has none. Raise samples.questions.")
    lora = OmegaConf.to_container(config.lora)
    wrapped = peft.get_peft_model(base, peft.LoraConfig(task_type=task_type, **lora))
    schedule = loop.Schedule(**recipe.schedule)
    inner = wrapped.get_base_model()  # the same layers without peft's shell: `base_model` is the backbone again
    module = (
        reward_model.RewardTraining(inner, schedule, process_weight=0.0)
        if name == "classifier"
        else loop.LanguageModelTraining(inner, schedule)
    )
    mixture = Mixture(examples, dict(recipe.batch), recipe.seed)
    identity = OmegaConf.to_container(recipe)
    loop.fit(module, mixture, device=config.device, folder=config.work_folder, name=name, identity=identity)
    folder = adapter_folder(config, name)
    wrapped.eval().to(torch.float16).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card


def adapter_folder(config: DictConfig, name: str) -> Path:
    """Where a candidate's adapter lies before one of them is chosen."""
    return Path(config.work_folder, f"{name}-adapter")


def load_candidate(config: DictConfig, name: str) -> RewardModel:
    """A candidate as runs would load it: merged into a plain folder, the ratio with the policy as its reference."""
    kind, with_reference = CANDIDATES[name]
    folder = Path(config.work_folder, f"{kind}-merged")
    conversion.merge(str(folder), base=config.policy.path, adapter=str(adapter_folder(config, kind)))
    return RewardModel.from_pretrained(str(folder), kind=kind, reference=config.policy.path if with_reference else None)


def measure(reward: RewardModel, answers: Sequence[Answer], count: int) -> dict[str, float]:
    """Worth of a reward on `count` answers to each of some problems; percent, and AUC in [0, 1].

    `auc_within` compares right with wrong answers to the same problem only, which is all that a search ever asks.
    """
    prompts = [reward.prompt_ids([{"role": "user", "content": answer.problem.question}]) for answer in answers]
    texts = [reward.tokenizer.encode(answer.response, add_special_tokens=False) for answer in answers]
    scores = np.array(scoring.rewards(reward, prompts, texts)[0]).reshape(-1, count)
    correct = np.array([answer.correct for answer in answers]).reshape(-1, count)
    one, best = 100 * correct.mean(), 100 * correct.any(1).mean()
    chosen = 100 * correct[np.arange(len(scores)), scores.argmax(1)].mean()
    mixed = [i for i in range(len(scores)) if 0 < correct[i].sum() < count]
    result = {
        "num_problems": len(scores),
        "one_sample": one,
        f"any_of_{count}": best,
        f"best_of_{count}": chosen,
        "gap_closed": (chosen - one) / (best - one) if best > one else float("nan"),
        "auc": manifest.auc(scores[correct], scores[~correct]),
        "auc_within": np.mean([manifest.auc(scores[i][correct[i]], scores[i][~correct[i]]) for i in mixed]),
    }
    return {name: round(float(value), 3) for name, value in result.items()}


def choose(config: DictConfig, data: dict[str, dict[str, list[Problem]]]) -> None:
    """Measure the candidates on validation problems, and ship the one with the best mean Best-of-N."""
    count, results, judge = config.validation.per_question, {}, {}
    asked = {task: parts["validation"][: config.validation.questions] for task, parts in data.items()}
    sampled = {task: sample_answers(config, own, count, f"validation-{task}") for task, own in asked.items()}
    for name, (kind, _) in CANDIDATES.items():
        if (adapter_folder(config, kind) / "adapter_config.json").is_file():
            reward = load_candidate(config, name)
            results[name] = {task: measure(reward, answers, count) for task, answers in sampled.items()}
            print(name, json.dumps(results[name]), flush=True)
            if name == "likelihood":
                limit = config.max_new_tokens
                judge = {t: round(greedy_accuracy(reward.strong, own, limit), 1) for t, own in asked.items()}
    best = max(results, key=lambda name: np.mean([row[f"best_of_{count}"] for row in results[name].values()]))
    folder, source = Path(config.folder), adapter_folder(config, CANDIDATES[best][0])
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / file).write_bytes((source / file).read_bytes())
    written = {
        "made_by": "./reproduce.sh models scale=small",
        "shipped": best,
        "measured_on": f"{config.validation.questions} validation problems per task, {count} samples each",
        "candidates": results,
        "judge_greedy_accuracy": judge,
        "recipe": OmegaConf.to_container(config, resolve=True),
    }
    (folder / "manifest.json").write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"shipped {best} in {folder}; set configs/reward/smollm2.yaml accordingly")


@hydra.main(version_base="1.3", config_path=tiny.CONFIGS, config_name="train/small")
def main(config: DictConfig) -> None:
    """Run the stages named in `only`, in their order."""
    torch.set_num_threads(config.threads)
    package = {key: value for key, value in config.policy.prepare.items() if key != "_target_"}
    conversion.unpack(**package)
    data = questions(config)
    stages: Any = OmegaConf.to_container(config.only)
    if {"samples", "classifier", "likelihood"} & set(stages):
        answers = pools(config, data)
    for name in ("classifier", "likelihood"):
        if name in stages:
            train(config, name, answers)
    if "grpo" in stages:
        policy_improvement.improve(config, "grpo", data)
    if "choose" in stages:
        choose(config, data)


if __name__ == "__main__":
    main()
