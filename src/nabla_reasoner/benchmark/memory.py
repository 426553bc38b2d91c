"""Peak memory of one call in a process of its own: `python -m nabla_reasoner.benchmark.memory SIDE SETTINGS` prints JSON.

SIDE is "optimize", one DTO call (`dto.optimize`), or "bare", one forward and backward pass of the same models over the
same tokens by plain Hugging Face modules. Counted is what the call adds: before it, weights are loaded, modules are
imported, and a call on a few tokens is made. SETTINGS is a JSON object of the keyword arguments of `measure`.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import cost
from ..dto import optimizer
from ..engine.sequences import TokenSequence
from ..models import random_init
from . import plain_passes

SIDES = ("bare", "optimize")
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(
    side: str,
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
    """Build random models of float32, make the call, and return what it took.

    Args:
        length: tokens of prompt and rollout together.
        num_iterations, step_size: T and η of the DTO call.

    Returns:
        peak_bytes, seconds, and the fields of `Cost` that the call spent.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    where = torch.device(device)
    policy, reward = random_init.random_models(
        policy_shape, reward_shape, vocab_size, "likelihood", where, torch.float32
    )
    prompt = [{"role": "user", "content": "w0 w1"}]
    opening = len(policy.prompt_ids(prompt))

    def call(tokens: int) -> cost.Cost:
        rollout = plain_passes.random_sequences(policy, reward, tokens - opening + 1, 1)[0].rollout
        if side == "optimize":
            settings = {"update": "first", "num_iterations": num_iterations, "step_size": step_size}
            (result,) = optimizer.optimize(policy, reward, [prompt], [[]], [rollout], **settings)
            return result.cost
        sequence = TokenSequence(policy.prompt_ids(prompt), reward.prompt_ids(prompt), [], rollout)
        plain_passes.bare_passes(policy, reward, [sequence])()
        return plain_passes.bare_cost(policy, reward, [sequence])

    call(opening + 8)
    begin = time.perf_counter()
    peak, spent = peak_of(lambda: call(length), where)
    return {**spent._asdict(), "peak_bytes": peak, "seconds": time.perf_counter() - begin}


def peak_of(function: Callable[[], Any], device: torch.device) -> tuple[int, Any]:
    """Bytes that a call adds at its peak, and what it returned.

    On the CPU resident memory is meant. Where the kernel cannot forget an earlier peak, the largest memory the process
    ever held stands in for it, so that the result can be too large, never too small.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        with contextlib.suppress(OSError):
            RESET.write_text("5")
        before = _resident_bytes(device)
    value = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return cost.peak_bytes(device) - before, value


def _resident_bytes(device: torch.device) -> int:
    if not STATUS.exists():
        return cost.peak_bytes(device)
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def in_own_process(side: str, settings: dict[str, Any]) -> dict[str, int | float]:
    """`measure` in a fresh interpreter.

    Raises:
        RuntimeError: the process failed; the last line it wrote is named.
    """
    words = [sys.executable, "-m", "nabla_reasoner.benchmark.memory", side, json.dumps(settings)]
    source = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"memory of {side} could not be measured: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], **json.loads(sys.argv[2]))))
