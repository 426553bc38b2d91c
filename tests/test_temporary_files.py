"""What a run of the tests leaves in the folder of temporary files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_small_models_of_the_tests_are_removed(tmp_path: Path):
    """Each run left 2,000 folders of models, W&B and servers."""
    outer = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    file = ROOT / "tests/engine/test_distinct_indices.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(
        command, cwd=ROOT, env={**outer, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert " passed" in done.stdout
    assert not list(tmp_path.glob("*nabla*"))
