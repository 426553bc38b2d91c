"""Peak memory of one call, measured in a separate process.

`python -m nabla_reasoner.benchmark.memory VARIANT SETTINGS` prints JSON. VARIANT is "optimize", one DTO call
(`dto.optimize`), or "bare", one forward and backward pass of the same models by plain Hugging Face modules. SETTINGS is
a JSON object with the keyword arguments of `measure`. Only memory added by the call counts: before it, weights are
loaded, modules are imported, and a call on a few tokens is made.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import cost
from ..dto import optimizer
from ..engine.sequences import TokenSequence
from ..models import random_init
from . import plain_passes

VARIANTS = ("bare", "optimize")
PROCESS_STATUS = Path("/proc/self/status")
RESET_PEAK = Path("/proc/self/clear_refs")
Result = TypeVar("Result")


def measure(
    variant: str,
    *,
    policy_shape: dict[str, Any],
    reward_shape: dict[str, Any],
    vocab_size: int,
    length: int,
    num_iterations: int,
    step_size: float,
    device: str,
    threads: int | None,
) -> dict[str, int | float]:
    """Build random float32 models, make the call, and return its cost.

    Args:
        length: number of tokens of prompt and rollout together.
        num_iterations, step_size: T and η of the DTO call.

    Returns:
        `peak_bytes`, `seconds`, and the fields of the call's `Cost`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch_device = torch.device(device)
    policy, reward = random_init.random_models(
        policy_shape, reward_shape, vocab_size, "likelihood", torch_device, torch.float32
    )
    prompt = [{"role": "user", "content": "w0 w1"}]
    prompt_length = len(policy.prompt_ids(prompt))

    def call(tokens: int) -> cost.Cost:
        rollout = plain_passes.random_sequences(policy, reward, tokens - prompt_length + 1, 1)[0].rollout
        if variant == "optimize":
            settings = {"update": "first", "num_iterations": num_iterations, "step_size": step_size}
            (result,) = optimizer.optimize(policy, reward, [prompt], [[]], [rollout], **settings)
            return result.cost
        sequence = TokenSequence(policy.prompt_ids(prompt), reward.prompt_ids(prompt), [], rollout)
        plain_passes.bare_passes(policy, reward, [sequence])()
        return plain_passes.bare_cost(policy, reward, [sequence])

    call(prompt_length + 8)
    begin = time.perf_counter()
    peak, spent = peak_of(lambda: call(length), torch_device)
    return {**spent._asdict(), "peak_bytes": peak, "seconds": time.perf_counter() - begin}


def peak_of(function: Callable[[], Result], device: torch.device) -> tuple[int, Result]:
    """Return the bytes that a call adds at its peak, and its result.

    On the CPU this is resident memory. If the kernel cannot reset an earlier peak, the process's largest memory so far
    counts, so that the result can be too large, never too small.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        with contextlib.suppress(OSError):
            RESET_PEAK.write_text("5")
        before = _resident_bytes(device)
    value = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return cost.peak_bytes(device) - before, value


def _resident_bytes(device: torch.device) -> int:
    if not PROCESS_STATUS.exists():
        return cost.peak_bytes(device)
    line = next(line for line in PROCESS_STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def measure_in_new_process(variant: str, settings: dict[str, Any]) -> dict[str, int | float]:
    """Run `measure` in a new interpreter.

    Raises:
        RuntimeError: the process failed; the message ends with the last line that it wrote.
    """
    command = [sys.executable, "-m", "nabla_reasoner.benchmark.memory", variant, json.dumps(settings)]
    source = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        raise RuntimeError(f"memory of {variant} could not be measured: {reason}")
    return json.loads(process.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], **json.loads(sys.argv[2]))))
