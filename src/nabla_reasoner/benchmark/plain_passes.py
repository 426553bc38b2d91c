"""Baselines of the engine: bare passes of plain Hugging Face modules, and the rate of a large matrix product."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import cost
from ..cost import Cost
from ..engine import batching
from ..engine.sequences import TokenSequence, with_end_token
from ..models.language_models import Policy, RewardModel
from ..models.tokenizers import SPECIAL_TOKENS


def bare_passes(policy: Policy, reward: RewardModel, sequences: Sequence[TokenSequence]) -> Callable[[], None]:
    """Return a function that runs a forward and a backward pass of the same models over the same tokens.

    The passes use no code of this package: a language model's own loss on the response, or a classifier's score, back
    to the input embeddings. Token ids are padded here, once. No mask is needed: attention is causal, and padding is on
    the right.
    """
    closed = [with_end_token(sequence, reward) for sequence in sequences]
    read = _labelled([s.policy_prompt for s in sequences], sequences, policy.device)
    scored = _labelled([s.reward_prompt for s in closed], closed, policy.device)
    calls: list[tuple[Callable, torch.nn.Module, tuple]] = [(language_model_gradient, policy.model, read)]
    if reward.kind == "classifier":
        lengths = [len(s.reward_prompt) + len(s.prefix) + len(s.rollout) - 1 for s in closed]
        last = torch.tensor(lengths, device=policy.device)
        calls.append((classifier_gradient, reward.model, (scored[0], last)))
    else:
        scorers = [scorer for scorer in (reward.strong, reward.reference) if scorer is not None]
        calls += [(language_model_gradient, scorer.model, scored) for scorer in scorers]

    def run() -> None:
        for function, model, arguments in calls:
            function(model, *arguments)

    return run


def _labelled(
    prompts: Sequence[list[int]], sequences: Sequence[TokenSequence], device: torch.device
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Return padded token ids, and labels for a loss on the responses only."""
    texts = [prompt + s.prefix + s.rollout for prompt, s in zip(prompts, sequences, strict=True)]
    ids = batching.padded(texts, device)
    labels = torch.full_like(ids, -100)
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        labels[row, len(prompt) : len(text)] = ids[row, len(prompt) : len(text)]
    return ids, labels


def language_model_gradient(
    model: torch.nn.Module, ids: Int[Tensor, "batch seq"], labels: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq hidden"]:
    """Return the gradient of a causal LM's own loss by its input embeddings."""
    with torch.enable_grad():
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        loss = model(inputs_embeds=embeddings, labels=labels, use_cache=False).loss
        return torch.autograd.grad(loss, embeddings)[0]


def classifier_gradient(
    model: torch.nn.Module, ids: Int[Tensor, "batch seq"], last: Int[Tensor, " batch"]
) -> Float[Tensor, "batch seq hidden"]:
    """Return the gradient of a classifier's scores, read at the `last` tokens, by its input embeddings."""
    with torch.enable_grad():
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        hidden = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        scores = model.score(hidden[torch.arange(len(last), device=last.device), last])
        return torch.autograd.grad(scores.sum(), embeddings)[0]


def bare_cost(policy: Policy, reward: RewardModel, sequences: Sequence[TokenSequence]) -> Cost:
    """Return the cost of `bare_passes`, by the same formula as every engine's cost."""
    nothing = cost.Reads()
    read = sum((_whole(s, s.policy_prompt, len(s.rollout)) for s in sequences), nothing)
    closed = [with_end_token(sequence, reward) for sequence in sequences]
    scored = sum((_whole(s, s.reward_prompt, 1 if reward.has_score_head else len(s.rollout)) for s in closed), nothing)
    spent = cost.gradient_evaluation(policy.size, read, read, reward.size, scored, scored)
    return spent._replace(gradient_evaluations=len(sequences))


def _whole(sequence: TokenSequence, prompt: list[int], outputs: int) -> cost.Reads:
    return cost.one_pass(0, len(prompt) + len(sequence.prefix) + len(sequence.rollout), outputs)


def random_sequences(policy: Policy, reward: RewardModel, length: int, count: int) -> list[TokenSequence]:
    """Return uniformly drawn, seeded sequences of `length` tokens: one prompt token, the rest rollout."""
    generator = torch.Generator().manual_seed(length)
    low, high = len(SPECIAL_TOKENS), policy.vocab_size  # no end token before the last
    ids = torch.randint(low, high, (count, length), generator=generator).tolist()
    return [TokenSequence(row[:1], row[:1], [], [*row[1:-1], reward.eos_ids[0]]) for row in ids]


def matrix_product(size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Return a product of two square matrices, 2 size³ FLOPs: an upper bound of the rate of a pass."""
    with device:
        left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    return lambda: left @ right
