"""Tokenizers with a chat template: loaded from a folder, trained for the tiny scale, or of any given size."""

import re
from collections.abc import Sequence
from pathlib import Path

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.utils import cached_file

from ..types import COMMIT, Messages
from .chat_template import applied

SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
UNKNOWN = "<|unknown|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def split_commit(name: str) -> tuple[str, str | None]:
    """Split OWNER/NAME@COMMIT into hub name and commit; the commit of other names is None.

    Raises:
        ValueError: something else than a full commit after the @.
    """
    plain, mark, commit = name.partition("@")
    if not mark or Path(name).exists() or plain.count("/") != 1 or plain.startswith((".", "/", "~")):
        return name, None
    if not re.fullmatch(COMMIT, commit):
        raise ValueError(
            f"the revision of a hub name must be a full commit, 40 digits 0 to f; got {commit!r} in {name}. Look it up "
            f"at https://huggingface.co/{plain}/commits/main."
        )
    return plain, commit


def load_tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder or hub name, which may be pinned: OWNER/NAME@COMMIT.

    A `tokenizer.json` is loaded unchanged. AutoTokenizer would rebuild it with the pre-tokenizer of some architectures,
    which changes the ids. Merges that a BPE tokenizer leaves out at random while it trains a model are not left out.

    Raises:
        ValueError: the tokenizer cannot be read, has no chat template, or one that writes no question.
    """
    plain, commit = split_commit(name)
    try:
        revision = commit or "main"
        if _has_file(plain, "tokenizer.json", revision):
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(plain, revision=revision)
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(plain, trust_remote_code=False, revision=revision)
        if getattr(tokenizer.backend_tokenizer.model, "dropout", None):
            tokenizer.backend_tokenizer.model.dropout = None
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"the tokenizer of {name} brings code of its own (auto_map), which is never run here. "
                "Use a model whose tokenizer transformers has."
            ) from error
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the tokenizer of {name} cannot be read: {first_line}. Check the name or folder.") from error
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer must have a chat template; that of {name} has none. Set tokenizer.chat_template."
        )
    try:
        prompt = chat_ids(tokenizer, [{"role": "user", "content": "2+3"}])
    except Exception as error:  # Jinja's errors, and what templates raise themselves
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the chat template of {name} must write a user's question; it raises {reason!r}. Correct chat_template."
        ) from error
    if not prompt:
        raise ValueError(
            f"the chat template of {name} must write a user's question; it is empty. Correct chat_template."
        )
    if prompt == chat_ids(tokenizer, [{"role": "user", "content": "What is 17 * 25?"}]):
        raise ValueError(
            f"a prompt must hold the user's question; {name} writes {tokenizer.decode(prompt)!r} for two questions. "
            "Check that tokenizer.json is there, and chat_template."
        )
    return tokenizer


def _has_file(plain: str, file: str, revision: str) -> bool:
    """Return whether a folder, or a repository of the hub, has a file."""
    missing = {"_raise_exceptions_for_missing_entries": False}
    return cached_file(plain, file, revision=revision, **missing) is not None


def chat_ids(tokenizer: transformers.PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Return the token ids of a chat up to the assistant's answer, with a fixed date (see `chat_template`).

    Raises:
        ValueError: the template refuses the chat.
    """
    return list(applied(tokenizer, messages, add_generation_prompt=True, tokenize=True, return_dict=False))


def build_tokenizer(texts: Sequence[str], vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on `texts`; it can encode any text.

    Each digit is a token. Merges may cross spaces, so that a task's fixed wording becomes one or two tokens: prompts of
    a dozen tokens keep the tiny scale fast on two cores.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=160,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_chat_template(tokenizer, model_max_length=512, clean_up_tokenization_spaces=False)


def word_tokenizer(vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of exactly `vocab_size` tokens: w0, w1, ..., the special tokens, and one for unknown words."""
    tokens = [*SPECIAL_TOKENS, UNKNOWN]
    tokens += [f"w{number}" for number in range(vocab_size - len(tokens))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _with_chat_template(tokenizer, unk_token=UNKNOWN)


def _with_chat_template(tokenizer: Tokenizer, **settings: str | int | bool) -> transformers.PreTrainedTokenizerFast:
    pad, end, *roles = SPECIAL_TOKENS
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=end, additional_special_tokens=roles, **settings
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def vocabulary_size(tokenizer: transformers.PreTrainedTokenizerBase) -> int:
    """Return the number of token ids; an output matrix may have more rows, as padding."""
    return max(tokenizer.get_vocab().values()) + 1
