"""Adapters of lower rank: against the best approximation of the whole product, and as peft reads them."""

import copy

import numpy as np
import peft
import pytest
import torch
import transformers

from nabla_reasoner.training import adapters

A, B = "base_model.model.x.lora_A.weight", "base_model.model.x.lora_B.weight"


def factors(rank: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random factors of one matrix of shape (9, 7), and a tensor that is no factor."""
    generator = torch.Generator().manual_seed(seed)
    return {
        A: torch.randn(rank, 7, generator=generator),
        B: torch.randn(9, rank, generator=generator),
        "base_model.model.score.weight": torch.randn(1, 7, generator=generator),
    }


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_product_is_the_best_approximation_of_its_rank(rank: int):
    tensors = factors()
    cut = adapters.truncated(tensors, rank)
    assert (cut[A].shape, cut[B].shape) == ((rank, 7), (9, rank))
    product = (tensors[B] @ tensors[A]).numpy()
    u, values, v = np.linalg.svd(product)  # of the product itself, which the code never forms
    best = (u[:, :rank] * values[:rank]) @ v[:rank]
    np.testing.assert_allclose((cut[B] @ cut[A]).numpy(), best, atol=1e-5)
    error = np.linalg.norm(product - (cut[B] @ cut[A]).numpy())
    assert error == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-5)
    assert torch.equal(cut["base_model.model.score.weight"], tensors["base_model.model.score.weight"])


@pytest.mark.parametrize("rank", [0, 5])
def test_rank_beyond_that_of_the_factors_is_refused(rank: int):
    with pytest.raises(ValueError, match=f"rank must be from 1 to 4.*got {rank}"):
        adapters.truncated(factors(), rank)


@pytest.mark.slow
def test_folder_is_read_by_peft_and_predicts_what_the_cut_product_does(tmp_path):
    settings = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=30, **settings)).eval()
    targets = ["q_proj", "down_proj"]
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets, layers_to_transform=[1])
    wrapped = peft.get_peft_model(copy.deepcopy(base), lora)
    expected = copy.deepcopy(base)
    for name, module in wrapped.base_model.model.named_modules():
        if hasattr(module, "lora_B"):
            torch.nn.init.normal_(module.lora_B["default"].weight)
            product = (module.lora_B["default"].weight @ module.lora_A["default"].weight).detach() * 8 / 4
            u, values, v = torch.linalg.svd(product)
            expected.get_submodule(name).weight.data += (u[:, :2] * values[:2]) @ v[:2]
    wrapped.save_pretrained(tmp_path)
    adapters.truncate_folder(tmp_path, 2)
    reread = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    ids = torch.arange(12)[None]
    torch.testing.assert_close(reread(ids).logits, expected(ids).logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(reread(ids).logits, base(ids).logits, atol=1e-2)
