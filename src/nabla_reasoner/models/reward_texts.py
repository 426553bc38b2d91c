"""Checks of the texts that a reward model reads: where its score stands, and whether its matrix has their tokens."""

from collections.abc import Sequence

from .backbone import LanguageModel


def read_suffix(model: LanguageModel, closing: Sequence[int]) -> list[int]:
    """Return the tokens after the end of turn that a sequence classifier reads, up to where its score stands.

    Transformers' own forward reads the score at the last token that is no padding token.

    Args:
        closing: tokens that the chat template writes after an answer, the end of turn first.

    Raises:
        ValueError: all of them are the padding token.
    """
    pad_id = getattr(model.model.config.get_text_config(), "pad_token_id", None)
    last = max((place for place, token in enumerate(closing) if token != pad_id), default=-1)
    if last < 0:
        raise ValueError(
            f"a classifier's texts must not end in its padding token; those of {model.name} end in "
            f"{model.tokenizer.decode(list(closing))!r}, its pad_token_id {pad_id}, so that its own forward reads the "
            "score at the token before, where TRL trains it. That cannot be served. If it was trained at the last "
            "token, set another pad_token_id in its config.json."
        )
    return list(closing[1 : last + 1])


def check_written_tokens(model: LanguageModel, closing: Sequence[int]) -> None:
    """Raise ValueError if the chat template writes a token that the embedding matrix has no row for."""
    rows = len(model.model.get_input_embeddings().weight)
    prompt = model.prompt_ids([{"role": "user", "content": "2+3"}])
    if (token := max([*prompt, *closing, *model.eos_ids[:1]])) >= rows:
        raise ValueError(
            f"a model's matrices must have a row for each token of its chats; {model.name} has {rows:,} rows, and its "
            f"chat template writes token {token} ({model.tokenizer.decode([token])!r}). Use its own tokenizer, or "
            "resize_token_embeddings."
        )
