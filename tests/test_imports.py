"""Each module imports only from the rows below its own."""

import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "nabla_reasoner"
ROWS = """
__init__
stages
run bench comparison checks illustrations walkthrough report
artefacts gallery publishing chapters
session mirror plan adapters verdicts cases hub_training contest experiments
recipes measurements facts ablations
inference summary manifest footprint tuning ppo_figures rejections settings budget_figures curves ceiling
sketches workbench
expenses blocks claims ablation_figures headings
decoding ppo tables figures yardsticks breakdown ppo_tables theory_figures theorem
trace
oracle lockstep deamortised letters pairs
search
verifiers improvement prices forest growth
baselines revision training dto theory statistics grid chains flows particles
reference enumeration landscapes
walk descent
grading rollouts scoring objective records
passes demonstrations pretrained
gradients branches
cache
batches reinforcement displacement
problems models relaxation cost vocabulary timing trees
"""


def test_every_module_imports_only_from_rows_below():
    row = {name: number for number, line in enumerate(ROWS.strip().splitlines()) for name in line.split()}
    for path in PACKAGE.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"^\s*from \.(\w+) import", text, re.M)
        for names in re.findall(r"^\s*from \. import (.+)$", text, re.M):
            found += [name.strip() for name in names.split("#")[0].split(",")]
        for name in found:
            assert row[path.stem] < row[name], f"{path.stem} must not import {name}"
