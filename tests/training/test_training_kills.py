"""A `models` command that is killed at random moments, and what a restart makes of its folder."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from command_processes import Started, shared

TASKS = ("chain_sum", "leg_counting", "products")
KILLS = int(os.environ.get("NABLA_KILLS", "2"))  # more kills take minutes
FOLDERS = 2 if KILLS > 4 else 1
ROOT = Path(__file__).resolve().parents[2]
COMMON = [
    "models",
    "folder=made",
    "threads=1",
    "held_out={validation: 8, test: 8}",
    *(f"tasks.{task}.train=60" for task in TASKS),
    *(f"improvement.batch.{task}=2" for task in TASKS),
    "improvement.questions=50",
    "improvement.validation=4",
    "improvement.recipes.sft.every=5",
    "improvement.recipes.grpo.every=5",
]
COMMANDS = {
    "sft": [
        *COMMON,
        "only=[tokenizer,tiny-base,tiny-base-sft]",
        *(f"models.tiny-base.batch.{task}=2" for task in TASKS),
        "models.tiny-base.architecture.hidden_size=32",
        "models.tiny-base.architecture.num_hidden_layers=1",
        "models.tiny-base.schedule.num_steps=110",  # one checkpoint besides the last
        "improvement.max_new_tokens=8",
        "improvement.recipes.sft.learning_rates=[1.0e-3,3.0e-3]",
        "improvement.recipes.sft.schedule.num_steps=25",
    ],
    "grpo": [  # from a policy that is right sometimes: the shipped one
        *COMMON,
        "only=[tiny-base-grpo]",
        f"improvement.tokenizer={ROOT / 'assets/tokenizer'}",
        f"improved.tiny-base-grpo.start={ROOT / 'assets/policies/tiny-base'}",
        "improvement.recipes.grpo.learning_rates=[1.0e-4]",
        "improvement.recipes.grpo.schedule.num_steps=8",
        "improvement.max_new_tokens=64",
    ],
}
MADE = {
    "sft": {"policies/tiny-base/model.safetensors", "curves/tiny-base-sft.csv"},
    "grpo": {"policies/tiny-base-grpo/model.safetensors", "curves/tiny-base-grpo.csv"},
}


def start(folder: Path, kind: str) -> Started:
    folder.mkdir(exist_ok=True)
    return shared().start_command(COMMANDS[kind], os.environ, folder)


def finish(folder: Path, kind: str) -> dict[str, bytes]:
    """Run the command to its end; return all files that it made."""
    assert start(folder, kind).join() == 0
    made = folder / "made"
    return {str(path.relative_to(made)): path.read_bytes() for path in sorted(made.rglob("*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(COMMANDS))
def test_killed_training_resumes_to_the_weights_and_curve_of_an_undisturbed_one(tmp_path: Path, kind: str):
    shared().run_code("", os.environ)  # later runs find the server started
    begin = time.monotonic()
    expected = finish(tmp_path / "whole", kind)
    seconds = time.monotonic() - begin
    assert MADE[kind] < set(expected)
    chance = random.Random(0)
    for number in range(FOLDERS if kind == "sft" else 1):
        folder = tmp_path / str(number)
        for _ in range(KILLS // 2):
            process = start(folder, kind)
            process.join(chance.uniform(0, seconds))
            process.send_signal(signal.SIGKILL)
            process.join()
        assert finish(folder, kind) == expected
        assert not [path for path in folder.rglob("*") if path.suffix in (".ckpt", ".part")]
