"""Wall-clock of alternatives in one run: a warm-up of each, then A B A B ..., every single timing kept."""

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

WARM_UP = -1  # the number of the repeat that is not timed


def interleaved(
    sides: Mapping[str, Callable[[int], Any]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every side, by repeat; what slows the machine down for a while meets all sides alike.

    Args:
        sides: by name, what is timed: a function of the repeat's number, which is WARM_UP first.
        repeats: timings of each side, >= 1.
        device: its queue is emptied before and after each timing.
    """
    gc.collect()  # what was left by earlier work is not counted to anyone
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(WARM_UP, repeats):
        for name, function in sides.items():
            value = timed(lambda function=function, repeat=repeat: function(repeat), device)
            if repeat != WARM_UP:
                seconds[name].append(value)
    return seconds


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call."""
    _finish(device)
    begin = time.perf_counter()
    function()
    _finish(device)
    return time.perf_counter() - begin


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def crossing(places: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """From where on a curve stays below a level, log-log between the points; None when that is not within their range.

    Args:
        places: ascending, > 0.
        values: > 0, one at each place.
    """
    for i in range(len(values) - 1, 0, -1):
        if values[i] >= level:
            return None
        if values[i - 1] >= level:
            share = math.log(values[i - 1] / level) / math.log(values[i - 1] / values[i])
            return places[i - 1] * (places[i] / places[i - 1]) ** share
    return None
