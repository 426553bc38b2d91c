"""Plan of a training: memory by part, FLOPs and hours."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .machines import Machine
from .memory import SLACK, gigabytes
from .model_sizes import Model, ModelSize

STATE = 4  # bytes of a weight, a gradient and each of Adam's two moments: all in float32
LOGIT_BYTES = 8  # per entry of the logits of a response in training; our assumption
LORA_EXAMPLE = {"r": 32, "lora_alpha": 64, "target_modules": "all-linear"}


class Training(NamedTuple):
    """One training.

    Attributes:
        name: what is trained, and how.
        model: the model; its weights are all trained unless `adapter` counts the parameters of a LoRA adapter.
        sequences: sequences of one optimiser step, on all devices.
        per_device: sequences in one backward pass of one device.
        tokens: mean tokens of a sequence, prompt included.
        longest: tokens of the longest sequence.
        sampled: response tokens that are sampled for a sequence before the step; 0 for supervised training.
        steps: optimiser steps.
        devices: GPUs, each with a copy of all states.
        recomputed: whether layers are computed again in the backward pass instead of being kept.
        width: bytes of an activation.
        sampler: share of each GPU's memory that is set aside for sampling (vLLM).
    """

    name: str
    model: Model
    adapter: int | None
    sequences: int
    per_device: int
    tokens: float | int
    longest: int
    sampled: float | int
    steps: int
    devices: int = 1
    recomputed: bool = False
    width: int = 4
    sampler: float | int = 0.0

    @property
    def trained(self) -> int:
        """Number of trained parameters."""
        return self.model.elements if self.adapter is None else self.adapter


class TrainingMemory(NamedTuple):
    """Bytes on one device, by part."""

    weights: float | int
    gradients: float | int
    optimiser: float | int
    activations: float | int
    logits: float | int
    sampling: float | int

    @property
    def total(self) -> float | int:
        """All parts together."""
        return sum(self)


def memory(training: Training, machine: Machine) -> TrainingMemory:
    """Return the peak memory of a training on one device."""
    size, width = training.model.size, training.width
    read = training.per_device * training.longest
    inputs = size.hidden + size.heads * size.head_dim + size.hidden + size.intermediate  # of matrix products
    kept = training.model.kept_bytes(width) + size.layers * width * inputs
    if training.recomputed:
        kept = size.layers * size.hidden * STATE + kept / size.layers
    adapter = 0 if training.adapter is None else training.adapter
    return TrainingMemory(
        weights=(training.model.elements + adapter) * STATE,
        gradients=training.trained * STATE,
        optimiser=2 * training.trained * STATE,
        activations=read * kept,
        logits=read * size.rows * LOGIT_BYTES,
        sampling=training.sampler * machine.memory,
    )


def flops(training: Training) -> tuple[float, float]:
    """Return the FLOPs of the optimiser steps and those of sampling.

    A forward pass takes 2 N per token, a backward pass as much for the activations and, unless the weights are frozen,
    as much again for the weights; a recomputed forward pass adds 2 N.
    """
    parameters = training.model.matmul_parameters
    factor = 4 + 2 * (training.adapter is None) + 2 * training.recomputed
    learned = factor * parameters * training.tokens * training.sequences * training.steps
    responses = training.sequences * training.steps
    drawn = 2.0 * parameters * training.sampled * responses
    return learned, drawn


def seconds(training: Training, machine: Machine) -> float | int:
    """Return the seconds on `devices` machines: passes bound by arithmetic, sampling by bandwidth."""
    learned, drawn = flops(training)
    passes = learned / (machine.flops * machine.pass_share * training.devices)
    if not training.sampled:
        return passes
    rows = training.sequences / training.devices
    context = training.tokens - training.sampled / 2
    read = training.model.elements * 2 + rows * context * training.model.cache_bytes(2)
    arithmetic = drawn / (training.steps * training.devices * machine.flops * machine.step_share)
    steps = min(1.5 * training.sampled, training.longest)
    bandwidth = steps * read / (machine.bandwidth * machine.step_share)
    return passes + training.steps * max(arithmetic, bandwidth)


def check_memory(trainings: list[Training], machine: Machine) -> None:
    """Raise ValueError if a training does not fit the machine; the message names what would."""
    for training in trainings:
        needed = memory(training, machine)
        if needed.total <= SLACK * machine.memory:
            continue
        parts = ", ".join(f"{name} {gigabytes(value)}" for name, value in needed._asdict().items())
        lighter = training._replace(adapter=adapter_parameters(training.model.size, LORA_EXAMPLE))
        smaller = memory(lighter, machine)
        remedy = "Lower the sequences of a step, or choose a smaller model or a machine with more memory"
        if training.adapter is None and smaller.total <= SLACK * machine.memory:
            settings = ", ".join(f"{key}: {value}" for key, value in LORA_EXAMPLE.items())
            remedy = f'An adapter fits, with {gigabytes(smaller.total)} GB: "lora={{{settings}}}"'
        raise ValueError(
            f"the peak memory must fit {machine.name} ({gigabytes(machine.memory)} GB); {training.name} needs "
            f"{gigabytes(needed.total)} GB on each device ({parts}), because every device holds all states. {remedy}."
        )


def adapter_parameters(size: ModelSize, lora: Mapping[str, Any]) -> int:
    """Return the number of parameters of a LoRA adapter; `lora` holds settings of peft's LoraConfig."""
    queries, keys = size.heads * size.head_dim, size.kv_heads * size.head_dim
    widths = {
        "q_proj": size.hidden + queries,
        "k_proj": size.hidden + keys,
        "v_proj": size.hidden + keys,
        "o_proj": queries + size.hidden,
        "gate_proj": size.hidden + size.intermediate,
        "up_proj": size.hidden + size.intermediate,
        "down_proj": size.intermediate + size.hidden,
    }
    targets = lora.get("target_modules")
    chosen = list(widths) if targets == "all-linear" else targets
    if not isinstance(chosen, list) or not set(chosen) <= set(widths) or not chosen:
        raise ValueError(
            f"lora.target_modules must be all-linear or a list of {', '.join(widths)} for a plan; got {targets!r}."
        )
    layers = len(lora.get("layers_to_transform") or range(size.layers))
    return lora["r"] * layers * sum(widths[name] for name in chosen)
