"""A task small enough that every answer can be scored: strings of letters, a policy with several habits, a reward.

A prompt is a string of the letters a to d between two colons. The policy has learnt three habits (copy the prompt,
reverse it, replace each letter by the next one), each followed carelessly; the judge, whose log-likelihood is the
reward, has learnt the last two only. So π has several modes, which a sampler has to find and weigh, and ρ* ∝ π e^{λr}
keeps two of them.

All four letters and the colon can be drawn at any position, and an answer has a fixed length: the end token is a row
of the models' embeddings beyond the tokenizer's vocabulary, which no policy here can draw (`models.Policy`). The space
is therefore 5^length answers per prompt. Models and tokenizer are ordinary Hugging Face folders.
"""

import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from ..models import random_init
from ..training import loop
from ..training.data import Example, Mixture

ALPHABET, MARKER = "abcd", ":"
TOKENS = ALPHABET + MARKER
END = len(TOKENS)  # id of the end token, one beyond the tokenizer's vocabulary
HABITS = {"copy": 0.5, "reverse": 0.3, "next": 0.2}  # how often the demonstrations follow each
LIKED = {"reverse": 0.5, "next": 0.5}
CARELESS = 0.25  # chance that a demonstrated token is replaced by one drawn at random
TEMPLATE = "{% for message in messages %}:{{ message['content'] }}:{% endfor %}"


def build_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token per character, without an end token."""
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(TOKENS)}, unk_token=MARKER))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64)
    fast.chat_template = TEMPLATE
    return fast


def follow(habit: str, prompt: str) -> str:
    """The answer that a habit gives to a prompt."""
    if habit == "copy":
        return prompt
    if habit == "reverse":
        return prompt[::-1]
    return "".join(ALPHABET[(ALPHABET.index(letter) + 1) % len(ALPHABET)] for letter in prompt)


def prompts(length: int, seed: int) -> list[str]:
    """All prompts of a length, in a random order."""
    every = [""]
    for _ in range(length):
        every = [text + letter for text in every for letter in ALPHABET]
    random.Random(seed).shuffle(every)
    return every


def ids(text: str) -> list[int]:
    """Token ids of a string."""
    return [TOKENS.index(token) for token in text]


def _careless(text: str, generator: random.Random) -> str:
    return "".join(generator.choice(TOKENS) if generator.random() < CARELESS else token for token in text)


def demonstrations(chosen: Sequence[str], count: int, seed: int, habits: Mapping[str, float] = HABITS) -> list[Example]:
    """Answers by a random habit, followed carelessly: what the policy learns from (and, of other habits, the judge)."""
    generator, names = random.Random(seed), list(habits)
    examples = []
    for _ in range(count):
        prompt = generator.choice(chosen)
        (habit,) = generator.choices(names, weights=list(habits.values()))
        answer = _careless(follow(habit, prompt), generator)
        examples.append(Example("letters", ids(f":{prompt}:"), ids(answer)))
    return examples


def build_model(shape: dict) -> torch.nn.Module:
    """Return a randomly initialised causal LM over the letters and the end token."""
    settings = {
        "vocab_size": END + 1,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "eos_token_id": END,
    }
    return random_init.build_model({**shape, **settings}, build_tokenizer())


def fit(
    module: lightning.LightningModule,
    loader: torch.utils.data.DataLoader,
    steps: int,
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """Run a short training on the CPU: nothing is logged or kept but the module itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
        ).fit(module, loader)


def train(folder: Path, chosen: Sequence[str], *, shape: dict, schedule: loop.Schedule, batch: int, seed: int) -> None:
    """Train policy and judge, and write them as `folder`/policy and `folder`/judge.

    Args:
        chosen: prompts that occur in the training data.
        shape: of both models, as Hugging Face configurations name it (`model_type`, `hidden_size`, ...).
        batch: examples in a step.
    """
    count = batch * schedule.num_steps // 4  # each example is seen about four times
    for number, (name, habits) in enumerate((("policy", HABITS), ("judge", LIKED))):
        lightning.seed_everything(seed + number, verbose=False)
        module = loop.LanguageModelTraining(build_model(shape), schedule)
        examples = demonstrations(chosen, count, seed + number, habits)
        pool = Mixture({"letters": examples}, {"letters": batch}, seed)
        fit(module, torch.utils.data.DataLoader(pool, batch_size=None), schedule.num_steps)
        if name == "judge":
            # answers have one length: whatever stands last ends one, and a judge that never saw an end reads none
            module.model.generation_config.eos_token_id = list(range(END))
        module.model.eval().save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)
