"""What the engine is measured against: bare passes of plain Hugging Face modules, random models of any shape, and the
rate of a large matrix product."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models
from torch import Tensor

from . import batches, cost, passes
from .cost import Cost
from .models import Policy, RewardModel
from .passes import HardSequence
from .vocabulary import CHAT_TEMPLATE, SPECIAL_TOKENS

UNKNOWN = "<|unknown|>"


def bare_passes(policy: Policy, reward: RewardModel, sequences: Sequence[HardSequence]) -> Callable[[], None]:
    """A forward and a backward pass of the same models over the same tokens, with nothing of this package in it.

    A language model's own loss on the response, back to the input embeddings; a classifier's score likewise. Token ids
    are padded and laid out here, once. No mask is given: attention is causal, and padding is on the right.
    """
    closed = [passes.ended(sequence, reward) for sequence in sequences]
    own = _labelled([s.policy_prompt for s in sequences], sequences, policy.device)
    scored = _labelled([s.reward_prompt for s in closed], closed, policy.device)
    calls: list[tuple[Callable, torch.nn.Module, tuple]] = [(language_model_gradient, policy.model, own)]
    if reward.kind == "classifier":
        lengths = [len(s.reward_prompt) + len(s.prefix) + len(s.rollout) - 1 for s in closed]
        last = torch.tensor(lengths, device=policy.device)
        calls.append((classifier_gradient, reward.model, (scored[0], last)))
    else:
        both = [each.model for each in (reward.strong, reward.reference) if each is not None]
        calls += [(language_model_gradient, model, scored) for model in both]

    def run() -> None:
        for function, model, arguments in calls:
            function(model, *arguments)

    return run


def _labelled(
    prompts: Sequence[list[int]], sequences: Sequence[HardSequence], device: torch.device
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Token ids, and the labels of a loss that counts the responses only."""
    texts = [prompt + s.prefix + s.rollout for prompt, s in zip(prompts, sequences, strict=True)]
    ids = batches.padded(texts, device)
    labels = torch.full_like(ids, -100)
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        labels[row, len(prompt) : len(text)] = ids[row, len(prompt) : len(text)]
    return ids, labels


def language_model_gradient(
    model: torch.nn.Module, ids: Int[Tensor, "batch seq"], labels: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq hidden"]:
    """Gradient of a causal LM's own loss by its input embeddings."""
    with torch.enable_grad():
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        loss = model(inputs_embeds=embeddings, labels=labels, use_cache=False).loss
        return torch.autograd.grad(loss, embeddings)[0]


def classifier_gradient(
    model: torch.nn.Module, ids: Int[Tensor, "batch seq"], last: Int[Tensor, " batch"]
) -> Float[Tensor, "batch seq hidden"]:
    """Gradient of a sequence classifier's scores, read at the `last` tokens, by its input embeddings."""
    with torch.enable_grad():
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        hidden = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        scores = model.score(hidden[torch.arange(len(last), device=last.device), last])
        return torch.autograd.grad(scores.sum(), embeddings)[0]


def bare_cost(policy: Policy, reward: RewardModel, sequences: Sequence[HardSequence]) -> Cost:
    """What `bare_passes` spends, by the formula that every engine's cost is counted with."""
    read = sum(len(s.policy_prompt) + len(s.prefix) + len(s.rollout) for s in sequences)
    closed = [passes.ended(sequence, reward) for sequence in sequences]
    scored = sum(len(s.reward_prompt) + len(s.prefix) + len(s.rollout) for s in closed)
    spent = cost.gradient_evaluation(policy.parameters, read, read, reward.parameters, scored, scored)
    return spent._replace(gradient_evaluations=len(sequences))


def random_sequences(policy: Policy, reward: RewardModel, length: int, count: int) -> list[HardSequence]:
    """Sequences of `length` tokens that are all rollout but for one token of prompt, drawn uniformly, seeded."""
    generator = torch.Generator().manual_seed(length)
    low, high = len(SPECIAL_TOKENS), policy.vocab_size  # no end token before the last
    ids = torch.randint(low, high, (count, length), generator=generator).tolist()
    return [HardSequence(row[:1], row[:1], [], [*row[1:-1], reward.eos_ids[0]]) for row in ids]


def word_tokenizer(vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of exactly `vocab_size` tokens: the words w0, w1, ... and this project's special tokens."""
    words = [*SPECIAL_TOKENS, UNKNOWN]
    words += [f"w{number}" for number in range(vocab_size - len(words))]
    tokenizer = Tokenizer(token_models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL_TOKENS[0], eos_token=SPECIAL_TOKENS[1], unk_token=UNKNOWN,
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    return fast


def random_models(
    policy_shape: dict[str, Any],
    reward_shape: dict[str, Any],
    vocab_size: int,
    kind: str,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Policy, RewardModel]:
    """Policy and reward of given shapes with random weights.

    Args:
        policy_shape, reward_shape: `model_type` and whatever else its configuration takes.
        kind: of the reward, "likelihood" or "classifier".
    """
    tokenizer = word_tokenizer(vocab_size)
    shared = {
        "vocab_size": vocab_size,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }

    def build(shape: dict[str, Any], auto: Any, **more: Any) -> torch.nn.Module:
        settings = {name: value for name, value in shape.items() if name != "model_type"}
        config = transformers.AutoConfig.for_model(shape["model_type"], **settings, **shared, **more)
        torch.manual_seed(0)
        with device:
            return auto.from_config(config, dtype=dtype)

    policy = Policy(build(policy_shape, transformers.AutoModelForCausalLM), tokenizer, "random policy")
    if kind == "classifier":
        scorer = build(reward_shape, transformers.AutoModelForSequenceClassification, num_labels=1)
    else:
        scorer = build(reward_shape, transformers.AutoModelForCausalLM)
    return policy, RewardModel(scorer, tokenizer, "random reward", kind)


def matrix_product(size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A product of two square matrices, 2 size³ FLOPs: the rate that a pass could reach at best."""
    with device:
        left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    return lambda: left @ right
