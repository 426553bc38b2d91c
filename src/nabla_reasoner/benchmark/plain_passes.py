"""What the engine is measured against: bare passes of plain Hugging Face modules, random models of any shape, and the
rate of a large matrix product."""

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
    """A forward and a backward pass of the same models over the same tokens, with nothing of this package in it.

    A language model's own loss on the response, back to the input embeddings; a classifier's score likewise. Token ids
    are padded and laid out here, once. No mask is given: attention is causal, and padding is on the right.
    """
    closed = [with_end_token(sequence, reward) for sequence in sequences]
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
    prompts: Sequence[list[int]], sequences: Sequence[TokenSequence], device: torch.device
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Token ids, and the labels of a loss that counts the responses only."""
    texts = [prompt + s.prefix + s.rollout for prompt, s in zip(prompts, sequences, strict=True)]
    ids = batching.padded(texts, device)
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


def bare_cost(policy: Policy, reward: RewardModel, sequences: Sequence[TokenSequence]) -> Cost:
    """What `bare_passes` spends, by the formula that every engine's cost is counted with."""
    read = sum(len(s.policy_prompt) + len(s.prefix) + len(s.rollout) for s in sequences)
    closed = [with_end_token(sequence, reward) for sequence in sequences]
    scored = sum(len(s.reward_prompt) + len(s.prefix) + len(s.rollout) for s in closed)
    spent = cost.gradient_evaluation(policy.parameters, read, read, reward.parameters, scored, scored)
    return spent._replace(gradient_evaluations=len(sequences))


def random_sequences(policy: Policy, reward: RewardModel, length: int, count: int) -> list[TokenSequence]:
    """Sequences of `length` tokens that are all rollout but for one token of prompt, drawn uniformly, seeded."""
    generator = torch.Generator().manual_seed(length)
    low, high = len(SPECIAL_TOKENS), policy.vocab_size  # no end token before the last
    ids = torch.randint(low, high, (count, length), generator=generator).tolist()
    return [TokenSequence(row[:1], row[:1], [], [*row[1:-1], reward.eos_ids[0]]) for row in ids]


def matrix_product(size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A product of two square matrices, 2 size³ FLOPs: the rate that a pass could reach at best."""
    with device:
        left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    return lambda: left @ right
