"""Tables: from hand-made records whose every number is known."""

import csv
import html
import io
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import mistune
import pytest
import yaml
from pandas.api.types import is_numeric_dtype
from toy_runs import ladder

from nabla_reasoner.cost import Cost
from nabla_reasoner.evaluation.lineage import training_flops
from nabla_reasoner.evaluation.outcomes import load_outcomes
from nabla_reasoner.evaluation.records import append_records, failed_record, record_path
from nabla_reasoner.experiments.table1 import write_table
from nabla_reasoner.reporting import accuracy_table, comparisons, paper_numbers, report_sections, tables
from nabla_reasoner.reporting.evidence import typed_rows
from nabla_reasoner.reporting.frames import read_frame
from nabla_reasoner.types import Problem

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "paper_reference.yaml"
METHODS = ("greedy", "best_of_n", "nabla_without_gradient", "nabla_reasoner", "nabla_reasoner_multipass")
DOCUMENTED = (
    "policy,task,method,accuracy,ci_low,ci_high,num_problems,num_seeds,num_failed,model_calls,decode_tokens,flops,"
    "seconds,paper_value,paper_source,status"
)
ADDED = ",valid_steps,training_flops,break_even_outcome,break_even_prefix,any_of_n,regret"
DOCUMENTED_COMPARISONS = "policy,task,method,baseline,matched_on,difference,ci_low,ci_high,p_value,num_problems,verdict"


def grid(methods=METHODS, seeds=(0, 1), policy="tiny-base", task="chain_sum") -> list[dict]:
    cell = {"policy": "qwen2.5-7b", "benchmark": "math500"}
    return [{"policy": policy, "task": task, "method": m, "paper_cell": cell, "seeds": list(seeds)} for m in methods]


def write(folder, method, seed, correct, *, steps=None, cost=None, failed=(), policy="tiny-base", task="chain_sum"):
    """Records of problems p0, p1, …: `correct[i]`, trajectory `steps(i)`, and failures at the indices `failed`."""
    records = []
    for index, right in enumerate(correct):
        problem = Problem(f"p{index}", "q", "1", task)
        names = {"policy": policy, "method": method, "seed": seed, "repeat": 0}
        record = failed_record(problem, "ValueError: no", **names)
        if index not in failed:
            spent = cost or Cost(decode_tokens=10, model_calls=20, flops=1e6, seconds=0.5)
            search = {"trajectory": steps(index)} if steps else {}
            if steps and cost is None:  # nothing is spent after the last rollout
                last = search["trajectory"][-1]
                spent = spent._replace(**{name: last[name] for name in ("model_calls", "flops", "seconds")})
            record |= {"correct": bool(right), "status": "ok", "error": None, "cost": spent._asdict(), "search": search}
        records.append(record)
    append_records(record_path(folder, policy, task, method, seed), records)


def read(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_files_have_the_documented_columns(tmp_path):
    write_table(tmp_path, grid=grid())
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == DOCUMENTED + ADDED
    assert (tmp_path / "comparisons.csv").read_text().splitlines()[0] == DOCUMENTED_COMPARISONS + ",note,p_adjusted"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparisons.csv", "table.csv", "table.md", "table.tex"]


def test_missing_cells_never_show_the_papers_number(tmp_path):
    write(tmp_path / "records", "greedy", 0, [1, 0, 1, 1])
    write_table(tmp_path, grid=grid())
    greedy, best = read(tmp_path / "table.csv")[:2]
    assert greedy["status"] == "partial: 4 of 8"
    assert best["status"] == "not run"
    assert best["paper_value"] == "70.2"
    empty = ("accuracy", "ci_low", "ci_high", "num_problems", "num_failed", "model_calls", "flops", "seconds")
    assert [best[name] for name in empty] == [""] * len(empty)
    assert all(row["verdict"] == "not run" and row["difference"] == "" for row in read(tmp_path / "comparisons.csv"))
    line = next(line for line in (tmp_path / "table.md").read_text().splitlines() if "best_of_n" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3:7] == ["", "", "", "70.2 [1]"]
    assert cells[-1] == "not run"


def test_failed_problems_are_wrong_and_cost_nothing(tmp_path):
    write(tmp_path / "records", "greedy", 0, [1, 1, 1, 0], failed=(2,))
    more = Cost(decode_tokens=20, model_calls=40, flops=3e6, seconds=1.0)
    write(tmp_path / "records", "greedy", 1, [1, 1, 1, 0], cost=more)
    write_table(tmp_path, grid=grid(["greedy"]))
    (row,) = read(tmp_path / "table.csv")
    assert float(row["accuracy"]) == 62.5  # (2 + 3) of 8
    assert (row["num_failed"], row["num_problems"], row["num_seeds"], row["status"]) == ("1", "4", "2", "ok")
    assert float(row["decode_tokens"]) == pytest.approx((3 * 10 + 4 * 20) / 7, rel=1e-5)
    assert float(row["flops"]) == pytest.approx((3 * 1e6 + 4 * 3e6) / 7, rel=1e-5)
    assert float(row["ci_low"]) < 62.5 < float(row["ci_high"])


def test_cell_with_only_failures_is_zero(tmp_path):
    for method in METHODS:
        write(tmp_path / "records", method, 0, [1, 1], failed=(0, 1))
    write_table(tmp_path, grid=grid(seeds=(0,)))
    row = read(tmp_path / "table.csv")[0]
    assert (row["accuracy"], row["num_failed"], row["flops"]) == ("0", "2", "")
    assert {row["verdict"] for row in read(tmp_path / "comparisons.csv")} == {"no difference shown"}


def test_nabla_rows_are_compared_with_every_other_method():
    rows = comparisons.comparison_rows({}, {}, grid())
    expected = {
        (method, baseline, on)
        for method in ("nabla_reasoner", "nabla_reasoner_multipass")
        for baseline in METHODS
        if baseline != method
        for on in ("rollouts", "model_calls", "flops", "seconds")
    }
    assert {(row["method"], row["baseline"], row["matched_on"]) for row in rows} == expected
    assert len(rows) == len(expected)
    other = [*grid(), *grid(policy="tiny-instruct"), *grid(task="products")]
    assert len(comparisons.comparison_rows({}, {}, other)) == 3 * len(rows)


def compared(folder, baseline, on) -> dict:
    write_table(folder, grid=grid(seeds=(0,)))
    rows = read(folder / "comparisons.csv")
    return next(r for r in rows if (r["method"], r["baseline"], r["matched_on"]) == ("nabla_reasoner", baseline, on))


def matched_cost_records(folder, problems=40):
    """∇ is right on 3/4 at 45 calls; Best-of-N on 1/4 with 2 rollouts (20 calls), on 3/4 from its pool's 5th on."""
    spent = Cost(model_calls=45, flops=7500.0, seconds=10.0)
    write(folder / "records", "nabla_reasoner", 0, [i % 4 != 0 for i in range(problems)], cost=spent)
    write(
        folder / "records",
        "best_of_n",
        0,
        [i % 4 == 1 for i in range(problems)],
        steps=lambda i: ladder([0, i % 4 == 1]),
        cost=Cost(model_calls=20, flops=2000.0, seconds=0.02),
    )
    write(folder / "budget", "best_of_n", 0, [1] * problems, steps=lambda i: ladder([0] * 4 + [i % 4 != 0] * 3 + [1]))


def test_records_are_compared_whole_at_equal_rollouts(tmp_path):
    matched_cost_records(tmp_path)
    row = compared(tmp_path, "best_of_n", "rollouts")
    assert float(row["difference"]) == 50
    assert (row["verdict"], row["num_problems"]) == ("better", "40")
    assert row["note"] == "2 rollouts against 1"


@pytest.mark.parametrize(
    ("on", "difference", "verdict", "note"),
    [
        # 45 calls at 10 a rollout: 4 rollouts cost 40, so the pool is cut at 5, where it solves the same problems
        ("model_calls", 0, "no difference shown", "baseline at n = 5: 1.1x the cost"),
        # 7,500 FLOPs at 1,000 a rollout: cut at 8, where it solves all
        ("flops", -25, "worse", "baseline at n = 8: 1.1x the cost"),
        # 10 s at 0.01 s a rollout: the whole pool is not enough
        ("seconds", -25, "worse", "baseline's largest budget, n = 8: 0.008x the cost"),
    ],
)
def test_baseline_at_equal_cost_is_cut_where_affordable(tmp_path, on, difference, verdict, note):
    matched_cost_records(tmp_path)
    row = compared(tmp_path, "best_of_n", on)
    assert float(row["difference"]) == difference
    assert row["verdict"] == verdict
    assert row["note"] == note


def test_baseline_that_goes_on_after_its_last_rollout_is_charged_for_it(tmp_path):
    """A form of ∇-Reasoner tests and descends on; its note said 0.13 here."""
    matched_cost_records(tmp_path)
    spent = Cost(decode_tokens=10, model_calls=20, flops=3750, seconds=0.5)
    write(tmp_path / "records", "greedy", 0, [0] * 40, steps=lambda i: ladder([0]), cost=spent)
    row = compared(tmp_path, "greedy", "flops")
    assert row["note"] == "baseline's largest budget, n = 1: 0.5x the cost"


def test_baseline_without_pool_is_whole_with_a_note(tmp_path):
    matched_cost_records(tmp_path)
    write(tmp_path / "records", "greedy", 0, [0] * 40, steps=lambda i: ladder([0]))
    row = compared(tmp_path, "greedy", "flops")
    assert row["note"] == "baseline's largest budget, n = 1: 0.13x the cost"
    assert "baseline spent less" in (tmp_path / "table.md").read_text()


def test_comparisons_use_common_problems_and_seeds(tmp_path):
    write(tmp_path / "records", "nabla_reasoner", 0, [1] * 30)
    write(tmp_path / "records", "nabla_reasoner", 1, [1] * 30)
    write(tmp_path / "records", "best_of_n", 0, [0] * 20)  # still running
    write_table(tmp_path, grid=grid())
    rows = [row for row in read(tmp_path / "comparisons.csv") if row["method"] == "nabla_reasoner"]
    row = next(row for row in rows if (row["baseline"], row["matched_on"]) == ("best_of_n", "rollouts"))
    assert (row["num_problems"], row["verdict"]) == ("20", "better")
    assert float(row["p_value"]) == pytest.approx(2 * 0.5**20, rel=1e-4)
    status = {row["method"]: row["status"] for row in read(tmp_path / "table.csv")}
    assert status["best_of_n"] == "partial: 20 of 60"
    assert status["nabla_reasoner"] == "ok"


def test_comparison_that_was_made_one_way_only_says_so(tmp_path):
    """The method has another seed than the baseline's pool: equal rollouts are compared, equal costs cannot be."""
    write(tmp_path / "records", "nabla_reasoner", 0, [1] * 4)
    write(tmp_path / "records", "best_of_n", 0, [0] * 4)
    compared = comparisons.comparison_rows(load_outcomes(tmp_path / "records"), {}, grid())
    rows = [row for row in compared if (row["baseline"], row["matched_on"]) == ("best_of_n", "rollouts")]
    (text,) = comparisons.format_comparisons(rows)
    assert text[:4] == ["tiny-base", "chain_sum", "nabla_reasoner", "best_of_n"]
    assert (text[4][:6], text[5]) == ("+100.0", "not run")
    table = report_sections._comparisons(rows)[1]
    (row,) = table.rows
    assert len(row) == len(table.columns)
    assert "not run" in row


def test_trained_policys_greedy_records_fill_the_bases_cell(tmp_path):
    write(tmp_path / "records", "greedy", 0, [1, 1, 0], policy="tiny-base-grpo")
    write_table(tmp_path, grid=grid(["grpo"], seeds=(0,)))
    (row,) = read(tmp_path / "table.csv")
    assert float(row["accuracy"]) == pytest.approx(66.6667)
    assert (row["policy"], row["method"], row["paper_value"], row["status"]) == ("tiny-base", "grpo", "70.8", "ok")


def test_paper_values_name_their_source_and_other_cells():
    cells = paper_numbers.paper_cells()
    row = {
        "policy": "qwen2.5-7b",
        "task": "math500",
        "method": "nabla_reasoner",
        "paper_cell": {"policy": "qwen2.5-7b", "benchmark": "math500"},
    }
    assert paper_numbers.paper_value(row, cells) == (71.0, "second-hand note (qwen2.5-7b, math500)")
    tiny = row | {"policy": "tiny-base", "task": "products"}
    source = "second-hand note (qwen2.5-7b, math500; another policy and task than ours)"
    assert paper_numbers.paper_value(tiny, cells) == (71.0, source)
    assert paper_numbers.paper_value(row | {"method": "tree_of_thoughts"}, cells) == (
        None,
        "unknown (qwen2.5-7b, math500)",
    )
    assert paper_numbers.paper_value(row | {"method": "nabla_without_gradient"}, cells) == (None, "not in the paper")
    llama = row | {"paper_cell": {"policy": "llama3.1-8b-instruct", "benchmark": "aime24"}}
    assert paper_numbers.paper_value(llama, cells)[1].startswith("unknown: not run by the authors")
    assert paper_numbers.paper_value(row | {"paper_cell": {"policy": None, "benchmark": None}}, cells)[0] is None


def test_packaged_numbers_are_those_of_the_reference():
    if not REFERENCE.is_file():
        pytest.skip(f"needs {REFERENCE}, which is not part of the repository")
    theirs = yaml.safe_load(REFERENCE.read_text(encoding="utf-8"))
    ours = yaml.safe_load((Path(accuracy_table.__file__).parent / "paper.yaml").read_text(encoding="utf-8"))
    fields = ("table", "policy", "benchmark", "method", "value", "unit", "source")
    assert [[c[f] for f in fields] for c in ours["cells"]] == [[c[f] for f in fields] for c in theirs["cells"]]
    for part in ("policies", "benchmarks", "methods", "method_settings", "released_settings", "training_baselines"):
        assert ours[part] == theirs[part]


def test_papers_best_of_n_flops_follow_from_samples():
    (cell,) = [c for c in paper_numbers.paper_cells("table5") if c["method"] == "best_of_n" and c["unit"] == "FLOPs"]
    assert cell["value"] == pytest.approx(2 * 7.6e9 * 83 * 8 * 945, rel=0.01)


def test_markdown_columns_line_up_with_interval_and_sources(tmp_path):
    matched_cost_records(tmp_path)
    write_table(tmp_path, grid=grid(seeds=(0,)), notes=["Reward: likelihood; its own greedy accuracy is 92 %."])
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    lines = text.splitlines()[: 2 + len(METHODS)]
    assert len({len(line) for line in lines}) == 1
    assert len({tuple(i for i, mark in enumerate(line) if mark == "|") for line in lines}) == 1
    assert set(lines[1]) == {"|", "-", " "}
    line = next(line for line in lines if "| nabla_reasoner " in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3] == "75.0"
    assert re.fullmatch(r"6\d\.\d to 8\d\.\d", cells[4])
    assert cells[6] == "71.0 [1]"
    assert "[1] second-hand note (qwen2.5-7b, math500; another policy and task than ours)" in text
    assert "its own greedy accuracy is 92 %" in text
    assert "+50.0 [+" in text  # the comparison at equal rollouts


def test_latex_is_balanced_and_escaped(tmp_path):
    matched_cost_records(tmp_path)
    write_table(tmp_path, grid=grid(seeds=(0,)), notes=["50 % & more_of {it} #1"])
    text = (tmp_path / "table.tex").read_text(encoding="utf-8")
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(METHODS)
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
        assert not re.search(r"(?<!\\)[%_#$]", row)
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule") < text.index(r"\end{tabular}")
    assert r"50 \% \& more\_of \{it\} \#1" in text


def test_latex_takes_no_name_as_the_option_of_a_command():
    text = tables.latex(["a"], [["*b"], ["[c]"]], [])
    assert [line for line in text.splitlines() if "b" in line and "&" not in line and line.startswith("{}")]
    assert not re.search(r"^[*\[]", text, re.MULTILINE)


NAMES = ["a|b", "a\nb", "a^b~c", "∇ − ≥ ≤ λ", "back\\slash{}", "50 % & #_$", "<i>", "x"]


def test_names_stay_within_their_markdown_cells():
    page = mistune.create_markdown(plugins=["table"])(tables.markdown(NAMES, [NAMES]))
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", page, flags=re.DOTALL)
    assert [html.unescape(cell) for cell in cells] == 2 * ["a b" if name == "a\nb" else name for name in NAMES]


def test_names_are_typeset_as_they_are():
    text = tables.latex(NAMES, [NAMES], ["a ^ note\n~"])
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 2
    assert len(set(lines)) == 1
    cells = re.split(r"(?<!\\) & ", lines[0].removesuffix(r" \\"))
    assert cells == [
        r"a\textbar{}b",
        "a b",
        r"a\textasciicircum{}b\textasciitilde{}c",
        r"$\nabla$ $-$ $\ge$ $\le$ $\lambda$",
        r"back\textbackslash{}slash\{\}",
        r"50 \% \& \#\_\$",
        r"\textless{}i\textgreater{}",
        "x",
    ]
    assert text.endswith("\na \\textasciicircum{} note \\textasciitilde{}\n")


def test_csv_keeps_every_name():
    rows = [{"name": name} for name in NAMES]
    found = list(csv.DictReader(io.StringIO(tables.csv_text(["name"], rows))))
    assert found == rows


def test_line_breaks_of_any_kind_stay_within_their_cell(tmp_path: Path):
    texts = ["a\rb", "a\r\nb", "a\nb", 'a"b', "a,b", "plain"]
    path = tmp_path / "table.csv"
    path.write_text(tables.csv_text(["name", "value"], [{"name": t, "value": 1.0} for t in texts]), "utf-8", newline="")
    with path.open(encoding="utf-8", newline="") as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == texts
    assert path.read_bytes().endswith(b"plain,1\n")


def test_rewrite_replaces_whole_files_with_new_records(tmp_path):
    write(tmp_path / "records", "greedy", 0, [1, 0])
    write_table(tmp_path, grid=grid(["greedy"]))
    before = os.stat(tmp_path / "table.csv").st_ino
    write(tmp_path / "records", "greedy", 1, [1, 1])
    write_table(tmp_path, grid=grid(["greedy"]))
    assert os.stat(tmp_path / "table.csv").st_ino != before
    assert read(tmp_path / "table.csv")[0]["accuracy"] == "75"
    first = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    write_table(tmp_path, grid=grid(["greedy"]))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == first


@pytest.mark.slow
def test_rewriting_a_full_grid_takes_seconds(tmp_path):
    rows = grid(seeds=(0, 1, 2))  # a sixth of the grid
    for number, method in enumerate(METHODS):
        for seed in range(3):
            right = [(i * 7 + number + seed) % 3 == 0 for i in range(300)]
            write(tmp_path / "records", method, seed, right, steps=lambda i: ladder([i % 2] * 8))
            write(tmp_path / "budget", method, seed, right, steps=lambda i: ladder([i % 3] * 32))
    write_table(tmp_path, grid=rows)
    begin = time.process_time()
    write_table(tmp_path, grid=rows)
    seconds = time.process_time() - begin
    print(f"\n{seconds:.1f} s for {len(rows)} rows")
    assert seconds < 4


MEASURED = """
import sys, time
from pathlib import Path
from nabla_reasoner.evaluation.outcomes import read_experiment
from nabla_reasoner.experiments.table1 import write_table

folder, begin = Path(sys.argv[1]), time.process_time()
experiment = read_experiment(folder)
paper = {"policy": None, "benchmark": None}
grid = [{**key._asdict(), "seeds": cell.seeds, "paper_cell": paper} for key, cell in experiment.cells.items()]
write_table(folder, grid=grid, experiment=experiment)
# not ru_maxrss, which a child inherits from the process that started it
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(time.process_time() - begin, peak.split()[1])
"""


@pytest.mark.slow
def test_20000_records_become_tables_in_half_a_minute_and_a_gigabyte(tmp_path):
    count = 0
    for policy, task, seed in itertools.product(("a", "b"), ("chain_sum", "products"), (0, 1)):
        for number, method in enumerate(METHODS):
            right = [(i * 7 + number + seed) % 3 == 0 for i in range(500)]
            write(
                tmp_path / "records", method, seed, right, steps=lambda i: ladder([i % 2] * 8), policy=policy, task=task
            )
            count += len(right)
    assert count == 20_000
    words = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds < 30
    assert kilobytes < 2**20
    assert len(read(tmp_path / "table.csv")) == 20


def test_verdicts_hold_after_holms_adjustment():
    def family(*p_values):
        rows = [{"p_value": p, "p_adjusted": None, "verdict": "better"} for p in p_values]
        comparisons._adjust(rows)
        return [(round(row["p_adjusted"], 12), row["verdict"]) for row in rows]

    none = "no difference shown"
    assert family(0.01, 0.04) == [(0.02, "better"), (0.04, "better")]
    assert family(0.04, 0.2, 0.03) == [(0.09, none), (0.2, none), (0.09, none)]


def test_break_even_counts_training_against_costlier_answers(tmp_path):
    """By hand: 1e9 FLOPs of training pay off after 1e9 / (5e6 - 1e6) = 250 questions, or 1e9 / (2e6 - 1e6) = 1000."""
    folder = tmp_path / "records"
    flops = {"greedy": 1e6, "nabla_reasoner": 5e6, "nabla_reasoner_prefix": 2e6}
    for method, spent in flops.items():
        write(folder, method, 0, [1, 0], cost=Cost(flops=spent))
    write(folder, "greedy", 0, [1, 1], cost=Cost(flops=1e6), policy="tiny-base-sft")
    rows = grid([*flops, "sft"], (0,))
    rows[-1]["training_flops"] = 1e9
    table = accuracy_table.table_rows(load_outcomes(folder), rows, [])
    assert [table[-1][name] for name in accuracy_table.BREAK_EVEN] == [250, 1000]
    assert all(row["training_flops"] is None and row["break_even_prefix"] is None for row in table[:-1])
    (note,) = accuracy_table.training_notes(table)
    assert "from 1,000 questions of chain_sum on (250 for the outcome form)" in note
    rows[-1]["training_flops"] = None
    assert accuracy_table.training_notes(accuracy_table.table_rows(load_outcomes(folder), rows, [])) == []


def test_training_of_a_trained_policy_counts_earlier_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "assets" / "sweeps" / "improvement.csv"
    file.parent.mkdir(parents=True)
    rows = ["tiny-base-sft,False,9e9", "tiny-base-sft,True,1e9", "tiny-base-sft-grpo,True,2e9"]
    file.write_text("\n".join(["policy,shipped,flops", *rows]), encoding="utf-8")
    names = ("tiny-base", "tiny-base-sft", "tiny-base-sft-grpo", "tiny-base-grpo", "no-such-policy")
    assert [training_flops(name) for name in names] == [None, 1e9, 3e9, None, None]


def test_selectors_have_pass_at_n_and_regret(tmp_path):
    """Three problems: one solved by a sample that was not chosen, one by none, one failed."""
    folder = tmp_path / "records"
    for method in ("best_of_n", "tree_of_thoughts"):
        for index, samples in enumerate(([True, False], [False, False], [True, True], None)):
            names = {"policy": "a", "method": method, "seed": 0, "repeat": 0}
            record = failed_record(Problem(f"p{index}", "q", "4", "chain_sum"), "-", **names)
            if samples is not None:
                kept = [{"reward": 0.0, "correct": right} for right in samples]
                record |= {"correct": samples[1], "status": "ok", "error": None, "search": {"samples": kept}}
            append_records(record_path(folder, "a", "chain_sum", method, 0), [record])
    rows = grid(["best_of_n", "tree_of_thoughts"], (0,), "a")
    selector, search = accuracy_table.table_rows(load_outcomes(folder), rows, [])
    assert (selector["accuracy"], selector["any_of_n"], selector["regret"]) == (25, 50, 25)
    assert (search["any_of_n"], search["regret"]) == (None, None)


def test_table_says_how_many_right_answers_have_true_steps(tmp_path):
    folder = tmp_path / "records"
    responses = ["1+1=2;2+2=4", "1+1=3;3+1=4", "1+1=3", "2+2=4"]
    for index, response in enumerate(responses):
        record = failed_record(
            Problem(f"p{index}", "q", "4", "chain_sum"), "-", policy="a", method="greedy", seed=0, repeat=0
        )
        record |= {"correct": response.endswith("=4"), "status": "ok", "error": None, "response": response}
        append_records(record_path(folder, "a", "chain_sum", "greedy", 0), [record])
    (row,) = accuracy_table.table_rows(load_outcomes(folder), grid(["greedy"], (0,), "a"), [])
    assert row["accuracy"] == 75
    assert row["valid_steps"] == pytest.approx(200 / 3)


ODD_NAMES = ("007", "NA", "nan", "None", "null", "True", "1e5", "inf")


def test_names_are_read_as_they_were_written(tmp_path: Path):
    """A policy may be called 007 or NA; only an empty field is missing, and numbers stay numbers."""
    columns = ("policy", "task", "reward", "setting", "accuracy", "note")
    values = (1.5, float("nan"), None, 4.0, 5.0, 6.0, 7.0, 8.0)
    rows = [
        {**dict.fromkeys(columns, name), "accuracy": value, "note": None}
        for name, value in zip(ODD_NAMES, values, strict=True)
    ]
    path = tmp_path / "table.csv"
    path.write_text(tables.csv_text(columns, rows), encoding="utf-8")
    frame, typed = read_frame(path), typed_rows(path)
    for column in ("policy", "task", "reward", "setting"):
        assert tuple(frame[column]) == tuple(row[column] for row in typed) == ODD_NAMES
    assert frame.accuracy.fillna(-1).tolist() == [1.5, -1, -1, 4, 5, 6, 7, 8]
    assert [row["accuracy"] for row in typed][2:4] == [None, 4.0]
    assert frame.note.isna().all()
    assert {row["note"] for row in typed} == {None}


def test_reward_without_a_policy_beside_it_is_a_number(tmp_path: Path):
    (tmp_path / "ppo.csv").write_text("method,kl,reward\nppo,0.5,-7\n", encoding="utf-8")
    assert read_frame(tmp_path / "ppo.csv").reward.tolist() == [-7]
    assert typed_rows(tmp_path / "ppo.csv")[0]["reward"] == -7


def test_every_column_of_words_in_kept_rows_is_known():
    """A new column of names must be listed in `tables.TEXT`, or names that look like numbers are read as numbers."""
    unknown = set()
    for path in (Path(__file__).resolve().parents[2] / "figures/data").glob("*.csv"):
        frame = read_frame(path)
        others = set(frame.columns) - tables.text_columns(frame.columns)
        unknown |= {name for name in others if not is_numeric_dtype(frame[name])}  # True and False are numeric
    assert unknown <= {"response"}, "a text in Figure 1's rows and a number in Figure 2's"
