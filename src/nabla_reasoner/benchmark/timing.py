"""Wall-clock timings of two or more functions in turns: a warm-up of each, then A B A B …."""

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch

WARM_UP = -1  # number of the repeat that is not timed


def interleaved(
    runs: Mapping[str, Callable[[int], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of every run, by repeat. Turns make a slow phase of the machine affect all runs alike.

    Args:
        runs: functions of the repeat's number, by name; the first call of each gets WARM_UP.
        repeats: timings of each run, >= 1.
        device: device whose queue is emptied before and after each timing.
    """
    gc.collect()  # earlier work must not be collected within a timing
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(WARM_UP, repeats):
        for name, function in runs.items():
            value = timed(lambda function=function, repeat=repeat: function(repeat), device)
            if repeat != WARM_UP:
                seconds[name].append(value)
    return seconds


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call."""
    _synchronize(device)
    begin = time.perf_counter()
    function()
    _synchronize(device)
    return time.perf_counter() - begin


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def crossing(lengths: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """Return the length from which on a curve stays below a level; None if that is outside the measured range.

    Args:
        lengths: abscissae, ascending, > 0; interpolation between them is log-log.
        values: ordinates, > 0.
    """
    for i in range(len(values) - 1, 0, -1):
        if values[i] >= level:
            return None
        if values[i - 1] >= level:
            share = math.log(values[i - 1] / level) / math.log(values[i - 1] / values[i])
            return lengths[i - 1] * (lengths[i] / lengths[i - 1]) ** share
    return None
