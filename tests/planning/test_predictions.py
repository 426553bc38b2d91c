"""Predictions of `plan` against recorded runs: within a factor of 1.5; seconds of small models on a CPU within 2.3.

A task has one set of typical numbers, and the two policies of scale=tiny differ: tokens and FLOPs of their means are
within 1.5, of single cells within 1.7.
"""

import csv
from pathlib import Path

import pytest

from nabla_reasoner import cost
from nabla_reasoner.config import build
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.planning import model_sizes
from nabla_reasoner.planning.cells import CellPlan, plan_cells
from nabla_reasoner.planning.machines import machine

ROOT = Path(__file__).resolve().parents[2]
FACTOR, SINGLE = 1.5, 1.7
CPU_SECONDS, CPU_TOTAL, CPU_SHARE = (
    2.3,
    1.4,
    1.8,
)  # two runs of one command were 1.3 apart in the mean, up to 2 in single cells
TABLE1 = (
    "greedy,self_consistency,best_of_n,soft_best_of_n,weighted_self_consistency,guided_decoding,"
    "guided_decoding_gradient,tree_of_thoughts,rap,particle_filter,mh_resampling,discrete_langevin,"
    "nabla_without_gradient,nabla_reasoner,nabla_reasoner_multipass,nabla_reasoner_prefix"
)
ALL = (
    "greedy,self_consistency,best_of_n,tree_of_thoughts,rap,nabla_without_gradient,nabla_reasoner,"
    "nabla_reasoner_multipass,nabla_reasoner_prefix,judge_greedy,logit_mixture,guided_decoding,mh_resampling,"
    "particle_filter,discrete_langevin"
)


def plans(*overrides: str) -> list[CellPlan]:
    return plan_cells(compose_cells(overrides), machine("cpu"))


def close(predicted: float, recorded: float, factor: float = FACTOR) -> bool:
    return recorded / factor < predicted < recorded * factor


@pytest.fixture(scope="module")
def table1() -> list[tuple[CellPlan, dict[str, str]]]:
    """The plan and the committed row of each cell of Table 1 at scale=tiny."""
    with (ROOT / "figures/data/table1.csv").open(encoding="utf-8", newline="") as stream:
        rows = {(row["policy"], row["task"], row["method"]): row for row in csv.DictReader(stream)}
    return [
        (plan, rows[plan.cell.policy.name, plan.cell.task.name, plan.cell.method.name])
        for plan in plans("experiment=table1", "seed=0", f"method={TABLE1}")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("quantity", ["decode_tokens", "flops"])
def test_costs_of_table_1_are_predicted(table1, quantity: str):
    predicted: dict[tuple[str, str], float] = {}
    recorded: dict[tuple[str, str], float] = {}
    for plan, row in table1:
        spent = getattr(plan.cost, quantity) / plan.problems
        assert close(spent, float(row[quantity]), SINGLE), (plan.name, row)
        key = (plan.cell.task.name, plan.name)
        predicted[key] = predicted.get(key, 0.0) + spent
        recorded[key] = recorded.get(key, 0.0) + float(row[quantity])
    assert all(close(predicted[key], recorded[key]) for key in predicted), (predicted, recorded)


@pytest.mark.slow
def test_seconds_of_table_1_are_predicted_by_method(table1):
    predicted: dict[str, float] = {}
    recorded: dict[str, float] = {}
    for plan, row in table1:
        predicted[plan.name] = predicted.get(plan.name, 0.0) + plan.seconds
        recorded[plan.name] = recorded.get(plan.name, 0.0) + float(row["seconds"]) * plan.problems
    assert all(close(predicted[name], recorded[name], CPU_SECONDS) for name in predicted), (predicted, recorded)
    total = sum(predicted.values()), sum(recorded.values())
    assert close(*total, CPU_TOTAL)
    assert all(close(predicted[name] / total[0], recorded[name] / total[1], CPU_SHARE) for name in predicted), predicted


def recorded_smollm2() -> dict[tuple[str, str, str], tuple[float, float]]:
    """Decoded tokens and FLOPs per problem of SmolLM2's runs, by task, reward and method."""
    with (ROOT / "figures/data/table2_small.csv").open(encoding="utf-8") as file:
        rows = {(row["task"], row["reward"], row["method"]): row for row in csv.DictReader(file)}
    with (ROOT / "figures/data/table1_small.csv").open(encoding="utf-8") as file:
        first = [row for row in csv.DictReader(file) if row["policy"] == "smollm2"]
    rows |= {(row["task"], "smollm2-verifier", row["method"]): row for row in first}
    return {key: (float(row["decode_tokens"]), float(row["flops"])) for key, row in rows.items() if row["flops"]}


@pytest.mark.slow
def test_runs_of_smollm2_are_predicted():
    rows, compared = recorded_smollm2(), 0
    for target in ("table1", "table2"):
        for plan in plans(f"experiment={target}", "scale=small"):
            row = rows.get((plan.cell.task.name, plan.cell.reward.name, plan.name))
            if row is not None:
                tokens, flops = row
                if plan.name != "guided_decoding":  # it shortens this policy's answers to two thirds
                    assert close(plan.cost.decode_tokens / plan.problems, tokens), (plan.name, tokens)
                assert close(plan.cost.flops / plan.problems, flops), (plan.name, flops)
                compared += 1
    assert compared >= 45


def test_seconds_of_a_pretrained_model_in_bfloat16_are_predicted():
    """MATH-500 at scale=coder, whose cells ran one after the other; on GSM8K two commands shared the cores."""
    with (ROOT / "figures/data/table1_coder.csv").open(encoding="utf-8") as file:
        rows = {row["method"]: row for row in csv.DictReader(file) if row["task"] == "math500" and row["seconds"]}
    methods = "method=greedy,self_consistency,best_of_n,judge_greedy,guided_decoding"
    cells = compose_cells(["experiment=table1", "scale=coder", "task=math500", methods])
    for plan in plan_cells(cells, machine(cells[0].estimate.machine)):
        seconds = float(rows[plan.name]["seconds"]) * plan.problems
        assert close(plan.seconds, seconds), (plan.name, plan.seconds, seconds)


@pytest.mark.parametrize(
    ("method", "seconds"), [("nabla_reasoner_prefix", 574), ("nabla_prefix_without_gradient", 483)]
)
def test_seconds_of_the_prefix_form_of_a_pretrained_model_are_predicted(method: str, seconds: int):
    """32 problems of GSM8K at scale=coder in one batch, alone on two cores: seconds as the command showed them."""
    chosen = ["task=gsm8k", f"method={method}", "num_problems=32", "batch_size=32"]
    (plan,) = plan_cells(compose_cells(["experiment=table1", "scale=coder", *chosen]), machine("cpu-amx"))
    assert close(plan.seconds, seconds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "tokens", "flops", "seconds", "peak"),
    [("best_of_n", 384, 2.161e12, 5.78, 6.63e9), ("nabla_reasoner", 354.5, 4.762e12, 31.1, 7.42e9)],
)
def test_runs_of_random_models_of_a_billion_weights_are_predicted(
    method: str, tokens: float, flops: float, seconds: float, peak: float, monkeypatch
):
    """8 problems of GSM8K at scale=single_gpu, in bfloat16 on two cores: per problem, as recorded.

    Shapes of Llama-3.2-1B with Qwen2.5's vocabulary, a policy and a classifier. Random weights are uncertain of every
    token and never end a response.
    """
    shape = {"layers": 16, "hidden": 2048, "intermediate": 8192, "heads": 32, "kv_heads": 8, "head_dim": 64}
    vocabulary = {"rows": 151_936, "tokens": 151_665, "vocabulary": "qwen2.5", "tied": True, "head_norms": False}
    size = model_sizes.ModelSize.model_validate(shape | vocabulary)
    monkeypatch.setattr(model_sizes, "_table", lambda: {"random/policy": size, "random/reward": size})
    chosen = ["policy.path=random/policy", "reward.path=random/reward", "device=cpu", "task=gsm8k", f"method={method}"]
    limits = ["num_problems=8", "batch_size=8", "max_new_tokens=48"]
    typical = {"prompt_tokens": 106, "response_tokens": 48, "uncertain": 48, "proposals": 48, "distinct": 1.0}
    lengths = [f"estimate.tasks.gsm8k.{name}={value}" for name, value in typical.items()]
    cells = compose_cells(["experiment=table1", "scale=single_gpu", *chosen, *limits, *lengths])
    (plan,) = plan_cells(cells, machine("cpu-amx"))
    assert close(plan.cost.decode_tokens / plan.problems, tokens)
    assert close(plan.cost.flops / plan.problems, flops)
    assert close(plan.seconds / plan.problems, seconds)
    assert close(plan.memory.total, peak)


def test_gradient_passes_on_a_gpu_are_predicted():
    """Memory and seconds of `bench-gpu`, on an H200. One sequence does not fill the card: there launches count too."""
    with (ROOT / "figures/data/bench_gpu.csv").open(encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file) if row["variant"] == "evaluate"}
    models = [
        model_sizes.load("Qwen/Qwen2.5-7B-Instruct", classifier=False),
        model_sizes.load("Skywork/Skywork-Reward-V2-Qwen3-4B", classifier=True),
    ]
    card = machine("H200-141GB")
    for count in (1, 2, 4, 8):
        row, tokens = rows[f"paper_size_seconds__{count}"], 1024 * count
        kept = tokens * max(model.kept_bytes(2) for model in models)
        assert close(kept, float(row["peak_bytes"]), 1.1)
        seconds = float(row["flops"]) / (card.pass_share * card.flops)
        assert close(seconds, float(row["seconds"]), 1.1 if count > 1 else 1.7)


def test_whole_cells_of_a_pretrained_model_on_a_gpu_are_predicted():
    """Memory, tokens and FLOPs of two cells of Table 1 at scale=coder_gpu, on an H200: problems, peak, per problem."""
    recorded = {
        "judge_greedy": (1319, 33.74e9, 279.5, 1.1502e12),  # one batch
        "best_of_n": (440, 14.55e9, 2143.2, 8.9266e12),
    }
    seconds = []
    for name, (problems, peak, tokens, flops) in recorded.items():
        overrides = ["experiment=table1", "scale=coder_gpu", "task=gsm8k", f"method={name}"]
        cells = compose_cells([*overrides, f"num_problems={problems}", f"batch_size={problems}"])
        (plan,) = plan_cells(cells, machine("H200-141GB"))
        assert close(plan.memory.total, peak, 1.2), (plan.memory, peak)
        assert close(plan.cost.decode_tokens / problems, tokens, 1.1)
        assert close(plan.cost.flops / problems, flops, 1.1)
        seconds.append(f"{plan.seconds:.0f}")
    text = (ROOT / "docs/planning.md").read_text("utf-8")
    assert f"where `plan` says {' and '.join(seconds)} s for a card of their own" in " ".join(text.split())


@pytest.mark.parametrize(
    ("method", "peak", "tokens", "flops"),
    [
        ("nabla_reasoner_prefix", 9.934e9, 278.9, 1.9237e12),
        ("nabla_prefix_without_gradient", 8.545e9, 269.8, 1.8029e12),
    ],
)
def test_prefix_form_of_a_pretrained_model_on_a_gpu_is_predicted(method, peak, tokens, flops):
    """GSM8K at scale=coder_gpu on an H200 in batches of 100: the largest peak of a batch; means per problem."""
    limits = ["batch_size=100", "tokens_per_pass=8192", "decode_rows=400"]
    cells = compose_cells(["experiment=table1", "scale=coder_gpu", "task=gsm8k", f"method={method}", *limits])
    (plan,) = plan_cells(cells, machine("H200-141GB"))
    assert close(plan.memory.total, peak, 1.25)
    assert close(plan.cost.decode_tokens / plan.problems, tokens, 1.1)
    assert close(plan.cost.flops / plan.problems, flops, 1.25)


def test_docs_say_what_is_planned_for_100_problems_on_a_gpu():
    chosen = ["task=gsm8k", "method=nabla_reasoner_prefix", "num_problems=100", "batch_size=100"]
    (plan,) = plan_cells(compose_cells(["experiment=table1", "scale=coder_gpu", *chosen]), machine("H200-141GB"))
    text = " ".join((ROOT / "docs/planning.md").read_text("utf-8").split())
    assert f"had not finished 100 problems after a minute, where `plan` says {plan.seconds:.0f} s." in text


def assert_run_is_predicted(*overrides: str) -> None:
    """Solve the problems of each cell, and compare the costs with the cell's plan."""
    for plan in plans("experiment=table1", "seed=0", "threads=1", *overrides):
        built = build.build_cell(plan.cell)
        policy, reward = build.load_models(plan.cell)
        assert plan.models.policy.arithmetic == pytest.approx(policy.size, rel=5e-3)  # biases
        assert plan.models.reward_size == pytest.approx(reward.size, rel=5e-3)
        spent = cost.total(solution.cost for solution in built.method.solve(built.problems, policy, reward, seed=0))
        assert close(plan.cost.decode_tokens, spent.decode_tokens), (plan.name, plan.cost, spent)
        assert close(plan.cost.flops, spent.flops), (plan.name, plan.cost, spent)


@pytest.mark.slow
def test_run_of_best_of_n_and_the_prefix_form_is_predicted():
    assert_run_is_predicted(
        "policy=tiny-base", "task=products", "num_problems=8", "method=best_of_n,nabla_reasoner_prefix"
    )


@pytest.mark.slow
def test_run_of_every_method_is_predicted():
    assert_run_is_predicted(
        "policy=tiny-base", "task=products", "num_problems=12", "reward=likelihood", f"method={ALL}"
    )
