"""Plans of cells: budgets, numbers of problems, durations, and what is refused."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nabla_reasoner.config.cell import Cell
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.config.schema import choices
from nabla_reasoner.evaluation import prediction
from nabla_reasoner.planning import memory, text
from nabla_reasoner.planning.cells import CellPlan, check_memory, limits_of, plan_cells, problem_count
from nabla_reasoner.planning.expected_cost import Models, _step_seconds
from nabla_reasoner.planning.machines import MACHINES, machine
from nabla_reasoner.planning.model_sizes import load
from nabla_reasoner.planning.work import Decoding
from nabla_reasoner.types import Problem

H100 = machine("H100-80GB")
PAPER = ("experiment=table1", "scale=paper", "policy=qwen2.5-7b", "task=math500", "seed=0")


def plan(*overrides: str, on: str = "H100-80GB") -> CellPlan:
    (planned,) = plan_cells(compose_cells(list(overrides)), machine(on))
    return planned


@pytest.fixture(scope="module")
def cells() -> dict[str, Cell]:
    """A cell of every method at scale=paper; methods that need a likelihood reward are only planned, not run."""
    composed = compose_cells([*PAPER, "method=" + ",".join(choices("method"))])
    return {cell.method.name: cell for cell in composed}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "setting", "small", "large"),
    [
        ("nabla_reasoner", "max_rollouts", 4, 16),
        ("nabla_without_gradient", "max_rollouts", 4, 16),
        ("nabla_reasoner_multipass", "max_rollouts", 4, 16),
        ("best_of_n", "num_samples", 4, 16),
        ("self_consistency", "num_samples", 4, 16),
        ("tree_of_thoughts", "num_proposals", 4, 16),
        ("rap", "num_simulations", 4, 16),
        ("tpo", "num_iterations", 1, 3),
        ("mh_resampling", "num_steps", 4, 16),
        ("particle_filter", "num_particles", 4, 16),
        ("discrete_langevin", "num_steps", 4, 16),
    ],
)
def test_a_larger_budget_costs_more_and_is_printed(
    cells: dict[str, Cell], method: str, setting: str, small: int, large: int
):
    methods = [cells[method].method.model_copy(update={setting: value}) for value in (small, large)]
    (first,), (second,) = (plan_cells([cells[method].changed(method=changed)], H100) for changed in methods)
    assert second.cost.flops > 1.3 * first.cost.flops
    assert second.cost.decode_tokens >= first.cost.decode_tokens
    assert second.seconds > first.seconds
    for planned, value in ((first, small), (second, large)):
        assert str(value) in text.budget(planned).replace(",", "").split()


@pytest.mark.slow
def test_every_method_says_what_its_budget_counts(cells: dict[str, Cell]):
    assert set(cells) == set(choices("method"))
    for cell in cells.values():
        assert cell.method.meaning.format(**cell.method.keywords())


@pytest.mark.slow
def test_problems_of_a_file_are_counted(tmp_path: Path):
    file = tmp_path / "two.jsonl"
    lines = [json.dumps({"id": str(number), "problem": "1+1", "answer": "2"}) for number in range(2)]
    file.write_text("\n".join(lines), encoding="utf-8")
    cell = compose_cells(["scale=paper", "task=amc", f"task.path={file}"])[0]
    assert problem_count(cell) == 2
    assert plan("scale=paper", "task=amc", f"task.path={file}").problems == 2 * cell.task.repeats
    for overrides, reason in (
        ([f"task.path={tmp_path}/missing.jsonl"], "must exist"),
        ([f"task.path={file}", "num_problems=3"], "between 1 and 2"),
        (["num_problems=84"], "at most 83"),
    ):
        with pytest.raises(ValueError, match=reason):
            problem_count(compose_cells(["scale=paper", "task=amc", *overrides])[0])


@pytest.mark.slow
def test_training_split_of_a_benchmark_has_its_own_size():
    overrides = ["scale=coder", "task=gsm8k", "method=greedy"]
    assert problem_count(compose_cells([*overrides, "split=validation", "num_problems=2000"])[0]) == 2000
    assert problem_count(compose_cells([*overrides, "split=validation", "num_problems=null"])[0]) == 7473
    for split, size in (("test", 1319), ("validation", 7473)):
        with pytest.raises(ValueError, match=f"at most {size}"):
            problem_count(compose_cells([*overrides, f"split={split}", "num_problems=8000"])[0])


def test_an_ablation_takes_no_more_problems_than_a_benchmark_has():
    overrides = ["experiment=ablations", "scale=paper", "task=amc", "num_problems=100"]
    assert problem_count(compose_cells([*overrides, "setting=all_rows"])[0]) == 83
    with pytest.raises(ValueError, match="at most 83"):
        problem_count(compose_cells(overrides)[0])


def test_seeds_and_repeats_multiply_the_problems():
    one, three = plan(*PAPER[:-1], "seed=0", "method=greedy"), plan(*PAPER[:-1], "seed=0,1,2", "method=greedy")
    assert (one.problems, three.problems) == (500, 1500)
    assert three.cost.flops == pytest.approx(3 * one.cost.flops)
    assert three.records == pytest.approx(3 * one.records)


def test_a_decoding_step_takes_its_slowest_part():
    model = load("Qwen/Qwen2.5-7B", classifier=False)
    quick = H100._replace(layer_seconds=0.0, row_seconds=0.0)
    few, many = Decoding(tokens=80, steps=10, rows=8), Decoding(tokens=40_000, steps=10, rows=4000)
    read = 2 * model.elements + 8 * 500 * 57_344  # weights, and 28 layers x 4 heads x 128 x 2 x 2 bytes per token
    assert _step_seconds(few, 500, [model], 2, quick) == pytest.approx(read / (3350e9 * 0.7))
    product = 2 * 4000 * model.matmul_parameters / (989.4e12 * 0.7)
    assert _step_seconds(many, 0, [model], 2, quick) == pytest.approx(product)
    assert _step_seconds(few, 500, [model], 2, H100) == pytest.approx(28 * H100.layer_seconds + 8 * H100.row_seconds)


def test_weights_in_memory_are_the_parameters_in_the_dtype():
    greedy = plan(*PAPER, "method=greedy")
    assert greedy.memory.policy == 2 * greedy.models.policy.elements
    assert greedy.memory.reward == 2 * greedy.models.reward.elements
    assert plan(*PAPER, "method=greedy", "dtype=float32").memory.policy == 2 * greedy.memory.policy


@pytest.mark.slow
def test_a_gradient_pass_keeps_what_its_tokens_need():
    """4.45 MB per token of Qwen2.5-7B were measured without repeated keys and values (see the model's own test)."""
    planned = plan(*PAPER, "method=nabla_reasoner")
    limits = limits_of(planned.cell)
    doubled = planned.demand(limits._replace(tokens_per_pass=2 * limits.tokens_per_pass))
    assert doubled.activations == pytest.approx(2 * planned.memory.activations)
    assert planned.memory.activations / limits.tokens_per_pass == pytest.approx(4.45e6, rel=0.1)
    null_arm = (*PAPER, "method=nabla_without_gradient")
    assert plan(*null_arm, "method.grad_threshold=0").memory.activations < 0.1 * planned.memory.activations
    assert plan(*null_arm).memory.activations == planned.memory.activations, "its gate reads the gradient"


def test_largest_settings_fit_and_larger_ones_do_not():
    planned = plan(*PAPER, "method=nabla_reasoner", "tokens_per_pass=16384", "decode_rows=512", "batch_size=64")
    limits = limits_of(planned.cell)
    with pytest.raises(ValueError, match="The largest settings that fit"):
        check_memory([planned], H100)
    best = memory.largest([planned.demand], limits, H100, planned.longest)
    assert memory.fits([planned.demand], best, H100)
    assert best.tokens_per_pass >= planned.longest
    for name, step in (("tokens_per_pass", 256), ("batch_size", 1)):
        larger = best._replace(**{name: getattr(best, name) + step})
        assert getattr(best, name) == getattr(limits, name) or not memory.fits([planned.demand], larger, H100)


@pytest.mark.slow
def test_defaults_of_the_paper_fit_the_machine_that_they_are_for():
    cells = compose_cells(
        ["experiment=table1", "scale=paper", "task=math500,aime24", "seed=0", "method=best_of_n,nabla_reasoner"]
    )
    check_memory(plan_cells(cells, H100), H100)


@pytest.mark.slow
def test_every_cell_for_a_single_card_fits_it():
    cells = compose_cells(["experiment=table1", "scale=single_gpu"])
    assert {cell.task.name: cell.num_problems for cell in cells} == {"math500": 100, "gsm8k": 200}
    card = machine(cells[0].estimate.machine)
    check_memory(plan_cells(cells, card), card)


def test_models_beyond_a_machine_name_those_that_hold_them():
    planned = plan(*PAPER, "method=nabla_reasoner", on="RTX4090-24GB")
    with pytest.raises(ValueError, match="No setting fits") as refusal:
        check_memory([planned], machine("RTX4090-24GB"))
    named = str(refusal.value).rpartition("hold it: ")[2].rstrip(".").split(", ")
    assert "H100-80GB" in named
    assert set(named) < set(MACHINES)


def test_a_likelihood_reward_counts_its_reference_model():
    planned = plan(
        "policy=tiny-base", "method=best_of_n", "num_problems=4", "reward.reference=assets/policies/tiny-base", on="cpu"
    )
    alone = plan("policy=tiny-base", "method=best_of_n", "num_problems=4", on="cpu")
    reference = load("assets/policies/tiny-base", classifier=False)
    assert isinstance(planned.models, Models)
    assert planned.models.reward_size == alone.models.reward_size.plus(reference.arithmetic)
    assert planned.memory.reward == alone.memory.reward + 4 * reference.elements


def test_an_unknown_task_borrows_typical_lengths_and_says_so(tmp_path: Path):
    file = tmp_path / "mine.jsonl"
    lines = [f'{{"id": "{i}", "problem": "1 + {i}?", "answer": "{i + 1}"}}' for i in range(4)]
    file.write_text("\n".join(lines), encoding="utf-8")
    planned = plan("task=math500", "task.name=mine", f"task.path={file}", "num_problems=4", "method=greedy", on="cpu")
    assert any("mine" in line and "chain_sum are assumed" in line for line in text.summary([planned], machine("cpu")))


@pytest.mark.slow
def test_documented_hours_and_memory_are_planned():
    """Within 10 %, so that a change of one cost does not need a new page. In a process without checks of types."""
    page = (Path(__file__).resolve().parents[2] / "docs/planning.md").read_text("utf-8")
    words = [sys.executable, "-m", "nabla_reasoner", "plan", "table1", "scale=paper"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    planned = [
        re.findall(pattern, text)[0]
        for pattern in (r"([\d.]+) hours on one \S+;", r"peak memory ([\d.]+) of", r"([\d.]+) hours on one \S+ by its")
    ]
    (row,) = [line for line in page.splitlines() if line.startswith("| one H100-80GB |")]
    documented = [cell.split()[0] for cell in row.split("|")[2:4]] + re.findall(
        r"without it too: (\d+) on an H100", page
    )
    assert list(map(float, documented)) == pytest.approx(list(map(float, planned)), rel=0.1)


def test_reward_on_a_device_of_its_own_halves_what_each_holds():
    """Two devices share the parts of one; the plan shows the device that needs more."""
    (same,), (other,), (host,) = (
        plan_cells(compose_cells([*PAPER, "method=nabla_reasoner", f"reward_device={place}"]), machine("A100-80GB"))
        for place in ("same", "next", "cpu")
    )
    assert host.memory.reward == 0
    assert host.memory.policy == same.memory.policy
    assert (other.memory.policy, other.memory.reward) in {(same.memory.policy, 0), (0, same.memory.reward)}
    assert host.memory.total <= other.memory.total < same.memory.total
    assert other.memory.total + same.memory.policy + same.memory.reward >= same.memory.total


def test_reward_on_the_cpu_takes_the_cpus_time():
    """Gradient passes of a 4B classifier; greedy decoding reads no reward."""
    for method, least, most in (("nabla_reasoner", 4, 100), ("greedy", 1, 1)):
        on_gpu, on_cpu = (plan(*PAPER, f"method={method}", f"reward_device={place}") for place in ("same", "cpu"))
        assert on_cpu.cost == on_gpu.cost
        assert least <= on_cpu.seconds / on_gpu.seconds <= most


def test_a_value_given_twice_counts_once():
    assert plan(*PAPER[:-1], "seed=1,1", "method=greedy").problems == 500


@pytest.mark.parametrize(("repeats", "batch_size", "batches"), [(1, 12, 1), (1, 5, 3), (2, 12, 2), (3, 5, 9)])
@pytest.mark.parametrize("devices", [2, 100])
def test_hours_are_those_of_the_process_with_the_most_batches(
    repeats: int, batch_size: int, batches: int, devices: int
):
    """Three batches on two devices take two thirds of the time, not half of it."""
    words = ["method=greedy", "num_problems=12", f"batch_size={batch_size}", f"task.repeats={repeats}"]
    words.append(f"devices={devices}")
    (planned,) = plan_cells(compose_cells([*PAPER[:-1], *words, "seed=0,1,2"]), H100)
    problems = [Problem(f"p{number}", "q", "1", "math500") for number in range(12)]
    assert planned.batches == len(prediction.chunks(problems, repeats, batch_size)) == batches
    most = len(range(0, batches, devices))  # batches of the first process
    (line,) = [line for line in text.summary([planned], H100) if f"with devices={devices}" in line]
    assert f"{text.hours(planned.seconds)} hours on one" in line
    assert f"; {text.hours(planned.seconds * most / batches)} hours with" in line


@pytest.mark.slow
def test_every_method_may_decode_one_response():
    """Resampling no end of it, and drawing no second sample, divides by nothing."""
    for method in choices("method"):
        planned = plan(*PAPER, "reward=qwen2.5-coder-1.5b-instruct", f"method={method}", "method.answers=[[1]]")
        assert planned.case.answers == 1
        assert 0 < planned.seconds < math.inf, method
