"""Quantised weights are refused by name before they are loaded; whole numbers that are no weights are not."""

from pathlib import Path

import hub_caches
import pytest
import small_models
import torch
import transformers
from safetensors.torch import load_file, save_file

from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.models.loading import outline
from nabla_reasoner.models.whole_models import load_whole

DOWN = "model.layers.1.mlp.down_proj.weight"
COMMIT = "a" * 40
SETTINGS = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "fp8": {"quant_method": "fp8"},
    "no method": {},
}
LOADS = {
    "policy": lambda folder: Policy.from_pretrained(folder),
    "reward": lambda folder: RewardModel.from_pretrained(folder, "likelihood"),
    "outline": lambda folder: outline(transformers.AutoModelForCausalLM, folder, "cpu", "float32"),
    "training": lambda folder: load_whole(folder),
}


def cast(folder: Path, key: str, dtype: torch.dtype) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[key] = weights.get(key, torch.ones(16, 16)).to(dtype)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def refused(folder: Path, load: str, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        LOADS[load](str(folder))
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert "Use the original weights, or dequantise" in message


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("method", SETTINGS)
def test_settings_of_quantised_weights_are_refused(method, load):
    """FAULTS K3: some were loaded without their kernels, others failed in the middle with errors of their own."""
    folder = small_models.folder("llama")
    small_models.edit(folder / "config.json", quantization_config=SETTINGS[method])
    refused(folder, load, "must be plain numbers; its config.json has quantization_config")
    small_models.edit(folder / "config.json", quantization_config=None, text_config={"quantization_config": {"a": 1}})
    refused(folder, load, "must be plain numbers; its config.json has quantization_config")


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    ("dtype", "said"),
    [(torch.int8, "I8"), (torch.uint8, "U8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.int64, "I64")],
)
def test_weight_that_is_no_plain_number_is_refused(dtype, said, load):
    """FAULTS K3: its integers were read as if they were the weights."""
    folder = small_models.folder("llama")
    cast(folder, DOWN, dtype)
    refused(folder, load, rf"{DOWN} in model.safetensors is in {said}, as of a quantised model")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_plain_precisions_and_tables_of_whole_numbers_are_served(dtype):
    folder = small_models.folder("gpt_neox")
    key = "gpt_neox.layers.0.mlp.dense_4h_to_h.weight"
    cast(folder, key, dtype)
    cast(folder, "gpt_neox.layers.0.attention.bias", torch.bool)  # a mask, which older versions of transformers saved
    small_models.edit(folder / "config.json", quantization_config=None)
    assert Policy.from_pretrained(str(folder)).model.get_parameter(key).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["settings", "weights"])
def test_quantised_hub_name_is_refused(fault, tmp_path):
    """In a process of its own, as the cache's place is."""
    folder = small_models.folder("llama")
    if fault == "settings":
        small_models.edit(folder / "config.json", quantization_config=SETTINGS["gptq"])
    else:
        cast(folder, DOWN, torch.int8)
    hub_caches.write(tmp_path, {COMMIT: folder})
    code = (
        "from nabla_reasoner import Policy\n"
        f"for name in ('owner/toy', 'owner/toy@{COMMIT}'):\n"
        "    try:\n        Policy.from_pretrained(name)\n    except ValueError as error:\n        print(error)\n"
    )
    said = "quantization_config with quant_method gptq" if fault == "settings" else f"{DOWN} in model.safetensors is in"
    assert hub_caches.in_own_process(code, tmp_path).count(said) == 2
