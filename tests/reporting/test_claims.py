"""Verdicts: each rule at its limits, from rows written here, and the tables of the docs from the committed rows."""

import csv
import fnmatch
from collections.abc import Sequence
from pathlib import Path

import pytest

from nabla_reasoner.experiments import report
from nabla_reasoner.reporting import claim_rules, claims, enough_evidence
from nabla_reasoner.reporting.claim_rules import NOT, PARTLY, REPRODUCED
from nabla_reasoner.reporting.enough_evidence import TOO_LITTLE
from nabla_reasoner.reporting.evidence import NAMES, NOT_RUN, Evidence, Row, typed_rows
from nabla_reasoner.reporting.tables import TEXT, csv_text

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "figures" / "data"


def compared(baseline: str, difference: float, low: float, verdict: str, matched_on: str = "rollouts") -> Row:
    return {
        "policy": "tiny-base",
        "task": "products",
        "method": "nabla_reasoner",
        "baseline": baseline,
        "matched_on": matched_on,
        "difference": difference,
        "ci_low": low,
        "verdict": verdict,
    }


def check(name: str, passed: str = "True") -> Row:
    return {"name": name, "passed": passed}


def test_claims_without_results_are_not_run():
    decisions = claims.decide_claims(Evidence())
    assert [decision.claim.name for decision in decisions] == [f"C{number}" for number in range(1, 11)]
    assert {decision.verdict for decision in decisions} == {NOT_RUN}
    assert all("eproduced:" in decision.claim.rule for decision in decisions)


@pytest.mark.parametrize(
    ("difference", "low", "verdict", "expected"),
    [(25, 21, "better", REPRODUCED), (25, 19, "better", PARTLY), (19, 12, "better", NOT), (25, -3, "no", NOT)],
)
def test_accuracy_needs_its_whole_interval_above_twenty(difference, low, verdict, expected):
    rows = [compared("greedy", difference, low, verdict)]
    assert claim_rules.accuracy(Evidence(comparisons=rows))[0] == expected


def test_accuracy_leaves_improved_policies_and_missing_comparisons_out():
    rows = [{**compared("greedy", 30, 25, "better"), "policy": "tiny-base-grpo"}, compared("greedy", 0, 0, "not run")]
    assert claim_rules.accuracy(Evidence(comparisons=rows))[0] == NOT_RUN


def test_model_calls_must_be_saved_without_losing_accuracy():
    def call(method: str, saving: float) -> Row:
        return {"policy": "p", "task": "t", "method": method, "saving_percent": saving}

    both = [call("best_of_n", 40), call("rap", 12), call("greedy", -70)]
    assert claim_rules.model_calls(Evidence(calls=both))[0] == REPRODUCED
    assert claim_rules.model_calls(Evidence(calls=both, comparisons=[compared("rap", -9, -12, "worse")]))[0] == PARTLY
    assert claim_rules.model_calls(Evidence(calls=[call("best_of_n", 40), call("rap", 5)]))[0] == PARTLY
    assert claim_rules.model_calls(Evidence(calls=[call("best_of_n", 5), call("rap", 40)]))[0] == NOT


def test_better_baseline_at_matched_flops_refutes_the_claim():
    won = [compared(name, 5, 1, "better") for name in ("best_of_n", "rap", "sft", "grpo")]
    assert claim_rules.baselines(Evidence(comparisons=won))[0] == REPRODUCED
    tie = compared("tree_of_thoughts", 0, -3, "no difference shown")
    assert claim_rules.baselines(Evidence(comparisons=[*won, tie]))[0] == PARTLY
    behind = compared("tree_of_thoughts", -9, -14, "worse", "flops")
    verdict, evidence = claim_rules.baselines(Evidence(comparisons=[*won, tie, behind]))
    assert verdict == NOT
    assert "Tree-of-Thoughts 0 of 1 as run, 0 (worse 1) of 1 at matched FLOPs" in evidence


@pytest.mark.parametrize(
    ("accuracies", "expected"), [((80, 80.8), REPRODUCED), ((80, 80.8, 60), PARTLY), ((80, 70), NOT), ((80,), NOT_RUN)]
)
def test_reward_models_are_compared_within_a_cell(accuracies, expected):
    rows = [{"policy": "p", "task": "t", "method": "nabla_reasoner", "accuracy": value} for value in accuracies]
    assert claim_rules.reward_models(Evidence(rewards=rows))[0] == expected


def test_rejections_must_be_below_the_null_arms():
    def row(method: str, rate: float) -> Row:
        names = {"rejected": rate, "ci_low": rate - 2, "ci_high": rate + 2}
        names |= {"proposed_ci_low": rate - 2, "proposed_ci_high": rate + 2}
        variant = None if method == "best_of_n" else "fixed"
        return {"policy": "p", "task": "t", "method": method, "variant": variant, **names}

    rows = [row("best_of_n", 70), row("nabla_without_gradient", 25), row("nabla_reasoner", 10)]
    assert claim_rules.rejected(Evidence(rejections=rows))[0] == REPRODUCED
    rows[1] = row("nabla_without_gradient", 12)
    assert claim_rules.rejected(Evidence(rejections=rows))[0] == PARTLY
    rows[0] = row("best_of_n", 12)
    assert claim_rules.rejected(Evidence(rejections=rows))[0] == NOT


def curve(method: str, points: list[tuple[float, float]], cost: float = 1.0) -> list[Row]:
    """Rows of a curve: rollouts and accuracy; every axis costs `cost` a rollout."""
    return [
        {"policy": "p", "task": "t", "method": method, "rollouts": size, "accuracy": accuracy}
        | dict.fromkeys(("model_calls", "flops", "seconds"), size * cost)
        for size, accuracy in points
    ]


def test_budgets_are_compared_at_no_less_cost():
    ours = curve("nabla_reasoner", [(1, 30), (2, 50), (4, 70)])
    flat = curve("best_of_n", [(1, 30), (2, 40), (4, 45), (8, 45.5)])
    assert claim_rules.every_budget(Evidence(budgets=[*ours, *flat]))[0] == REPRODUCED
    rising = curve("best_of_n", [(1, 30), (2, 40), (4, 60), (8, 80)])
    verdict, evidence = claim_rules.every_budget(Evidence(budgets=[*ours, *rising]))
    assert verdict == PARTLY
    assert "+20.0 points" in evidence
    cheap = curve("best_of_n", [(1, 30), (2, 40), (4, 60), (8, 80)], cost=0.5)
    assert claim_rules.every_budget(Evidence(budgets=[*ours, *cheap]))[0] == NOT


def test_failed_check_refutes_and_skipped_check_is_ignored():
    made, skipped = check("prop_c1_sum"), check("prop_c1_sum__smollm2", "skipped: no weights")
    share = {"policy": "p", "reward": "r", "task": "t", "weights": "eq2", "space": "z", "postfix_share": 0.05}
    past = {"setting": "past_only", "task": "all", "verdict": "worse", "difference": -4.0}
    past |= {"difference_low": -6.0, "difference_high": -2.0}
    tested = Evidence(checks=[made, skipped], terms=[share], ablations=[past])
    assert claim_rules.bidirectional(tested)[0] == REPRODUCED
    assert claim_rules.bidirectional(tested._replace(checks=[skipped]))[0] == NOT_RUN
    small = {**share, "postfix_share": 0.002}
    assert claim_rules.bidirectional(tested._replace(terms=[small]))[0] == PARTLY
    failed = check("prop_c1_postfix", "False")
    assert claim_rules.bidirectional(tested._replace(checks=[made, failed]))[0] == NOT


def test_gradient_from_later_tokens_must_be_shown_helpful():
    share = {"policy": "p", "reward": "r", "task": "t", "weights": "eq2", "space": "z", "postfix_share": 0.05}
    evidence = Evidence(checks=[check("prop_c1_sum")], terms=[share])
    assert claim_rules.bidirectional(evidence)[0] == PARTLY
    past = {"setting": "past_only", "task": "all", "verdict": "better", "difference": 7.8}
    past |= {"difference_low": 6.0, "difference_high": 9.7}
    verdict, words = claim_rules.bidirectional(evidence._replace(ablations=[past]))
    assert verdict == PARTLY
    assert "+7.8 (+6.0 to +9.7)" in words


def test_skipping_is_safe_only_if_tested():
    checks = [check("eq25_is_autograd__V8"), check("eq25_is_autograd__V640")]
    every = {"setting": "every_position", "task": "all", "difference": 0.7, "difference_high": 3.1}
    assert claim_rules.confident_tokens(Evidence(checks=checks))[0] == PARTLY
    still = {"confident": "True", "reward": "classifier", "flipped": 0.0, "largest_change": 3.5}
    moved = {**still, "flipped": 5.5}
    evidence = Evidence(checks=checks, ablations=[every], movement=[still, {**moved, "confident": "False"}])
    verdict, text = claim_rules.confident_tokens(evidence)
    assert verdict == REPRODUCED
    assert "with the reward classifier DTO flips 0.0 % of the confident rows and moves a logit by up to 3.5" in text
    assert claim_rules.confident_tokens(evidence._replace(movement=[still, moved]))[0] == PARTLY
    assert claim_rules.confident_tokens(evidence._replace(movement=()))[0] == PARTLY
    wide = {**every, "difference_high": 6.0}
    assert claim_rules.confident_tokens(Evidence(checks=checks, ablations=[wide]))[0] == PARTLY
    assert claim_rules.confident_tokens(Evidence(checks=[*checks, check("eq25_x__V8", "False")]))[0] == NOT


def test_sampler_needs_the_distribution_and_the_flow():
    law = {"method": "nabla_reasoner", "measured_on": "compared", "reward_weight": 1.0, "kl": 0.44}
    checks = [check("argmin_is_closed_form"), check("without_noise_is_not_rho_star__line_seen")]
    assert claim_rules.sampler(Evidence(checks=checks, ppo=[law]))[0] == PARTLY
    assert claim_rules.sampler(Evidence(checks=checks, ppo=[{**law, "kl": 0.01}]))[0] == REPRODUCED
    assert claim_rules.sampler(Evidence(checks=[*checks, check("noise_x", "False")], ppo=[law]))[0] == NOT


def test_affordable_needs_seconds_and_savings():
    def spent(quantity: str, ratio: float, method: str = "nabla_reasoner") -> Row:
        return {"policy": "p", "method": method, "quantity": quantity, "ratio": ratio}

    rows = [spent("seconds", 1.1), spent("flops", 0.6), {**spent("seconds", 9), "policy": "tiny-base-sft"}]
    saved = {"case": "gradient_flops__p__t", "variant": "fast", "ratio_to_reference": 0.2}
    assert claim_rules.affordable(Evidence(expenses=rows, bench=[saved]))[0] == REPRODUCED
    assert claim_rules.affordable(Evidence(expenses=rows))[0] == PARTLY
    slow = [spent("seconds", 1.3), spent("flops", 0.6)]
    assert claim_rules.affordable(Evidence(expenses=slow, bench=[saved]))[0] == PARTLY
    assert claim_rules.affordable(Evidence(expenses=slow))[0] == NOT
    prefix = [spent("seconds", 0.7, "nabla_reasoner_prefix"), spent("flops", 0.4, "nabla_reasoner_prefix")]
    verdict, text = claim_rules.affordable(Evidence(expenses=[*slow, *prefix]))
    assert verdict == NOT, "the paper's form decides"
    assert text.endswith("in prefix form 0.40 of its FLOPs and 0.70 of its seconds")


@pytest.mark.slow
def test_seconds_of_another_best_of_n_are_named_and_decide_nothing():
    def sized(size: float | None) -> Evidence:
        rows = [{**row, "num_samples": size} for row in COMMITTED.expenses]
        return COMMITTED._replace(expenses=rows)

    for size, name in ((4, "Best-of-4"), (None, "Best-of-N")):
        decision = claims.decide_claims(sized(size))[-1]
        assert decision.verdict == TOO_LITTLE
        assert f" of {name}'s FLOPs (paper, of Best-of-8: 25.8)" in decision.evidence
        assert decision.evidence.endswith(f"; seconds of {name} do not count, only of Best-of-8")
        assert "0 of 6 cells" in decision.evidence
    assert claims.decide_claims(sized(8))[-1] == claims.decide_claims(COMMITTED)[-1]
    mixed = [*sized(8).expenses, *({**row, "ratio": 0.1, "num_samples": 4} for row in COMMITTED.expenses)]
    decision = claims.decide_claims(COMMITTED._replace(expenses=mixed))[-1]
    assert decision.verdict == claims.decide_claims(COMMITTED)[-1].verdict
    assert "of Best-of-4 and 8's FLOPs" in decision.evidence


def test_typed_rows_have_numbers_texts_and_gaps(tmp_path: Path):
    text = "\ufeffname,passed,value\na__V8,True,1.5e3\nb,,\n"  # with the mark that Excel writes
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    first, second = typed_rows(tmp_path / "rows.csv")
    assert first == {"name": "a__V8", "passed": "True", "value": 1500.0}
    assert second == {"name": "b", "passed": None, "value": None}
    assert typed_rows(tmp_path / "missing.csv") == []


@pytest.mark.parametrize("path", sorted(DATA.glob("*.csv")), ids=lambda path: path.stem)
def test_text_in_place_of_a_number_or_no_name_is_named_with_its_file(tmp_path: Path, path: Path):
    """What a power cut leaves in a file, NUL bytes; each was a traceback, or an error without the file."""
    with path.open(encoding="utf-8", newline="") as stream:
        row = next(csv.DictReader(stream))
    numbers = [name for name, cell in row.items() if cell and name not in TEXT | {"response", "reward"}]
    damages = [(name, "\0\0") for name in numbers[:3]] + [(name, "") for name in row if name in NAMES]
    for damaged, value in damages:
        copy = tmp_path / f"{damaged}.csv"
        copy.write_text(csv_text(list(row), [{**row, damaged: value}]), encoding="utf-8")
        with pytest.raises(ValueError, match=f"{damaged}.* must ") as refused:
            typed_rows(copy)
        assert str(copy) in str(refused.value)


COMMITTED = report.committed_evidence(DATA)


def verdicts(evidence: Evidence) -> dict[str, str]:
    return {decision.claim.name: decision.verdict for decision in claims.decide_claims(evidence)}


def narrowed(evidence: Evidence, keep) -> Evidence:
    """The evidence whose rows with policy and task satisfy `keep`; others stay."""
    parts = {
        name: [row for row in rows if not {"policy", "task"} <= row.keys() or name == "ablations" or keep(row)]
        for name, rows in evidence._asdict().items()
    }
    return Evidence(**parts)


def test_committed_rows_are_enough_for_every_verdict():
    assert not {TOO_LITTLE, NOT_RUN} & set(verdicts(COMMITTED).values())


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1, 5])
def test_verdicts_from_some_cells_say_so(cells: int):
    complete = sorted({(row["policy"], row["task"]) for row in COMMITTED.calls})
    few = narrowed(COMMITTED, lambda row: (row["policy"], row["task"]) in complete[:cells])
    found = verdicts(few)
    assert {found[name] for name in ("C1", "C2", "C3", "C4", "C5", "C6", "C10")} == {TOO_LITTLE}
    text = next(decision.evidence for decision in claims.decide_claims(few) if decision.claim.name == "C2")
    assert text.endswith(f"{cells} of 6 cells with 200 problems, the others are not complete")


@pytest.mark.parametrize("size", [3, 199, 200])
def test_further_policies_and_tasks_count_with_enough_problems_only(size: int):
    """A policy of one's own with three problems made C1 to C6 "not reproduced"."""

    def copied(rows: Sequence[Row]) -> list[Row]:
        first = [row for row in rows if (row.get("policy"), row.get("task")) == ("tiny-base", "products")]
        further = [{**row, "policy": "further"} for row in first] + [{**row, "task": "aime24"} for row in first]
        worse = {"num_problems": float(size), "difference": -50.0, "verdict": "worse"}
        return [*rows, *({**row, **{key: value for key, value in worse.items() if key in row}} for row in further)]

    evidence = Evidence(**{name: copied(rows) for name, rows in COMMITTED._asdict().items()})
    before, decided = claims.decide_claims(COMMITTED), claims.decide_claims(evidence)
    assert (decided == before) == (size < 200)
    kept, left_out = enough_evidence.counted(evidence, enough_evidence.read_grid("tiny"))
    further = {("further", "products"): size, ("tiny-base", "aime24"): size}
    assert left_out == (further if size < 200 else {})
    assert kept == (COMMITTED if size < 200 else evidence)
    terms = Evidence(terms=[{**row, "policy": "smollm2"} for row in COMMITTED.terms])  # without numbers of problems
    kept, left_out = enough_evidence.counted(terms, enough_evidence.read_grid("tiny"))
    assert (kept.terms, left_out) == (terms.terms, {})


@pytest.mark.slow
def test_verdicts_from_few_problems_say_so():
    def few(rows: list[Row]) -> list[Row]:
        return [{**row, "num_problems": 199} if row.get("num_problems") else row for row in rows]

    evidence = Evidence(**{name: few(rows) for name, rows in COMMITTED._asdict().items()})
    found = verdicts(evidence)
    text = next(decision.evidence for decision in claims.decide_claims(evidence) if decision.claim.name == "C1")
    assert text.endswith("0 of 6 cells with 200 problems, at most 199 in the others")
    assert {name for name, verdict in found.items() if verdict == TOO_LITTLE} == {
        f"C{number}" for number in range(1, 9)
    } | {"C10"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "claim"),
    [
        (("comparisons", "baseline", "rap"), "C3"),
        (("comparisons", "baseline", "grpo"), "C3"),
        (("rewards", "reward", "classifier"), "C4"),
        (("rejections", "method", "nabla_without_gradient"), "C5"),
        (("budgets", "method", "self_consistency"), "C6"),
        (("ablations", "setting", "past_only"), "C7"),
        (("ablations", "setting", "every_position"), "C8"),
        (("terms", "task", "products"), "C7"),
        (("terms", "policy", "tiny-instruct"), "C7"),
        (("checks", "name", "eq25_*__V151936"), "C8"),
        (("bench", "case", "gradient_flops__tiny-base__products"), "C10"),
    ],
)
def test_verdict_without_a_part_of_its_evidence_says_so(part: tuple[str, str, str], claim: str):
    name, column, value = part
    rows = [row for row in getattr(COMMITTED, name) if not fnmatch.fnmatch(row[column], value)]
    assert len(rows) < len(getattr(COMMITTED, name))
    assert verdicts(COMMITTED._replace(**{name: rows}))[claim] == TOO_LITTLE


@pytest.mark.slow
def test_trained_policies_are_needed_on_the_tasks_that_have_them():
    assert enough_evidence.read_grid("small").trained == ("chain_sum",)
    rows = [row for row in COMMITTED.comparisons if row["task"] == "products" or row["baseline"] not in ("sft", "grpo")]
    evidence, grid = COMMITTED._replace(comparisons=rows), enough_evidence.read_grid("tiny")
    assert enough_evidence.lacking("C3", evidence, grid).startswith("2 of 6 cells")
    assert not enough_evidence.lacking("C3", evidence, grid._replace(trained=("products",)))


def test_group_of_checks_that_an_error_ended_is_no_evidence():
    broken = {"name": "eq25_broke_off_ZeroDivisionError", "passed": "False"}
    assert claim_rules.confident_tokens(Evidence(checks=[broken]))[0] == NOT_RUN
    rows = [row for row in COMMITTED.checks if not row["name"].startswith("eq25_")]
    assert verdicts(COMMITTED._replace(checks=[*rows, broken]))["C8"] in (NOT_RUN, TOO_LITTLE)


def test_verdict_on_the_flow_needs_every_kind_of_check():
    rows = [row for row in COMMITTED.checks if not row["name"].startswith("jko_")]
    assert verdicts(COMMITTED._replace(checks=rows))["C9"] == TOO_LITTLE


@pytest.mark.slow
def test_benchmark_smaller_than_the_limit_is_enough_as_a_whole():
    grid = enough_evidence.read_grid("paper")
    assert (grid.enough("aime24"), grid.enough("amc"), grid.enough("math500")) == (30, 83, 200)
    assert enough_evidence.read_grid("small").enough("products") == 200


@pytest.mark.slow
def test_docs_show_what_the_committed_rows_give():
    decided = report.committed_decisions(DATA)
    page, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/claims.md", "README.md"))
    assert list(decided) == ["tiny", "small"]
    whole = report.claims_page(decided)
    assert page == whole, f"docs/claims.md must be this (report docs=true):\n{whole}"
    table = claims.verdict_table(decided)
    assert report.README_START + table + report.README_END in readme, f"README.md must have this table:\n{table}"
