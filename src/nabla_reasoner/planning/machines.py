"""Machines that a run can be planned for: memory, bandwidth and arithmetic as their vendors publish them.

A decoding step reads all weights and the cached keys and values once, so that it is bound by bandwidth; a pass over
whole texts is bound by arithmetic. Neither is ever faster than launching its kernels one by one, as PyTorch does.
"""

import os
from typing import NamedTuple

GB = 1e9


class Machine(NamedTuple):
    """One GPU, or the CPU of this computer.

    Attributes:
        name: as typed after `gpu=`.
        memory: bytes. A driver reports a little more than the published GB; that is our reserve for its own needs.
        bandwidth: bytes per second of its memory.
        flops: floating-point operations per second, dense bfloat16 (float32 for `cpu`).
        step_share: share of `bandwidth` and `flops` that decoding reaches; our assumption.
        pass_share: share of `flops` that passes over whole texts reach; our assumption.
        layer_seconds: time to launch one layer of one pass or decoding step; our assumption.
        row_seconds: time spent on one sequence in one decoding step, whatever the model; our assumption.
        dto_seconds: time spent on one row in one step of DTO, whatever the model; our assumption.
    """

    name: str
    memory: float | int
    bandwidth: float | int
    flops: float | int
    step_share: float | int = 0.7
    pass_share: float | int = 0.4
    layer_seconds: float | int = 1.0e-3
    row_seconds: float | int = 10e-6
    dto_seconds: float | int = 50e-6

    def without_launches(self) -> "Machine":
        """Return the machine bound by its bandwidth and arithmetic alone."""
        return self._replace(layer_seconds=0.0, row_seconds=0.0, dto_seconds=0.0)


# The CPU that `plan` runs on. Memory is read from the system; bandwidth and FLOP/s of one core in float32 are constants
# fitted to Table 1 at scale=tiny.
_CPU = Machine(
    name="cpu",
    memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
    bandwidth=8 * GB,
    flops=62e9,
    step_share=0.75,
    pass_share=0.56,
    layer_seconds=1.2e-3,
    row_seconds=75e-6,
    dto_seconds=130e-6,
)
# Two cores with bfloat16 matrix units (AMX), fitted to MATH-500 at scale=coder, DTO's steps to 32 problems of GSM8K:
# a row has 151,936 logits.
_CPU_AMX = _CPU._replace(name="cpu-amx", flops=1.2e12, row_seconds=600e-6, dto_seconds=1.7e-3)

HOST = _CPU_AMX  # the CPU beside a GPU, for a reward that is kept in the machine's memory; nodes may have more cores

MACHINES = {
    machine.name: machine
    for machine in (
        _CPU,
        _CPU_AMX,
        Machine("RTX4090-24GB", memory=24 * GB, bandwidth=1008 * GB, flops=165.2e12),
        Machine("A100-40GB", memory=40 * GB, bandwidth=1555 * GB, flops=312e12),
        Machine("L40S-48GB", memory=48 * GB, bandwidth=864 * GB, flops=362.05e12),
        Machine("A100-80GB", memory=80 * GB, bandwidth=2039 * GB, flops=312e12),
        Machine("H100-80GB", memory=80 * GB, bandwidth=3350 * GB, flops=989.4e12),
        Machine("H200-141GB", memory=141 * GB, bandwidth=4800 * GB, flops=989.4e12),
    )
}


def machine(name: str) -> Machine:
    """Return a machine by name.

    Raises:
        ValueError: an unknown name; the valid ones are listed.
    """
    if name not in MACHINES:
        raise ValueError(f"gpu must be one of {', '.join(MACHINES)}; got {name!r}. Write gpu=H100-80GB.")
    return MACHINES[name]


def default_machine(name: str, device: str) -> Machine:
    """Return the machine that a scale names, or this computer's CPU if the scale names a GPU and device is "cpu".

    Raises:
        ValueError: an unknown name, or device "cuda" at a scale that names a CPU.
    """
    named = machine(name)
    on_cpu = named.name in (_CPU.name, _CPU_AMX.name)
    if device == "cpu":
        return named if on_cpu else _CPU
    if on_cpu:
        raise ValueError(
            f"a plan for device={device} needs the name of the GPU, because the scale names none; got no gpu=. Add "
            "gpu=H100-80GB or another."
        )
    return named
