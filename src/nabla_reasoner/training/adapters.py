"""Adapters of lower rank: the best approximation of a trained LoRA adapter, to ship it in fewer bytes."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..json_text import parse_json

FIRST, SECOND = ".lora_A.weight", ".lora_B.weight"  # ends of peft's names of the two factors


def truncated(tensors: Mapping[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """Return an adapter's tensors with every product of factors B A replaced by its best approximation of a rank.

    The best one in the Frobenius norm keeps the largest singular values (Eckart and Young, 1936). They come from the
    small factors of two QR decompositions; the product itself is never formed. Other tensors stay as they are.

    Args:
        tensors: by peft's names; A of shape (r, in) and B of shape (out, r).
        rank: of the result, at most r.
    """
    result = {name: tensor for name, tensor in tensors.items() if not name.endswith((FIRST, SECOND))}
    for name, first in tensors.items():
        if not name.endswith(FIRST):
            continue
        partner = name.removesuffix(FIRST) + SECOND
        second = tensors[partner]
        if not 1 <= rank <= len(first):
            raise ValueError(f"rank must be from 1 to {len(first)}, that of {name}; got {rank}.")
        left, small_left = torch.linalg.qr(second.double())
        right, small_right = torch.linalg.qr(first.double().T)
        u, values, v = torch.linalg.svd(small_left @ small_right.T)
        roots = values[:rank].sqrt()
        result[name] = (roots[:, None] * (v[:rank] @ right.T)).to(first.dtype).contiguous()
        result[partner] = (left @ (u[:, :rank] * roots)).to(second.dtype).contiguous()
    return result


def truncate_folder(folder: Path, rank: int) -> None:
    """Replace the adapter in a folder by its best approximation of a rank; its scale lora_alpha / r stays.

    Raises:
        ValueError: a rank beyond the adapter's.
    """
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    config = parse_json(settings.read_text(encoding="utf-8"))
    tensors = truncated(load_file(weights), rank)
    save_file(tensors, weights, metadata={"format": "pt"})
    config |= {"lora_alpha": config["lora_alpha"] * rank / config["r"], "r": rank}
    settings.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
