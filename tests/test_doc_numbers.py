"""Numbers of README and docs: every table row and sentence that comes from figures/data/ is computed from it here."""

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from nabla_reasoner.evaluation.statistics import accuracy_interval, holm, paired_difference
from nabla_reasoner.experiments.table3 import theory

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "figures" / "data"
POLICIES, TASKS = ("tiny-base", "tiny-instruct"), ("chain_sum", "leg_counting", "products")
Rows = dict[str, pd.DataFrame]
LABELS = {  # of docs/results.md
    "greedy": "Greedy",
    "self_consistency": "Self-Consistency, N = 8",
    "best_of_n": "Best-of-8",
    "soft_best_of_n": "soft Best-of-8",
    "weighted_self_consistency": "weighted Self-Consistency, N = 8",
    "tree_of_thoughts": "Tree-of-Thoughts, b = 1, k = 8",
    "rap": "RAP (MCTS), 8 simulations",
    "particle_filter": "particle filter, N = 8",
    "mh_resampling": "Metropolis-Hastings resampling, 14 steps",
    "discrete_langevin": "discrete Langevin, 8 steps",
    "guided_decoding": "guided decoding, exact scores of 16 tokens",
    "guided_decoding_gradient": "guided decoding, 16 tokens by the gradient",
    "sft": "SFT, greedy",
    "grpo": "GRPO, greedy",
    "nabla_without_gradient": "null arm (∇ without gradient)",
    "nabla_reasoner": "**∇-Reasoner**, outcome form (the paper's)",
    "nabla_reasoner_multipass": "∇-Reasoner, outcome form, up to 4 passes",
    "nabla_reasoner_prefix": "**∇-Reasoner**, prefix form",
}
JUDGED = {  # of the likelihood reward's own table
    "judge_greedy": "the reward model alone, greedy",
    "logit_mixture": "logits of policy and reward model added",
    **LABELS,
    "nabla_prefix_without_gradient": "prefix form's null arm",
}
GRPO = {"best_of_n": "GRPO + Best-of-8", "nabla_reasoner_prefix": "GRPO + ∇-Reasoner, prefix form"}
REWARDS = ("likelihood-weak", "likelihood-medium", "likelihood", "classifier")
OUTCOME = "nabla_reasoner"
UNSEEN = ("gcd", "simple_equations")  # tasks of scale=unseen
CODER_TASKS = ("gsm8k", "math500")  # of scale=coder
ADAPTERS = {"likelihood": ("likelihood", "right answers"), "classifier": ("verifier", "verdicts, at every token")}
SMALL_TASKS = {"chain_sum": "sums", "gcd": "common divisors", "number_format": "notations"}
CHOSEN = {
    "chain_sum": "sums of two two-digit numbers",
    "gcd": "greatest common divisor of two numbers up to 60",
    "number_format": "the larger or smaller of two numbers in different notations",
}
SMALL_REWARDS = ("smollm2", "smollm2-verifier")  # likelihood and verifier of scale=small
VERIFIERS = {
    "verifier-implicit-300": "log-ratio, 300 steps",
    "verifier-implicit-700": "log-ratio, 700 steps",
    "verifier-implicit-1300": "log-ratio, 1,300 steps",
    "verifier-implicit": "log-ratio, 3,000 steps",
    "verifier-outcome": "score head, outcome labels",
    "verifier-process": "score head, process labels",
}
NO_DIFFERENCE = "no difference shown"
SETTINGS = {  # of docs/ablations.md
    "default": "default",
    "gumbel": "flip: argmax with the Gumbel noise that explains the draw",
    "no_gradient": "no DTO (null arm)",
    "sharpen": "sharpening of the same KL",
    "random": "random direction, same KL",
    "process": "process form",
    "prefix": "prefix form",
    "prefix_no_gradient": "prefix form's test, no DTO",
    "prefix_no_test": "prefix form, no test",
    "without_postfix": "without δ_postfix of the policy",
    "past_only": "past only: no part of the gradient from what follows",
    "future_only": "future only: no direct part",
    "reward_only": "reward only, ν = 0",
    "lambda_100": "λ = 100",
    "lambda_10": "λ = 10",
    "lambda_1": "λ = 1",
    "likelihood_only": "λ = 0 (δ_reward detached)",
    "step_0.01": "η = 0.01 (the paper's)",
    "step_0.1": "η = 0.1",
    "step_1": "η = 1",
    "t_1": "T = 1",
    "t_5": "T = 5",
    "t_50": "T = 50",
    "accept_always": "no rejection test",
    "argmax": "argmax instead of a draw",
    "latents_0.01": "latents, η = 0.01",
    "latents_0.1": "latents, η = 0.1",
    "entropy": "entropy gate (ε = 0.25)",
    "every_position": "every position, no gate",
    "ste_0.5": "STE τ = 0.5",
    "ste_2": "STE τ = 2",
    **{f"passes_1, N_max {n}": f"one pass, N_max {n}" for n in (2, 4, 32)},
    **{f"passes_4, N_max {n}": f"up to 4 passes, N_max {n}" for n in (2, 4, 8, 16, 32)},
    "all_rows": "all rows updated",
    "without_caching": "gradients not cached",
    "variant_release": "`variant=release`",
    "variant_paper": "`variant=paper`",
}
MOVES = {
    "gradient": "DTO",
    "past_only": "DTO, past only",
    "future_only": "DTO, future only",
    "likelihood_only": "DTO, λ = 0",
    "sharpen": "sharpening",
    "random": "random direction",
}


@pytest.fixture(scope="module")
def rows() -> Rows:
    return {path.stem: pd.read_csv(path) for path in DATA.glob("*.csv")}


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def one(table: pd.DataFrame, **values: object) -> pd.Series:
    """The only row with these values."""
    matches = np.logical_and.reduce([(table[column] == value).to_numpy(bool) for column, value in values.items()])
    positions = np.flatnonzero(matches)
    assert len(positions) == 1, values
    return table.iloc[positions[0]]


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-0.0", "+0.0").replace("-", "−")


def bold(text: str, shown: bool) -> str:
    return f"**{text}**" if shown else text


def ranged(values: Iterable[float], form: str = ".0f", to: str = " to ") -> str:
    return f"{min(values):{form}}{to}{max(values):{form}}"


def interval(row: pd.Series) -> str:
    return f"{row.accuracy:.1f} ({row.ci_low:.1f}–{row.ci_high:.1f})"


def readme_table(rows: Rows) -> Iterator[str]:
    """README's part of Table 1: accuracy, interval, FLOPs over Best-of-8's."""
    shown = ("greedy", "best_of_n", "tree_of_thoughts", "guided_decoding_gradient", "nabla_reasoner")
    for policy in POLICIES:
        for task in TASKS:
            cells = [cell_text(rows, policy, task, method) for method in (*shown, "nabla_reasoner_prefix")]
            yield line(f"{policy}, {task}", *cells)


def cell_text(rows: Rows, policy: str, task: str, method: str, table: str = "table1", **reward: str) -> str:
    """Accuracy, interval, FLOPs over Best-of-8's of the policy that training began from."""
    start = policy.removesuffix("-grpo")
    row = one(rows[table], policy=policy, task=task, method=method, **reward)
    best = one(rows[table], policy=start, task=task, method="best_of_n", **reward)
    return f"{interval(row)} · {'1' if (policy, method) == (start, 'best_of_n') else f'{row.flops / best.flops:.2f}'}"


def table1(rows: Rows) -> Iterator[str]:
    for policy in POLICIES:
        for name, labels in ((policy, LABELS), (f"{policy}-grpo", GRPO)):
            for method, label in labels.items():
                yield line(label, *(cell_text(rows, name, task, method) for task in TASKS))


def difference(row: pd.Series) -> str:
    text = f"{signed(row.difference)} ({signed(row.ci_low)} to {signed(row.ci_high)})"
    return bold(text, row.verdict != NO_DIFFERENCE)


def paired(rows: Rows) -> Iterator[str]:
    both = [(name, on) for name in ("best_of_n", "tree_of_thoughts") for on in ("rollouts", "flops")]
    others = ("particle_filter", "guided_decoding", "guided_decoding_gradient", "nabla_reasoner", "sft", "grpo")
    compared = {
        "nabla_reasoner_prefix": [*both, *((name, "rollouts") for name in others)],
        "nabla_reasoner": [("greedy", "rollouts"), *both[:2], ("nabla_without_gradient", "rollouts")],
    }
    for method, baselines in compared.items():
        for policy in POLICIES:
            for baseline, matched_on in baselines:
                names = {"policy": policy, "method": method, "baseline": baseline, "matched_on": matched_on}
                cells = [difference(one(rows["comparisons"], task=task, **names)) for task in TASKS]
                form = "prefix" if method.endswith("prefix") else "outcome"
                label = LABELS[baseline].replace("**", "")
                yield line(f"{form} form, {policy}: {label}", "as run" if matched_on == "rollouts" else "FLOPs", *cells)


def unseen(rows: Rows) -> Iterator[str]:
    """Accuracy, interval and FLOPs ratio on the tasks for which nothing was chosen."""
    for method, label in LABELS.items():
        if method not in ("sft", "grpo"):
            cells = [cell_text(rows, "unseen-base", task, method, "table1_unseen") for task in UNSEEN]
            yield line(label, *cells)


def paired_lines(
    table: pd.DataFrame, baselines: dict[str, Iterable[str]], cells: Iterable[dict[str, str]]
) -> Iterator[str]:
    """A line for each form and baseline at equal rollouts; `baselines` by form, `cells`: values that pick a cell."""
    forms = {"prefix": "nabla_reasoner_prefix", "outcome": "nabla_reasoner"}
    for form, names in baselines.items():
        for name in names:
            pair = {"method": forms[form], "baseline": name, "matched_on": "rollouts"}
            shown = [difference(one(table, **pair, **cell)) for cell in cells]
            yield line(f"{form} form: {JUDGED[name].replace('**', '')}", *shown)


def unseen_paired(rows: Rows) -> Iterator[str]:
    baselines = {
        "prefix": ("best_of_n", "tree_of_thoughts", "guided_decoding_gradient", "nabla_reasoner"),
        "outcome": ("best_of_n", "nabla_without_gradient"),
    }
    return paired_lines(rows["comparisons_unseen"], baselines, [{"task": task} for task in UNSEEN])


def unseen_story(rows: Rows) -> str:
    """The sentence on the tasks for which nothing was chosen."""
    table = rows["comparisons_unseen"]
    own = table[(table.baseline == "best_of_n") & (table.matched_on == "rollouts")].set_index(["method", "task"])
    flops = rows["table1_unseen"].set_index(["method", "task"]).flops
    gains, losses = ([own.difference[name, task] for task in UNSEEN] for name in ("nabla_reasoner_prefix", OUTCOME))
    ratios = [flops["nabla_reasoner_prefix", task] / flops["best_of_n", task] for task in UNSEEN]
    assert all(own.verdict["nabla_reasoner_prefix", task] == "better" for task in UNSEEN)
    return (
        f"On `gcd` and `simple_equations` the prefix form is {gains[0]:.1f} and {gains[1]:.1f} points better than "
        f"Best-of-8, at {ratios[0]:.2f} and {ratios[1]:.2f} of its FLOPs. The outcome form is {-losses[0]:.1f} and "
        f"{-losses[1]:.1f} points below it."
    )


def values_of(rows: Rows, reward: str, policy: str, method: str) -> str:
    """Accuracies of Table 2 on the three tasks."""
    names = {"reward": reward, "policy": policy, "method": method}
    return " / ".join(f"{one(rows['table2'], task=task, **names).accuracy:.0f}" for task in TASKS)


def minus(rows: Rows, reward: str, policy: str, method: str, baseline: str = "best_of_n") -> str:
    names = {"reward": reward, "policy": policy, "method": method, "baseline": baseline, "matched_on": "rollouts"}
    found = [one(rows["table2_comparisons"], task=task, **names) for task in TASKS]
    return " / ".join(bold(signed(row.difference), row.verdict != NO_DIFFERENCE) for row in found)


def table2(rows: Rows) -> Iterator[str]:
    """Accuracies of Table 2, and differences of both forms from Best-of-8 on the same problems."""
    shown = ("best_of_n", "guided_decoding", "nabla_without_gradient", "nabla_reasoner", "nabla_reasoner_prefix")
    for policy in POLICIES:
        for reward in REWARDS:
            cells = [values_of(rows, reward, policy, method) for method in shown]
            cells += [minus(rows, reward, policy, method) for method in shown[-2:]]
            yield line(policy, f"`{reward}`", *cells)


def judged(rows: Rows) -> Iterator[str]:
    """All methods under the likelihood reward: accuracies, and the range of FLOPs over Best-of-8's."""
    table = rows["table2"][rows["table2"].reward == "likelihood"]
    for method, label in JUDGED.items():
        if method not in set(table.method) or method in ("sft", "grpo"):
            continue
        cells = [values_of(rows, "likelihood", policy, method) for policy in POLICIES]
        flops = table.set_index(["policy", "task", "method"]).flops
        ratios = flops.xs(method, level=2) / flops.xs("best_of_n", level=2)
        yield line(label, *cells, "1" if method == "best_of_n" else ranged(ratios, ".2f"))


def verifiers(rows: Rows) -> Iterator[str]:
    manifest = json.loads((ROOT / "assets/manifest.json").read_text(encoding="utf-8"))
    measured = manifest["models"]["tiny-base"]["validation"]
    for reward, label in VERIFIERS.items():
        aucs = [measured[task]["rewards"][reward]["auc_within"] for task in TASKS]
        cells = [values_of(rows, reward, "tiny-base", m) for m in ("best_of_n", "guided_decoding")]
        prefix = values_of(rows, reward, "tiny-base", "nabla_reasoner_prefix")
        auc = " / ".join(f"{value:.2f}" for value in aucs)
        yield line(label, auc, *cells, prefix, minus(rows, reward, "tiny-base", "nabla_reasoner_prefix"))


def small(rows: Rows) -> Iterator[str]:
    """SmolLM2 under both rewards, task by task: accuracy, interval, FLOPs over Best-of-8's."""
    for task in SMALL_TASKS:
        both, whole = (rows[name][rows[name].task == task] for name in ("table2_small", "table1_small"))
        first = whole[whole.policy == "smollm2"]
        free = first[first.method.isin(["greedy", "self_consistency", "sft", "grpo"])]  # they read no reward
        likelihood, verifier = (both[both.reward == reward] for reward in SMALL_REWARDS)
        shown = (pd.concat([likelihood, free]), pd.concat([first, verifier]).drop_duplicates("method"))
        for method, label in JUDGED.items():
            cells = []
            for table in shown:
                found = table[table.method == method].dropna(subset=["accuracy"])
                best = one(table, method="best_of_n").flops
                cells += [f"{interval(found.iloc[0])} · {found.iloc[0].flops / best:.2f}" if len(found) else ""]
            if any(cells):
                yield line(label, *cells)
        best = one(first, method="best_of_n").flops
        for row in whole[(whole.policy == "smollm2-grpo") & whole.method.isin(list(GRPO))].itertuples():
            yield line(GRPO[row.method], "", f"{interval(row)} · {row.flops / best:.2f}")


def coder(rows: Rows) -> Iterator[str]:
    """Qwen2.5-Coder-0.5B on GSM8K and MATH-500: accuracy, interval, FLOPs over Self-Consistency's."""
    table = rows["table1_coder"][rows["table1_coder"].status == "ok"]
    for method in (name for name in JUDGED if name in set(table.method)):
        cells = [one(table, task=task, method=method) for task in CODER_TASKS]
        eight = [one(table, task=task, method="self_consistency").flops for task in CODER_TASKS]
        yield line(
            JUDGED[method],
            *(f"{interval(cell)} · {cell.flops / flops:.2f}" for cell, flops in zip(cells, eight, strict=True)),
        )


def coder_paired(rows: Rows) -> Iterator[str]:
    table = rows["comparisons_coder"].dropna(subset=["difference"])
    baselines = {"prefix": [name for name in JUDGED if name in set(table.baseline)]}
    return paired_lines(table, baselines, [{"task": task} for task in CODER_TASKS])


def coder_sentences(rows: Rows) -> Iterator[str]:
    """Settings of scale=coder, and what more was run of GSM8K."""
    own = rows["table1_coder"][rows["table1_coder"].task == "gsm8k"].dropna(subset=["accuracy"]).set_index("method")
    judge, prefix = own.loc["judge_greedy"], own.loc["nabla_reasoner_prefix"]
    share = f"{judge.flops / prefix.flops:.2f} of the prefix form's FLOPs"
    yield f"solves {judge.accuracy:.1f} % of these problems of GSM8K at {share}"
    scored = ("best_of_n", "guided_decoding", "nabla_prefix_without_gradient", "nabla_reasoner_prefix")
    yield f"for scores only reach at most {own.accuracy[list(scored)].max():.1f} % on them."
    table = rows["tune_benchmark_coder"].set_index("setting")
    guided = [f"{table.accuracy[f'guided_w{weight}']:.1f}" for weight in (1, 4, 8)]
    yield f"guided decoding {guided[0]}, {guided[1]} and {guided[2]} % at weights of 1, 4 and 8"
    arms = {"8 rollouts and a step of 1": "1_n8", "64 and a step of 1": "1_n64", "64 and a step of 3": "3_n64"}
    first, *others = (f"{table.accuracy[f'prefix_{arm}']:.1f}{{}} with {words}" for words, arm in arms.items())
    shares = [f"{table.flops_ratio[f'prefix_{arm}']:.2f}" for arm in arms.values()]
    yield ", ".join([first.format(" %"), *(other.format("") for other in others)]) + (
        f", at {shares[0]}, {shares[1]} and {shares[2]} of the FLOPs of Best-of-8, which solves "
        f"{table.accuracy['default']:.1f}"
    )
    means = [
        one(rows["comparisons_coder"], task=task, baseline="best_of_n", matched_on="rollouts").note.split()[-1]
        for task in CODER_TASKS
    ]
    yield f"uses {means[0]} of its 64 rollouts in the mean on GSM8K and {means[1]} on MATH-500."
    yield from gsm8k_sentences()


class Answers(NamedTuple):
    """Answers to the first problems of GSM8K.

    Attributes:
        right: by problem: right (1), wrong (0) or not run (NaN).
        finished: share of the responses that end before the limit of tokens.
        flops: mean of a problem.
    """

    right: np.ndarray
    finished: float
    flops: float

    def beside(self, other: "Answers") -> tuple[np.ndarray, np.ndarray]:
        """Return both answers to the problems that both were given."""
        count = min(len(self.right), len(other.right))
        both = ~np.isnan(self.right[:count] + other.right[:count])
        return self.right[:count][both][:, None], other.right[:count][both][:, None]


@functools.cache
def gsm8k(device: str) -> dict[str, Answers]:
    """Answers by method, of all problems that were run on a device ("cpu": scale=coder, "gpu": scale=coder_gpu)."""
    stored = json.loads((ROOT / f"tests/data/coder_{device}_outcomes.json").read_text("utf-8"))
    numbers = {"1": 1.0, "0": 0.0, ".": np.nan}
    return {
        name: Answers(np.array([numbers[mark] for mark in entry["right"]]), entry["finished"], entry["flops"])
        for name, entry in stored.items()
    }


def gsm8k_sentences() -> Iterator[str]:
    """Accuracy and FLOPs of the prefix form on all problems, and the devices beside each other."""
    prefix, best, judge = (gsm8k("gpu")[name] for name in ("nabla_reasoner_prefix", "best_of_n", "judge_greedy"))
    shown = accuracy_interval(prefix.right[:, None])
    solved = f"{shown.mean:.1f} % ({shown.low:.1f}–{shown.high:.1f})"
    yield f"the prefix form solves {solved} of all {len(prefix.right):,} problems"
    votes = gsm8k("cpu")["self_consistency"]
    yield f"at {prefix.flops / votes.flops:.2f} of the FLOPs of Self-Consistency"
    more = f"{prefix.flops / judge.flops:.1f} times those of the judge"
    yield f"{prefix.flops / best.flops:.2f} of the FLOPs of Best-of-8, {more}"
    outcome = gsm8k("cpu")["nabla_reasoner"]
    pair = paired_difference(*outcome.beside(best))
    compared = f"{signed(pair.difference)} points ({signed(pair.low)} to {signed(pair.high)})"
    yield f"on {len(outcome.right)} problems: {compared} at {outcome.flops / best.flops:.2f} times its FLOPs."
    cut = [f"{100 * (1 - part.finished):.0f} %" for part in (prefix, judge, best)]
    others = f"{cut[1]} of the judge's and {cut[2]} of those that Best-of-8 chooses"
    yield f"cuts {cut[0]} of the prefix form's responses, {others}"
    names = ("nabla_reasoner_prefix", "nabla_prefix_without_gradient", "judge_greedy")
    both = [gsm8k("gpu")[name].beside(gsm8k("cpu")[name]) for name in names]
    form, null, alone = (f"{100 * there.mean():.1f} and {100 * here.mean():.1f}" for there, here in both)
    yield f"the first 200 problems GPU and CPU solve {form} % (prefix form), {null} (null arm), {alone} (judge)"


def gsm8k_table(rows: Rows) -> Iterator[str]:
    """Every method on the problems of GSM8K that it was given, and what the prefix form adds on the same ones."""
    prefix = gsm8k("gpu")["nabla_reasoner_prefix"]
    shown = []
    for name in (name for name in JUDGED if name != "nabla_reasoner_prefix"):
        device = next((device for device in ("gpu", "cpu") if name in gsm8k(device)), None)
        if device is not None:
            mine, other = prefix.beside(gsm8k(device)[name])
            shown.append((name, device, accuracy_interval(other), mine, paired_difference(mine, other)))
    adjusted = holm([pair.p_value for *_, pair in shown])
    for (name, device, alone, mine, pair), p in zip(shown, adjusted, strict=True):
        compared = f"{signed(pair.difference)} ({signed(pair.low)} to {signed(pair.high)})"
        yield line(
            JUDGED[name],
            device.upper(),
            f"{len(mine):,}",
            f"{alone.mean:.1f} ({alone.low:.1f}–{alone.high:.1f})",
            f"{100 * mine.mean():.1f}",
            f"**{compared}**" if p < 0.05 else compared,
        )


def small_tasks(rows: Rows) -> Iterator[str]:
    """The chosen combinations of task, difficulty and prompt of scale=small."""
    table = pd.read_csv(ROOT / "assets/sweeps/small_prompts.csv")
    chosen = table[table.chosen].set_index("task")
    assert set(chosen.index) == set(CHOSEN)
    for task, label in CHOSEN.items():
        row = chosen.loc[task]
        yield line(label, *(f"{row[column]:.1f}" for column in ("greedy", "one_sample", "any_of_n")))


def small_greedy(rows: Rows) -> Iterator[str]:
    """Accuracy of SmolLM2 by greedy decoding on the test problems, of docs/models.md."""
    greedy = [one(rows["table1_small"], policy="smollm2", task=task, method="greedy") for task in CHOSEN]
    assert len({row.num_problems for row in greedy}) == 1
    *first, last = (f"{row.accuracy:.1f}" for row in greedy)
    yield f"On the {greedy[0].num_problems:.0f} test problems greedy decoding solves {', '.join(first)} and {last} %"


def improvement_sentences(rows: Rows) -> Iterator[str]:
    """Validation accuracy before and after GRPO, of docs/models.md."""
    trained = pd.read_csv(ROOT / "assets/sweeps/improvement.csv")
    after = trained[trained.shipped].set_index("policy").validation_accuracy
    before = {
        name: pd.read_csv(ROOT / f"assets/curves/{name}.csv")["validation/accuracy"].dropna().iloc[0]
        for name in ("tiny-instruct-grpo", "tiny-base-grpo")
    }
    yield f"from {before['tiny-instruct-grpo']:.1f} to {after['tiny-instruct-grpo']:.1f} % (tiny-instruct),"
    yield f"and after SFT from {after['tiny-base-sft']:.1f} to {after['tiny-base-sft-grpo']:.1f} %."
    curve = pd.read_csv(ROOT / "assets/curves/tiny-base-grpo.csv").dropna(subset=["validation/accuracy"])
    first = curve.groupby("run").step.transform("min") == curve.step  # before training, the same for every rate
    measured = curve[~first]["validation/accuracy"]
    best = f"{after['tiny-base-grpo']:.1f} %, from {before['tiny-base-grpo']:.1f}"
    yield f"Its {best}, is the best of {len(measured)} measurements of one validation set;"
    shipped = trained[trained.shipped & (trained.policy == "tiny-base-grpo")].learning_rate.item()
    last = curve[curve.run == f"tiny-base-grpo-{shipped:.1e}"]["validation/accuracy"].iloc[-1]
    yield f"every other one is at most {measured.nlargest(2).iloc[-1]:.1f}, and the shipped rate ends at {last:.1f}."
    greedy = rows["table1"][rows["table1"].method == "greedy"].groupby("policy").accuracy.mean()
    yield f"On the test problems it has {greedy['tiny-base-grpo']:.1f} % for {greedy['tiny-base']:.1f},"


def small_rewards(rows: Rows) -> Iterator[str]:
    """The manifests of the adapters of scale=small: a pair for each task."""
    folders = sorted((ROOT / "assets/rewards").glob("smollm2*-lora"))
    assert len(folders) == 2 * len(SMALL_TASKS)
    for folder in folders:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        ((task, found),) = manifest["validation"].items()
        label, trained_on = ADAPTERS[manifest["shipped"]]
        shown = (f"{found[key]:.2f}" for key in ("auc", "auc_within", "token_auc", "gap_closed"))
        yield line(f"{label}, {SMALL_TASKS[task]}", trained_on, *shown)


def small_answers(rows: Rows) -> Iterator[str]:
    """What the adapters of scale=small were trained on, and the AUCs of those trained again."""
    folders = {kind: ROOT / f"assets/rewards/smollm2{kind}-gcd-lora/manifest.json" for kind in ("", "-verifier")}
    found = {kind: json.loads(path.read_text(encoding="utf-8")) for kind, path in folders.items()}
    asked, answers = found[""]["tasks"]["gcd"]["sampled"], found[""]["samples"]["per_question"]
    temperature = found[""]["samples"]["sampling"]["temperature"]
    yield f"{asked * answers:,} sampled answers to {asked:,} training questions (temperature {temperature})"
    again = [found[kind]["validation"]["gcd"]["auc"] for kind in ("", "-verifier")]
    yield f"Both were trained again with right labels ({again[0]:.2f} and {again[1]:.2f})."


def small_judges(rows: Rows) -> Iterator[str]:
    """Greedy accuracy of the likelihood rewards' own models on validation questions."""
    solved: dict[str, float] = {}
    for path in (ROOT / "assets/rewards").glob("smollm2*-lora/manifest.json"):
        solved |= json.loads(path.read_text(encoding="utf-8")).get("judge_greedy_accuracy", {})
    shares = [f"{solved[task]:.1f} % of {label}" for task, label in SMALL_TASKS.items()]
    yield f"solves {shares[0].replace('of', 'of these validation questions of')}, {', '.join(shares[1:])}."


def small_paired(rows: Rows) -> Iterator[str]:
    baselines = {
        "prefix": ("best_of_n", "guided_decoding", "nabla_without_gradient", "nabla_reasoner"),
        "outcome": ("best_of_n", "nabla_without_gradient"),
    }
    for task in SMALL_TASKS:
        cells = [{"task": task, "reward": reward} for reward in SMALL_REWARDS]
        yield from paired_lines(rows["table2_comparisons_small"], baselines, cells)


def true_steps(rows: Rows) -> Iterator[str]:
    shown = ("greedy", "best_of_n", "tree_of_thoughts", "guided_decoding_gradient", "nabla_reasoner")
    for method in (*shown, "nabla_reasoner_prefix"):
        found = [one(rows["table1"], policy=p, task=task, method=method) for p in POLICIES for task in TASKS]
        yield line(LABELS[method].replace("**", ""), *(f"{row.valid_steps:.1f}" for row in found))


def selectors(rows: Rows) -> Iterator[str]:
    for method in ("self_consistency", "weighted_self_consistency", "soft_best_of_n", "best_of_n"):
        found = [one(rows["table1"], policy=p, task=task, method=method) for p in POLICIES for task in TASKS]
        yield line(LABELS[method], *(f"{row.regret:.1f} of {row.any_of_n:.1f}" for row in found))


def training(rows: Rows) -> Iterator[str]:
    for policy in POLICIES:
        for method in ("sft", "grpo"):
            found = [one(rows["table1"], policy=policy, task=task, method=method) for task in TASKS]
            cells = [f"{row.accuracy:.1f} · {row.break_even_prefix:,.0f}" for row in found]
            yield line(f"{policy}, {LABELS[method]}", f"{found[0].training_flops / 1e12:.1f}", *cells)


def table3(rows: Rows) -> Iterator[str]:
    for method, label in (
        ("best_of_n", "Best-of-8"),
        ("nabla_without_gradient", "null arm"),
        ("nabla_reasoner", "∇-Reasoner, outcome form"),
        ("nabla_reasoner_prefix", "∇-Reasoner, prefix form"),
    ):
        table = rows["table3"]
        cells = table[table.policy.isin(POLICIES) & (table.method == method) & (table.variant != "release")]
        own = "" if method == "best_of_n" else f"{ranged(cells.rejected_of_proposed)} "
        yield f"| {label} | {ranged(cells.rejected)} | {own}|"


def ablation_table(rows: Rows) -> Iterator[str]:
    table = rows["ablations"]
    for setting, label in SETTINGS.items():
        pooled = one(table, setting=setting, task="all")
        cells = [one(table, setting=setting, task=task) for task in TASKS]
        accuracies = " / ".join(f"{row.accuracy:.0f}" for row in cells)
        few = f" (of {cells[0].num_problems} each)" if cells[0].num_problems < 300 else ""
        difference, p = "", ""
        if setting != "default":
            text = f"{signed(pooled.difference)} ({signed(pooled.difference_low)} to {signed(pooled.difference_high)})"
            difference = bold(text, pooled.verdict != "no difference shown")
            p = "< 0.0001" if pooled.p_holm < 1e-4 else f"{pooled.p_holm:.2g}"
        yield line(label, accuracies + few, difference, p, f"{pooled.rejected:.0f} %", f"{pooled.flops_ratio:.2f}")


def forms_table(rows: Rows) -> Iterator[str]:
    """The forms under the classifier."""
    table = rows["ablations_classifier"]
    labels = {"default": "outcome form", **SETTINGS, "prefix_outcome_test": "prefix form, tested by the whole response"}
    for setting in dict.fromkeys(table.setting):
        pooled = one(table, setting=setting, task="all")
        accuracies = " / ".join(f"{one(table, setting=setting, task=task).accuracy:.0f}" for task in TASKS)
        label = "outcome form" if setting == "default" else labels[setting]
        text = ""
        if setting != "default":
            text = f"{signed(pooled.difference)} ({signed(pooled.difference_low)} to {signed(pooled.difference_high)})"
            text = bold(text, pooled.verdict != NO_DIFFERENCE)
        yield line(label, accuracies, text, f"{pooled.rejected:.0f} %", f"{pooled.flops_ratio:.2f}")


def movement_table(rows: Rows) -> Iterator[str]:
    table = rows["ablations_row_movement"]
    for reward in ("likelihood", "classifier"):
        for confident in (True, False):
            own = table[(table.reward == reward) & (table.confident == confident)].set_index("task")
            flipped = " / ".join(f"{own.flipped[task]:.1f}" for task in TASKS)
            kl = " / ".join(f"{own.median_kl[task]:.1g}" for task in TASKS)
            rows_of = "confident" if confident else "uncertain"
            yield line(reward, rows_of, f"{own.largest_change.max():.1f}", kl, flipped)


def right_token_table(rows: Rows) -> Iterator[str]:
    for arm, label in MOVES.items():
        cells = []
        for task in TASKS:
            row = one(rows["ablations_right_token"], task=task, greedy_is="wrong", arm=arm)
            interval = f"{signed(row.minus_sharpen)}, {signed(row.minus_low)} to {signed(row.minus_high)}"
            change = interval if arm != "sharpen" else "–"
            cells.append(f"{row.right_before:.0f} → {row.right_after:.0f} ({change})")
        yield line(label, *cells)


def ppo_table(rows: Rows) -> Iterator[str]:
    """The table at λ = 1 on the compared prompts."""
    table = rows["ppo"]
    table = table[(table.reward_weight == 1) & (table.measured_on == "compared")]
    ppo = one(table, method="ppo", trained_on=64)
    bound = one(table, method="best_of_n", amount=16).bound
    training = f"{ppo.training_flops / 1e9:.1f} GFLOPs of training"
    unscaled = one(table, method="grpo_unscaled").kl
    for method, amount, label in (
        ("policy", 1, "π itself"),
        ("enumeration", 625, "ρ*, by scoring every answer"),
        ("ppo", 320, f"PPO, 320 steps on 64 prompts ({training})"),
        ("grpo", 320, f"GRPO, the same (without the division by std: {unscaled:.2f})"),
        ("best_of_n", 16, f"Best-of-16 (KL bound {bound:.2f})"),
        ("weighted_choice", 16, "one of 16 draws, chosen by e^{λr}"),
        ("langevin_metropolis", 16, "token Langevin with ∂L/∂y and a Metropolis test, 16 steps"),
        ("moves_without_gradient", 16, "the same moves without gradient"),
        ("logit_langevin", 64, "DTO with √2 noise on the logits"),
        ("dto_resampled", 20, "DTO, T = 20, redrawn, no rejection"),
        ("nabla_reasoner", 1, "∇-Reasoner as released"),
        ("nabla_without_gradient", 1, "its null arm"),
    ):
        row = ppo if method == "ppo" else one(table, method=method, amount=amount)
        values = [f"{value:.2f}" if value else "0" for value in (row.kl, row.tv)]
        values += [f"{row.reward:.2f}".replace("-", "−"), f"{row.kl_to_policy:.2f}" if row.kl_to_policy else "0"]
        flops = row.flops / 1e6
        yield line(label, *values, f"{flops:.2f}" if flops < 1 else f"{flops:.0f}" if flops > 100 else f"{flops:.1f}")


def step_table(rows: Rows) -> Iterator[str]:
    """Validation accuracies by step size; bold: the size that configs/ holds."""
    kept = {("outcome", "tune"): "0.1", ("outcome", "tune_likelihood"): "3"}
    for form, method in (("outcome", "nabla_reasoner"), ("prefix", "nabla_reasoner_prefix")):
        for table, reward in (("tune", "classifier"), ("tune_likelihood", "likelihood")):
            own = rows[table][rows[table].group == method].drop_duplicates("setting").set_index("setting").mean_accuracy
            cells = []
            for size in ("0.03", "0.1", "0.3", "1", "3", "10"):
                name = f"outcome_{size}" if form == "outcome" else f"prefix_test_{size}"
                text = f"{own[name]:.1f}" if name in own else ""
                cells.append(bold(text, size == kept.get((form, table), "1")))
            yield line(f"{form}, {reward}", *cells)


def manifest() -> dict[str, Any]:
    return json.loads((ROOT / "assets/manifest.json").read_text(encoding="utf-8"))["models"]


def policies_table(rows: Rows) -> Iterator[str]:
    for policy in POLICIES:
        for task in TASKS:
            own = manifest()[policy]["validation"][task]
            rewards = [own["rewards"][name] for name in ("classifier", "likelihood")]
            values = [own["greedy"], own["one_sample"], own["any_of_8"], *(reward["best_of_8"] for reward in rewards)]
            aucs = [f"{reward['auc']:.3f}" for reward in rewards]
            yield line(policy, task, *(f"{value:.1f}" for value in values), *aucs)


def rewards_table(rows: Rows) -> Iterator[str]:
    names = ["likelihood-weak", "likelihood-medium", "likelihood", "classifier", *reversed(VERIFIERS)]
    entries = manifest()
    for name in names:
        cells = []
        for measured in ("gap_closed", "auc", "auc_within"):
            for policy in POLICIES:
                parts = [entries[policy]["validation"][task]["rewards"][name][measured] for task in TASKS]
                cells.append(f"{sum(parts) / len(parts):.2f}".replace("-", "−"))
        own = entries.get("tiny-instruct" if name == "likelihood-weak" else name, {}).get("greedy_accuracy")
        greedy = " / ".join(f"{own[task]:.0f}" for task in TASKS) if own else "–"
        yield line(f"`{name}`", *cells, greedy)


def improved_table(rows: Rows) -> Iterator[str]:
    table = pd.read_csv(ROOT / "assets/sweeps/improvement.csv")
    for row in table[table.shipped].itertuples():
        steps = f"{row.best_step:,} of {row.last_step:,}"
        yield line(row.policy, f"{row.learning_rate:g}", steps, f"{row.flops:.1e}", f"{row.validation_accuracy:.1f}")


def profile_table(rows: Rows) -> Iterator[str]:
    table = rows["bench_profile"]
    table = table[table.variant == "nabla_reasoner"]
    case = "best_of_n_seconds__tiny-base__{}"
    both = [table[table.case == case.format(task)].set_index("part") for task in ("chain_sum", "products")]
    best = one(rows["bench_profile"], case=case.format("chain_sum"), variant="best_of_n", part="rollouts")
    first, second = both
    shares = {part: [f"{100 * side.share[part]:.0f}" for side in both] for part in first.index}
    rollouts, passes = shares["rollouts"], shares["gradient passes"]
    decoded = f"{first.calls['rollouts']} decoding steps against Best-of-8's {best.calls}"
    yield line("rollouts", f"{rollouts[0]} ({decoded})", rollouts[1])
    calls = first.calls["gradient passes"], second.calls["gradient passes"]
    yield line("gradient passes", f"{passes[0]} ({calls[0]} of them)", f"{passes[1]} ({calls[1]})")
    for part, label in (("DTO rows", "DTO's rows"), ("scores", "scores"), ("cache copies", "copies of caches")):
        yield line(label, *shares[part])


TABLES = {
    "README.md": (readme_table,),
    "docs/results.md": (
        *(table1, paired, table2, judged, verifiers, true_steps, selectors, training, table3),
        *(unseen, unseen_paired, small, small_paired, coder, coder_paired, gsm8k_table),
    ),
    "docs/deviations.md": (step_table,),
    "docs/models.md": (policies_table, rewards_table, improved_table, small_tasks, small_rewards),
    "docs/ablations.md": (ablation_table, forms_table, movement_table, right_token_table),
    "docs/ppo.md": (ppo_table,),
    "docs/benchmark.md": (profile_table,),
}


def flops_ratios(rows: Rows, method: str) -> pd.Series:
    """FLOPs over Best-of-8's, in the six cells of Table 1."""
    table = rows["table1"]
    flops = table[table.policy.isin(POLICIES)].set_index(["policy", "task", "method"]).flops
    return flops.xs(method, level=2) / flops.xs("best_of_n", level=2)


def pairs(rows: Rows, method: str, baseline: str, matched_on: str = "rollouts") -> pd.DataFrame:
    """Comparisons in the six cells."""
    table = rows["comparisons"]
    chosen = (table.method == method) & (table.baseline == baseline) & (table.matched_on == matched_on)
    found = table[chosen & table.policy.isin(POLICIES)]
    assert len(found) == 6
    return found


NUMBERS = ("no", "one", "two", "three", "four", "five", "all six")


def verdicts(table: pd.DataFrame, verdict: str) -> str:
    return NUMBERS[int((table.verdict == verdict).sum())]


def signed_range(values: Iterable[float]) -> str:
    return f"{signed(min(values))} to {signed(max(values))}"


def story(rows: Rows) -> Iterator[str]:
    """The numbered findings of docs/results.md."""
    outcome = pairs(rows, "nabla_reasoner", "best_of_n")
    ratios = flops_ratios(rows, "nabla_reasoner")
    yield (
        f"With the classifier it is worse than Best-of-8 in {verdicts(outcome, 'worse')} cells "
        f"({signed_range(outcome.difference)} points), at {ranged(ratios, '.2f')} times its FLOPs."
    )
    null = pairs(rows, "nabla_reasoner", "nabla_without_gradient")
    better = null[null.verdict == "better"]
    yield (
        f"Its gradient adds little: {signed_range(better.difference)} points over the null arm in "
        f"{NUMBERS[len(better)]} cells, no difference shown in the others."
    )
    prefix, tree = (pairs(rows, "nabla_reasoner_prefix", name) for name in ("best_of_n", "tree_of_thoughts"))
    gains, ratios = signed_range(prefix.difference), flops_ratios(rows, "nabla_reasoner_prefix")
    yield (
        f"It is better than Best-of-8 in {verdicts(prefix, 'better')} cells ({gains} points), "
        f"at {ranged(ratios, '.2f')} of its FLOPs, and better than Tree-of-Thoughts in {verdicts(tree, 'better')}."
    )
    guided = pairs(rows, "nabla_reasoner_prefix", "guided_decoding_gradient")
    ratios = flops_ratios(rows, "guided_decoding_gradient")
    yield (
        "One gradient at each uncertain token is added to the policy's logits of its 16 likeliest tokens. "
        f"In {verdicts(guided, NO_DIFFERENCE)} cells no difference to the prefix form is shown, at "
        f"{ranged(ratios, '.2f')} of Best-of-8's FLOPs."
    )
    accuracy = rows["table1"].set_index(["policy", "task", "method"]).accuracy
    apart = (accuracy.xs("guided_decoding", level=2) - accuracy.xs("guided_decoding_gradient", level=2)).abs().max()
    yield (
        "Exact scores of the 16 tokens at each uncertain position take "
        f"{ranged(flops_ratios(rows, 'guided_decoding'), '.2f')} of Best-of-8's FLOPs. Accuracies differ by at most "
        f"{apart:.1f} points."
    )


def results_sentences(rows: Rows) -> Iterator[str]:
    yield from story(rows)
    yield unseen_story(rows)
    yield from coder_sentences(rows)
    measured = manifest()["tiny-base"]["validation"]

    def aucs(reward: str, name: str = "auc_within") -> list[float]:
        return [measured[task]["rewards"][reward][name] for task in TASKS]

    yield f"the classifier's is {' / '.join(f'{value:.2f}' for value in aucs('classifier'))}."
    cells = rows["table1"][rows["table1"].policy.isin(POLICIES)]
    by_cell = {"index": "method", "columns": ["policy", "task"]}
    accuracy, flops = (cells.pivot(**by_cell, values=name) for name in ("accuracy", "flops"))
    beside = accuracy.loc["mh_resampling"] - accuracy.loc["best_of_n"]
    taken = flops.loc["mh_resampling"] / flops.loc["best_of_n"]
    gains = f"{beside.min():+.1f} to {beside.max():+.1f}".replace("-", "−")
    yield f"At {ranged(taken, '.2f')} times the FLOPs of Best-of-8 it is {gains} points beside it."
    lost = accuracy.loc["best_of_n"] - accuracy.loc["discrete_langevin"]
    yield f"loses, by {ranged(lost, '.1f')} points to Best-of-8."
    over_all = [value for reward in ("verifier-outcome", "verifier-process") for value in aucs(reward, "auc")]
    yield f"know which problems are hard (AUC over all answers {ranged(over_all, '.2f')})"
    rejected = rows["table3"]
    best = rejected[rejected.policy.isin(POLICIES) & (rejected.method == "best_of_n")]
    assert (abs(best.rejected - best.by_chance) < 1).all()
    yield "is within a point of Best-of-8's."
    yield f"With exchangeable rewards without ties, Best-of-8 would reject {theory(8)[0]:.1f} %."
    released = rejected[(rejected.variant == "release") & rejected.rejected.notna()]
    yield f"Under the released acceptance test it is {ranged(released.rejected)} %."
    cases = rows["walkthrough_cases"]
    right = int(cases.right_after.sum())
    shown = cases[cases.found & cases.true_steps].iloc[0]
    false = (cases.found & ~cases.true_steps).sum()
    yield f"This is one of {cases.found.sum()} such cases among 300 test problems"
    yield f"In all, {len(cases)} early revisions were accepted; {right} of these answers were right in the end."
    yield f"There a revision changes token {shown.position} of {shown.length}"  # counted from 0
    yield f"In {false} of the {cases.found.sum()} cases a written step is false"
    yield from _figure1(rows["figure1_search"])
    own = rows["table5"]
    own = own[own.policy.isin(POLICIES) & (own.quantity == "seconds") & (own.method == "nabla_reasoner_prefix")].ratio
    reached = f"the target of 0.7 is reached in {NUMBERS[int((own <= 0.7).sum())]}"
    yield f"The prefix form takes {ranged(own, '.2f')} of Best-of-8's seconds; {reached}"
    ahead = ahead_of_judge(rows)
    yield (
        f"In {NUMBERS[int((ahead < 0).sum())]} of six cells greedy decoding of the likelihood reward's own model is "
        "more accurate than every method. In the others the best method is ahead by at most "
        f"{ahead.max():.1f} points."
    )
    flops = flops_by_method(rows["table2"][rows["table2"].reward == "likelihood"])
    assert (flops.rank().loc["judge_greedy"] == 2).all()
    yield "Its cost is the lowest but one."
    best, tree = (one(rows["table1_unseen"], task="gcd", method=name) for name in ("best_of_n", "tree_of_thoughts"))
    yield f"on `gcd` Tree-of-Thoughts ({tree.accuracy:.1f} %) is below Best-of-8 ({best.accuracy:.1f} %)."


def ahead_of_judge(rows: Rows) -> pd.Series:
    """By cell of Table 2's likelihood reward, points by which the best method exceeds the reward's own model."""
    table = rows["table2"][rows["table2"].reward == "likelihood"]
    accuracy = table.pivot(index=["policy", "task"], columns="method", values="accuracy")
    assert len(accuracy) == 6
    return accuracy.drop(columns="judge_greedy").max(axis=1) - accuracy.judge_greedy


def flops_by_method(table: pd.DataFrame) -> pd.DataFrame:
    """FLOPs by method and cell."""
    return table.pivot(index="method", columns=["policy", "task"], values="flops")


def over_best_of_n(rows: Rows, method: str) -> list[float]:
    """FLOPs over Best-of-8's, in the cells of Tables 1 and 2 under the shipped rewards of full size."""
    tables = [rows["table1"][rows["table1"].policy.isin(POLICIES)]]
    tables.append(rows["table2"][rows["table2"].reward == "likelihood"])
    flops = [flops_by_method(table) for table in tables]
    return [value for part in flops for value in part.loc[method] / part.loc["best_of_n"]]


def flops_over_best_of_8(rows: Rows, method: str) -> pd.Series:
    """FLOPs over Best-of-8's in the cells of Table 1."""
    flops = flops_by_method(rows["table1"][rows["table1"].policy.isin(POLICIES)])
    return flops.loc[method] / flops.loc["best_of_n"]


def judge_sentence(rows: Rows) -> Iterator[str]:
    ahead = ahead_of_judge(rows).max()
    yield f"On the test problems of Table 2 it is within {ahead:.1f} points of every cell's best method."


def correlation_interval(row: pd.Series) -> str:
    return f"{row.rank_correlation:.2f} ({row.ci_low:.2f} to {row.ci_high:.2f})".replace("-", "−")


def readme_sentences(rows: Rows) -> Iterator[str]:
    seconds = rows["table1"][rows["table1"].policy.isin(POLICIES)].pivot(
        index="method", columns=["policy", "task"], values="seconds"
    )
    fidelity = one(rows["fidelity_small"], reward=SMALL_REWARDS[1], form="prefix", part="all", policy="all")
    yield f"has a rank correlation of {correlation_interval(fidelity)} with its own scores there."
    guided = seconds.loc["guided_decoding_gradient"] / seconds.loc["nabla_reasoner_prefix"]
    share = f"{ranged(flops_ratios(rows, 'guided_decoding_gradient'), '.1f')} of Best-of-8's FLOPs"
    yield f"takes {share} and {ranged(guided, '.2f')} of the prefix form's seconds."
    yield f"decoded greedily, is within {ahead_of_judge(rows).max():.1f} points of every cell's best method (Table 2)."
    forms = ("nabla_reasoner", "nabla_reasoner_prefix")
    worse = verdicts(pairs(rows, OUTCOME, "best_of_n"), "worse")
    yield f"In the paper's form ∇-Reasoner is worse than Best-of-8 in {worse} cells"
    ahead = verdicts(pairs(rows, "nabla_reasoner_prefix", "tree_of_thoughts", "flops"), "better")
    yield f"and better than Tree-of-Thoughts at matched FLOPs in {ahead} of six cells."
    assert (pairs(rows, "nabla_reasoner_prefix", "best_of_n").verdict == "better").all()
    outcome_flops, prefix_flops = (flops_over_best_of_8(rows, form) for form in forms)
    yield f"at {ranged(outcome_flops, '.1f')} times its FLOPs."
    cells = rows["table1"][rows["table1"].policy.isin(POLICIES)]
    accuracy = cells.pivot(index="method", columns=["policy", "task"], values="accuracy")
    better = accuracy.loc["nabla_reasoner_prefix"] - accuracy.loc["best_of_n"]
    yield f"it is {ranged(better)} points better than Best-of-8, at {ranged(prefix_flops, '.1f')} of its FLOPs"
    small = rows["table2_small"][rows["table2_small"].reward == "smollm2"]
    spent = small.pivot(index="method", columns="task", values="flops")
    judge = small_values(rows, "table2_small", "accuracy", ".1f", reward="smollm2", method="judge_greedy")
    share = f"{ranged(spent.loc['judge_greedy'] / spent.loc['best_of_n'], '.2f')} of Best-of-8's FLOPs."
    yield f"The reward's own model, decoded greedily, reaches {judge} % for {share}"
    small = small.pivot(index="method", columns="task", values="accuracy")
    gains = [ranged(small.loc[form] - small.loc["best_of_n"], "+.1f").replace("-", "−") for form in reversed(forms)]
    yield "the prefix form differs from Best-of-8 by {} points, the outcome form by {}".format(*gains)
    arms = ("nabla_reasoner_prefix", "nabla_prefix_without_gradient", "best_of_n")
    prefix, null, best = (gsm8k("gpu")[name] for name in arms)
    yield f"the prefix form solves {100 * prefix.right.mean():.1f} % of {len(prefix.right):,} problems"
    gains = [paired_difference(*prefix.beside(other)).difference for other in (null, best)]
    yield f"{gains[0]:.1f} points above the same loop without DTO, {gains[1]:.1f} above Best-of-8"
    votes = paired_difference(*prefix.beside(gsm8k("cpu")["self_consistency"])).difference
    yield f"above Best-of-8 at {prefix.flops / best.flops:.2f} of its FLOPs, and {votes:.1f} above Self-Consistency"
    accuracy = rows["table1_unseen"].pivot(index="task", columns="method", values="accuracy")
    assert (accuracy.nabla_reasoner_prefix > accuracy.best_of_n).all()
    assert (accuracy.nabla_reasoner < accuracy.best_of_n).all()
    yield "the prefix form is again above Best-of-8 and the outcome form below."


def sweep_sentences(rows: Rows) -> Iterator[str]:
    yield f"In Tables 1 and 2 RAP takes {ranged(over_best_of_n(rows, 'rap'), '.2f')} times Best-of-8's FLOPs."


def resampling_sentences(rows: Rows) -> Iterator[str]:
    yield f"for {ranged(over_best_of_n(rows, 'mh_resampling'), '.2f')} times its FLOPs (Tables 1 and 2)."


def equal_temperatures(rows: Rows, method: str) -> Iterator[str]:
    """The comment on τ: the settings of equal accuracy, and those below."""
    mean = rows["tune"][rows["tune"].group == method].drop_duplicates("setting").set_index("setting").mean_accuracy
    best = mean == mean.max()
    taus = {name: name.rpartition("_")[2] for name in mean.index}
    equal, below = ([taus[name] for name in mean.index[chosen]] for chosen in (best, ~best))
    equal.remove("0.1")
    yield f"as good as {' and '.join(equal)}, above {' and '.join(below)} (figures/data/tune.csv)"


def _figure1(searched: pd.DataFrame) -> Iterator[str]:
    """The statistics of Figure 1's search: over the answers whose own pair is not the best."""
    wrong = searched[searched.own != searched.best]
    pair, rows = (f"{100 * (wrong[name] == wrong.best).mean():.0f} %" for name in ("dto", "one_by_one"))
    yield f"over the {len(wrong)} answers whose own pair is not the best"
    after = f"after {wrong.evaluations.mean():.1f} gradient evaluations"
    yield f"ends at the best pair in {pair} {after}; on one row after the other in {rows}."
    best = [f"{100 * (1 - (1 - wrong.chance) ** size).mean():.0f} %" for size in (2, 8, 32)]
    yield f"The best of 2 draws is the best pair in {best[0]}, of 8 in {best[1]}, of 32 in {best[2]}."
    yield f"it is the first of {len(searched)} validation answers"


def ablation_sentences(rows: Rows) -> Iterator[str]:
    pooled = rows["ablations"][rows["ablations"].task == "all"]
    yield f"adjusted by Holm's method for all {pooled.p_value.notna().sum()} comparisons."
    value = {row.setting: row for row in pooled.itertuples()}
    yield f"accuracy *rises* by {value['past_only'].difference:.0f} points."
    assert value["future_only"].accuracy < value["no_gradient"].accuracy
    assert value["ste_2"].verdict == NO_DIFFERENCE
    flatter = signed(value["ste_2"].difference)
    yield f"**A flatter estimator** (τ = 2): no difference is shown either ({flatter} points)."
    every, rows_all = value["every_position"], value["all_rows"]
    yield (
        f"**All rows instead of one:** {signed(rows_all.difference)} on {rows_all.num_problems} problems, at "
        f"{rows_all.flops_ratio:.1f} times the FLOPs."
    )
    yield f"The cost is only {100 * (every.flops_ratio - 1):.0f} % more FLOPs"
    yield f"**`variant=release`** gains {value['variant_release'].difference:.1f} points on the default."
    assert value["variant_release"].verdict == "better"
    yield f"(`variant=paper`) costs {value['variant_paper'].flops_ratio:.1f} times the FLOPs; no difference is shown."
    assert value["variant_paper"].verdict == NO_DIFFERENCE
    cached = value["without_caching"]
    yield f"the same {cached.num_problems} responses cost {cached.flops_ratio:.0f} times the FLOPs."


def bench_sentences(rows: Rows) -> Iterator[str]:
    table = rows["bench"].dropna(subset=["ratio_to_reference"])
    second = table[table.ratio_to_reference != 1]

    def ratios(case: str) -> pd.Series:
        return second[second.case.str.startswith(f"{case}__")].ratio_to_reference

    yield f"same answers, six cells | {ranged(ratios('gradient_flops'), '.2f')} | ≤ 1/8 | missed |"
    yield f"two problems per task | {ranged(ratios('printed_gradient_flops'), '.3f')} |"
    lookup = ratios("lookup_and_gradient_flops")
    reached = f"reached in {(lookup <= 1 / 8).sum()} of {len(lookup)}"
    yield f"| {ranged(lookup, '.2f')}, median {lookup.median():.2f} | ≤ 1/8 | {reached} |"
    yield f"/ Best-of-8 | {ranged(ratios('best_of_n_flops'), '.2f')} (paper: 25.8) | ≤ 1.5 | reached |"
    seconds = ratios("best_of_n_seconds")
    reached = f"reached in {(seconds <= 1.5).sum()} of {len(seconds)}"
    yield f"64 problems in one batch | {ranged(seconds, '.2f')}, median {seconds.median():.2f} | ≤ 1.5 | {reached} |"
    forms = ratios("prefix_gradient_flops")
    reached = f"reached in {(forms <= 1 / 8).sum()} of {len(forms)}"
    spread = f"{ranged(forms, '.2f')}, median {forms.median():.2f}"
    yield f"the same in prefix form, Table 1's reward | {spread} | ≤ 1/8 | {reached} |"
    forms = ratios("prefix_best_of_n_flops")
    yield f"all FLOPs, prefix form / Best-of-8, Table 1's reward | {ranged(forms, '.2f')} | ≤ 0.6 | reached |"
    seconds = ratios("prefix_best_of_n_seconds")
    reached = f"reached in {(seconds <= 0.7).sum()} of {len(seconds)}"
    yield f"64 problems in one batch | {ranged(seconds, '.2f')}, median {seconds.median():.2f} | ≤ 0.7 | {reached} |"
    yield f"fast engine at batch 32 / plain engine | {ranged(ratios('engine_seconds'), '.2f')} | ≤ 1/15 | missed |"
    yield f"of the same models | {one(second, case='evaluation_seconds').ratio_to_reference:.2f} | ≤ 1.3 | reached |"
    bare, own = rows["bench"][rows["bench"].case == "dto_memory"].peak_bytes / 2**20
    yield f"{own:.0f} / {bare:,.0f} MiB = {own / bare:.2f} | ≤ 1.25 | reached |"
    decoding = [one(second, case=f"evaluation_against_decoding__{n}").ratio_to_reference for n in (16, 128, 1024)]
    yield "{:.2f} at 16 tokens, {:.2f} at 128, {:.2f} at 1,024 |".format(*decoding)
    timed = rows["bench"].set_index(["case", "variant"]).seconds

    def growth(case: str, first: int, last: int) -> tuple[float, float, str]:
        sides = ("evaluate", "bare")
        own, bare = (timed[f"{case}__{last}", side] / timed[f"{case}__{first}", side] for side in sides)
        return own, bare, "reached" if own <= bare else f"missed by {100 * (own / bare - 1):.0f} %"

    own, bare, reached = growth("evaluation_by_length", 128, 2048)
    yield f"length 128 → 2,048: evaluation / bare passes | × {own:.1f} / × {bare:.1f} | ≤ 1 | {reached} |"
    own, bare, reached = growth("evaluation_by_batch", 1, 64)
    yield f"batch 1 → 64: evaluation / bare passes | × {own:.1f} / × {bare:.1f} | ≤ 1 | {reached} |"
    own = rows["table5"][rows["table5"].policy.isin(POLICIES) & (rows["table5"].quantity == "seconds")].ratio
    yield f"∇-Reasoner takes {ranged(own, '.2f')} times Best-of-8's seconds"
    outcome, best = gsm8k("cpu")["nabla_reasoner"], gsm8k("gpu")["best_of_n"]
    costs = f"costs {outcome.flops / best.flops:.2f} times Best-of-8's FLOPs"
    yield f"On {len(outcome.right)} problems of GSM8K (`scale=coder`) the outcome form {costs}"
    counts = table.set_index(["case", "variant"]).gradient_evaluations
    cells = [f"gradient_flops__tiny-base__{task}" for task in ("chain_sum", "products")]
    (sums, fewer), (more, left) = ([counts[cell, side] for side in ("reference", "fast")] for cell in cells)
    yield f"{sums:g} evaluations per problem become {fewer:.1f} on `chain_sum`, and {more:.1f} become {left:.1f} on"


def bench_gpu_sentences(rows: Rows) -> Iterator[str]:
    table = rows["bench_gpu"].set_index(["case", "variant"])
    batches = (1, 2, 4, 8)

    def of(case: str, variant: str, column: str) -> list[float]:
        return [table.loc[(f"{case}__{count}", variant), column] for count in batches]

    def cells(values: Iterable[float], form: str = ".2f") -> str:
        return " | ".join(f"{value:{form}}" for value in values)

    name = "paper_size_seconds"
    yield f"| seconds of one gradient evaluation, both models | {cells(of(name, 'evaluate', 'seconds'))} |"
    yield f"| seconds / bare passes of the same models | {cells(of(name, 'evaluate', 'ratio_to_reference'))} |"
    peaks = zip(of(name, "evaluate", "peak_bytes"), of(name, "bare", "peak_bytes"), strict=True)
    both = " | ".join(f"{own / 1e9:.1f} / {bare / 1e9:.1f}" for own, bare in peaks)
    yield f"| GB added to the weights, evaluation / bare passes | {both} |"
    product = [
        flops / seconds / 1e12
        for flops, seconds in zip(
            of("utilisation", "matmul", "flops"), of("utilisation", "matmul", "seconds"), strict=True
        )
    ]
    shares = cells(of("utilisation", "evaluate", "ratio_to_reference"))
    yield f"matrix product ({ranged(product)} TFLOP/s here) | {shares} |"
    eager, compiled = (table.loc[("compiled_passes__1", side), "seconds"] for side in ("eager", "compiled"))
    timed = rows["bench_gpu_spread"]
    timed = timed[timed.case == "compiled_passes__1"].pivot(index="repeat", columns="variant", values="seconds")
    pairs = timed.compiled / timed.eager
    yield f"from {eager:.3f} s to {compiled:.3f} s ({compiled / eager:.2f}; single pairs {ranged(pairs, '.2f')})"


def ppo_sentences(rows: Rows) -> Iterator[str]:
    table = rows["ppo"][rows["ppo"].reward_weight == 1]
    compared = table[table.measured_on == "compared"]
    at_2 = rows["ppo"][(rows["ppo"].reward_weight == 2) & (rows["ppo"].measured_on == "compared")]
    moves = [one(table, method="moves_without_gradient", amount=64).kl for table in (compared, at_2)]
    yield f"are {moves[0]:.2f} nats away after 64 steps at λ = 1, and {moves[1]:.2f} at λ = 2."
    tested = ["independent_metropolis", "langevin_metropolis", "nabla_metropolis", "nabla_metropolis_null"]
    assert (
        max(one(side, method=method, amount=64).kl for side in (compared, at_2) for method in tested) <= 0.1 < moves[0]
    )
    yield "Most of those with a Metropolis test come within 0.1 nats of ρ* without any training."
    yield f"is nearer ({one(compared, method='weighted_choice', amount=8).kl:.2f} nats) for less compute."
    ends = {
        on: one(table, method="ppo", trained_on=64, measured_on=on).kl for on in ("compared", "held_out", "trained")
    }
    yield f"**PPO** ends {ends['compared']:.2f} nats away on the four compared prompts, all of them trained on, and "
    yield f"and {ends['held_out']:.2f} on new ones. Over all 64 trained prompts it reaches {ends['trained']:.2f}."
    tested, null = (one(compared, method=f"nabla_metropolis{end}", amount=16) for end in ("", "_null"))
    yield f"After 16 sweeps it is {tested.kl:.3f} nats away for {tested.flops / 1e6:.1f} MFLOPs,"
    yield f"its null arm {null.kl:.3f} nats for {null.flops / 1e6:.1f}."
    paid = rows["ppo_break_even"]
    paid = paid[(paid.reward_weight == 1) & (paid.trained_on == 64) & (paid.target_kl == 0.25)].answers
    low, high = (f"{float(f'{value:.2g}'):,.0f}" for value in (paid.min(), paid.max()))
    yield f"its training has paid off after {low} to {high} answers."


def theorem_sentences(rows: Rows) -> Iterator[str]:
    checks = rows["theorem_checks"]
    passed, skipped = (checks.passed == "True"), checks.passed.str.startswith("skipped")
    assert (passed | skipped).all()
    yield f"{passed.sum()} checks, all passed (`figures/data/theorem_checks.csv`)."
    yield f"{('No', 'One', 'Two', 'Three')[skipped.sum()]} more on SmolLM2 run if its weights are installed."
    wrong = checks.name.str.startswith("noise_") & checks.name.str.contains("_is_wrong_")
    assert wrong.sum() == 8
    yield "eight wrong noises are detected as wrong."
    apart = checks[checks.name.str.startswith("without_noise_is_not_rho_star")].set_index("name")
    distance = apart.noise_floor / apart.value  # the value is the noise floor over the distance
    line, plane = (distance[f"without_noise_is_not_rho_star__{space}_seen"] for space in ("line", "plane"))
    yield f"The total variation is {line:.2f} in one dimension and {plane:.2f} in two."
    error = checks[checks.name.str.startswith("prop_c1_sum_is_autograd")].value.max()
    exponent = math.floor(math.log10(error))
    yield f"autograd's gradient within {math.ceil(error / 10**exponent)}e{exponent} for every shipped pair of models."
    terms = rows["theorem_terms"][rows["theorem_terms"].space == "z"]
    weighted = (terms.postfix_share * terms.positions).groupby([terms.weights, terms.policy, terms.reward]).sum()
    counts = terms.positions.groupby([terms.weights, terms.policy, terms.reward]).sum()
    eq2, released = (100 * (weighted / counts).xs(name) for name in ("eq2", "released"))
    yield f"δ_postfix is {ranged(eq2)} % of ∂L/∂z at λ = ν = 1 (means by pair of models)"
    yield f"and at most {released.max():.1f} % with the released weights."
    curves = rows["theorem_curves"]
    last = curves[curves.curve == "convergence"].pivot(index="x", columns="series", values="y").iloc[-1]
    yield f"At the highest barrier it is {last.gap_time / last.kramers_time:.2f} times Kramers' formula"
    sampled = curves[(curves.curve == "bias") & curves.series.str.endswith(": STE, sampled")].set_index("series").y
    likelihood = sampled["tiny-base_with_likelihood: STE, sampled"]
    yield f"With the likelihood reward the bias is {100 * likelihood:.0f} % of the true gradient."
    assert round(sampled["tiny-instruct_with_classifier: STE, sampled"]) == 2
    yield "it is twice the true gradient."
    yield f"On random models it is {ranged(100 * sampled[sampled.index.str.startswith('random')])} %."


def small_values(rows: Rows, table: str, column: str, form: str, **values: str) -> str:
    """One value for each task of scale=small: "1.0, 2.0 and 3.0"."""
    found = [one(rows[table], task=task, **values)[column] for task in SMALL_TASKS]
    *first, last = (signed(value) if form == "signed" else f"{value:{form}}" for value in found)
    return f"{', '.join(first)} and {last}"


def small_sentences(rows: Rows) -> Iterator[str]:
    """The verdicts on SmolLM2, of docs/results.md."""
    likelihood, verifier = SMALL_REWARDS
    prefix = "nabla_reasoner_prefix"
    compared = rows["table2_comparisons_small"]

    def minus_best(reward: str, method: str, baseline: str = "best_of_n") -> str:
        asked = {"reward": reward, "method": method, "baseline": baseline, "matched_on": "rollouts"}
        return small_values(rows, "table2_comparisons_small", "difference", "signed", **asked)

    def verdicts(reward: str, method: str, baseline: str) -> list[str]:
        chosen = (compared.method == method) & (compared.baseline == baseline) & (compared.matched_on == "rollouts")
        found = compared[chosen & (compared.reward == reward)].set_index("task").verdict
        return [found[task] for task in SMALL_TASKS]

    table = rows["table2_small"][rows["table2_small"].reward == likelihood].set_index(["method", "task"])
    ratio = {method: table.flops[method] / table.flops["best_of_n"] for method in (prefix, "judge_greedy")}
    yield f"by {minus_best(likelihood, prefix).replace('+', '')} points, at {ranged(ratio[prefix], '.2f')} of its FLOPs"
    assert verdicts(likelihood, prefix, "best_of_n") == ["better"] * 3
    assert verdicts(likelihood, prefix, "nabla_without_gradient") == ["better"] * 3
    assert verdicts(likelihood, prefix, "guided_decoding") == [NO_DIFFERENCE] * 3
    yield f"differs from Best-of-8 by {minus_best(likelihood, OUTCOME)} points; the last is shown."
    assert verdicts(likelihood, OUTCOME, "best_of_n") == [NO_DIFFERENCE, NO_DIFFERENCE, "worse"]
    assert verdicts(likelihood, OUTCOME, "nabla_without_gradient") == ["better", NO_DIFFERENCE, "better"]
    judge = small_values(rows, "table2_small", "accuracy", ".1f", reward=likelihood, method="judge_greedy")
    yield f"decoding greedily, solves {judge} % at {ranged(ratio['judge_greedy'], '.2f')} of Best-of-8's FLOPs"
    yield f"the prefix form differs from Best-of-8 by {minus_best(verifier, prefix)} points"
    yield f"the outcome form by {minus_best(verifier, OUTCOME)} from Best-of-8."
    guided = minus_best(verifier, prefix, "guided_decoding")
    yield f"and from guided decoding by {guided};"
    for form, baseline in itertools.product((prefix, OUTCOME), ("best_of_n", "nabla_without_gradient")):
        assert verdicts(verifier, form, baseline) == [NO_DIFFERENCE] * 3
    solved = [
        small_values(rows, "table1_small", "accuracy", ".1f", policy="smollm2", method=name)
        for name in ("best_of_n", "greedy")
    ]
    yield f"Best-of-8 solves {solved[0]} % of the three tasks, greedy decoding {solved[1]} %."
    whole = rows["fidelity_small"]
    whole = whole[(whole.part == "all") & (whole.policy == "all")].set_index(["reward", "form"])

    def correlation(reward: str, form: str) -> str:
        return correlation_interval(whole.loc[(reward, form)])

    def gain(reward: str, form: str, of: str = "gradient") -> str:
        """Return how much more often the best candidate is right than the policy's most likely one, in points."""
        low, high = (whole.loc[(reward, form), f"gain_{of}_{end}"] for end in ("low", "high"))
        return f"({low:+.0f} to {high:+.0f})".replace("-", "−")

    def points(reward: str, form: str, of: str = "gradient") -> str:
        return f"{abs(whole.loc[(reward, form), f'gain_{of}']):.0f} points"

    row = whole.loc[(verifier, "prefix")]
    yield f"at {row.num_positions} uncertain positions of {row.num_problems} responses"
    yield f"is {correlation(verifier, 'prefix')} in prefix form, {correlation(verifier, 'outcome')} in outcome form"
    yield f"At the {row.num_decided} positions that decide"
    assert row.gain_gradient < 0
    yield f"is right {points(verifier, 'prefix')} less often {gain(verifier, 'prefix')} in prefix form"
    yield f"exact score +{points(verifier, 'prefix', 'exact')} more often {gain(verifier, 'prefix', 'exact')}"
    assert whole.rank_correlation[likelihood, "prefix"] > 0.999
    yield f"its token is right {points(likelihood, 'prefix')} more often {gain(likelihood, 'prefix')}"
    yield f"correlation is {correlation(likelihood, 'outcome')}"
    yield f"the gain +{points(likelihood, 'outcome')} {gain(likelihood, 'outcome')} is not shown"
    assert whole.gain_gradient_low[likelihood, "outcome"] <= 0
    assert set(whole.verdict[verifier]) == {"neither"}
    assert whole.verdict[likelihood, "prefix"] == whole.verdict[likelihood, "process"] == "gradient usable"
    first = rows["table1_small"]
    sft, grpo = (one(first, policy="smollm2", task="chain_sum", method=method) for method in ("sft", "grpo"))
    yield f"worked solutions reaches {sft.accuracy:.1f} % by greedy decoding, GRPO {grpo.accuracy:.1f} %"
    own = {method: one(first, policy="smollm2-grpo", method=method).accuracy for method in GRPO}
    yield f"Best-of-8 and the prefix form solve {own['best_of_n']:.1f} and {own[prefix]:.1f} %"


def grpo_sentence(rows: Rows) -> Iterator[str]:
    """Validation accuracy of SmolLM2 during GRPO, of docs/models.md."""
    curve = pd.read_csv(ROOT / "assets/curves/smollm2-grpo.csv").set_index("step")["validation/accuracy"].dropna()
    assert curve.index[curve == curve.max()][0] == 59  # validation follows the sixtieth step
    yield f"rose from {curve[0]:.1f} to {curve.max():.1f} % (step 60)."


SENTENCES = {
    "README.md": readme_sentences,
    "assets/sweeps/search.md": sweep_sentences,
    "configs/method/mh_resampling.yaml": resampling_sentences,
    "configs/method/soft_best_of_n.yaml": lambda rows: equal_temperatures(rows, "soft_best_of_n"),
    "configs/method/weighted_self_consistency.yaml": lambda rows: equal_temperatures(rows, "weighted_self_consistency"),
    "docs/models.md": lambda rows: itertools.chain(
        small_greedy(rows),
        grpo_sentence(rows),
        judge_sentence(rows),
        improvement_sentences(rows),
        small_answers(rows),
        small_judges(rows),
    ),
    "docs/results.md": lambda rows: itertools.chain(results_sentences(rows), small_sentences(rows)),
    "docs/ablations.md": ablation_sentences,
    "docs/benchmark.md": lambda rows: itertools.chain(bench_sentences(rows), bench_gpu_sentences(rows)),
    "docs/ppo.md": ppo_sentences,
    "docs/theorem.md": theorem_sentences,
}


def plain(text: str) -> str:
    return text.replace("**", "")


@pytest.mark.parametrize(("name", "make"), [(name, make) for name, makers in TABLES.items() for make in makers])
def test_table_rows_are_those_of_the_data(name: str, make: Callable[[Rows], Iterator[str]], rows: Rows):
    lines = page(name).splitlines()
    missing = [expected for expected in make(rows) if expected not in lines]
    assert not missing, f"{name} must have these lines:\n" + "\n".join(missing)


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences_are_those_of_the_data(name: str, rows: Rows):
    text = " ".join(page(name).split())
    missing = [expected for expected in SENTENCES[name](rows) if expected.strip() not in text]
    assert not missing, f"{name} must say:\n" + "\n".join(missing)


@pytest.mark.parametrize("name", ["docs/results.md", "docs/ablations.md", "docs/ppo.md"])
def test_every_table_line_with_a_number_comes_from_the_data(name: str, rows: Rows):
    known = {plain(expected) for make in TABLES[name] for expected in make(rows)}
    tables = [
        text.split("\n|---", 1)[-1].partition("\n")[2] for text in page(name).split("\n\n") if text.startswith("|")
    ]
    lines = [plain(row) for table in tables for row in table.splitlines()]
    assert len(lines) >= 10
    assert set(lines) <= known, set(lines) - known


def test_every_line_of_readmes_results_comes_from_the_data(rows: Rows):
    lines = [text for text in page("README.md").splitlines() if text.startswith("| tiny-")]
    assert lines == list(readme_table(rows))


@pytest.mark.parametrize(
    ("table", "column", "values", "names"),
    [
        ("table1", "accuracy", {"policy": "tiny-base", "task": "chain_sum", "method": "greedy"}, ("README.md", table1)),
        ("table1", "flops", {"policy": "tiny-instruct", "task": "products", "method": "nabla_reasoner"}, (table1,)),
        ("comparisons", "ci_low", {"method": "nabla_reasoner", "baseline": "greedy"}, (paired,)),
        ("table2", "accuracy", {"reward": "classifier", "method": "best_of_n"}, (table2,)),
        ("table3", "rejected", {"method": "best_of_n"}, (table3,)),
        ("ablations", "difference", {"setting": "past_only", "task": "all"}, (ablation_table, ablation_sentences)),
        ("ablations_right_token", "right_after", {"arm": "gradient", "greedy_is": "wrong"}, (right_token_table,)),
        ("bench", "ratio_to_reference", {"variant": "fast"}, (bench_sentences,)),
        ("bench_profile", "share", {"part": "rollouts"}, (profile_table,)),
        ("ppo", "kl", {"method": "nabla_reasoner"}, (ppo_table,)),
        ("figure1_search", "evaluations", {}, (results_sentences,)),
        ("table5", "ratio", {"quantity": "seconds"}, (bench_sentences,)),
    ],
)
def test_changed_rows_change_what_is_expected(table: str, column: str, values: dict, names: tuple, rows: Rows):
    changed = rows[table].copy()
    chosen = pd.Series(True, index=changed.index)
    for key, value in values.items():
        chosen &= changed[key] == value
    changed[column] = changed[column].astype(float)
    changed.loc[chosen, column] += 3 if changed[column].abs().max() < 1e6 else 3e8
    for make in [readme_table if name == "README.md" else name for name in names]:
        assert list(make(rows)) != list(make({**rows, table: changed})), make.__name__
