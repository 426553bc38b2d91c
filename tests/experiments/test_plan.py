"""The plan of a command: expected answers, and no heavy import."""

import subprocess
import sys

import pytest

from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.experiments.plan import expected_answers


@pytest.mark.parametrize(
    ("overrides", "answers"),
    [
        (["method=greedy"], 1),
        (["method=self_consistency", "method.num_samples=5"], 5),
        (["method=best_of_n", "method.num_samples=5"], 5),
        (["method=rap", "method.num_simulations=7"], 7),
        (["method=tree_of_thoughts", "method.breadth=2", "method.num_proposals=5"], 10),
        (["method=tpo", "method.num_samples=4", "method.num_iterations=3"], 4 + 3 * (4 + 2)),
        (["method=nabla_reasoner"], None),
    ],
)
def test_expected_answers_count_whole_responses(overrides, answers):
    assert expected_answers(compose_cells(overrides)[0].method) == answers


def test_plan_imports_no_torch():
    code = (
        "import sys; from nabla_reasoner.__main__ import main; "
        "status = main(['plan', 'table1']); "
        "sys.exit(status or ('torch' in sys.modules or 'transformers' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
