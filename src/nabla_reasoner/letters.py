"""A task small enough that every answer can be scored: strings of letters, a policy with several habits, a reward.

A prompt is a string of the letters a to d between two colons. The policy has learnt three habits (copy the prompt,
reverse it, replace each letter by the next one), each followed carelessly; the reward model has learnt to like the
last two. So π has several modes, which a sampler has to find and weigh, and ρ* ∝ π e^{λr} keeps two of them.

All four letters and the colon can be drawn at any position, and an answer has a fixed length: the end token is a row
of the models' embeddings beyond the tokenizer's vocabulary, which no policy here can draw (`models.Policy`). The space
is therefore 5^length answers per prompt. Models and tokenizer are ordinary Hugging Face folders.
"""

import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from . import training

ALPHABET, MARKER = "abcd", ":"
TOKENS = ALPHABET + MARKER
END = len(TOKENS)  # id of the end token, one beyond the tokenizer's vocabulary
HABITS = {"copy": 0.5, "reverse": 0.3, "next": 0.2}  # how often the demonstrations follow each
LIKED = ("reverse", "next")
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


def agreement(prompt: str, answer: str) -> float:
    """Share of an answer's letters, in [0, 1], that the liked habit nearest to it would have written."""
    return max(
        sum(a == b for a, b in zip(follow(habit, prompt), answer, strict=True)) / len(prompt) for habit in LIKED
    )


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


def demonstrations(chosen: Sequence[str], count: int, seed: int) -> list[training.Example]:
    """Answers by a random habit, followed carelessly: what the policy learns from."""
    generator, habits = random.Random(seed), list(HABITS)
    examples = []
    for _ in range(count):
        prompt = generator.choice(chosen)
        (habit,) = generator.choices(habits, weights=[HABITS[name] for name in habits])
        answer = _careless(follow(habit, prompt), generator)
        examples.append(training.Example("letters", ids(f":{prompt}:"), ids(answer)))
    return examples


def judgements(chosen: Sequence[str], count: int, seed: int) -> list[training.Example]:
    """Answers of any kind with a soft label at the end token: what the reward model learns from.

    Labels lie in [0.05, 0.95], so that the score, a log-odds, stays between about -3 and 3.
    """
    generator, habits = random.Random(seed), list(HABITS)
    examples = []
    for _ in range(count):
        prompt = generator.choice(chosen)
        answer = follow(generator.choice(habits), prompt)
        for _ in range(generator.randrange(3)):
            answer = _careless(answer, generator)
        label = 0.05 + 0.9 * agreement(prompt, answer)
        examples.append(
            training.Example("letters", ids(f":{prompt}:"), [*ids(answer), END], [0.0] * len(answer) + [label])
        )
    return examples


def build_model(shape: dict, *, classifier: bool) -> torch.nn.Module:
    """A randomly initialised Hugging Face model over the letters and the end token."""
    settings = transformers.AutoConfig.for_model(
        **shape, vocab_size=END + 1, max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=END, pad_token_id=None, **({"num_labels": 1} if classifier else {}),
    )  # fmt: skip
    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    return auto.from_config(settings)


def fit(module: lightning.LightningModule, loader: torch.utils.data.DataLoader, steps: int) -> None:
    """Run a short training on the CPU: nothing is logged or kept but the module itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        lightning.Trainer(
            accelerator="cpu", devices=1, max_steps=steps, gradient_clip_val=1.0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ).fit(module, loader)  # fmt: skip


def train(folder: Path, chosen: Sequence[str], *, shape: dict, schedule: training.Schedule, batch: int, seed: int):
    """Train policy and reward model, and write them as `folder`/policy and `folder`/reward.

    Args:
        chosen: prompts that occur in the training data.
        shape: of both models, as Hugging Face configurations name it (`model_type`, `hidden_size`, ...).
        batch: examples in a step.
    """
    count = batch * schedule.num_steps // 4  # each example is seen about four times
    jobs = {
        "policy": (demonstrations, lambda model: training.LanguageModelTraining(model, schedule)),
        "reward": (judgements, lambda model: training.RewardTraining(model, schedule, process_weight=0.0)),
    }
    for number, (name, (examples, module_of)) in enumerate(jobs.items()):
        lightning.seed_everything(seed + number, verbose=False)
        module = module_of(build_model(shape, classifier=name == "reward"))
        pool = training.Mixture({"letters": examples(chosen, count, seed)}, {"letters": batch}, seed)
        fit(module, torch.utils.data.DataLoader(pool, batch_size=None), schedule.num_steps)
        module.model.eval().save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)
