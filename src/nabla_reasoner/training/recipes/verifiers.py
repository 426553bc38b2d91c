"""Recipe of the token-level verifiers: the policies' own samples, labelled at every token or at a few.

    outcome   the grader's verdict on the whole response, at every token (Cobbe et al. 2021, arXiv 2110.14168)
    process   at a few tokens, the share of the policy's completions from there that are right (labels by Monte Carlo,
              as in Math-Shepherd, arXiv 2312.08935); at the last token the verdict

A verifier starts from a language model's weights and has a score head, or its reward is the log-ratio to its start
(`head: ratio`, outcome labels only). Labels come from the grader alone: no worked solution is read.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from ...engine import generation
from ...engine.generation import Rollout
from ...engine.sampling import Sampling, keyed_uniforms
from ...evaluation.accuracy import grades, sample_responses
from ...models.language_models import Policy
from ...models.tokenizers import load_tokenizer
from ...models.whole_models import load_whole
from ...tasks import grading
from ...types import Problem
from ..data import Example, Mixture, chat_example
from ..loop import Schedule
from ..verifier import NO_LABEL, CheckpointedTraining, RatioTraining, VerifierTraining, from_language_model
from .policy_improvement import Splits

LABELS = ("outcome", "process")
HEADS = ("score", "ratio")
SAMPLING = Sampling(temperature=1.0)  # of samples and completions: the policy's own distribution
CHUNK = 500  # samples that are completed together; bounds the cached prefixes


def checkpoint_folders(recipe: DictConfig) -> dict[int, str]:
    """Return the folders of a verifier's earlier checkpoints by number of steps; the last is the verifier itself.

    Raises:
        ValueError: `checkpoints` does not ascend to the last step.
    """
    steps = list(recipe.get("checkpoints", [recipe.schedule.num_steps]))
    if steps != sorted(set(steps)) or steps[-1:] != [recipe.schedule.num_steps] or steps[0] < 1:
        raise ValueError(
            f"checkpoints must ascend from at least 1 to schedule.num_steps = {recipe.schedule.num_steps}; got {steps}."
        )
    return {step: f"{recipe.folder}-{step}" for step in steps[:-1]}


def training(config: DictConfig, name: str, data: Splits) -> tuple[CheckpointedTraining, Mixture]:
    """Return the training of a verifier and its batches of labelled samples.

    Raises:
        ValueError: unknown labels or head, a ratio with process labels, or as `checkpoint_folders`.
    """
    recipe, assets = config.models[name], Path(config.folder)
    if recipe.labels not in LABELS:
        raise ValueError(f"labels must be one of {', '.join(LABELS)}; got {recipe.labels!r}.")
    if recipe.head not in HEADS or (recipe.head == "ratio" and recipe.labels == "process"):
        raise ValueError(f"head must be score, or ratio with outcome labels; got {recipe.head!r}, {recipe.labels!r}.")
    checkpoints = {step: assets / folder for step, folder in checkpoint_folders(recipe).items()}
    pools: dict[str, list[Example]] = {task: [] for task in data}
    for number, policy_name in enumerate(recipe.policies):
        policy = Policy.from_pretrained(str(assets / config.models[policy_name].folder), device=config.device)
        for task, parts in data.items():
            count = recipe.samples_per_task // len(recipe.policies)
            samples = range(number * count, (number + 1) * count)
            questions = [parts["train"][i // recipe.samples_per_question % len(parts["train"])] for i in samples]
            pools[task] += labelled_samples(policy, policy_name, questions, recipe)
    start = str(assets / config.models[recipe.start].folder)
    shared = {"checkpoints": checkpoints, "tokenizer": load_tokenizer(start)}
    schedule, mixture = Schedule(**recipe.schedule), Mixture(pools, dict(recipe.batch), recipe.seed)
    if recipe.head == "ratio":
        return RatioTraining(load_whole(start), schedule, scale=recipe.scale, **shared), mixture
    model = from_language_model(start)
    return VerifierTraining(model, schedule, language_weight=recipe.language_weight, **shared), mixture


def labelled_samples(
    policy: Policy, policy_name: str, questions: Sequence[Problem], recipe: DictConfig
) -> list[Example]:
    """Return one labelled sample of the policy per question; a question may occur several times.

    Args:
        recipe: `seed`, `labels` and `max_new_tokens`; for process labels also `cuts` and `completions`.
    """
    examples = []
    for begin in range(0, len(questions), CHUNK):
        batch = questions[begin : begin + CHUNK]
        keys = [f"{begin + i}/{problem.id}" for i, problem in enumerate(batch)]
        limit = recipe.max_new_tokens
        noise = [keyed_uniforms(recipe.seed, key, 0, f"{policy_name} sample", limit) for key in keys]
        rollouts = sample_responses(policy, batch, noise, SAMPLING, limit)
        verdicts = [grade.correct for grade in grades(policy, batch, rollouts)]
        if recipe.labels == "outcome":
            labels = [[float(v)] * len(r.token_ids) for r, v in zip(rollouts, verdicts, strict=True)]
        else:
            labels = process_labels(policy, policy_name, batch, keys, rollouts, verdicts, recipe)
        responses = [rollout.token_ids for rollout in rollouts]
        examples += [chat_example(policy.tokenizer, *case) for case in zip(batch, responses, labels, strict=True)]
    return examples


def cut_positions(length: int, count: int, seed: int, key: str, stage: str) -> list[int]:
    """Return up to `count` different positions of a response, ascending; its last token is never one of them."""
    order = np.argsort(keyed_uniforms(seed, key, 0, stage, length - 1), kind="stable")
    return sorted(order[:count].tolist())


def process_labels(
    policy: Policy,
    policy_name: str,
    questions: Sequence[Problem],
    keys: Sequence[str],
    rollouts: Sequence[Rollout],
    verdicts: Sequence[bool],
    recipe: DictConfig,
) -> list[list[float]]:
    """Return process labels of samples: shares of right completions at the cut positions, the verdict at the end.

    Other tokens have `NO_LABEL`. A label at token l is an unbiased estimate of the policy's chance after y_≤l.

    Args:
        keys: keys of the random numbers, one per sample.
        verdicts: whether each sample is right.
        recipe: `seed`, `max_new_tokens`, `cuts` (positions per sample) and `completions` (per position, >= 1).
    """
    cuts = [
        (i, cut)
        for i, rollout in enumerate(rollouts)
        for cut in cut_positions(len(rollout.token_ids), recipe.cuts, recipe.seed, keys[i], f"{policy_name} cuts")
    ]
    runs = [(i, cut, number) for i, cut in cuts for number in range(recipe.completions)]
    begins = [rollouts[i].token_ids[: cut + 1] for i, cut, _ in runs]
    limits = [recipe.max_new_tokens - len(begin) for begin in begins]
    completions = generation.sample(
        policy,
        [policy.prompt_ids(questions[i].messages) + begin for (i, _, _), begin in zip(runs, begins, strict=True)],
        [
            keyed_uniforms(recipe.seed, keys[i], 0, f"{policy_name} completion {number} after {cut}", limit)
            for (i, cut, number), limit in zip(runs, limits, strict=True)
        ],
        SAMPLING,
        limits,
    )
    labels = [[NO_LABEL] * len(rollout.token_ids) for rollout in rollouts]
    for i, cut in cuts:
        labels[i][cut] = 0.0
    for (i, cut, _), begin, completion in zip(runs, begins, completions, strict=True):
        text = policy.response_text(begin + completion.token_ids)
        labels[i][cut] += grading.grade(questions[i], text, completion.finished).correct / recipe.completions
    for row, verdict in zip(labels, verdicts, strict=True):
        row[-1] = float(verdict)
    return labels
