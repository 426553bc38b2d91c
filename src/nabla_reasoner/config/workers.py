"""Number of processes that run cells side by side."""

from .cell import Cell

MIN_RECORDS = 500  # records to be made per process; for fewer, starting one (some seconds) is not worth it


def useful_workers(cell: Cell, records: int) -> int:
    """Return how many processes to use for cells with so many records to make; 1 means none but this one.

    Cells on a GPU, and cells for which a server works, run one after the other.
    """
    if cell.device != "cpu" or cell.served or cell.devices > 1:
        return 1
    return max(1, min(cell.workers, records // MIN_RECORDS))
