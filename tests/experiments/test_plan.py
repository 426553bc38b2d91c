"""The plan of a command: expected answers, refusals, text, and no heavy import."""

import subprocess
import sys

import pytest

from nabla_reasoner.__main__ import WRONG, main
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.planning.work import expected_answers

NARROW = ["policy=tiny-base", "task=products", "seed=0", "method=nabla_reasoner"]
PAPER = ["scale=paper", "policy=qwen2.5-7b-instruct", "task=math500", "method=nabla_reasoner"]


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


@pytest.mark.slow
def test_plan_imports_no_torch():
    """Four commands, one after the other in one interpreter."""
    commands = [["table1"], ["models", "scale=paper", "gpu=H200-141GB"], ["figure1"], ["table3"]]
    code = (
        "import sys; from nabla_reasoner.__main__ import main\n"
        f"for words in {commands}:\n"
        "    status = main(['plan', *words])\n"
        "    print('ended', words[0], status, *({'torch', 'transformers'} & {*sys.modules}))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ended = [line for line in printed.splitlines() if line.startswith("ended ")]
    # GRPO of all weights of a 7B policy fits no single GPU.
    assert ended == ["ended table1 0", f"ended models {WRONG}", "ended figure1 0", "ended table3 0"]


def test_plan_names_machine_parts_budget_disk_and_download(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "table1", *PAPER, "gpu=H200-141GB", "devices=8"]) == 0
    text = capsys.readouterr().out
    for part in ("on one H200-141GB", "with devices=8", "policy", "reward", "caches", "activations", "logits"):
        assert part in text
    for part in (
        "at most 8 rollouts",
        "GB of weights",
        "GB of records",
        "download 23.3 GB",
        "4,800 GB/s",
        "151,665 tokens",
    ):
        assert part in text


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["tiny", "small", "coder"])
def test_table_1_is_planned_where_no_model_is_given(scale: str, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "table1", f"scale={scale}"]) == 0
    assert "fits. results would go to" in capsys.readouterr().out


@pytest.mark.slow
def test_one_question_is_planned_as_one_problem_by_two_methods(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "solve"]) == 0
    text = capsys.readouterr().out
    assert "2 cells" in text
    assert "greedy, nabla_reasoner_prefix" in text or "greedy, nabla_reasoner" in text
    assert "300 problems" not in text
    assert "Nothing is written." in text


@pytest.mark.slow
def test_a_scale_for_a_gpu_is_planned_for_the_cpu_that_was_asked_for(capsys: pytest.CaptureFixture[str]):
    main(["plan", "table1", "scale=coder_gpu", "task=gsm8k", "method=greedy", "device=cpu", "num_problems=2"])
    text = capsys.readouterr().out
    assert "each cell on cpu;" in text
    assert "H100" not in text


def test_more_devices_take_fewer_hours(capsys: pytest.CaptureFixture[str]):
    main(["plan", "table1", *PAPER, "devices=8"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "with devices=" in line]
    alone, together = (float(part.split()[0]) for part in line.strip().split("; "))
    assert alone / 8 <= together < alone / 6, "the device with the most batches ends last"


SERVED = ("rollouts=vllm", "server=http://127.0.0.1:9")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["table1", *NARROW, "gpu=V100"], "gpu must be one of"),
        (["table1", *PAPER, "gpu=RTX4090-24GB"], "No setting fits"),
        (["table1", *PAPER, "tokens_per_pass=32768"], "The largest settings that fit: tokens_per_pass="),
        (["table2", *PAPER, "policy=llama3.1-8b-instruct", "reward=skywork-8b"], "share one vocabulary"),
        (["table1", *PAPER, "policy.path=nobody/nothing"], "sizes of 'nobody/nothing'"),
        (["table1", *PAPER, "task.path=/nowhere.jsonl"], "must exist"),
        (
            ["table2", "scale=coder"],
            "scale must be one of tiny, unseen, small, single_gpu, paper for table2; got 'coder'",
        ),
        (["tune-benchmark"], "scale must be one of coder, coder_gpu for tune-benchmark; got none, which is tiny"),
        (["table1", "scale=tiny,small"], "Run the command once for each scale"),
        (["table1", *PAPER, "dtype=int3"], "dtype must be one of"),
        (["table1", *NARROW, "method.max_rollouts=many"], "max_rollouts must be a whole number"),
        (["table1", *NARROW, "method.num_passes=-3"], "num_passes must be a whole number"),
        (["table1", *NARROW, "method=logit_mixture", "reward=classifier"], "needs a likelihood reward"),
        (
            ["table1", *NARROW, "method=judge_greedy", "reward=verifier-process"],
            "got kind 'classifier' (verifier-process)",
        ),
        (["table1", *NARROW, "method=guided_decoding", *SERVED], "takes every token from a model's own logits"),
        (
            ["table1", *NARROW, "num_problems=1001", "difficulty.products={min_digits: 1, max_digits: 1}"],
            "task products has too few distinct questions: 100 of 1001",
        ),
        (["solve", "method=greedy,best_of_n"], "solve takes one value per setting; got 2 combinations"),
        (["figure2", "task=chain_sum,products"], "figure2 takes one value per setting; got 2 combinations"),
        (["models", "only=[nobody]"], "only must name stages among tokenizer"),
        (["models", "scale=unseen", "only=[tiny-base]"], "only must name stages among tokenizer, unseen-base"),
        (["test"], "unknown target 'test'. Valid targets: table1"),
        (["table1", *NARROW, "device=cuda"], "a plan for device=cuda needs the name of the GPU"),
    ],
)
def test_plan_refuses_what_would_be_refused_or_not_fit(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["plan", *words]) == WRONG
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert reason in errors


@pytest.mark.parametrize("words", [["table1", *NARROW, "keep=true"], ["report", "keep=true"]])
def test_plan_takes_the_command_that_would_keep_rows(words: list[str]):
    assert main(["plan", *words]) == 0


def test_plan_of_grade_names_the_folder_that_is_written(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "grade"]) == 0
    assert "results would go to the folder of FILE" in capsys.readouterr().out


def test_target_of_one_cell_refuses_a_scale_that_it_lacks(capsys: pytest.CaptureFixture[str]):
    assert main(["figure1", "scale=coder"]) == WRONG
    assert "small, single_gpu, paper for figure1; got 'coder'" in capsys.readouterr().err


@pytest.mark.slow
def test_table_2_of_the_paper_pairs_models_of_one_vocabulary():
    cells = compose_cells(["experiment=table2", "scale=paper"])
    assert {(cell.policy.name, cell.reward.name) for cell in cells} == {
        (policy, reward) for policy in ("qwen2.5-7b", "qwen2.5-7b-instruct") for reward in ("skywork", "skywork-8b")
    }
