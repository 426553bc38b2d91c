"""Cells run side by side on a CPU, each in one of several processes."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from ..config.build import BuiltCell
from .processes import end_with_parent, start_method, stop_children


class Ended(NamedTuple):
    """A cell that ran in another process.

    Attributes:
        built: the cell.
        seconds: how long it took.
        peak_bytes: largest memory of the process up to then.
        error: what it raised, if anything.
    """

    built: BuiltCell
    seconds: float
    peak_bytes: int
    error: Exception | None


def run(items: Sequence[BuiltCell], workers: int, work: Callable[[BuiltCell], tuple[float, int]]) -> Iterator[Ended]:
    """Yield the cells as they end; they begin in their order, at most `workers` at a time.

    Args:
        work: runs a cell in the other process; returns seconds and peak bytes.

    Raises:
        MemoryError: a process was killed, which is what a machine without memory does.
    """
    waiting, running = list(items), {}
    context = multiprocessing.get_context(start_method())
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    item = waiting.pop(0)
                    running[pool.submit(work, item)] = item
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield _ended(running.pop(future), future)
        except BrokenProcessPool:
            raise MemoryError(
                f"a process that ran a cell was killed; workers={workers} means that many hold models at once. "
                "Finished problems are on disk. Start again with fewer: workers=1."
            ) from None
        finally:
            if running:  # interrupted: finished problems are on disk, and the cells resume
                stop_children()  # they would not end on SIGTERM: Lightning's handler only notes it
            pool.shutdown(cancel_futures=True)


def _ended(item: BuiltCell, future: "Future[tuple[float, int]]") -> Ended:
    error = future.exception()
    if error is None:
        return Ended(item, *future.result(), None)
    if isinstance(error, BrokenProcessPool) or not isinstance(error, Exception):
        raise error
    return Ended(item, 0.0, 0, error)
