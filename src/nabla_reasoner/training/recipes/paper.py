"""Recipe of GRPO at the paper's size: the tiny policies' recipe with TRL, responses sampled by vLLM.

`./reproduce.sh models scale=paper policy=qwen2.5-7b` trains; `dry_run=true` builds and checks every argument and loads
nothing. The loss equals that of `grpo.GroupRelativeTraining` (a test compares the two); TRL adds sharding, vLLM and
mixed precision.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ...config.fingerprint import model_version
from ...config.wandb_mode import chosen_mode
from ...models.response_texts import ResponseTexts
from ...models.tokenizers import load_tokenizer, split_commit
from ...tasks import grading, problems
from ...types import Problem
from ..grpo import GroupSampling, check_adapter

if TYPE_CHECKING:
    import trl

IDENTITY = "identity.json"  # beside the checkpoints
PLACES = ("folder", "dry_run", "wandb", "vllm", "num_devices", "questions", "path", "policy", "shared", "hydra")
LOSS_TYPES = {"sequence": "grpo", "token": "bnpo", "length": "dr_grpo"}  # TRL's names of `GroupSampling.normalisation`


def trainer_settings(config: DictConfig) -> dict[str, Any]:
    """Return the keyword arguments of `trl.GRPOConfig`.

    Raises:
        ValueError: settings out of range, or a batch that cannot be divided into whole groups.
    """
    sampling = GroupSampling(**config.recipe.sampling).check()
    responses = config.prompts_per_step * sampling.group_size
    share = config.num_devices * config.responses_per_device
    if responses % share or share % sampling.group_size:
        raise ValueError(
            f"prompts_per_step x group_size ({responses}) must be a multiple of num_devices x responses_per_device "
            f"({share}), and that of group_size ({sampling.group_size}). Change one of them."
        )
    return {
        "output_dir": config.folder,
        "seed": config.seed,
        "max_steps": config.num_steps,
        "learning_rate": config.learning_rate,
        "warmup_steps": config.recipe.schedule.warmup_steps,
        "weight_decay": config.recipe.schedule.weight_decay,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": config.responses_per_device,
        "gradient_accumulation_steps": responses // share,
        "num_generations": sampling.group_size,
        "num_iterations": sampling.updates_per_batch,
        "temperature": sampling.temperature,
        "max_completion_length": config.max_new_tokens,
        "disable_dropout": True,  # as in `grpo.GroupRelativeTraining`, of an adapter too
        "epsilon": sampling.clip_low,
        "epsilon_high": sampling.clip_high,
        "beta": sampling.kl_weight,
        "use_bias_correction_kl": False,  # as in `losses.reference_divergence`
        "loss_type": LOSS_TYPES[sampling.normalisation],
        "scale_rewards": "group" if sampling.scale_advantages else "none",
        **_engine_settings(config.vllm),
        "bf16": True,
        "report_to": [] if chosen_mode(config.wandb) == "disabled" else ["wandb"],
        "save_steps": 50,
        "save_total_limit": 2,
        "logging_steps": 1,
    }


def _engine_settings(vllm: DictConfig | None) -> dict[str, Any]:
    """Return the arguments that choose what samples: vLLM, or with null the model's own `generate`."""
    if vllm is None:
        return {"use_vllm": False}
    share = vllm.gpu_memory_utilization
    return {"use_vllm": True, "vllm_mode": vllm.mode, "vllm_gpu_memory_utilization": share}


def check_engine(config: DictConfig) -> None:
    """Raise ValueError if vLLM is to sample and this environment does not have it.

    vLLM pins other versions of torch and transformers than this package, so that no extra of it can bring vLLM.
    """
    if config.vllm is not None and importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "TRL samples by vLLM in its own process, which needs an environment with vLLM and TRL; this one has no "
            "vllm. Make one (docs/serving.md has the commands), or write vllm=null for the slower generate."
        )


def end_ids(path: str) -> set[int]:
    """Return the token ids at which TRL ends a response of a policy: those of its tokenizer and generation settings.

    Raises:
        ValueError: there are none.
    """
    import transformers

    plain, commit = split_commit(path)
    pinned = {"revision": commit or "main"}
    try:
        configured = transformers.GenerationConfig.from_pretrained(plain, **pinned).eos_token_id
    except OSError:  # no such file; transformers then takes the model's own settings
        config = transformers.AutoConfig.from_pretrained(plain, trust_remote_code=False, **pinned)
        configured = getattr(config.get_text_config(), "eos_token_id", None)
    configured = configured if isinstance(configured, list) else [configured]
    ends = {index for index in (load_tokenizer(path).eos_token_id, *configured) if index is not None}
    if not ends:
        raise ValueError(f"a policy must name a token that ends a response; {path} names none. Set eos_token_id.")
    return ends


def trl_reward(
    questions: Sequence[Problem], ends: Collection[int], texts: ResponseTexts
) -> Callable[..., list[float | None]]:
    """Return TRL's reward function: 1 for a correct response, else 0; None (ignored by TRL) where grading failed.

    A response that does not end with one of the token ids `ends` was cut off, and is graded as unfinished.

    Args:
        texts: of the policy. TRL's own text lacks marks of think blocks, and the one that the prompt opened.
    """
    by_id = {problem.id: problem for problem in questions}

    def accuracy(
        completions: Sequence[Any], problem_id: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        rewards: list[float | None] = []
        for key, ids in zip(problem_id, completion_ids, strict=True):
            tokens = [int(token) for token in ids]
            verdict = grading.grade(by_id[key], texts.response(tokens), bool(tokens) and tokens[-1] in ends)
            rewards.append(None if verdict.note else float(verdict.correct))
        return rewards

    return accuracy


def load_questions(config: DictConfig) -> list[Problem]:
    """Load the training questions from a file or from the hub."""
    if config.path is not None:
        return problems.load_jsonl(config.path, task="train", size=config.num_questions, suffix=config.suffix)
    return problems.load_hub(task="train", size=config.num_questions, suffix=config.suffix, **config.questions)


def train_with_trl(config: DictConfig) -> None:
    """Load model and questions, train, and save."""
    import datasets
    import peft
    import trl

    os.environ |= {"WANDB_MODE": chosen_mode(config.wandb), "WANDB_PROJECT": "nabla-reasoner"}  # TRL opens the run
    questions = load_questions(config)
    if _is_finished(config, questions):
        print(f"{config.folder} has this training, finished. Delete the folder, or choose another folder=DIR.")
        return
    rows = [{"prompt": problem.messages, "problem_id": problem.id} for problem in questions]
    lora = OmegaConf.to_container(config.lora) if config.lora is not None else None
    trainer = trl.GRPOTrainer(
        model=config.policy.path,
        reward_funcs=trl_reward(
            questions, end_ids(config.policy.path), ResponseTexts.of(load_tokenizer(config.policy.path))
        ),
        args=trl.GRPOConfig(**trainer_settings(config)),
        train_dataset=datasets.Dataset.from_list(rows),
        peft_config=peft.LoraConfig(task_type="CAUSAL_LM", **lora) if lora else None,
    )
    trainer.train(resume_from_checkpoint=_last_step(config.folder) is not None)
    trainer.save_model(config.folder)


def _is_finished(config: DictConfig, questions: Sequence[Problem]) -> bool:
    """Return whether the folder has this very training, finished; note what a new one is made of.

    Raises:
        ValueError: the folder has checkpoints of another training.
    """
    file, step = Path(config.folder, IDENTITY), _last_step(config.folder)
    identity = _identity(config, questions)
    if step is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        return False
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    changed = [name for name in {**known, **identity} if known.get(name) != identity.get(name)]
    if changed:
        raise ValueError(
            f"{config.folder} must hold checkpoints of the same training, or none; they differ in "
            f"{', '.join(changed)} ({IDENTITY} has their values). Choose another folder=DIR, or delete this one."
        )
    return step >= config.num_steps


def _identity(config: DictConfig, questions: Sequence[Problem]) -> dict[str, Any]:
    """Return what decides the weights of a training: settings, policy and questions; not where and how it runs."""
    values = {key: config[key] for key in config if key not in PLACES}
    settings = {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in values.items()
    }
    text = json.dumps([[problem.id, problem.question, problem.answer] for problem in questions])
    made_of = {
        "policy": model_version(config.policy.path) or config.policy.path,
        "questions": hashlib.sha256(text.encode()).hexdigest(),
    }
    return json.loads(json.dumps({**settings, **made_of}))


def _last_step(folder: str) -> int | None:
    """Return the optimiser steps of the newest checkpoint in a folder; None without one."""
    from transformers.trainer_utils import get_last_checkpoint

    newest = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    return None if newest is None else int(newest.rpartition("-")[2])


def dry_run(config: DictConfig) -> "trl.GRPOConfig":
    """Build TRL's arguments, which check themselves, on a machine without a GPU; print and return them."""
    import trl

    settings = {**trainer_settings(config), "bf16": False, "use_cpu": True}
    arguments = trl.GRPOConfig(**settings)
    print(json.dumps({**settings, "bf16": True, "use_cpu": False}, indent=1))
    source = config.path or config.questions.repository
    print(f"model {config.policy.path}; {config.num_questions} questions from {source}")
    return arguments


def train(config: DictConfig) -> None:
    """Train, or with `dry_run=true` only check.

    Raises:
        ValueError: as `trainer_settings` and `check_engine`; a pinned policy; an adapter with dropout; a folder with
            another training.
    """
    if config.policy.get("revision") is not None:
        raise ValueError(
            f"a training reads policy.path as it is; got policy.revision={config.policy.revision}. Fetch that commit "
            "and give its folder: policy.path=DIR."
        )
    check_adapter(config.lora)
    if config.dry_run:
        dry_run(config)
    else:
        check_engine(config)
        train_with_trl(config)
