"""Training on another device than the CPU: what a step makes itself lies where the model lies."""

import pretended_device
import pytest
import torch
import toys
import transformers

from nabla_reasoner.models.tokenizers import load_tokenizer
from nabla_reasoner.training.grpo import GroupRelativeTraining, GroupSampling
from nabla_reasoner.training.loop import Schedule
from nabla_reasoner.types import Problem

PROBLEMS = [Problem(str(number), f"What is {number} + 7?", "1", "free") for number in range(3)]


def grpo(elsewhere: bool) -> GroupRelativeTraining:
    """Return a GRPO training whose reward is the share of even tokens."""
    models = [transformers.AutoModelForCausalLM.from_pretrained(toys.model_folder("llama")) for _ in range(2)]
    for model in models if elsewhere else ():
        pretended_device.move(model)
    return GroupRelativeTraining(
        models[0],
        load_tokenizer(toys.model_folder("llama")),
        Schedule(4, 1e-3),
        max_new_tokens=6,
        sampling=GroupSampling(group_size=4, updates_per_batch=2, kl_weight=0.1),
        seed=1,
        reference=models[1],
        score=lambda problems, rollouts: [sum(t % 2 == 0 for t in r.token_ids) / 6 for r in rollouts],
    )


@torch.no_grad()
def loss(training: GroupRelativeTraining) -> torch.Tensor:
    """Return the loss of a first batch, without Lightning's log."""
    training.log = lambda *arguments, **options: None
    return training.update_loss(training.sample_responses(PROBLEMS))


@pytest.mark.slow
def test_grpo_computes_where_its_model_lies():
    expected = loss(grpo(elsewhere=False))
    with pretended_device.pretended():
        actual = loss(grpo(elsewhere=True))
    assert isinstance(actual, pretended_device.Elsewhere)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)
