"""Recipe of the reward of scale=small: a LoRA adapter on the policy's own backbone.

`./reproduce.sh models scale=small` runs it; stages as in configs/train/small.yaml. A likelihood reward trained on our
terse worked solutions would rank by format. So it is trained on the policy's own graded answers, on wrong ones with the
result replaced by the right one, and on right ones moved to other training questions. Of the candidates the one with
the best Best-of-N on validation problems is shipped.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import lightning
import numpy as np
import peft
import torch
from omegaconf import DictConfig, OmegaConf

from ...engine import scoring
from ...engine.sampling import Sampling, keyed_uniforms
from ...evaluation.accuracy import greedy_accuracy, sample_responses
from ...models import conversion
from ...models.language_models import Policy, RewardModel
from ...models.quiet import quiet_libraries
from ...models.tokenizers import load_tokenizer
from ...tasks import grading
from ...types import Problem
from .. import loop, reward_model
from ..data import Example, Mixture
from . import manifest, policy_improvement, tiny
from .policy_improvement import Splits

CHUNK = 64  # answers sampled at once
MOVE_ATTEMPTS = 20  # right answers tried for each training question
# Candidate name: kind of reward, and whether the policy is its reference.
CANDIDATES = {"classifier": ("classifier", False), "likelihood": ("likelihood", False), "ratio": ("likelihood", True)}


class Answer(NamedTuple):
    """A response to a problem.

    Attributes:
        problem: the problem answered.
        response: text of the response.
        finished: whether it ended with an end-of-response token.
        correct: the grader's verdict.
    """

    problem: Problem
    response: str
    finished: bool
    correct: bool


def make_splits(config: DictConfig) -> Splits:
    """Generate problems by task and split, with the suffix used in runs; the splits share no held-out question."""
    return {
        task: {
            split: [problem._replace(question=problem.question + config.tasks[task].suffix) for problem in problems]
            for split, problems in parts.items()
        }
        for task, parts in tiny.splits(config).items()
    }


def sample_answers(config: DictConfig, problems: Sequence[Problem], count: int, stage: str) -> list[Answer]:
    """Sample `count` answers of the policy to each problem and grade them; a file keeps them for a resumed run."""
    path = Path(config.work_folder, f"{stage}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    repeated = [problem for problem in problems for _ in range(count)]
    if any(row[0] != problem.id for row, problem in zip(rows, repeated, strict=False)):
        raise ValueError(f"{path} must hold answers to the same questions; it holds others. Delete it.")
    if len(rows) < len(repeated):
        policy = Policy.from_pretrained(config.policy.path, device=config.device)
    for start in range(len(rows), len(repeated), CHUNK):
        chunk = repeated[start : start + CHUNK]
        noise = [
            keyed_uniforms(config.seed, problem.id, 0, f"{stage} {(start + i) % count}", config.max_new_tokens)
            for i, problem in enumerate(chunk)
        ]
        rollouts = sample_responses(policy, chunk, noise, Sampling(**config.sampling), config.max_new_tokens)
        new_rows = [
            [problem.id, policy.decode(rollout.token_ids), rollout.finished]
            for problem, rollout in zip(chunk, rollouts, strict=True)
        ]
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in new_rows))
        rows += new_rows
        print(f"{stage}: {len(rows)} of {len(repeated)} answers", flush=True)
    return [
        Answer(problem, text, finished, grading.grade(problem, text, finished).correct)
        for problem, (_, text, finished) in zip(repeated, rows, strict=False)
    ]


def corrected(answer: Answer) -> Answer | None:
    """Return a wrong answer with its result replaced by the right one; None if it states no integer."""
    stated = grading.extract_answer(answer.response, answer.problem.task, answer.finished)
    if answer.correct or not answer.finished or stated is None or not re.fullmatch(r"-?\d+", stated):
        return None
    text = re.sub(rf"(?<![\d.]){re.escape(stated)}(?![\d.]*\d)", answer.problem.answer, answer.response)
    changed = answer._replace(response=text, correct=grading.grade(answer.problem, text).correct)
    return changed if changed.correct else None


def moved(answer: Answer, other: Problem) -> Answer | None:
    """Return a right answer moved to another question of its task; None if it has numbers of unknown origin."""
    old, new = answer.problem.metadata["expression"], other.metadata["expression"]
    if not answer.correct or re.sub(r"\d+", "", old) != re.sub(r"\d+", "", new):
        return None
    old_numbers = [*re.findall(r"\d+", old), answer.problem.answer]
    replacements = dict(zip(old_numbers, [*re.findall(r"\d+", new), other.answer], strict=True))
    number = r"-?\d+" if answer.problem.answer.startswith("-") else r"\d+"
    is_ambiguous = len(replacements) < len(old_numbers)
    if is_ambiguous or not set(re.findall(number, answer.response)) <= set(replacements):
        return None
    text = re.sub(number, lambda match: replacements[match[0]], answer.response)
    changed = Answer(other, text, True, grading.grade(other, text).correct)
    return changed if changed.correct else None


def reward_example(reward: RewardModel, answer: Answer) -> Example:
    """Return an answer as a training sequence in the reward model's format; its last label is the grade."""
    prompt = reward.prompt_ids(answer.problem.messages)
    text = reward.tokenizer.encode(answer.response, add_special_tokens=False)
    response = [*text, reward.eos_ids[0], *reward.suffix_ids]
    labels = [0.0] * (len(response) - 1) + [float(answer.correct)]
    return Example("all", prompt, response, labels)


def training_answers(config: DictConfig, data: Splits) -> dict[str, list[Answer]]:
    """Return training answers by origin: right and wrong as sampled, corrected, and moved to other questions."""
    answers: dict[str, list[Answer]] = {"right": [], "wrong": [], "corrected": [], "moved": []}
    generator = np.random.default_rng(config.seed)
    for task, parts in data.items():
        questions = parts["train"][: config.samples.questions]
        sampled = sample_answers(config, questions, config.samples.per_question, f"train-{task}")
        right = [answer for answer in sampled if answer.correct]
        answers["right"] += right
        answers["wrong"] += [answer for answer in sampled if not answer.correct]
        answers["corrected"] += [changed for answer in sampled if (changed := corrected(answer))]
        for other in parts["train"]:
            attempts = (moved(right[i], other) for i in generator.permutation(len(right))[:MOVE_ATTEMPTS])
            answers["moved"] += [changed for changed in attempts if changed][:1]
    return answers


def train_candidate(config: DictConfig, name: str, answers: dict[str, list[Answer]]) -> None:
    """Train one candidate's adapter and write it, in half precision, into the work folder."""
    recipe = config.candidates[name]
    lightning.seed_everything(recipe.seed, verbose=False)
    task_type = "SEQ_CLS" if name == "classifier" else "CAUSAL_LM"
    base = conversion.load_base(config.policy.path, task_type)
    reward = RewardModel(base, load_tokenizer(config.policy.path), name, name)
    examples = {origin: [reward_example(reward, answer) for answer in answers[origin]] for origin in recipe.batch}
    sizes = {origin: len(pool) for origin, pool in examples.items()}
    print(f"{name}: training answers {sizes}", flush=True)
    if not all(examples.values()):
        raise ValueError("every origin in a batch must have answers; one has none. Raise samples.questions.")
    lora = OmegaConf.to_container(config.lora)
    wrapped = peft.get_peft_model(base, peft.LoraConfig(task_type=task_type, **lora))
    model = wrapped.get_base_model()  # the same layers without peft's wrapper: `base_model` is the backbone again
    schedule = loop.Schedule(**recipe.schedule)
    loop.fit(
        reward_model.RewardTraining(model, schedule, process_weight=0.0)
        if name == "classifier"
        else loop.LanguageModelTraining(model, schedule, reward.strong.vocab_size),
        Mixture(examples, dict(recipe.batch), recipe.seed),
        device=config.device,
        folder=config.work_folder,
        name=name,
        identity=OmegaConf.to_container(recipe),
    )
    folder = adapter_folder(config, name)
    wrapped.eval().to(torch.float16).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    loop.discard_checkpoint(config.work_folder, name)


def adapter_folder(config: DictConfig, name: str) -> Path:
    """Return the folder of a candidate's adapter before one of them is chosen."""
    return Path(config.work_folder, f"{name}-adapter")


def load_candidate(config: DictConfig, name: str) -> RewardModel:
    """Load a candidate as runs do: merged into a plain folder, the ratio with the policy as its reference."""
    kind, has_reference = CANDIDATES[name]
    folder = Path(config.work_folder, f"{kind}-merged")
    conversion.merge(str(folder), base=config.policy.path, adapter=str(adapter_folder(config, kind)))
    return RewardModel.from_pretrained(str(folder), kind=kind, reference=config.policy.path if has_reference else None)


def measure(reward: RewardModel, answers: Sequence[Answer], count: int) -> dict[str, float]:
    """Return the quality of a reward on `count` answers to each of some problems; percent, and AUC in [0, 1].

    `auc_within` compares right with wrong answers to the same problem only, as a search does.
    """
    prompts = [reward.prompt_ids(answer.problem.messages) for answer in answers]
    responses = [reward.tokenizer.encode(answer.response, add_special_tokens=False) for answer in answers]
    scores = np.array(scoring.rewards(reward, prompts, responses)[0]).reshape(-1, count)
    correct = np.array([answer.correct for answer in answers]).reshape(-1, count)
    result = {
        "num_problems": len(scores),
        **manifest.selection_quality(scores, correct),
        "auc_within": manifest.auc_within(scores, correct),
    }
    return {name: round(float(value), 3) for name, value in result.items()}


def choose(config: DictConfig, data: Splits) -> None:
    """Measure the candidates on validation problems and ship the one with the best mean Best-of-N."""
    count = config.validation.per_question
    problems_of = {task: parts["validation"][: config.validation.questions] for task, parts in data.items()}
    sampled = {
        task: sample_answers(config, problems, count, f"validation-{task}") for task, problems in problems_of.items()
    }
    results, likelihood_accuracy = {}, {}
    for name, (kind, _) in CANDIDATES.items():
        if (adapter_folder(config, kind) / "adapter_config.json").is_file():
            reward = load_candidate(config, name)
            results[name] = {task: measure(reward, answers, count) for task, answers in sampled.items()}
            print(name, json.dumps(results[name]), flush=True)
            if name == "likelihood":
                likelihood_accuracy = {
                    task: round(greedy_accuracy(reward.strong, problems, config.max_new_tokens), 1)
                    for task, problems in problems_of.items()
                }
    best = max(results, key=lambda name: np.mean([row[f"best_of_{count}"] for row in results[name].values()]))
    folder, source = Path(config.folder), adapter_folder(config, CANDIDATES[best][0])
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / file).write_bytes((source / file).read_bytes())
    content = {
        "made_by": "./reproduce.sh models scale=small",
        "shipped": best,
        "measured_on": f"{config.validation.questions} validation problems per task, {count} samples each",
        "candidates": results,
        "judge_greedy_accuracy": likelihood_accuracy,  # the key in the shipped file
        "recipe": OmegaConf.to_container(config, resolve=True),
    }
    (folder / "manifest.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"shipped {best} in {folder}; set configs/reward/smollm2.yaml accordingly")


@quiet_libraries()
def train(config: DictConfig) -> None:
    """Run the stages named in `only`, in their order."""
    torch.set_num_threads(config.threads)
    package = {key: value for key, value in config.policy.prepare.items() if key != "_target_"}
    conversion.unpack(**package)
    data = make_splits(config)
    if {"samples", "classifier", "likelihood"} & set(config.only):
        answers = training_answers(config, data)
    for name in ("classifier", "likelihood"):
        if name in config.only:
            train_candidate(config, name, answers)
    if "grpo" in config.only:
        policy_improvement.improve(config, "grpo", data)
    if "choose" in config.only:
        choose(config, data)
