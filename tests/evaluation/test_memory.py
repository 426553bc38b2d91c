"""Memory of a long cell: it does not grow with the number of problems."""

import gc
import os
from pathlib import Path

import pytest
import toys

from nabla_reasoner import Problem
from nabla_reasoner.config.build import build_method
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.evaluation import prediction
from nabla_reasoner.evaluation.records import read_records

COUNT = int(os.environ.get("NABLA_PROBLEMS", "600"))
PROBLEMS = [Problem(str(number), f"{number} + 7 =", str(number + 7), "sum") for number in range(COUNT)]
BOUND = 15 * 2**20  # bytes; caches and gradients of one problem that were kept would be about 45 kB, 20 MB in all


def resident_bytes() -> int:
    gc.collect()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to read resident memory")
def test_memory_is_the_same_after_a_quarter_of_the_problems_and_after_all(tmp_path: Path):
    settings = ["max_new_tokens=4", "scale=tiny", "method.max_rollouts=2", "method.num_iterations=8"]
    (cell,) = compose_cells(["method=nabla_reasoner", *settings])
    module = prediction.Inference(build_method(cell), toys.policy(), toys.reward(), 0)
    path, resident = tmp_path / "records.jsonl", []
    for count in (COUNT // 4, COUNT):
        prediction.run(
            module,
            PROBLEMS[:count],
            path,
            policy="toy",
            method="nabla_reasoner",
            repeats=1,
            batch_size=50,
            device="cpu",
            devices=1,
            threads=None,
            label="",
        )
        resident.append(resident_bytes())
    records = read_records(path)
    assert len(records) == COUNT
    assert all(record["status"] == "ok" for record in records)
    assert any(record["search"]["rollouts"] > 1 for record in records), "the loop revises"
    assert resident[1] - resident[0] < BOUND
