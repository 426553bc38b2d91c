"""Prompts in token ids: the rows of a padded batch, and what the reward model reads for each of them."""

import itertools
from collections import Counter
from collections.abc import Sequence

import torch
import transformers
from jaxtyping import Int
from torch import Tensor

from ..models.language_models import Policy, RewardModel
from ..types import Messages


def problem_id(prompt_ids: Sequence[int]) -> str:
    """Return the id that keys the random draws for a prompt: its token ids, so that other rows do not matter."""
    return " ".join(map(str, prompt_ids))


def repeats(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return how often each prompt occurs before its row: equal prompts are answered with different draws."""
    seen: Counter[str] = Counter()
    result = []
    for prompt in prompts:
        result.append(seen[problem_id(prompt)])
        seen[problem_id(prompt)] += 1
    return result


def rows(input_ids: Tensor, attention_mask: Tensor | None, pad_id: int | None, policy: Policy) -> list[list[int]]:
    """Return the prompts of a left-padded batch without padding.

    Args:
        attention_mask: 1 at tokens, 0 at padding; if None, padding is found by its token, as transformers does.
        pad_id: the padding token; if it is an end token of the policy, it does not mark padding.

    Raises:
        ValueError: no two-dimensional batch of whole numbers, a batch without rows, a mask of another shape, padding
            that is not on the left, an empty row, a token that the policy does not know.
    """
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids must be [batch, prompt]; got the shape {list(input_ids.shape)}. Add an axis.")
    if not len(input_ids):
        raise ValueError(f"input_ids must hold a prompt; got the shape {list(input_ids.shape)}. Pass one or more rows.")
    if input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise ValueError(f"input_ids must be whole numbers; got {input_ids.dtype}. Pass the tokenizer's own.")
    if attention_mask is None:
        marked = pad_id is not None and pad_id not in policy.eos_ids
        attention_mask = input_ids != pad_id if marked else torch.ones_like(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {list(input_ids.shape)}; "
            f"got {list(attention_mask.shape)}. Pass the tokenizer's own."
        )
    prompts = []
    for ids, mask in zip(input_ids.tolist(), attention_mask.bool().tolist(), strict=True):
        length = sum(mask)
        if not length or not all(mask[len(mask) - length :]):
            raise ValueError(
                f"a prompt must hold a token, and padding must stand on its left; row {len(prompts)} does not do so. "
                "Use padding_side='left'."
            )
        prompts.append(ids[len(ids) - length :])
        for token in prompts[-1]:
            if not 0 <= token < policy.vocab_size:
                raise ValueError(
                    f"input_ids must hold tokens of the policy's vocabulary, 0 to {policy.vocab_size - 1}; got {token} "
                    f"in row {len(prompts) - 1}. Use the tokenizer of {policy.name}."
                )
    return prompts


def padded_answers(input_ids: Int[Tensor, "batch prompt"], answers: Sequence[list[int]], pad_id: int) -> Tensor:
    """Return prompts and answers, [batch, prompt + longest answer]; shorter answers are padded on the right."""
    longest = max(len(answer) for answer in answers)
    filled = [answer + [pad_id] * (longest - len(answer)) for answer in answers]
    new = torch.tensor(filled, dtype=torch.long, device=input_ids.device)
    return torch.cat([input_ids.long(), new], dim=1)


def reward_prompts(
    prompts: Sequence[list[int]],
    messages: Sequence[Messages] | None,
    copies: int,
    tokenizer: transformers.PreTrainedTokenizerBase,
    reward: RewardModel,
) -> list[list[int]]:
    """Return what the reward model reads before each answer, as its own template writes the finished chat.

    Args:
        prompts: each of them `copies` times in a row.
        messages: the chats; if None, the prompts must be chats of a template that the reward model shares.
        tokenizer: the policy's.

    Raises:
        ValueError: another number of chats than prompts, or a chat that is needed and not given.
    """
    if messages is not None:
        if len(prompts) != copies * len(messages):
            raise ValueError(
                f"messages must hold one chat for each prompt; got {len(messages)} for {len(prompts) // copies}. "
                'Write messages=[[{"role": "user", "content": TEXT}], ...].'
            )
        return [reward.prompt_ids(chat) for chat in messages for _ in range(copies)]
    if _writes_with(tokenizer) != _writes_with(reward.tokenizer):
        raise ValueError(
            f"the reward model {reward.name} has a chat template of its own, so that it cannot read the prompt's "
            "token ids. Pass the chats: messages=[[{'role': 'user', 'content': TEXT}], ...]."
        )
    opened = _opening(tokenizer)
    return [_finished(prompt, opened, reward) for prompt in prompts]


def _writes_with(tokenizer: transformers.PreTrainedTokenizerBase) -> tuple[str, dict[str, str]]:
    """Return the chat template, and the special tokens that it may write; padding is not among them."""
    named = {name: token for name, token in tokenizer.special_tokens_map.items() if name != "pad_token"}
    return tokenizer.chat_template, named


def _opening(tokenizer: transformers.PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens by which the chat template opens the assistant's turn; none if it always or never does."""
    question = [{"role": "user", "content": "2+3"}]
    closed, opened = (
        tokenizer.apply_chat_template(question, add_generation_prompt=opens, tokenize=False) for opens in (False, True)
    )
    if opened == closed:
        return []
    if opened.startswith(closed):
        return tokenizer.encode(opened.removeprefix(closed), add_special_tokens=False)
    # such as Phi-3's: a chat that opens no turn ends with a token of its own
    ids, others = (tokenizer.encode(text, add_special_tokens=False) for text in (opened, closed))
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, others, strict=False)))
    return ids[shared:]


def _finished(prompt: list[int], opened: list[int], reward: RewardModel) -> list[int]:
    """Return an opened chat as the template writes it once it is answered (see `models.chat_format`)."""
    dropped, opening, _ = reward.format
    written = [*opened[: len(opened) - dropped], *opening]
    if prompt[len(prompt) - len(opened) :] == opened:
        return [*prompt[: len(prompt) - dropped], *opening]
    if prompt[len(prompt) - len(written) :] == written:  # such as Qwen3's chats with enable_thinking=False
        return prompt
    raise ValueError(
        "a prompt must end with the opening of the assistant's turn, as apply_chat_template(..., "
        "add_generation_prompt=True) writes it. Write it so, or pass the chats: messages=[[{'role': 'user', ...}]]."
    )
