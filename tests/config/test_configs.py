"""Configuration files: grids, order of the groups, version pins; every choice composes and builds."""

import inspect
import os
import re
import shlex
import tomllib
from pathlib import Path

import command_processes
import pytest
import yaml
from hydra.utils import get_class
from omegaconf import OmegaConf

from nabla_reasoner.config import build, compose, fingerprint, overrides
from nabla_reasoner.config.method_rules import check_method
from nabla_reasoner.config.schema import SPLITS, choices
from nabla_reasoner.config.sweeps import compose_sweeps
from nabla_reasoner.config.targets import find
from nabla_reasoner.models.language_models import BatchLimits
from nabla_reasoner.reporting import method_names as reporting_method_names
from nabla_reasoner.reporting import tables
from nabla_reasoner.reporting.method_names import STYLES
from nabla_reasoner.training.recipes import tiny

ROOT = Path(__file__).resolve().parents[2]
METHODS = {
    "greedy",
    "self_consistency",
    "best_of_n",
    "guided_decoding",
    "guided_decoding_gradient",
    "tree_of_thoughts",
    "particle_filter",
    "nabla_without_gradient",
    "nabla_reasoner",
    "nabla_reasoner_prefix",
}
ONE_SEED = {
    "soft_best_of_n",
    "weighted_self_consistency",
    "rap",
    "mh_resampling",
    "discrete_langevin",
    "nabla_reasoner_multipass",
}
PAPER = {
    "greedy",
    "self_consistency",
    "best_of_n",
    "tree_of_thoughts",
    "rap",
    "tpo",
    "nabla_without_gradient",
    "nabla_reasoner",
    "nabla_reasoner_multipass",
}


def names(cells: list[dict], group: str) -> set[str]:
    return {getattr(cell, group).name for cell in cells}


def test_environment_file_pins_equal_pyproject_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == project["dependencies"] + project["optional-dependencies"]["test"]
    assert "python" + project["requires-python"] in environment["dependencies"]
    everything = pip + project["optional-dependencies"]["small"] + project["optional-dependencies"]["paper"]
    assert all("==" in pin for pin in everything)


def test_versions_that_scripts_install_are_the_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = dict(pin.split("==") for pin in project["dependencies"])
    script = (ROOT / "reproduce.sh").read_text(encoding="utf-8")
    assert set(re.findall(r"torch==([0-9.]+)|!= ([0-9][0-9.]+[0-9])", script)) == {
        (pinned["torch"], ""),
        ("", pinned["torch"]),
    }
    scripts = script + (ROOT / ".ci/vllm-env").read_text(encoding="utf-8")
    assert len(re.findall(r"uv==([0-9.]+)", scripts)) == 2
    assert len(set(re.findall(r"uv==([0-9.]+)", scripts))) == 1


def test_no_extra_brings_vllm():
    """Check it: vLLM pins other versions of torch than this package: an extra with it cannot be installed at all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = [pin for extra in project["optional-dependencies"].values() for pin in extra]
    assert not any(pin.startswith("vllm") for pin in pins)
    versions = {}
    for pin in pins + project["dependencies"]:
        name, version = pin.split("==")
        assert versions.setdefault(name, version) == version, f"two versions of {name}"


@pytest.mark.slow
def test_models_are_loaded_with_the_limits_of_the_cell():
    (cell,) = compose.compose_cells(["tokens_per_pass=512", "decode_rows=7"])
    policy, reward = build.load_models(cell)
    for model in (policy, reward, reward.strong):
        assert (model.batch_limits.tokens, model.batch_limits.rows) == (512, 7)
    (other,) = compose.compose_cells([])
    assert build.load_models(other)[0].batch_limits == BatchLimits()  # the configured defaults are the library's


def test_reproduce_installs_pinned_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pin = next(pin for pin in project["dependencies"] if pin.startswith("torch=="))
    script = (ROOT / "reproduce.sh").read_text(encoding="utf-8")
    assert script.count(f'"{pin}+cpu"') == 1
    assert script.count("torch==") == script.count(pin)


@pytest.mark.slow
def test_table1_has_every_policy_task_method_and_seed():
    cells = compose.compose_cells(["experiment=table1"])
    assert len(cells) == 2 * 3 * 10 * 3
    assert names(cells, "reward") == {"classifier"}
    assert names(cells, "policy") == {"tiny-base", "tiny-instruct"}
    assert names(cells, "task") == {"chain_sum", "leg_counting", "products"}
    assert names(cells, "method") == METHODS
    assert {cell.seed for cell in cells} == {0, 1, 2}
    assert all(cell.num_problems >= 300 for cell in cells)


@pytest.mark.slow
def test_table1_at_paper_scale_equals_paper_grid():
    cells = compose.compose_cells(["experiment=table1", "scale=paper"])
    assert names(cells, "policy") == {"qwen2.5-7b", "qwen2.5-7b-instruct", "llama3.1-8b-instruct"}
    assert names(cells, "task") == {"math500", "amc", "aime24", "aime25"}
    assert names(cells, "method") == PAPER
    amc = next(cell for cell in cells if cell.task.name == "amc" and cell.method.name == "nabla_reasoner")
    assert amc.method.keywords()["parameter"] == "latents"
    assert amc.method.keywords()["step_size"] == 0.01
    assert amc.task.repeats == 8
    llama = next(cell for cell in cells if cell.policy.name.startswith("llama"))
    assert "Llama" in llama.reward.path


@pytest.mark.slow
def test_scale_sets_models_and_command_line_overrides_grid():
    cells = compose.compose_cells(["experiment=table1", "scale=small"])
    assert names(cells, "policy") == {"smollm2"}
    assert names(cells, "reward") == {"smollm2-verifier"}
    narrow = ["task=products", "method=greedy,best_of_n", "seed=5", "num_problems=7"]
    cells = compose.compose_cells(["experiment=table1", *narrow])
    assert len(cells) == 2 * 2
    assert {(cell.seed, cell.num_problems, cell.task.name) for cell in cells} == {(5, 7, "products")}


@pytest.mark.slow
def test_methods_with_larger_pools_get_second_sweep():
    main, extra, pools = compose_sweeps("table1", ["policy=tiny-base", "task=chain_sum", "seed=0"])
    cells, pooled = main.cells, pools.cells
    assert names(extra.cells, "method") == ONE_SEED
    assert not any(cell.budget for cell in cells)
    pooling = {"self_consistency", "best_of_n", "tree_of_thoughts", "particle_filter", "nabla_without_gradient"}
    assert names(pooled, "method") == pooling
    assert "budget=true" in pools.overrides
    sizes = {
        (c.budget, c.method.keywords()["num_samples"]) for c in cells + pooled if "num_samples" in c.method.keywords()
    }
    assert sizes == {(False, 8), (True, 32)}
    assert len(compose_sweeps("table1", ["method=greedy,best_of_n"])) == 1, "nothing to compare the pools with"


@pytest.mark.slow
def test_whole_table_adds_sweeps_for_improved_policies():
    sweeps = compose_sweeps("table1", ["task=chain_sum", "seed=0"])
    rows = {(c.policy.name, c.method.name) for part in sweeps[1:-1] for c in part.cells}
    bases = {"tiny-base", "tiny-instruct"}
    assert {(f"{base}-{kind}", "greedy") for base in bases for kind in ("sft", "grpo")} < rows
    assert ("tiny-base-sft-grpo", "greedy") in rows
    assert {(f"{base}-grpo", "nabla_reasoner_prefix") for base in bases} < rows
    assert {(base, method) for base in bases for method in ONE_SEED} < rows
    assert names(sweeps[-1].cells, "policy") == bases
    assert len(compose_sweeps("table1", ["method=greedy", "seed=0"])) == 1, "a command that chooses methods means those"


@pytest.mark.slow
def test_chosen_seed_replaces_that_of_further_sweeps_and_chosen_methods_leave_them_out():
    shared = ["task=products", "policy=tiny-base"]
    sweeps = compose_sweeps("table1", [*shared, "seed=5,6"])
    assert {cell.seed for cell in sweeps[1].cells} == {5, 6}
    assert {cell.seed for cell in compose_sweeps("table1", shared)[1].cells} == {0}
    assert len(compose_sweeps("table2", [*shared, "reward=likelihood"])) == 1


IN_BOTH = {"nabla_reasoner_prefix", "guided_decoding"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "overrides", "methods"),
    [
        ("tune", ["reward=classifier"], {"nabla_reasoner", *IN_BOTH}),
        ("tune_likelihood", ["reward=likelihood"], {"nabla_reasoner", *IN_BOTH}),
        ("tune_benchmark_coder", ["scale=coder"], IN_BOTH),
        ("tune_benchmark_coder", ["scale=coder_gpu"], IN_BOTH),
    ],
)
def test_settings_are_those_chosen_on_validation(table: str, overrides: list[str], methods: set[str]):
    """No setting of a sweep is more accurate than the one that the method's file holds."""
    rows = [row for row in tables.read_csv(ROOT / "figures" / "data" / f"{table}.csv") if row["changes"]]
    accuracy: dict[str, dict[bool, float]] = {}
    held_by: dict[str, dict[str, object]] = {}  # composing a cell takes a second
    for row in rows:
        pairs = dict(pair.split("=") for pair in row["changes"].split(", "))
        name = "guided_decoding_gradient" if pairs.get("scorer") == "gradient" else pairs["method"]
        if name not in held_by:
            held_by[name] = compose.compose_cells([f"method={name}", *overrides])[0].method.keywords()
        keywords = held_by[name]
        held = all(str(keywords[key]) == value for key, value in pairs.items() if key != "method")
        best = accuracy.setdefault(name, {})
        best[held] = max(best.get(held, 0.0), float(row["mean_accuracy"]))
    assert set(accuracy) >= methods
    assert all(best[True] >= best.get(False, 0.0) for best in accuracy.values()), accuracy


@pytest.mark.slow
def test_table2_has_every_reward_with_separate_records():
    main, judged, methods, verifiers = compose_sweeps("table2", ["task=products", "seed=0"])
    cells = main.cells
    assert names(cells, "reward") == {"likelihood-weak", "likelihood-medium", "likelihood", "classifier"}
    forms = {"nabla_without_gradient", "nabla_reasoner", "nabla_reasoner_prefix"}
    assert names(cells, "method") == {"best_of_n", "guided_decoding"} | forms
    assert names(judged.cells, "method") == {"judge_greedy", "logit_mixture"}
    assert names(judged.cells, "reward") == names(cells, "reward") - {"classifier"}
    assert names(methods.cells, "reward") == {"likelihood"}
    assert names(verifiers.cells, "policy") == {"tiny-base"}
    assert {name.partition("-")[0] for name in names(verifiers.cells, "reward")} == {"verifier"}
    assert {cell.records for cell in cells} == {f"results/tiny/table2/{name}" for name in names(cells, "reward")}
    assert {cell.folder for cell in cells} == {"results/tiny/table2"}


@pytest.mark.slow
def test_every_choice_of_every_group_composes():
    for group in ("policy", "reward", "task", "method", "variant"):
        for name in choices(group):
            scale = "paper" if name.startswith("skywork") else "tiny"
            cell = compose.compose_cells([f"{group}={name}", "num_problems=3", f"scale={scale}"])[0]
            assert getattr(cell, group).name == name


@pytest.mark.parametrize("method", choices("method"))
def test_every_method_file_names_all_class_settings(method: str):
    cell = compose.compose_cells([f"method={method}"])[0]
    build.build_method(cell)
    signature = inspect.signature(get_class(cell.method.target))
    assert set(cell.method.keywords()) == set(signature.parameters)


WITHOUT_TYPE_CHECKS = """
from hydra.utils import get_class
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.config.schema import choices

for name in choices("method"):
    method = compose_cells([f"method={name}"])[0].method
    keywords, made = method.keywords(), get_class(method.target)
    bad = {key: 2.5 for key, value in keywords.items() if type(value) is int}
    bad |= {key: 1e-320 for key in keywords if key.endswith("temperature")}
    for key, value in bad.items():
        try:
            made(**{**keywords, key: value})
        except ValueError as error:
            print("refused" if str(value) in str(error) else f"{name} {key}: {error}")
        else:
            print(f"{name} {key}={value} was accepted")
"""


@pytest.mark.slow
def test_every_method_refuses_parts_of_counts_and_temperatures_too_small_to_divide_by():
    """A loop up to 2.5 never ends, and logits divided by 1e-320 are infinite. In a process without type checks."""
    done = command_processes.shared().run_code(WITHOUT_TYPE_CHECKS, os.environ)
    assert not done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 3 * len(choices("method"))
    assert set(lines) == {"refused"}


@pytest.mark.parametrize("method", ["judge_greedy", "logit_mixture"])
def test_method_decoding_from_judge_refuses_classifier(method: str):
    cell = compose.compose_cells([f"method={method}", "reward=classifier"])[0]
    with pytest.raises(ValueError, match=f"{method} needs a likelihood reward.*'classifier'"):
        build.build_method(cell)


@pytest.mark.slow
def test_methods_that_read_every_token_are_those_that_no_server_samples_for():
    inherited = {name: compose.compose_cells([f"method={name}"])[0].method for name in choices("method")}
    own_logits = {"guided_decoding", "guided_decoding_gradient", "judge_greedy", "logit_mixture"}
    assert {name for name, method in inherited.items() if not method.served} == own_logits
    from_judge = {"judge_greedy", "logit_mixture"}
    assert {name for name, method in inherited.items() if method.reward_kinds == ["likelihood"]} == from_judge


def test_generated_tasks_equal_training_tasks_of_shipped_models():
    recipe = yaml.safe_load((ROOT / "configs/train/tiny.yaml").read_text(encoding="utf-8"))
    for task in ("chain_sum", "leg_counting", "products"):
        cell = compose.compose_cells([f"task={task}"])[0]
        assert cell.task.content()["settings"] == recipe["tasks"][task]["settings"]
        assert cell.num_problems <= recipe["held_out"]["test"]


def test_every_method_choice_has_table_row_and_style():
    assert set(choices("method")) <= set(reporting_method_names.METHODS)
    assert set(reporting_method_names.METHODS) <= set(STYLES)


def test_swept_seeds_are_checked_as_a_single_one_and_count_once():
    cells = compose.compose_cells(["policy=tiny-base", "task=products", "method=greedy", "seed=1,01,2,1"])
    assert [cell.seed for cell in cells] == [1, 2]
    for seeds in ("99999999999999999999999", "0,99999999999999999999999"):
        with pytest.raises(ValueError, match="seed must be a number of at most 64 bits; got 23 digits"):
            compose.compose_cells(["policy=tiny-base", "task=products", "method=greedy", f"seed={seeds}"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("models.num_steps=abc", "models.num_steps must be a whole number; got 'abc'"),
        ("models.shape.hidden_size=30", "hidden_size must be a multiple of num_attention_heads; got 30 and 4"),
        ("deamortised.noise_step=-1", "deamortised.noise_step must be a number > 0.0; got -1"),
        ("amortised.group=1", "amortised.group must be a whole number >= 2; got 1"),
        ("amortised.clip=2", "amortised.clip must be a number <= 1.0; got 2"),
    ],
)
def test_settings_of_the_ppo_comparison_are_refused_before_anything_is_deleted(override, said):
    with pytest.raises(ValueError, match=said):
        compose.compose_settings(find("ppo"), [override])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "override", "said"),
    [
        ("theorem", "line.shape.width=abc", "line.shape.width must be a number; got 'abc'"),
        ("theorem", "line.shape.width=true", "line.shape.width must be a number; got True"),
        ("theorem", "line.shape.width=null", "line.shape.width must be a number; got None"),
        ("theorem", "line.shape=null", "line.shape must be a group of settings; got None"),
        ("theorem", "line.shape.means=[1,2]", "line.shape.means must be a list; got 1"),
        ("theorem", "line.shape.weights=[0.5]", "line.shape.weights must be as many as means; got 1 and 3"),
        ("theorem", "plane.shape.centres=[[1.0],[2.0]]", "plane.shape.means must be points of as many coordinates"),
        ("theorem", "prop_c1.tasks.tiny=abc", "prop_c1.tasks.tiny must be a list; got 'abc'"),
        ("theorem", "prop_c1.tasks.tiny=null", "prop_c1.tasks.tiny must be a list; got None"),
        ("theorem", "prop_c1.tasks.tiny=[]", "prop_c1.tasks.tiny must be a list of at least 1; got []"),
        ("theorem", "prop_c1.tasks.smollm2=[nothing]", "prop_c1.tasks.smollm2 must be one of aime24,"),
        ("theorem", "convergence.reward_weight=abc", "convergence.reward_weight must be a number; got 'abc'"),
        ("theorem", "convergence.reward_weight=true", "convergence.reward_weight must be a number; got True"),
        ("theorem", "estimators.reward_weight=abc", "estimators.reward_weight must be a number; got 'abc'"),
        ("theorem", "text.policy=nobody", "text.policy must be one of llama3.1-8b-instruct,"),
        ("theorem", "text.reward=1", "text.reward must be text; got 1"),
        ("theorem", "text.positions=[0]", "text.positions must be a list of at least 2; got [0]"),
        ("theorem", "text.positions=[0,a]", "text.positions must be a whole number; got 'a'"),
        ("theorem", "text.others=[1,2]", "text.others must be text; got 1"),
        ("theorem", "text.question=3", "text.question must be text; got 3"),
        ("bench", "memory.vocab_size=abc", "memory.vocab_size must be a whole number; got 'abc'"),
        ("bench", "memory.length=0", "memory.length must be a whole number >= 1; got 0"),
        ("bench", "memory.shape=null", "memory.shape must be a group of settings; got None"),
        ("bench", "memory.shape.hidden_size=1.5", "memory.shape.hidden_size must be a whole number; got 1.5"),
        ("bench", "memory.shape.model_type=1", "memory.shape.model_type must be text; got 1"),
        ("bench", "memory.shape.tie_word_embeddings=1", "tie_word_embeddings must be true or false; got 1"),
        ("bench", "memory.shape.initializer_range=abc", "initializer_range must be a number; got 'abc'"),
        ("bench", "paper_size.batches=[2,1]", "paper_size.batches must ascend without repeats; got [2, 1]"),
        ("bench", "paper_size.matrix_size=true", "paper_size.matrix_size must be a whole number; got True"),
        ("bench", "paper_size.policy_shape=null", "paper_size.policy_shape must be a group of settings; got None"),
        ("bench", "paper_size.reward_shape.head_dim=x", "reward_shape.head_dim must be a whole number; got 'x'"),
    ],
)
def test_values_inside_groups_of_theorem_and_bench_are_of_their_kind(target: str, override: str, said: str):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        compose.compose_settings(find(target), [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["theorem", "bench", "bench-gpu"])
def test_shipped_settings_of_theorem_and_bench_are_accepted(target: str):
    compose.compose_settings(find(target), [])


@pytest.mark.slow
@pytest.mark.parametrize("value", ["[]", "null", "[[]]"])
def test_method_must_say_how_many_responses_it_decodes(value: str):
    """`plan` divides by their number; null stands for a typical one."""
    cells = compose.compose_cells([f"method={','.join(choices('method'))}", f"method.answers={value}"])
    assert len(cells) == len(choices("method"))
    for cell in cells:
        if value == "null":
            check_method(cell)
            continue
        with pytest.raises(ValueError, match=r"method\.answers must be a list of products.*; got .*leave it out"):
            check_method(cell)


@pytest.mark.slow
@pytest.mark.parametrize("value", ["2.5", "abc", "0", "true", "null", "[1]"])
def test_larger_pool_is_checked_as_the_methods_own_setting(value: str):
    for method, setting in (("best_of_n", "num_samples"), ("nabla_without_gradient", "num_passes")):
        (cell,) = compose.compose_cells([f"method={method}", f"method.budget.{setting}={value}"])
        with pytest.raises(ValueError, match=rf"method\.budget\.{setting} must be a whole number >= 1; got "):
            check_method(cell)
        check_method(compose.compose_cells([f"method={method}", f"method.budget.{setting}=16"])[0])


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ('task.suffix=What is "it"?', 'What is "it"?'),
        ('task.suffix="What is "it"?"', 'What is "it"?'),
        ('task.suffix=a, "b" \\ c', 'a, "b" \\ c'),
        ('task.suffix=a\\"b]', 'a\\"b]'),
        ('task.suffix=x] "', 'x] "'),
        ("task.suffix=it's [x", "it's [x"),
        ("task.suffix='it's'", "it's"),
        ("task.suffix=[x\\", "[x\\"),
        ("task.suffix= x y", " x y"),
        ("task =products", "products"),
        ("task.suffix =(x)", "(x)"),
    ],
)
def test_advised_spelling_of_a_setting_is_read_as_the_wanted_text(word: str, wanted: str):
    with pytest.raises(ValueError, match=r"quote it: |must have no blank before its =\. Write ") as caught:
        overrides.parse([word])
    (advised,) = shlex.split(re.split(r"quote it: |Write ", str(caught.value))[1].removesuffix("."))
    if wanted == "(x)":  # the value is not plain either: a second advice
        with pytest.raises(ValueError, match="quote it: ") as caught:
            overrides.parse([advised])
        (advised,) = shlex.split(str(caught.value).partition("quote it: ")[2].removesuffix("."))
    (override,) = overrides.parse([advised])
    assert override.value() == wanted


def test_validation_problems_equal_held_out_ones():
    shared = ["task=products", "num_problems=30"]
    test, validation = (build.build_problems(compose.compose_cells([*shared, f"split={s}"])[0]) for s in SPLITS)
    recipe = OmegaConf.create({**yaml.safe_load((ROOT / "configs/train/tiny.yaml").read_text(encoding="utf-8"))})
    task = recipe.tasks.products
    recipe.tasks = {"products": {**task, "train": 1}}
    held_out = tiny.splits(recipe)["products"]
    assert test == held_out["test"][:30]
    assert validation == held_out["validation"][:30]
    assert not {problem.question for problem in held_out["test"]} & {problem.question for problem in validation}
    with pytest.raises(ValueError, match="at most 400, the number of validation problems .* got 401"):
        build.build_problems(compose.compose_cells(["task=products", "num_problems=401", "split=validation"])[0])


def test_settings_of_a_benchmark_are_chosen_on_its_training_split(monkeypatch):
    splits = []

    def load_hub(*, split: str, **others: object) -> list:
        splits.append(split)
        return []

    monkeypatch.setattr("nabla_reasoner.tasks.problems.load_hub", load_hub)
    for split in SPLITS:
        (cell,) = compose.compose_cells(["scale=coder", "task=gsm8k", "num_problems=3", f"split={split}"])
        build.build_problems(cell)
    assert dict(zip(SPLITS, splits, strict=True)) == {"test": "test", "validation": "train"}


def test_fingerprint_depends_on_split():
    cells = [compose.compose_cells([f"split={split}"])[0] for split in SPLITS]
    assert fingerprint.differences(*map(fingerprint.fingerprint, cells)) == ["split: None -> validation"]


def test_records_made_before_there_were_reward_forms_stay_valid():
    forms = [["method=nabla_reasoner"], ["method=nabla_reasoner", "method.reward_form=prefix"]]
    before, after = (fingerprint.fingerprint(compose.compose_cells(form)[0]) for form in forms)
    assert "reward_form" not in before["method"]
    assert fingerprint.differences(before, after) == ["method.reward_form: None -> prefix"]


def test_task_step_marks_change_tree_search_fingerprints_only():
    for method, expected in (("rap", ["method.step_marks: [';'] -> ['x']"]), ("greedy", [])):
        cells = [compose.compose_cells([f"method={method}", *more])[0] for more in ([], ["task.step_marks=[x]"])]
        assert fingerprint.differences(*map(fingerprint.fingerprint, cells)) == expected


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=chain_sm"], ["task/chain_sm", "chain_sum", "products"]),
        (["method=greedy,gredy"], ["method/gredy", "best_of_n"]),
        (["variant=papr"], ["fixed", "release", "paper"]),
        (["scale=huge"], ["tiny", "small"]),
        (["num_problem=3"], ["'num_problem'", "num_problems", "method"]),
        (["method.max_rolouts=3"], ["'method.max_rolouts'", "max_rollouts"]),
        (["num_problems=0"], ["num_problems", ">= 1", "0"]),
        (["num_problems=many"], ["num_problems", "'many'"]),
        (["seed=-1"], ["seed", "-1"]),
        (["batch_size=0"], ["batch_size", "0"]),
        (["split=train"], ["split", "'test', 'validation'", "'train'"]),
        (["split=validation", "task=math500"], ["generated tasks", "math500"]),
        (["wandb=on"], ["offline", "online", "disabled"]),
        (["overwrite=2"], ["overwrite", "true or false"]),
        (["+foo=1"], ["key=value", "+foo=1"]),
        (["greedy"], ["key=value", "greedy"]),
        (["policy=[1"], ["policy=[1"]),
        (
            ["scale=paper", "task=chain_sum"],
            ["refers to a setting that is not there", "task that belong to the scale and together"],
        ),
    ],
)
def test_wrong_setting_error_names_valid_ones(overrides: list[str], words: list[str]):
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        compose.compose_cells(["experiment=table1", *overrides])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_base_of_an_adapter_is_unpacked_before_the_adapter_is_merged(monkeypatch):
    done: list[tuple[str, str]] = []
    monkeypatch.setattr("nabla_reasoner.models.conversion.unpack", lambda folder, **_: done.append(("unpack", folder)))
    monkeypatch.setattr("nabla_reasoner.models.conversion.merge", lambda folder, **_: done.append(("merge", folder)))
    build._prepare.cache_clear()
    for policy, reward in (("smollm2-grpo", "likelihood"), ("tiny-base", "smollm2")):
        (cell,) = compose.compose_cells([f"policy={policy}", f"reward={reward}"])
        build.prepare_models(cell)
    build._prepare.cache_clear()
    assert [kind for kind, _ in done] == ["unpack", "merge", "merge"]
    assert done[0][1].endswith("models/smollm2-135m-instruct")


@pytest.mark.slow
def test_another_model_is_no_policy_that_training_made():
    """Tables would show it as the row `sft` of tiny-base, with the FLOPs of that training."""
    for name, owner in (("tiny-base-sft", "tiny-base"), ("tiny-instruct-grpo", "tiny-instruct")):
        own = f"assets/policies/{name}"
        compose.compose_cells([f"policy={name}", f"policy.path={Path(own).resolve()}"])
        with pytest.raises(ValueError, match=f"path of {name} must be {own}, .*Write policy={owner} policy.path"):
            compose.compose_cells([f"policy={name}", "policy.path=assets/policies/tiny-base-grpo"])
        compose.compose_cells([f"policy={name}", "policy.path=assets/policies/tiny-base-grpo", "policy.name=mine"])
