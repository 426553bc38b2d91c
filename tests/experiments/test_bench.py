"""The benchmark: its files, arithmetic and baselines. No test depends on speed."""

import contextlib
import functools
import json
import sys
import time
from collections.abc import Iterator

import matplotlib
import pandas as pd
import pytest
import torch
import toys
from fake_server import FakeServer

from nabla_reasoner import cost
from nabla_reasoner.__main__ import INTERRUPTED, WRONG, main
from nabla_reasoner.benchmark import (
    cases,
    measurements,
    memory,
    paper_size,
    plain_passes,
    profile,
    results,
    served_sampling,
    timing,
)
from nabla_reasoner.benchmark.context import BenchContext, Comparison, Variant
from nabla_reasoner.benchmark.figure import RATIOS, draw_bench
from nabla_reasoner.config.compose import compose_settings
from nabla_reasoner.config.settings import BenchSettings, PaperSizeSettings
from nabla_reasoner.config.targets import find
from nabla_reasoner.cost import Cost
from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
from nabla_reasoner.dto import gradient_passes
from nabla_reasoner.experiments import bench
from nabla_reasoner.experiments.command import FAILED
from nabla_reasoner.models import random_init
from nabla_reasoner.reporting import figures
from nabla_reasoner.reporting.method_names import NABLA_REASONER
from nabla_reasoner.serving.client import Client
from nabla_reasoner.types import Problem

matplotlib.use("Agg")
COLUMNS = (
    "case,variant,seconds,flops,forward_tokens,backward_tokens,decode_tokens,gradient_evaluations,peak_bytes,"
    "ratio_to_reference"
)
SMALL = [
    "threads=1",
    "repeats=1",
    "num_problems=2",
    "batch_problems=1",
    "batch_size=2",
    "reference_problems=1",
    "printed_problems=1",
    "sequences=2",
    "policies=[tiny-base]",
    "tasks=[products]",
    "growth_lengths=[16,32]",
    "growth_batches=[1,2]",
    "growth_length=16",
    "decoded_lengths=[8,16]",
    "memory.vocab_size=2000",
    "memory.length=48",
]
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
CPU = torch.device("cpu")
RATES = {"hf": [4.0, 3.0, 2.0], "vllm": [1.0, 2.0, 1.0]}  # seconds of both engines in a made-up comparison


@pytest.mark.slow
def test_run_of_every_case_writes_documented_columns_and_quotients_of_rows(tmp_path, capsys):
    assert main(["bench", *SMALL, f"results_dir={tmp_path}"]) == 0
    folder = tmp_path / "tiny" / "bench"
    for name in ("bench.csv", "spread.csv", "profile.csv", "bench.md", "bench.png", "bench.pdf", "summary.json"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "bench.csv").read_text(encoding="utf-8").splitlines()[0] == COLUMNS
    assert (folder / "spread.csv").read_text(encoding="utf-8").splitlines()[0] == "case,variant,repeat,seconds"
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"
    table = pd.read_csv(folder / "bench.csv")
    names = table.case.str.partition("__")[0]
    pairs = table[names.isin(["lookup_and_gradient_flops", "best_of_n_seconds", "evaluation_seconds"])]
    assert pairs.case.nunique() == 3
    for case, rows in pairs.groupby("case", sort=False):
        baseline, other = rows.to_dict("records")
        assert baseline["ratio_to_reference"] == 1
        assert baseline["variant"] in ("reference", "best_of_n", "bare")
        kind = "flops" if case.partition("__")[0].endswith("flops") else "seconds"
        assert other["ratio_to_reference"] == pytest.approx(other[kind] / baseline[kind], rel=1e-4)
    profile = pd.read_csv(folder / "profile.csv")
    profile = profile[profile.case.str.partition("__")[0] == "best_of_n_seconds"]
    assert set(profile.variant) == {"best_of_n", "nabla_reasoner"}
    assert profile.groupby("variant").share.sum().tolist() == pytest.approx([1, 1], abs=1e-4)
    own = profile[profile.variant == "nabla_reasoner"].set_index("part")
    assert own.seconds.gt(0).all()
    assert own.calls["rollouts"] > own.calls["gradient passes"] >= 1
    assert profile[profile.variant == "best_of_n"].set_index("part").calls["gradient passes"] == 0
    printed = capsys.readouterr().out
    assert (folder / "bench.md").read_text(encoding="utf-8") in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("| lookup_and_gradient_flops | tiny-base")]
    assert "2 of 2 responses are the same tokens" in row
    assert "left" in printed
    assert set(names) == {name for name, case in cases.CASES.items() if case.tiny}
    assert table[table.case == "dto_memory"].peak_bytes.gt(0).all()
    skipped = table[table.case.str.contains("utilisation|paper_size|compiled")].variant
    assert set(skipped) == {"not run: needs an NVIDIA GPU and device=cuda"}
    assert len(skipped) == sum(len(case.points(settings())) for case in cases.CASES.values() if case.gpu)


@pytest.mark.parametrize(
    ("words", "valid"),
    [
        ("cases=[memory]", "dto_memory, evaluation_against_decoding"),
        ("cases=dto_memory", "got 'dto_memory'. Write cases=[A,B]"),
        ("cases=[]", "cases must be a list of at least 1"),
        ("typo=1", "settings of bench: scale, results_dir"),
        ("memory.typo=1", "settings of memory: length, shape, vocab_size"),
        ("memory.vocab_size=abc", "memory.vocab_size must be a whole number; got 'abc'"),
        ("paper_size.policy_shape.hidden_size=null", "policy_shape.hidden_size must be a whole number; got None"),
        ("scale=paper", "tiny, small"),
        ("repeats=0", "repeats must be a whole number >= 1"),
        ("growth_lengths=[32,16]", "growth_lengths must ascend"),
        ("policies=[nobody]", "tiny-base, tiny-base-grpo"),
        ("cases=[dto_memory", "quote it"),
        ("dto_memory", "key=value"),
    ],
)
def test_wrong_setting_error_names_valid_ones(words, valid, tmp_path, capsys):
    assert main(["bench", words, f"results_dir={tmp_path}"]) == WRONG
    message = capsys.readouterr().err
    assert valid in message
    assert message.count("\n") == 1
    assert not list(tmp_path.rglob("*.csv"))


def settings(*overrides: str) -> BenchSettings:
    return compose_settings(find("bench"), list(overrides))


@pytest.mark.slow
def test_scale_small_omits_memory_cases():
    assert "dto_memory" in bench.chosen_cases(settings("scale=tiny"))
    assert "dto_memory" not in bench.chosen_cases(settings("scale=small"))
    with pytest.raises(ValueError, match="at scale=small"):
        bench.chosen_cases(settings("scale=small", "cases=[dto_memory]"))


@pytest.mark.slow
def test_failed_case_row_has_reason_other_cases_remain(tmp_path, monkeypatch):
    def broken(context, place):
        raise RuntimeError("out of luck")

    monkeypatch.setitem(cases.CASES, "best_of_n_flops", cases.CASES["best_of_n_flops"]._replace(measure=broken))
    words = [*SMALL, "cases=[best_of_n_flops,evaluation_by_batch]", f"results_dir={tmp_path}"]
    assert main(["bench", *words]) == FAILED
    table = pd.read_csv(tmp_path / "tiny" / "bench" / "bench.csv")
    assert table.variant[0] == "failed: RuntimeError: out of luck"
    assert table.case.tolist()[1:] == ["evaluation_by_batch__1"] * 2 + ["evaluation_by_batch__2"] * 2


@pytest.mark.slow
def test_interrupted_run_keeps_finished_cases(tmp_path, monkeypatch):
    def stopped(context, place):
        raise KeyboardInterrupt

    case = cases.CASES["evaluation_by_batch"]._replace(measure=stopped)
    monkeypatch.setitem(cases.CASES, "evaluation_by_batch", case)
    words = [*SMALL, "cases=[evaluation_by_length,evaluation_by_batch]", f"results_dir={tmp_path}"]
    assert main(["bench", *words]) == INTERRUPTED
    folder = tmp_path / "tiny" / "bench"
    assert set(pd.read_csv(folder / "bench.csv").case) == {"evaluation_by_length__16", "evaluation_by_length__32"}
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"] == "interrupted"


@pytest.mark.slow
def test_reference_engine_flops_are_sum_of_parts():
    context = BenchContext(settings(*SMALL, "tasks=[chain_sum]"))
    policy, reward = context.models("tiny-base")
    solved = context.solutions("tiny-base", "chain_sum", 2, NABLA_REASONER, measurements.REFERENCE)
    spent = cost.total(solution.cost for solution in solved)
    lookups = measurements.lookup_tokens(spent, "reference")
    scored = spent.reward_forward_tokens - spent.reward_backward_tokens
    assert min(lookups, scored, spent.gradient_flops) > 0
    rolled = spent.decode_tokens + spent.policy_prefill_tokens
    layers = spent.gradient_flops + 2 * policy.size.layers * (rolled + lookups) + 2 * reward.size.layers * scored
    assert 0.8 * spent.flops < layers < spent.flops  # the rest is attention and the output matrix


@pytest.mark.slow
def test_profile_counts_nested_pass_once(monkeypatch):
    """Gradients of flipped tokens are evaluated within DTO's rounds, which must not count them again."""
    whole = gradient_passes._evaluate_batch

    def slow(*given):
        time.sleep(0.2)
        return whole(*given)

    monkeypatch.setattr(gradient_passes, "_evaluate_batch", slow)
    problems = [Problem("toy/0", "What is 12 + 34?", "1", "toy")]
    method = NablaReasoner(step_size=1.0, grad_threshold=0.0, confidence_threshold=1.0, max_new_tokens=6)
    policy, reward = toys.policy(), toys.reward()
    found = profile.parts(lambda: method.solve(problems, policy, reward, seed=0))
    assert found["gradient passes"].calls > found["DTO rows"].calls / 4 > 0
    assert found["gradient passes"].seconds > 0.2 * found["gradient passes"].calls
    assert 0 < found["DTO rows"].seconds < 0.5 * found["gradient passes"].seconds
    assert min(part.seconds for part in found.values()) >= 0
    assert sum(part.share for part in found.values()) == pytest.approx(1)


def test_differing_responses_do_not_reach_target():
    variants = (Variant("reference", [1.0], Cost(flops=4.0)), Variant("fast", [1.0], Cost(flops=1.0)))
    points = {"a__b": Comparison(*variants), "a__c": Comparison(*variants, "1 of 2 ...", valid=False)}
    assert results.verdict("gradient_flops", points, "flops", 1.0).reached == "no: responses differ at 1 of 2 points"
    assert results.verdict("gradient_flops", {"a__b": points["a__b"]}, "flops", 1.0).reached == "yes"


def test_growth_verdict_compares_last_and_first_point():
    def comparison(bare: int, evaluate: int) -> Comparison:
        return Comparison(Variant("bare", [bare] * 2, Cost()), Variant("evaluate", [evaluate] * 2, Cost()))

    verdict = results.verdict("evaluation_by_batch", {"1": comparison(1, 2), "64": comparison(4, 6)}, "seconds", 1.0)
    assert verdict.value.startswith("0.75 (from 1 to 64: evaluation x 3, bare passes x 4)")
    assert verdict.reached == "yes"


def test_tokens_per_second_are_compared_by_their_ratio_and_its_range():
    variants = (Variant(name, seconds, Cost(decode_tokens=60)) for name, seconds in RATES.items())
    comparison = Comparison(*variants)
    assert [results.quantity(variant, "tokens") for variant in comparison.variants] == [20, 60]
    verdict = results.verdict("sampling_rate", {"a__b": comparison}, "tokens", None)
    assert (verdict.value, verdict.spread) == ("3", "1.5 to 4")


def test_sampling_rate_needs_a_server_at_scale_small_only(tmp_path):
    assert "sampling_rate" not in bench.chosen_cases(settings("scale=tiny"))
    assert "sampling_rate" in bench.chosen_cases(settings("scale=small"))
    context = BenchContext(settings("scale=small"))
    reason = bench._measure(context, "sampling_rate", "smollm2__products")
    assert reason.startswith("not run: needs server_python=PYTHON")
    case = cases.CASES["sampling_rate"]
    text = results.markdown({"sampling_rate": {"smollm2__products": reason}}, cases.CASES, "small", "facts")
    assert f"| sampling_rate | {case.title} | {reason} |" in text


def test_sampling_rate_is_measured_beside_a_server(monkeypatch):
    base = settings("scale=tiny", "policies=[tiny-base]", "tasks=[products]", "sequences=2", "repeats=1")
    context = BenchContext(base.model_copy(update={"server_python": sys.executable, "threads": 1}))
    policy, _ = context.models("tiny-base")
    with FakeServer(policy, max_model_len=512) as server:

        @contextlib.contextmanager
        def client(_: object) -> Iterator[Client]:
            client = Client(server.url)
            client.model = "served"
            yield client

        monkeypatch.setattr(served_sampling, "_client", client)
        measured = bench._measure(context, "sampling_rate", "tiny-base__products")
    assert isinstance(measured, Comparison), measured
    assert [variant.name for variant in measured.variants] == ["hf", "vllm"]
    assert "greedy log-probabilities differ by" in measured.note


def test_wrong_server_python_is_refused_before_anything_is_measured(tmp_path, capsys):
    words = ["scale=small", "cases=[sampling_rate]", "server_python=/no/python", f"results_dir={tmp_path}"]
    assert main(["bench", *words]) == WRONG
    assert "server_python must be the Python of an environment with vLLM" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.csv"))


def test_crossing_is_interpolated_within_range_only():
    assert timing.crossing([16.0, 64.0, 256.0], [0.5, 0.25, 0.0625], 0.125) == pytest.approx(128)
    assert timing.crossing([16.0, 64.0], [0.5, 0.25], 0.125) is None
    assert timing.crossing([16.0, 64.0], [0.1, 0.05], 0.125) is None
    assert timing.crossing([16.0, 64.0, 256.0], [0.5, 0.1, 0.2], 0.125) is None, "it must stay below"


def test_runs_take_turns_after_warm_up():
    order = []
    seconds = timing.interleaved(
        {"a": lambda repeat: order.append(("a", repeat)), "b": lambda repeat: order.append(("b", repeat))}, 2, CPU
    )
    assert order == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
def test_bare_passes_give_gradients_of_an_evaluation(kind):
    """The baseline must do the same work: gradients by the input embeddings, of loss and of score."""
    policy, reward = toys.policy(), toys.reward(kind)
    sequences = plain_passes.random_sequences(policy, reward, 9, 1) + plain_passes.random_sequences(
        policy, reward, 12, 1
    )
    evaluated = gradient_passes.evaluate(policy, reward, sequences, reward_weight=1.0, nll_weight=1.0)
    seen = {}
    for name in ("language_model_gradient", "classifier_gradient"):
        whole = getattr(plain_passes, name)
        seen[name] = lambda *given, whole=whole: bare.append(whole(*given))
    with pytest.MonkeyPatch.context() as patch:
        for name, function in seen.items():
            patch.setattr(plain_passes, name, function)
        run = plain_passes.bare_passes(policy, reward, sequences)
        bare: list[torch.Tensor] = []
        run()
    tokens = sum(len(s.rollout) for s in sequences)  # a language model's loss is a mean over them
    scale = [tokens, tokens if kind == "likelihood" else -1]
    for number in range(2):
        for row, (gradient, sequence) in enumerate(zip(evaluated, sequences, strict=True)):
            wanted = gradient.terms[number].embedding_gradient
            found = scale[number] * bare[number][row, 1 : 1 + len(sequence.rollout)]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)  # transformers computes the loss in float32


def test_bare_cost_equals_cost_of_uncached_evaluation():
    policy, reward = toys.policy(), toys.reward()
    sequences = plain_passes.random_sequences(policy, reward, 10, 3)
    evaluated = gradient_passes.evaluate(policy, reward, sequences, reward_weight=1.0, nll_weight=1.0)
    spent, bare = cost.total(g.cost for g in evaluated), plain_passes.bare_cost(policy, reward, sequences)
    for name in ("policy_forward_tokens", "policy_backward_tokens", "reward_forward_tokens", "reward_backward_tokens"):
        assert getattr(spent, name) == getattr(bare, name)
    assert spent.gradient_flops == bare.flops > 0


def test_random_models_have_requested_vocabulary():
    policy, reward = random_init.random_models(SHAPE, SHAPE, 500, "classifier", CPU, torch.float32)
    assert (policy.vocab_size, len(policy.embedding), len(reward.embedding)) == (500, 500, 500)
    reward.for_policy(policy)
    assert policy.prompt_ids(toys.chat("w0 w1"))[1:3] == [5, 6]


def paper_size_context() -> BenchContext:
    sizes = PaperSizeSettings(
        batches=[1],
        vocab_size=300,
        length=32,
        matrix_size=64,
        policy_shape=SHAPE,
        reward_shape={**SHAPE, "head_dim": 8},
    )
    return BenchContext(settings(*SMALL).model_copy(update={"paper_size": sizes}))


@pytest.mark.slow
def test_utilisation_counts_every_sequence():
    context = paper_size_context()
    comparison = paper_size.utilisation(context, "2")
    assert comparison.baseline.spent.flops == 2 * 64**3
    measured = comparison.measured
    assert measured.spent.gradient_evaluations == 2
    assert results.quantity(measured, "rate") == measured.spent.flops / measured.seconds[0]
    one = paper_size.utilisation(context, "1").measured
    assert measured.spent.flops == 2 * one.spent.flops


@pytest.mark.slow
def test_peak_of_each_variant_is_that_of_its_own_call(monkeypatch):
    def peak_of(call, device):
        value = call()
        return (10 if value is None else 20), value  # bare passes return nothing

    monkeypatch.setattr(memory, "peak_of", peak_of)
    comparison = paper_size.seconds_and_memory(paper_size_context(), "4")
    assert {variant.name: variant.peak_bytes for variant in comparison.variants} == {"bare": 10, "evaluate": 20}
    assert results.ratio(comparison, "peak_bytes") == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_compiled_layers_give_the_same_gradients_and_are_put_back(monkeypatch):
    context = paper_size_context()
    policy, reward = context.paper_size_models
    # without the code that torch generates for the CPU: the case runs on a GPU only
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    gradients: dict[str, list[torch.Tensor]] = {"eager": [], "compiled": []}
    original = plain_passes.language_model_gradient

    def noted(model: torch.nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
        gradient = original(model, *arguments)
        compiled = "forward" in vars(policy.model.base_model.layers[0])
        gradients["compiled" if compiled else "eager"].append(gradient.float())
        return gradient

    monkeypatch.setattr(plain_passes, "language_model_gradient", noted)
    comparison = paper_size.compiled_passes(context, "1")
    assert [variant.name for variant in comparison.variants] == ["eager", "compiled"]
    assert not any("forward" in vars(layer) for model in (policy, reward) for layer in model.model.base_model.layers)
    assert len(gradients["compiled"]) == len(gradients["eager"]) == 2
    expected = gradients["eager"][0]
    assert (gradients["compiled"][0] - expected).norm() < 0.05 * expected.norm()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a kernel that can forget an earlier peak (Linux)")
def test_peak_excludes_memory_freed_before_call():
    def call() -> int:
        return int(torch.ones(20 * 2**20).sum())  # 80 MiB

    peaks = []
    for _ in range(3):  # the kernel may page out other memory meanwhile, which lowers a peak
        held = torch.ones(30 * 2**20)  # 120 MiB, freed before the measurement
        del held
        peak, value = memory.peak_of(call, CPU)
        assert value == 20 * 2**20
        peaks.append(peak / 2**20)
    assert 79 < max(peaks) < 100  # memory that was free in the heap before is not counted


def test_failing_process_raises_with_its_reason(tmp_path, monkeypatch):
    program = tmp_path / "program"  # instead of Python, which would import the package first
    program.write_text('#!/bin/sh\necho Traceback >&2\necho "TypeError: unexpected keyword: $*" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    reason = r'TypeError: unexpected keyword: -m nabla_reasoner.benchmark.memory bare \{"typo": 1\}$'
    with pytest.raises(RuntimeError, match=f"memory of bare could not be measured: {reason}"):
        memory.measure_in_new_process("bare", {"typo": 1})


def hand_made() -> tuple[pd.DataFrame, pd.DataFrame]:
    lines, timings = [], []

    def add(case: str, baseline: str, other: str, base: float, ratio: float) -> None:
        for variant, seconds, own in ((baseline, base, 1.0), (other, base * ratio, ratio)):
            lines.append({"case": case, "variant": variant, "seconds": seconds, "ratio_to_reference": own})
            for i in (0, 1):
                timings.append({"case": case, "variant": variant, "repeat": i, "seconds": seconds * (1 + i / 9)})

    add("best_of_n_seconds__tiny-base__products", "best_of_n", "nabla_reasoner", 0.1, 1.2)
    add("best_of_n_seconds__tiny-instruct__products", "best_of_n", "nabla_reasoner", 0.1, 0.8)
    add("dto_memory", "bare", "optimize", 1.0, 0.2)
    for length, ratio in ((16, 0.4), (64, 0.1)):
        add(f"evaluation_against_decoding__{length}", "decoding", "evaluate", length / 100, ratio)
    lines.append({"case": "utilisation", "variant": "not run"})
    return pd.DataFrame(lines, columns=COLUMNS.split(",")), pd.DataFrame(timings)


def test_figure_has_every_ratio_target_and_curve():
    table, spread = hand_made()
    figure = draw_bench(table, spread, {"best_of_n_seconds": 1.5})
    ratios, curve = (axis for axis in figure.axes if axis.get_visible())
    drawn = [line.get_xdata() for line in ratios.lines]
    marks = sorted(float(x[0]) for x in drawn if len(x) == 1)
    assert marks == [0.2, 0.8, 1.2]
    assert [1.5, 1.5] in [list(x) for x in drawn]
    assert [words.get_text() for words in ratios.get_yticklabels()] == [
        RATIOS["best_of_n_seconds"],
        RATIOS["dto_memory"],
    ]
    labels = curve.get_legend_handles_labels()[1]
    assert "crossed at 51 tokens" in labels
    assert {"decoding, token by token", "gradient evaluation", "an eighth of decoding"} <= set(labels)
    assert curve.get_ylabel() == "seconds (median and range)"
    figures.plt.close(figure)


def test_figure_of_table_without_results_raises():
    table, spread = hand_made()
    with pytest.raises(ValueError, match="at least one measured case"):
        draw_bench(table.iloc[-1:], spread, {})
