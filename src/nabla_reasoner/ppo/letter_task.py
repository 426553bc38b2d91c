"""A task whose answers can all be scored: strings of letters, a policy with several modes, a likelihood reward.

A prompt is a string of the letters a to d between two colons. The policy has learnt three habits, each followed with
errors: copy the prompt, reverse it, replace each letter by the next one. The reward model has learnt the last two only.
So π has several modes, of which ρ* ∝ π e^{λr} keeps two.

Each position of an answer can be any of the four letters or the colon, so a prompt has 5^length answers. No answer ends
early: the end token's id is outside the tokenizer's vocabulary, so `Policy` never samples it.
"""

import itertools
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from ..config.ppo_settings import PPOModelSettings
from ..models import random_init
from ..training import loop
from ..training.data import Example, Mixture

ALPHABET, MARKER = "abcd", ":"
TOKENS = ALPHABET + MARKER
END = len(TOKENS)  # id of the end token, one beyond the tokenizer's vocabulary
HABITS = {"copy": 0.5, "reverse": 0.3, "next": 0.2}  # shares in the policy's demonstrations
REWARDED = {"reverse": 0.5, "next": 0.5}  # shares in the reward model's demonstrations
ERROR_RATE = 0.25  # probability that a demonstrated token is replaced by a random one
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] }}"
    "{% else %}:{{ message['content'] }}:{% endif %}{% endfor %}"
)


def build_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Build a tokenizer with one token per character and no end token."""
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(TOKENS)}, unk_token=MARKER))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64)
    fast.chat_template = TEMPLATE
    return fast


def follow(habit: str, prompt: str) -> str:
    """Return the answer that a habit gives to a prompt."""
    if habit == "copy":
        return prompt
    if habit == "reverse":
        return prompt[::-1]
    return "".join(ALPHABET[(ALPHABET.index(letter) + 1) % len(ALPHABET)] for letter in prompt)


def prompts(length: int, seed: int) -> list[str]:
    """Return all prompts of a length, in a random order."""
    texts = ["".join(letters) for letters in itertools.product(ALPHABET, repeat=length)]
    random.Random(seed).shuffle(texts)
    return texts


def ids(text: str) -> list[int]:
    """Return the token ids of a string."""
    return [TOKENS.index(token) for token in text]


def _with_errors(text: str, generator: random.Random) -> str:
    return "".join(generator.choice(TOKENS) if generator.random() < ERROR_RATE else token for token in text)


def demonstrations(
    prompts: Sequence[str], count: int, seed: int, habits: Mapping[str, float] = HABITS
) -> list[Example]:
    """Sample `count` examples of a random habit on a random prompt, with errors."""
    generator = random.Random(seed)
    examples = []
    for _ in range(count):
        prompt = generator.choice(prompts)
        (habit,) = generator.choices(list(habits), weights=list(habits.values()))
        answer = _with_errors(follow(habit, prompt), generator)
        examples.append(Example("letters", ids(f":{prompt}:"), ids(answer)))
    return examples


def build_model(shape: dict[str, Any]) -> torch.nn.Module:
    """Build a Hugging Face causal LM over the letters and the end token, with random weights.

    Args:
        shape: fields of the Hugging Face configuration (`model_type`, `hidden_size`, ...).
    """
    settings = {
        "vocab_size": END + 1,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "eos_token_id": END,
    }
    return random_init.build_model({**shape, **settings}, build_tokenizer())


def quiet_trainer(**settings: Any) -> lightning.Trainer:
    """Build a Lightning trainer for one CPU that writes and prints nothing."""
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def fit(
    module: lightning.LightningModule,
    loader: torch.utils.data.DataLoader,
    steps: int,
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """Train a module for `steps` optimiser steps; only the module itself is changed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer = quiet_trainer(max_steps=steps, gradient_clip_val=1.0, callbacks=list(callbacks))
        trainer.fit(module, loader)


def train(folder: Path, prompts: Sequence[str], settings: PPOModelSettings, seed: int) -> None:
    """Train policy and reward model on demonstrations for `prompts`; write `folder`/policy and `folder`/judge."""
    schedule = loop.Schedule(settings.num_steps, settings.learning_rate, warmup_steps=50, weight_decay=0.0)
    count = settings.batch * settings.num_steps // 4  # each example is used about four times
    for number, (name, habits) in enumerate((("policy", HABITS), ("judge", REWARDED))):
        lightning.seed_everything(seed + number, verbose=False)
        module = loop.LanguageModelTraining(build_model(settings.shape.model_dump()), schedule, END + 1)
        examples = demonstrations(prompts, count, seed + number, habits)
        batches = Mixture({"letters": examples}, {"letters": settings.batch}, seed)
        fit(module, torch.utils.data.DataLoader(batches, batch_size=None), settings.num_steps)
        if name == "judge":
            # every token counts as an end token, so that none, which the model never saw, is appended to an answer
            module.model.generation_config.eos_token_id = list(range(END))
        module.model.eval().save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)
